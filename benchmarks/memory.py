"""The most memory that this process has used; Linux only."""

import re
from pathlib import Path

_PROCESS = Path("/proc/self")


def forget_peak() -> None:
    """Lets the peak begin anew: a new process has its parent's, as `ru_maxrss` keeps it.

    Source: Linux's proc(5), `clear_refs`.
    """
    (_PROCESS / "clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that were resident at a time, since the beginning or the last `forget_peak`."""
    kilobytes = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    assert kilobytes
    return 1024 * int(kilobytes[1])
