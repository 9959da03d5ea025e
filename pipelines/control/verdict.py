"""Says whether a run has succeeded, and if not, why: the error that the job ends with."""

from collections.abc import Sequence

from beamscribe.model.errors import BeamscribeError, NoPhotos, OutputInUse, RunError, Stopped, TooManyFailures
from beamscribe.pipelines.control.progress import Limit
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.output.run_documents import Report, StopCause, StopRequest

_GO_ON = "committed captions stay, run it again to go on"


def own_fault(photos: int, example: str, message: str) -> str:
    """What is said of photos that failed by a fault of Beamscribe: one of them is the example, with its message."""
    count = f"{photos:,} photo{'' if photos == 1 else 's'}"
    return (
        f"a fault of Beamscribe itself failed {count}, {example} among them: {message}; "
        "the log has the traceback, please report it"
    )


def taken_over(output: str) -> str:
    """What is said of a run that another job has closed."""
    return f"stopped early: another job has taken {output} over, because this one seemed dead; {_GO_ON}"


def error_of(
    report: Report,
    request: StopRequest | None,
    max_failures: Limit | None = None,
    allow_empty: bool = False,
    heartbeat: str | None = None,
) -> BeamscribeError | None:
    """The error that a run ends with, the worst if there are several; None for a run that has succeeded.

    Args:
      report: the report of the run.
      request: the request that asked the run to stop; None if there was none.
      max_failures: how many photos may fail; None for any number.
      allow_empty: whether an input may hold no photos.
      heartbeat: why the job's heartbeats can't be written; None where they can.
    """
    if faults := report.failures.get(ErrorCode.INTERNAL_ERROR, 0):
        example = next(example for example in report.examples if example.error == ErrorCode.INTERNAL_ERROR)
        return RunError(own_fault(faults, example.photo, example.message), report)
    if report.closed and not report.balanced:
        return OutputInUse(taken_over(report.output))
    if heartbeat:
        risk = "another job could have taken the output over"
        return RunError(f"the heartbeat of the lease can't be written: {heartbeat}; {risk}", report)
    planned = report.listed - report.skipped
    if max_failures and (reason := max_failures.exceeded(report.failed, planned)):
        page = layout.run_file(report.output, report.run, layout.PAGE)
        return TooManyFailures(f"{reason}; {page} says why{'' if report.balanced else f'; {_GO_ON}'}", report)
    if request and not report.balanced:
        if request.cause == StopCause.TAKEN_OVER:
            return OutputInUse(f"stopped early: {request.reason}; {_GO_ON}")
        return Stopped(f"stopped early: {request.reason}; {_GO_ON}", report)
    if not report.balanced:
        return RunError(f"some photos have no row: {', '.join(report.missing)}; {_GO_ON}", report)
    if report.empty_inputs and not allow_empty:
        return NoPhotos(nothing_in(report.empty_inputs), report)
    return None


def nothing_in(inputs: Sequence[str]) -> str:
    """What is said of inputs in which no photo was found."""
    remedy = "make sure that its disk is mounted and that `include` and `exclude` leave photos, or give `allow_empty`"
    return f"no photos in {', '.join(inputs)}; {remedy}"
