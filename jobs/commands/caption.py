"""Captions an archive of photos: one row a photo, captioned or failed, as Parquet files that appear shard by shard.

Run again on the same output, it does only what is new, changed, or not done yet.
Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import shlex
import shutil
import sys
import traceback
import uuid
from typing import TYPE_CHECKING, Any

from beamscribe.jobs.options import input_options, search_options
from beamscribe.jobs.runners import remote_jobs
from beamscribe.jobs.terminal import printable, until_closed
from beamscribe.pipelines.control import history

if TYPE_CHECKING:
    from beamscribe.pipelines.caption_archive import CaptionOptions
    from beamscribe.pipelines.control.progress import Limit
    from beamscribe.pipelines.output.report import Report

EXAMPLE = "beamscribe caption --input /photos --output /captions --direct_num_workers 1"
TAKES_BEAM_OPTIONS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    input_options.add_arguments(parser, required=True)
    parser.add_argument("--output", required=True, help="folder that holds the captions of all runs; local or gs://")
    parser.add_argument(
        "--bundle", metavar="DIR", help="model bundle, local or gs://; the one in the package by default"
    )
    search_options.add_arguments(parser)
    parser.add_argument(
        "--alternatives", type=_whole, default=0, metavar="N", help="second-best captions to write, too (0)"
    )
    parser.add_argument(
        "--batch-size", type=_count, default=32, metavar="N", help="photos in one call of the model (32)"
    )
    parser.add_argument(
        "--shard-size", type=_count, default=512, metavar="N", help="photos that are committed at once, about (512)"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="take only the first N photos")
    parser.add_argument(
        "--max-pixels",
        type=_count,
        metavar="N",
        help="refuse photos of more pixels (200 million)",
    )
    parser.add_argument(
        "--max-failures",
        type=_share_or_count,
        metavar="N|N%",
        help="stop early where more photos fail: a number, or a share of those to caption; no limit by default",
    )
    parser.add_argument(
        "--recaption",
        action="append",
        default=[],
        choices=("model", "settings", "failed", "all"),
        help="caption again what another model or other settings captioned, what failed for good, or all; repeatable",
    )
    parser.add_argument(
        "--no-deduplicate",
        dest="deduplicate",
        action="store_false",
        help="read and caption each photo, even if another one has the same bytes",
    )
    parser.add_argument("--export", choices=("tfrecord", "jsonl"), help="write this format beside Parquet")
    parser.add_argument(
        "--gpu",
        metavar="GPU[:MACHINE]",
        help="with --runner DataflowRunner: the GPU of the workers that caption, such as nvidia-l4",
    )


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Captions an archive and says what came of it."""
    from beamscribe.jobs.runners import beam_runner, dataflow_runner
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import plan, stores
    from beamscribe.pipelines.control import lease, stopping
    from beamscribe.pipelines.output import report
    from beamscribe.pipelines.stores import retries

    beam_options = beam_runner.pipeline_options(beam_arguments)
    caption_options, config = _validated(options, beam_options)
    folder, job = caption_options.folder, remote_jobs.describe(caption_options.run, beam_options)
    started = datetime.datetime.now(datetime.UTC)
    held = False
    try:
        if place := dataflow_runner.template(beam_options):
            if options.max_failures:
                raise UserError("--max-failures: nobody counts while a template's job runs; leave it out")
            return _write_template(place, caption_options, beam_options, {**config, "started_at": started.isoformat()})
        with lease.hold(
            caption_options.output,
            f"run {caption_options.run}",
            lambda why: stopping.stop(folder, why),
            job,
            remote_jobs.is_running,
        ):
            held = True
            history.stop_earlier(caption_options.output)
            caption_options = dataclasses.replace(caption_options, since=history.unfinished_since(config))
            _write_config(caption_options, {**config, "started_at": started.isoformat()})
            if console := dataflow_runner.console(beam_options):
                print(f"job:     {console}", file=sys.stderr)
            _run_job(caption_options, beam_options, options.max_failures)
            if not stores.exists(plan.path_of(folder)):
                raise UserError("the job ended and has listed nothing; see what the runner's own log says of it")
            finished = datetime.datetime.now(datetime.UTC)
            result = report.collect(caption_options.output, caption_options.run, finished, retries.take())
            report.write(result, caption_options.output)
            stopped = stopping.reason(folder)
            captions = _some_captions(result)
    except KeyboardInterrupt:
        if job and held:
            # It goes on without this process.
            with contextlib.suppress(OSError):
                stopping.stop(folder, "its launcher was interrupted")
        raise
    except OSError as error:
        raise UserError(f"--output: can't write to {caption_options.output}: {error.strerror or error}") from None
    with until_closed():
        _print_summary(result, captions, caption_options)
    if stopped and result.balanced:
        raise UserError(stopped)
    if stopped:
        raise UserError(f"stopped early: {stopped}; what is committed stays, run it again to go on")
    return 0 if result.balanced else 1


def _run_job(options: "CaptionOptions", beam_options: Any, max_failures: "Limit | None") -> None:
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines.caption_archive import CaptionArchive
    from beamscribe.pipelines.control.progress import Progress

    try:
        with Progress(options, max_failures):
            beam_runner.run(CaptionArchive(options), beam_options)
    except Exception as error:  # noqa: BLE001 - runners raise their own kinds
        log = _write_error(options.folder)
        reason = beam_runner.reason(error)
        raise UserError(f"the job stopped: {reason}; what is committed stays, run it again to go on{log}") from None


