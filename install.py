"""Installs packages with pip and shows how far it is: `python install.py ARGUMENTS` for `pip install ARGUMENTS`.

On a terminal it rewrites one line, elsewhere it prints a line with a time every 30 seconds. Its numbers are those of
pip's own lines and of the installed packages' folders. Where pip's lines change, only the numbers suffer.

Imports nothing but the standard library: nothing else is there yet.
"""

import collections
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from typing import TextIO

# Seconds between two lines, and between two updates of the line on a terminal.
LINE_SECONDS = 30.0
TERMINAL_SECONDS = 0.5
# Lines of pip's output that are shown where pip fails: they often explain what it has written to stderr.
_LAST_LINES = 20

_NAME = r"([A-Za-z0-9][A-Za-z0-9._-]*)"
_FOUND = re.compile(rf"\s*(?:Collecting|Requirement already satisfied:) {_NAME}")
_DOWNLOADED = re.compile(r"\s*(?:Downloading|Using cached) \S*?([^/\s]+)\.(?:whl|tar\.gz|zip) \(")
_INSTALLING = re.compile(r"Installing collected packages: (.*)")
_PINNED = re.compile(rf"^{_NAME}==", re.MULTILINE)


class Installation:
    """What is known of a run of pip.

    Args:
      expected: approximate number of packages; 0 if it is unknown.
    """

    def __init__(self, expected: int):
        self._expected = expected
        self._found: set[str] = set()
        self._downloaded: set[str] = set()
        self._to_install = 0
        self._folder = pathlib.Path(sysconfig.get_path("purelib"))
        self._before = self._packages()

    def read(self, line: str) -> None:
        """Takes a line of pip's output."""
        if match := _FOUND.match(line):
            self._found.add(re.sub(r"[-_.]+", "-", match[1]).lower())
        elif match := _DOWNLOADED.match(line):
            self._downloaded.add(match[1])
        elif match := _INSTALLING.match(line):
            self._to_install = len(match[1].split(","))

    def __str__(self) -> str:
        if self._to_install:
            installed = min(len(self._packages() - self._before), self._to_install)
            return f"setting up: installed {installed} of {self._to_install} packages"
        about = f" of about {self._expected}" if 0 < self._expected >= len(self._found) else ""
        return f"setting up: found {len(self._found)} and downloaded {len(self._downloaded)}{about} packages"

    def _packages(self) -> set[str]:
        return {path.name for path in self._folder.glob("*.dist-info")}


class Screen:
    """Shows the progress, and above it the lines that pip writes to stderr."""

    def __init__(self, stream: TextIO):
        self._stream, self.is_terminal = stream, stream.isatty()
        self._lock = threading.Lock()

    def show(self, progress: str) -> None:
        """Shows how far the installation is: on a terminal in place of what was shown before."""
        with self._lock:
            if self.is_terminal:
                self._stream.write(f"\r\x1b[K{progress[: shutil.get_terminal_size().columns - 1]}")
            else:
                self._stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {progress}\n")
            self._stream.flush()

    def write(self, line: str) -> None:
        """Writes a line of pip's."""
        with self._lock:
            self._stream.write(f"\r\x1b[K{line}" if self.is_terminal else line)
            self._stream.flush()

    def end(self) -> None:
        """Leaves the last line on a terminal."""
        if self.is_terminal:
            self._stream.write("\n")


def install(arguments: Sequence[str]) -> int:
    """Runs pip, and returns its exit status.

    Args:
      arguments: those of `pip install`.
    """
    installation, screen = Installation(_pinned(arguments)), Screen(sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", *arguments]
    # Nobody would see that pip asks something.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1"}
    pip = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert pip.stdout and pip.stderr
    said: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)

    def read_output(stream: TextIO) -> None:
        for line in stream:
            said.append(line)
            installation.read(line)

    def read_errors(stream: TextIO) -> None:
        for line in stream:
            screen.write(line)

    readers = [
        threading.Thread(target=read_output, args=(pip.stdout,)),
        threading.Thread(target=read_errors, args=(pip.stderr,)),
    ]
    for reader in readers:
        reader.start()
    try:
        while _is_running(pip, TERMINAL_SECONDS if screen.is_terminal else LINE_SECONDS):
            screen.show(str(installation))
    except KeyboardInterrupt:
        # The terminal has sent the signal to pip, too.
        pip.wait()
    for reader in readers:
        reader.join()
    screen.show(str(installation))
    screen.end()
    if pip.returncode:
        sys.stderr.writelines(["the last lines of pip's output:\n", *said])
    # A process that a signal has ended has a negative one.
    return pip.returncode if pip.returncode >= 0 else 128 - pip.returncode


def _is_running(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process still runs after some seconds; returns as soon as it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _pinned(arguments: Sequence[str]) -> int:
    """The number of packages in the file of `--constraint`, some of which are for other systems; 0 without one."""
    for option, value in itertools.pairwise(arguments):
        if option in ("--constraint", "-c"):
            try:
                return len(_PINNED.findall(pathlib.Path(value).read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError):
                # Pip itself says what is wrong with the file.
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(install(sys.argv[1:]))
