"""Captions an archive of photos: one row per photo, captioned or failed, in Parquet files that appear shard by shard.

Run again on the same output, it does only what is new, changed, or not done yet.
Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import datetime
import importlib.metadata
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from beamscribe.jobs.options import input_options, search_options
from beamscribe.jobs.terminal import printable, until_closed

if TYPE_CHECKING:
    from beamscribe.jobs.caption_job import CaptionJob, Outcome
    from beamscribe.pipelines.caption_options import CaptionOptions
    from beamscribe.pipelines.control.progress import Limit

EXAMPLE = "beamscribe caption --input /photos --output /captions --direct_num_workers 1"
TAKES_BEAM_OPTIONS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    input_options.add_arguments(parser, required=True)
    parser.add_argument("--output", required=True, help="folder that holds the captions of all runs; local or gs://")
    parser.add_argument(
        "--bundle", metavar="DIR", help="folder of a model bundle, local or gs:// (the bundle in the package)"
    )
    search_options.add_arguments(parser)
    parser.add_argument(
        "--alternatives", type=_whole, default=0, metavar="N", help="also write the N next-best captions (0)"
    )
    parser.add_argument(
        "--batch-size", type=_count, default=32, metavar="N", help="number of photos in one call of the model (32)"
    )
    parser.add_argument(
        "--shard-size",
        type=_count,
        default=512,
        metavar="N",
        help="approximate number of photos per shard, which is committed as a whole (512)",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="list only the first N photos")
    parser.add_argument(
        "--max-pixels",
        type=_count,
        metavar="N",
        help="refuse photos that have more than N pixels (200 million)",
    )
    parser.add_argument(
        "--max-failures",
        type=_share_or_count,
        metavar="N|N%",
        help="stop early if more than N photos fail, or more than N%% of the photos to caption (no limit)",
    )
    parser.add_argument(
        "--recaption",
        action="append",
        default=[],
        choices=("model", "settings", "failed", "all"),
        help="caption again the photos that another model or other settings captioned, those that failed for good,"
        " or all photos; repeatable",
    )
    parser.add_argument(
        "--no-deduplicate",
        dest="deduplicate",
        action="store_false",
        help="read and caption every photo, even if another one has the same bytes",
    )
    parser.add_argument(
        "--export", choices=("tfrecord", "jsonl"), help="also write the captions in this format, beside Parquet"
    )
    parser.add_argument(
        "--gpu",
        metavar="GPU[:MACHINE]",
        help="with --runner DataflowRunner: GPU of the workers that run the model, such as nvidia-l4",
    )


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Captions an archive and prints what came of it."""
    job = _validated(options, beam_arguments)

    # It loads Beam, which typing errors need not wait for.
    from beamscribe.jobs import caption_job
    from beamscribe.jobs.runners import dataflow_runner
    from beamscribe.model.errors import BeamscribeError

    if place := dataflow_runner.template(job.beam_options):
        caption_job.write_template(job, place)
        print(f"template: {place}")
        print(f"report:   {job.options.folder}/report.html, once the job has run")
        return 0
    outcome = caption_job.run(job, begun=lambda: _print_console(job))
    with until_closed():
        _print_summary(outcome, job.options)
    if outcome.stopped and outcome.report.balanced:
        raise BeamscribeError(outcome.stopped)
    if outcome.stopped:
        raise BeamscribeError(f"stopped early: {outcome.stopped}; committed captions stay, run it again to go on")
    return 0 if outcome.report.balanced else 1