def _write_template(place: str, options: "CaptionOptions", beam_options: Any, config: dict[str, Any]) -> int:
    """Writes the job to be run later, or by others; the output is left as it is."""
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.jobs.runners.dataflow_runner import Unattended
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines.caption_archive import CaptionArchive
    from beamscribe.pipelines.control import lease

    if holder := lease.holder_of(options.output, remote_jobs.is_running):
        raise UserError(f"{options.output} is in use: {holder} writes to it; wait for its end, or stop it")
    options = dataclasses.replace(options, since=history.unfinished_since(config))
    try:
        beam_runner.run(Unattended(CaptionArchive(options), config), beam_options)
    except Exception as error:  # noqa: BLE001 - runners raise their own kinds
        raise UserError(f"--template_location: can't write {place}: {beam_runner.reason(error)}") from None
    print(f"template: {place}")
    print(f"report:   {options.folder}/report.html, when it has run")
    return 0


def _validated(options: argparse.Namespace, beam_options: Any) -> "tuple[CaptionOptions, dict[str, Any]]":
    """The job's options, and what `config.json` says of them; raises `UserError`."""
    from apache_beam.options.pipeline_options import StandardOptions

    from beamscribe.jobs.runners import beam_runner, dataflow_runner
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import bundle_cache, stores
    from beamscribe.pipelines.caption_archive import CaptionOptions
    from beamscribe.pipelines.images.to_pixels import MAX_PIXELS

    bundle = bundle_cache.located(options.bundle)
    model = bundle_cache.described(bundle)
    settings = search_options.chosen(options, model)
    if options.alternatives >= settings.beam_width and not settings.top_p:
        raise UserError(
            f"--alternatives {options.alternatives}: a beam width of {settings.beam_width} gives at most "
            f"{settings.beam_width - 1}; raise --beam-width"
        )
    output = _checked_output(options.output)
    inputs = input_options.checked_inputs(options)
    if stores.is_local(output) and os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"--output: {output} is a file; give a folder")
    now = datetime.datetime.now(datetime.UTC)
    caption_options = CaptionOptions(
        inputs=inputs,
        output=output,
        run=f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}",
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
    config = {
        "run": caption_options.run,
        "inputs": inputs,
        "output": output,
        "bundle": {"name": model.name, "fingerprint": model.fingerprint},
        "settings": caption_options.settings_fingerprint,
        "recaption": sorted(options.recaption),
        "max_pixels": caption_options.max_pixels,
        "runner": beam_options.view_as(StandardOptions).runner,
        "version": importlib.metadata.version("beamscribe"),
    }
    return caption_options, config


def _checked_output(uri: str) -> str:
    from beamscribe.model.errors import UserError
    from beamscribe.pipelines import stores

    if not uri:
        raise UserError("--output: it is empty; give a folder")
    try:
        output = input_options.absolute(uri)
        # Names the filesystem that is missing, where it is.
        stores.join(output, "runs").encode()
    except UnicodeError:
        raise UserError(f"--output: the name of {uri!r} is not UTF-8; choose another folder") from None
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own
        raise UserError(f"--output: can't write to {uri}: {' '.join(str(error).split())}") from None
    return output


def _write_config(options: "CaptionOptions", config: dict[str, Any]) -> None:
    from beamscribe.pipelines import stores

    stores.replace(stores.join(options.folder, "config.json"), json.dumps(config, indent=2).encode())


def _write_error(folder: str) -> str:
    """Keeps the traceback for whoever must find the reason; says where, if it could be kept."""
    from beamscribe.pipelines import stores

    path = stores.join(folder, "error.txt")
    try:
        stores.replace(path, traceback.format_exc().encode())
    except OSError:
        return ""
    return f" (details: {path})"


def _print_summary(result: "Report", captions: list[tuple[str, str]], options: "CaptionOptions") -> None:
    from beamscribe.pipelines import stores

    print(
        f"listed {result.listed} = skipped {result.skipped} + captioned {result.captioned} + failed {result.failed}"
        + ("" if result.balanced else "   DOES NOT ADD UP")
    )
    for code, count in result.failures.items():
        print(f"  {code}: {count}")
    if result.duplicates:
        print(f"not read, since others have the same bytes: {result.duplicates}")
    if result.retries:
        print(f"requests to stores that failed and were made again: {result.retries}")
    if result.ignored:
        kinds = (f"{count} {kind or 'without an extension'}" for kind, count in result.ignored.items())
        print(f"passed over: {', '.join(kinds)}")
    if result.outdated:
        again = "--recaption model or --recaption settings does them again"
        print(f"captioned before by another model or with other settings: {result.outdated} ({again})")
    for photo in result.missing:
        print(f"  no row for {printable(photo)}", file=sys.stderr)
    for photo, caption in captions:
        print(f"  {printable(os.path.basename(photo))}: {printable(caption)}")
    print(f"table:   {stores.join(options.output, 'captions')}")
    print(f"report:  {stores.join(options.folder, 'report.html')}")
    # What was typed may be a path into a virtual environment that is not active.
    program = "beamscribe" if shutil.which("beamscribe") else os.path.relpath(sys.argv[0])
    print(f"read it: {program} show {shlex.quote(options.output)}")


def _some_captions(result: "Report") -> list[tuple[str, str]]:
    """Five photos with their captions: of this run, or of earlier ones where it had nothing to do."""
    from beamscribe.pipelines.output import rows

    if result.samples:
        return [(sample.photo, sample.caption) for sample in result.samples[:5]]
    captions: list[tuple[str, str]] = []
    for path in reversed(rows.committed_files(result.output)):
        table = rows.read_table(path, ["photo", "caption"]).drop_null()
        captions += zip(table["photo"].to_pylist(), table["caption"].to_pylist(), strict=True)
        if len(captions) >= 5:
            break
    return captions[:5]


def _share_or_count(text: str) -> "Limit":
    from beamscribe.pipelines.control.progress import Limit

    if not text.endswith("%"):
        return Limit(photos=_whole(text))
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; give 5%, say, or a number of photos")
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
