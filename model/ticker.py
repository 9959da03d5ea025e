"""Calls a function every few seconds in a thread of its own."""

import logging
import threading
from collections.abc import Callable
from typing import Self

_LOGGER = logging.getLogger(__name__)


class Ticker:
    """A context manager whose thread calls a function every few seconds, and once more at the end of the block.

    An exception of the function, `SystemExit` included, ends neither the thread nor the block. The first one of each
    type is logged with its traceback.

    Args:
      call: the function; it is told whether this is the last call.
      seconds: time from the end of one call to the next.
      name: name of the thread.
    """

    def __init__(self, call: Callable[[bool], None], seconds: float, name: str):
        self._call, self._seconds = call, seconds
        self._ended = threading.Event()
        self._logged: set[type[BaseException]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(self._seconds)
            try:
                self._call(last)
            except BaseException as error:
                # A function that fails once may work the next time.
                if type(error) not in self._logged:
                    self._logged.add(type(error))
                    _LOGGER.exception("the thread %r has met a fault and goes on", self._thread.name)
