"""How a decoding process begins. Imports nothing but the standard library: it runs before the decoders are there."""

import ctypes
import os
import signal
import sys
import threading
import time
import warnings

# Address space of a decoding process, bytes. What needs most, a WebP of 200 million pixels with alpha, takes 3.5 GiB.
MEMORY_LIMIT = 5 * 2**30

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def initialize(parent: int, memory: int) -> None:
    """Prepares a process for bytes that may do anything to it.

    Args:
      parent: the process that must not be outlived.
      memory: address space, bytes, that this one may use.
    """
    die_with(parent)
    _limit_memory(memory)
    # numpy's linear algebra, which nothing here uses, would take address space for a thread of every processor.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # What is wrong with a photo is said in its row.
    warnings.simplefilter("ignore")


def die_with(parent: int) -> None:
    """Ends this process when its parent ends, even while it hangs in a decoder, where no Python code runs."""
    if not _ask_the_kernel():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # The parent may have ended before the kernel was asked.
    if os.getppid() != parent:
        os._exit(1)


def _ask_the_kernel() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _limit_memory(limit: int) -> None:
    # Elsewhere the limit can't be set, or is not kept to.
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
