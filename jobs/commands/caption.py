"""Captions an archive of photos: one row per photo, captioned or failed, in Parquet files that appear shard by shard.

Run again on the same output, it does only what is new, changed, or not done yet.
Any option of Beam's own (--runner, --direct_num_workers, …) passes through.
"""

import argparse
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from beamscribe.jobs.options import job_options
from beamscribe.jobs.terminal import print_ignored, printable, until_closed

if TYPE_CHECKING:
    from beamscribe.pipelines.output.run_documents import Report

EXAMPLE = "beamscribe caption --input /photos --output /captions --direct_num_workers 1"
ADVICE = "committed captions stay, run the same command again to go on"
TAKES_BEAM_OPTIONS = True

# How many captions are printed at the end.
_SHOWN_CAPTIONS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    job_options.add_arguments(parser)


def run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    """Captions an archive and prints what came of it."""
    # They load Beam, which typing errors need not wait for.
    import beamscribe
    from beamscribe.jobs import caption_function, caption_job
    from beamscribe.jobs.runners import beam_runner, dataflow_runner
    from beamscribe.model.errors import RunError, Stopped, TooManyFailures
    from beamscribe.model.progress_display import Display

    arguments = job_options.arguments_of(options)
    beam_options = beam_runner.pipeline_options(beam_arguments)
    if options.detach or dataflow_runner.template(beam_options):
        job = caption_function.job_of(**arguments, beam_options=beam_options)
        if place := dataflow_runner.template(job.beam_options):
            caption_job.write_template(job, place)
            print(f"template: {printable(place)}")
        else:
            caption_job.submit(job)
            print(f"running:  {(job.remote or {})['name']}; `beamscribe stop` asks it to end early")
        print(f"report:   {printable(job.options.folder)}/report.html, once the job has run")
        return 0
    with options.interruption.gently() as stop, Display(None, "photo") as display:
        try:
            report = beamscribe.caption(**arguments, beam_options=beam_options, progress=display.follow, stop=stop)
        except RunError as error:
            if error.report and not options.interruption.number:
                display.close()
                _print_summary(error.report, options.quiet, isinstance(error, Stopped | TooManyFailures))
            raise
    _print_summary(report, options.quiet)
    return 0


def _print_summary(result: "Report", quiet: bool, is_stopped: bool = False) -> None:
    if not quiet:
        with until_closed():
            _print_account(result, is_stopped)


def _print_account(result: "Report", is_stopped: bool) -> None:
    from beamscribe.pipelines.output import layout

    left = result.listed - result.skipped - result.taken_over - result.captioned - result.failed
    end = "" if result.balanced else f" + left {left}" if is_stopped else "   DOES NOT ADD UP"
    parts = (
        f"skipped {result.skipped} + taken over {result.taken_over} + captioned {result.captioned} + "
        f"failed {result.failed}"
    )
    print(f"listed {result.listed} = {parts}{end}")
    for code, count in result.failures.items():
        print(f"  {code}: {count}")
    if result.duplicates:
        print(f"duplicates of other photos, not read: {result.duplicates}")
    if result.gone:
        print(f"photos that are no longer there: {result.gone}")
    if result.vanished:
        print(
            f"photos that are not there, too many to be marked as gone: {result.vanished} (if all disks are mounted, "
            "--accept-gone marks them)"
        )
    for photo in result.to_look_at:
        print(f"  captioned by a person, and changed since, so have a look: {printable(photo)}")
    if result.retries:
        print(f"retried requests to stores: {result.retries}")
    print_ignored(result.ignored)
    if result.outdated:
        again = "--recaption model or --recaption settings captions them again"
        print(f"captioned earlier by another model or with other settings: {result.outdated} ({again})")
    for photo in () if is_stopped else result.missing:
        print(f"  no row for {printable(photo)}", file=sys.stderr)
    for sample in result.samples[:_SHOWN_CAPTIONS]:
        print(f"  {printable(os.path.basename(sample.photo))}: {printable(sample.caption)}")
    if result.skipped + result.taken_over + result.captioned + result.failed:
        print(f"table:   {printable(layout.captions_folder(result.output))}")
    print(f"report:  {printable(layout.run_file(result.output, result.run, layout.PAGE))}")
    print(f"read it: {_program()} show {printable(shlex.quote(result.output))}")


def _program() -> str:
    """What to type for this program, which may be in a virtual environment that is not active."""
    if shutil.which("beamscribe"):
        return "beamscribe"
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return "python -m beamscribe"
    return os.path.relpath(sys.argv[0])
