"""Says what `beamscribe caption` with the same options would do: what it would list, skip and caption, and why.

It runs on this machine, whatever the runner, and writes nothing. It reads no photo: copies of the same photo, which
are captioned once, count as several here.
"""

import argparse
from typing import TYPE_CHECKING

from beamscribe.jobs.options import job_options
from beamscribe.jobs.terminal import print_ignored, printable, until_closed

if TYPE_CHECKING:
    from beamscribe.pipelines.preview import Preview

EXAMPLE = "beamscribe plan --input /photos --output /captions"
TAKES_BEAM_OPTIONS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `caption`."""
    job_options.add_arguments(parser)


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Prints what the job would do."""
    from beamscribe.jobs import caption_function
    from beamscribe.model.errors import BeamscribeError, NoPhotos, one_line
    from beamscribe.pipelines import preview
    from beamscribe.pipelines.control import history, verdict

    # The runner and its cluster need not be there yet.
    job = caption_function.job_of(**job_options.arguments_of(options) | {"gpu": None})
    try:
        found = preview.preview(job.options, history.unfinished_since(job.config))
    except OSError as error:
        raise BeamscribeError(f"can't plan: {one_line(error)}") from error
    with until_closed():
        _print(found)
    if found.empty_inputs and not options.allow_empty:
        raise NoPhotos(verdict.nothing_in(found.empty_inputs))
    return 0


def _print(found: "Preview") -> None:
    to_caption = found.listed - found.skipped
    print(f"listed {found.listed} = to skip {found.skipped} + to caption {to_caption}")
    for title, skips in (("to skip", True), ("to caption", False)):
        for why, count in sorted(found.whys.items(), key=lambda item: -item[1]):
            if why.skips == skips:
                print(f"  {title}: {count} {why}")
    if found.may_be_taken_over:
        print(f"may be taken over: {found.may_be_taken_over} of those to caption resemble earlier ones by size or name")
    if found.gone:
        marked = "" if found.marks_gone else ", too many to be marked without --accept-gone"
        print(f"gone: {found.gone} photos that are no longer there{marked}")
    for uri, count in found.inputs.items():
        print(f"{printable(uri)}: {count} photos")
    print_ignored(found.ignored)
