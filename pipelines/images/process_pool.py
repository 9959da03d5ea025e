"""A pool of image processes, which convert the bytes of photos to pixels and may crash or hang.

A worker process has one pool, however many bundles it runs at once.
"""

import atexit
import concurrent.futures
import os
import threading
from collections.abc import Sequence

import loky
import pebble

from beamscribe.pipelines import failures
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import image_process, starting, to_pixels
from beamscribe.pipelines.images.to_pixels import Picture

# Seconds that one photo may take: far more than any valid photo needs.
PHOTO_TIMEOUT = 60.0


class ImagePool:
    """A pool of image processes. A process that dies or exceeds the timeout is replaced.

    Args:
      workers: number of processes.
      timeout: seconds that one photo may take.
      memory: address space that a process may use, bytes.

    Attributes:
      workers: number of processes.
    """

    def __init__(self, workers: int, timeout: float = PHOTO_TIMEOUT, memory: int = image_process.MEMORY_LIMIT):
        self.workers = workers
        self._timeout = timeout
        self._waited_for: set[concurrent.futures.Future[list[Picture]]] = set()
        self._processes = pebble.ProcessPool(
            max_workers=workers,
            initializer=image_process.initialize,
            initargs=(os.getpid(), memory),
            context=starting.ImageContext(),
        )
        # The kernel ends a process with the thread that started it, so a thread that stays alive starts the processes.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._starter.submit(getattr, self._processes, "active").result()

    def convert(self, photos: Sequence[bytes], size: int, max_pixels: int) -> list[Picture]:
        """Converts photos to pixels in one image process, and waits for the result.

        A photo on which the process dies or exceeds the timeout gets a failure; the other photos don't.

        Args:
          photos: the bytes of each photo.
          size: height and width of the results, pixels.
          max_pixels: width × height above which a photo is refused.

        Returns:
          The result for each photo, in order.
        """
        if not photos:
            return []
        task = self._processes.schedule(to_pixels.convert_all, (photos, size, max_pixels), timeout=self._timeout)
        self._waited_for.add(task)
        try:
            pictures = task.result()
        except concurrent.futures.TimeoutError:
            message = f"decoding took longer than {self._timeout:g} s"
            failure = Failure(Stage.DECODE, ErrorCode.TIMEOUT, message)
        except pebble.ProcessExpired as expired:
            message = f"the image process ended with code {expired.exitcode}"
            failure = Failure(Stage.DECODE, ErrorCode.DECODER_CRASH, message)
        except (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor):
            # The pool has ended, which is no fault of the photos: they must not get rows.
            raise
        except Exception as error:  # noqa: BLE001 - `convert_all` raises nothing, so it is a fault of Beamscribe
            failure = failures.of_fault(Stage.DECODE, error)
        else:
            for picture in pictures:
                if picture.fault:
                    # Image processes have no log.
                    failures.log_remote_fault(Stage.DECODE, picture.fault)
            return pictures
        finally:
            self._waited_for.discard(task)
        if len(photos) > 1:
            # One of the photos is to blame: converting each of them alone shows which one.
            return [picture for data in photos for picture in self.convert([data], size, max_pixels)]
        return [Picture(None, failure=failure)]

    def close(self) -> None:
        """Ends the processes."""
        self._processes.stop()
        self._processes.join()
        # The pool may leave a task of the last moment as it is, and whoever waits for it would wait for ever.
        for task in list(self._waited_for):
            task.cancel()
        self._starter.shutdown(wait=False, cancel_futures=True)


def shared() -> ImagePool:
    """The pool of this process, with one image process for each processor that this process may use."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ImagePool(loky.cpu_count())
            atexit.register(_pool.close)
        return _pool


_pool: ImagePool | None = None
_pool_lock = threading.Lock()