def _validated(options: argparse.Namespace, beam_arguments: list[str]) -> "CaptionJob":
    """The job that the options ask for.

    Raises:
      BeamscribeError: an option is wrong, or names what is not there.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    from beamscribe.jobs.caption_job import CaptionJob
    from beamscribe.jobs.runners import beam_runner, dataflow_runner, remote_jobs
    from beamscribe.model.errors import BeamscribeError
    from beamscribe.pipelines import bundle_cache, tf_examples
    from beamscribe.pipelines.caption_options import CaptionOptions
    from beamscribe.pipelines.images.to_pixels import MAX_PIXELS
    from beamscribe.pipelines.output import layout
    from beamscribe.pipelines.output.run_documents import BundleName, Config

    beam_options: Any = beam_runner.pipeline_options(beam_arguments)
    bundle = bundle_cache.located(options.bundle)
    model = bundle_cache.described(bundle)
    settings = search_options.chosen(options, model)
    if options.alternatives >= settings.beam_width and not settings.top_p:
        raise BeamscribeError(
            f"--alternatives {options.alternatives}: a beam width of {settings.beam_width} gives at most "
            f"{settings.beam_width - 1}; raise --beam-width"
        )
    if options.export == "tfrecord":
        tf_examples.require("--export tfrecord", "use --export jsonl, or ")
    output = _checked_output(options.output)
    caption_options = CaptionOptions(
        inputs=input_options.checked_inputs(options),
        output=output,
        run=layout.new_run(),
        bundle=bundle,
        model=model.fingerprint,
        settings=settings,
        alternatives=options.alternatives,
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        workers=beam_runner.workers(beam_options),
        limit=options.limit,
        sources=input_options.list_options(options),
        max_pixels=options.max_pixels or MAX_PIXELS,
        deduplicate=options.deduplicate,
        recaption=frozenset(options.recaption),
        export=options.export,
        accelerator=dataflow_runner.accelerator(options.gpu, beam_options),
    )
    dataflow_runner.fill(beam_options, caption_options)
    if options.max_failures and dataflow_runner.template(beam_options):
        raise BeamscribeError("--max-failures: a template's job has no launcher that counts its failures; leave it out")
    config = Config(
        run=caption_options.run,
        inputs=caption_options.inputs,
        output=output,
        bundle=BundleName(model.name, model.fingerprint),
        settings=caption_options.settings_fingerprint,
        recaption=tuple(sorted(options.recaption)),
        max_pixels=caption_options.max_pixels,
        runner=beam_options.view_as(StandardOptions).runner,
        version=importlib.metadata.version("beamscribe"),
        started_at=datetime.datetime.now(datetime.UTC),
    )
    remote = remote_jobs.describe(caption_options.run, beam_options)
    return CaptionJob(caption_options, config, beam_options, remote, options.max_failures)


def _checked_output(uri: str) -> str:
    """The absolute path or URI of the output folder, which need not be there."""
    from beamscribe.model.errors import BeamscribeError, one_line
    from beamscribe.pipelines import stores

    if not uri:
        raise BeamscribeError("--output: it is empty; give a folder")
    try:
        output = input_options.absolute(uri)
        # Where Beam lacks a filesystem for the scheme, its error says which.
        stores.join(output, "runs").encode()
    except UnicodeError:
        raise BeamscribeError(f"--output: the name of {uri!r} is not UTF-8; choose another folder") from None
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own
        raise BeamscribeError(f"--output: can't write to {uri}: {one_line(error)}") from None
    if stores.is_local(output) and os.path.exists(output) and not os.path.isdir(output):
        raise BeamscribeError(f"--output: {output} is a file; give a folder")
    return output


def _print_console(job: "CaptionJob") -> None:
    from beamscribe.jobs.runners import dataflow_runner

    if console := dataflow_runner.console(job.beam_options):
        print(f"job:     {console}", file=sys.stderr)


def _print_summary(outcome: "Outcome", options: "CaptionOptions") -> None:
    from beamscribe.pipelines.output import layout

    result = outcome.report
    print(
        f"listed {result.listed} = skipped {result.skipped} + captioned {result.captioned} + failed {result.failed}"
        + ("" if result.balanced else "   DOES NOT ADD UP")
    )
    for code, count in result.failures.items():
        print(f"  {code}: {count}")
    if result.duplicates:
        print(f"duplicates of other photos, not read: {result.duplicates}")
    if result.retries:
        print(f"retried requests to stores: {result.retries}")
    if result.ignored:
        kinds = (f"{count} {kind or 'without an extension'}" for kind, count in result.ignored.items())
        print(f"ignored files: {', '.join(kinds)}")
    if result.outdated:
        again = "--recaption model or --recaption settings captions them again"
        print(f"captioned earlier by another model or with other settings: {result.outdated} ({again})")
    for photo in result.missing:
        print(f"  no row for {printable(photo)}", file=sys.stderr)
    for photo, caption in outcome.captions:
        print(f"  {printable(os.path.basename(photo))}: {printable(caption)}")
    print(f"table:   {layout.captions_folder(options.output)}")
    print(f"report:  {layout.run_file(options.output, options.run, layout.PAGE)}")
    # What was typed may be a path into a virtual environment that is not active.
    program = "beamscribe" if shutil.which("beamscribe") else os.path.relpath(sys.argv[0])
    print(f"read it: {program} show {shlex.quote(options.output)}")


def _share_or_count(text: str) -> "Limit":
    from beamscribe.pipelines.control.progress import Limit

    if not text.endswith("%"):
        return Limit(photos=_whole(text))
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0% to 100%; give 5%, or a number of photos")
    return Limit(share=share)


def _count(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number
