"""Prepares an image process. Imports only the standard library, since it runs before the codecs are imported."""

import ctypes
import os
import signal
import sys
import threading
import time
import warnings

# Address space of an image process, bytes. The largest need, of a WebP with 200 million pixels and alpha, is 3.5 GiB.
MEMORY_LIMIT = 5 * 2**30

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def initialize(parent: int, memory: int) -> None:
    """Prepares this process for hostile bytes, which may hang it or use up its memory.

    Args:
      parent: id of the process that this one must not outlive.
      memory: limit of the address space, bytes.
    """
    die_with(parent)
    _limit_memory(memory)
    # numpy's linear algebra, which nothing here uses, would reserve address space for one thread per processor.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # The row of a photo reports what is wrong with it.
    warnings.simplefilter("ignore")


def die_with(parent: int) -> None:
    """Makes this process end when its parent ends, even if it hangs in a codec, where no Python code runs.

    Args:
      parent: id of the parent process.
    """
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
    # Other systems don't support the limit, or don't enforce it.
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
