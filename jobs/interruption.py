"""What signals do to the command: it stops in an orderly way, and then dies by the signal itself.

The signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP (its terminal was closed). Shells see the statuses 130, 143 and 129,
and systemd a clean stop. Process 1 of a container, which no signal of its own ends, exits with these statuses.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds that a command has to end in an orderly way: less than Docker waits, which kills after 10.
GRACE_SECONDS = 8.0
# A signal this soon after the first is the same one, sent to the process and to its group; a later one ends at once.
_AGAIN_SECONDS = 0.2
# What to do after a signal that came when nothing was left to do.
_DONE = "it had done all its work"


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end."""


class Interruption:
    """A context manager that handles the signals while a command runs in the main thread; in another one it does not.

    Args:
      command: name of the command, for the line that it ends with.
      advice: what to do to go on.

    Attributes:
      number: the signal that has asked the command to end; None if none has.
    """

    def __init__(self, command: str, advice: str):
        self._line = f"beamscribe {command}: stopped by {{}}; {{}}\n"
        self._advice = advice
        self._stop: threading.Event | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, object] = {}
        self._stderr = 2
        self.number: signal.Signals | None = None

    def __enter__(self) -> "Interruption":
        # While TensorFlow is imported, descriptor 2 leads nowhere.
        self._stderr = os.dup(2)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # Whoever starts a command in the background may have it ignore a signal.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._stderr)
        self._stderr = 2

    @contextlib.contextmanager
    def gently(self) -> Iterator[threading.Event]:
        """A block that is not interrupted: the first signal sets the event that the block gets and has to look at."""
        self._stop = threading.Event()
        try:
            yield self._stop
        finally:
            self._stop = None

    def die(self, is_done: bool = False) -> None:
        """Says that the command was stopped, ends the processes that it has started, and dies by the signal.

        Args:
          is_done: whether the command had nothing left to do when the signal came.
        """
        number = self.number or signal.SIGINT
        # What it says on a terminal begins on a line of its own.
        line = self._line.format(number.name, _DONE if is_done else self._advice)
        self._write(("\n" if sys.stderr.isatty() else "") + line)
        _end_children()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if time.monotonic() - self._at > _AGAIN_SECONDS:
                self.die()
            return
        self.number, self._at = signal.Signals(number), time.monotonic()
        _silence()
        threading.Thread(target=self._end_later, name="interruption", daemon=True).start()
        if self._stop is None:
            raise Interrupted
        self._stop.set()
        if sys.stderr.isatty():
            self._write(f"\nfinishing the open shards, at most {GRACE_SECONDS:.0f} s; Ctrl-C drops them\n")

    def _write(self, text: str) -> None:
        """Writes to stderr, also where the main thread is writing to it at this moment."""
        with contextlib.suppress(OSError):
            os.write(self._stderr, text.encode())

    def _end_later(self) -> None:
        """Ends a command that does not end by itself."""
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), self.number or signal.SIGINT)
        # The handler runs in the main thread, which may be in code that does not return.
        time.sleep(2.0)
        _end_children()
        os._exit(128 + (self.number or signal.SIGINT))


def end_at_signals(status: int) -> None:
    """Has this process end at the next signal with a status of its own, as it would a moment later."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(status))


def _silence() -> None:
    """Keeps quiet what parts of an engine say while they are ended: the line about the signal says all."""
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    logging.disable(logging.ERROR)


def _end_children() -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
