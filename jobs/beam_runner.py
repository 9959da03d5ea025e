"""Runs a pipeline with the user's Beam options, and says in a line what the user can mend."""

import re
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from model.errors import UserError

# The direct runner for batch, by its own name: `DirectRunner` would first try to download another.
DEFAULT_RUNNER = "FnApiRunner"


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Parses Beam's own options.

    Raises:
      UserError: an option is unknown to Beam, too.
    """
    options = PipelineOptions(list(arguments))
    known = options.get_all_options(retain_unknown_options=False)
    unknown = [a for a in arguments if a.startswith("--") and a[2:].split("=")[0].removeprefix("no_") not in known]
    if unknown:
        raise UserError(f"unknown option {unknown[0]}: neither this command nor Beam has it; see --help")
    standard: Any = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        standard.runner = DEFAULT_RUNNER
    try:
        create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError):
        runners = ", ".join(StandardOptions.KNOWN_RUNNER_NAMES)
        raise UserError(f"--runner {standard.runner}: Beam has no such runner; it has {runners}") from None
    return options


def run(job: beam.PTransform, options: PipelineOptions) -> None:
    """Runs a job from its root transform to the end; raises what the runner raises."""
    with beam.Pipeline(options=options) as pipeline:
        pipeline | type(job).__name__ >> job


def reason(error: Exception) -> str:
    """What went wrong, without the place in the pipeline that Beam writes behind it."""
    text = re.sub(r"\s*\[while running '.*?'\]", "", str(error))
    return " ".join(text.split())[:300] or type(error).__name__


def workers(options: PipelineOptions) -> int:
    """How many workers a job will have, as far as its options say."""
    chosen = options.get_all_options()
    for name in ("max_num_workers", "num_workers", "parallelism", "direct_num_workers"):
        number = chosen.get(name)
        if isinstance(number, int) and number > 0:
            return number
    return 1
