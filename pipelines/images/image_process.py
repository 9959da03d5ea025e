"""An image process: it gets the bytes of photos, and answers with their pixels or failures, until its worker ends.

At module level it imports only the standard library, since its limits must be set before the codecs are imported. Once
they are, it can open no file and no socket.
"""

import contextlib
import ctypes
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings

from beamscribe.pipelines.images import sandbox
from beamscribe.pipelines.images.messages import Connection

# Address space of an image process, bytes. The largest need, of a WebP with 200 million pixels and alpha, is 3.5 GiB.
MEMORY_LIMIT = 5 * 2**30

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def main(descriptor: int, parent: int, memory: int, seconds: int) -> None:
    """Answers the messages of a worker.

    Args:
      descriptor: of the socket that is connected with the worker.
      parent: id of the worker's process, which this one must not outlive.
      memory: limit of the address space, bytes.
      seconds: processor time that a photo may take; the kernel then ends the process.
    """
    die_with(parent)
    _be_the_first_to_go()
    _limit_memory(memory)
    # numpy's linear algebra, which nothing here uses, would reserve address space for one thread per processor.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # The row of a photo reports what is wrong with it.
    warnings.simplefilter("ignore")
    connection = Connection(socket.socket(fileno=descriptor))
    # At the end of the worker, or of its pool.
    with contextlib.suppress(EOFError, OSError):
        _serve(connection, seconds)


def _serve(connection: Connection, seconds: int) -> None:
    from beamscribe.pipelines import failures
    from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
    from beamscribe.pipelines.images import pictures, preloading, to_pixels
    from beamscribe.pipelines.images.pictures import Expected, Picture

    def convert(photo: bytes, size: int, max_pixels: int, expected: Expected) -> Picture:
        try:
            _limit_time(seconds)
            return late.explained(to_pixels.convert(photo, size, max_pixels, expected))
        except MemoryError:
            # The process ends, and a fresh one is tried with each photo alone.
            raise
        except Exception as error:  # noqa: BLE001 - what a conversion raises is a fault of Beamscribe
            fault = failures.fault_of(error)
            return Picture(None, failure=Failure(Stage.DECODE, ErrorCode.INTERNAL_ERROR, fault.message), fault=fault)

    preloading.load()
    late = preloading.LateImports()
    late.watch()
    sandbox.enter()
    connection.send("ready")
    while True:
        (size, max_pixels, document), photos = connection.receive()
        each = zip(photos, pictures.expected_of(document), strict=True)
        connection.send(*pictures.packed([convert(bytes(photo), size, max_pixels, one) for photo, one in each]))


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


def _be_the_first_to_go() -> None:
    """Has the kernel end this process before any other where memory runs out: a photo is then all that is lost."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        # Other systems have no such file, and some containers don't allow it.
        pass


def _limit_time(seconds: int) -> None:
    """Limits the processor time of this process to what it has used, and some seconds more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _limit_memory(limit: int) -> None:
    # Other systems don't support the limit, or don't enforce it.
    if sys.platform != "linux":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
