"""Progress on a terminal is a bar, and elsewhere lines; a thread shows it."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time

import pytest

from beamscribe.model import progress_display
from beamscribe.model.progress_display import Display
from beamscribe.model.ticker import Ticker
from beamscribe.pipelines.control.progress import Progress


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(caplog, capfd):
    """The lines that are shown where there is no terminal: one at the end, unless a test asks for more."""
    caplog.set_level(logging.INFO, logger="beamscribe.progress")

    def shown():
        assert capfd.readouterr() == ("", "")
        assert {(record.name, record.levelno) for record in caplog.records} <= {("beamscribe.progress", logging.INFO)}
        return [record.getMessage() for record in caplog.records]

    return shown


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.005)


def test_a_line_says_what_is_done_what_has_failed_and_how_long_it_will_take(lines, clock, monkeypatch):
    monkeypatch.setattr(progress_display, "_LINE_SECONDS", 0.01)
    with Display(6000, "photo", clock=clock) as display:
        display.show(0)
        until(lambda: "captioned 0 of 6,000 photos" in lines())
        clock.now += 500
        # The start-up ends here: what it took and what is done by then say nothing of the rate.
        display.show(200)
        until(lambda: "captioned 200 of 6,000 photos" in lines())
        clock.now += 10
        display.show(512, 3)
        until(lambda: "captioned 512 and failed 3 of 6,000 photos, 31.5 photos/s, 3 min left" in lines())
        clock.now += 10
        display.show(5990, 10)
    assert lines()[-1] == "captioned 5,990 and failed 10 of 6,000 photos, 290.0 photos/s"


def test_a_line_comes_at_the_end_and_every_30_seconds(lines, monkeypatch):
    assert progress_display._LINE_SECONDS == 30
    with Display(3, "photo") as display:
        for number in range(3):
            display.show(number)
    assert lines() == ["captioned 2 of 3 photos"] or lines()[0].startswith("captioned 2 of 3 photos, ")
    monkeypatch.setattr(progress_display, "_LINE_SECONDS", 0.01)
    with Display(1, "photo") as display:
        display.show(0)
        # So that one sees that the job is alive.
        until(lambda: lines()[1:].count("captioned 0 of 1 photo") > 3)


def test_nothing_is_shown_before_the_first_count(lines, monkeypatch):
    monkeypatch.setattr(progress_display, "_LINE_SECONDS", 0.01)
    with Display(None, "photo") as display:
        time.sleep(0.1)
        display.total = 0
        display.show(0)
    assert lines() == []


def test_the_total_may_be_unknown_or_come_later(lines, clock):
    with Display(None, "photo", done="listed", clock=clock) as display:
        display.show(1500)
    with Display(None, "step", done="epoch 2 of 9:", clock=clock) as display:
        display.total = 40
        display.show(3, note="loss 2.345")
    assert lines() == ["listed 1,500 photos", "epoch 2 of 9: 3 of 40 steps, loss 2.345"]


def test_a_captioning_job_is_followed_until_the_display_is_closed(lines, clock):
    with Display(None, "photo", clock=clock) as display:
        display.follow(Progress(planned=6000, captioned=512, failed=3))
        display.close()
        assert lines() == ["captioned 512 and failed 3 of 6,000 photos"]
        display.follow(Progress(planned=6000, captioned=600, failed=3))
    assert len(lines()) == 1


def test_a_count_that_stays_the_same_keeps_the_rate(lines, clock):
    with Display(100, "photo", clock=clock) as display:
        for number in (10, 40, 40):
            display.show(number)
            clock.now += 10
    assert lines() == ["captioned 40 of 100 photos, 3.0 photos/s"]


@pytest.mark.parametrize(
    ("per_second", "said"),
    [(1234.5, "1,234.5 photos/s"), (1, "1.0 photos/s"), (0.5, "30.0 photos/min"), (0.01, "36.0 photos/h")],
)
def test_rates_of_slow_jobs_have_longer_units(per_second, said):
    assert progress_display._rate(per_second, "photo") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (170, "3 min"),
        (3599, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (86399, "1 day 0 h"),
        (275000, "3 days 4 h"),
    ],
)
def test_durations_are_as_people_say_them(seconds, said):
    assert progress_display._duration(seconds) == said


def test_nothing_is_shown_where_the_logger_is_silent(caplog, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    caplog.set_level(logging.WARNING, logger="beamscribe.progress")
    with Display(3, "photo") as display:
        display.show(3)
    time.sleep(0.1)
    assert terminal.text == "" and caplog.records == []


class Terminal:
    """A terminal, and what is written to it."""

    def __init__(self, screen, controller):
        self.stream, self._controller = screen, controller
        self._written = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self._controller, 65536):
                self._written += data

    @property
    def text(self):
        """All that was written so far."""
        return self._written.decode(errors="ignore")


@pytest.fixture
def columns():
    return 100


@pytest.fixture
def terminal(columns):
    controller, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    with os.fdopen(screen, "w", buffering=1) as stream:
        yield Terminal(stream, controller)
    os.close(controller)


def test_a_terminal_has_a_bar(terminal, caplog, clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(progress_display, "_BAR_SECONDS", 0.01)
    caplog.set_level(logging.INFO, logger="beamscribe.progress")
    with Display(6000, "photo", clock=clock) as display:
        display.show(200)
        clock.now += 10
        display.show(512, 3)
        until(lambda: "failed 3" in terminal.text)
        display.show(5990, 10)
    assert caplog.records == []
    until(lambda: terminal.text.endswith("\r\n"))
    *_, last = terminal.text.rstrip().split("\r")
    shown = r" 9%\|[█▏▎▍▌▋▊▉ ]+\| captioned 512 and failed 3 of 6,000 photos, 31.5 photos/s, 3 min left"
    assert re.search(shown, terminal.text)
    assert re.fullmatch(r"100%\|█+\| captioned 5,990 and failed 10 of 6,000 photos, 580.0 photos/s", last)
    assert max(map(len, terminal.text.split("\r"))) <= 101 and terminal.text.count("\n") == 1


@pytest.mark.parametrize(("columns", "shown"), [(0, 80), (40, 40)])
def test_the_bar_fits_into_a_line(terminal, caplog, monkeypatch, shown):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    caplog.set_level(logging.INFO, logger="beamscribe.progress")
    with Display(6000, "photo") as display:
        display.show(2000, 300, note="a long note")
    until(lambda: terminal.text.endswith("\r\n"))
    *_, last = terminal.text.rstrip().split("\r")
    assert last.startswith(" 38%|") and "captioned 2,000 and failed" in last and len(last) <= shown


def test_what_is_logged_stands_above_the_bar(terminal, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(progress_display, "_BAR_SECONDS", 0.01)
    logger = logging.getLogger("beamscribe")
    # Another stream to the same terminal.
    stream = os.fdopen(os.dup(terminal.stream.fileno()), "w", buffering=1)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("12:00:00 %(message)s"))
    monkeypatch.setattr(logger, "handlers", [handler])
    caplog.set_level(logging.INFO, logger="beamscribe")
    with Display(100, "photo") as display:
        display.show(10)
        until(lambda: "captioned 10" in terminal.text)
        logging.getLogger("beamscribe.pipelines.some").warning("the disk is slow")
        until(lambda: "captioned 10" in terminal.text.partition("the disk is slow")[2])
    assert handler.stream is stream
    stream.close()
    until(lambda: terminal.text.count("\n") == 2)
    rows = [row.rpartition("\r")[2] for row in terminal.text.replace("\r\n", "\n").split("\n")]
    assert rows[0] == "12:00:00 the disk is slow"
    assert "captioned 10 of 100 photos" in rows[1] and rows[2:] == [""]


def test_a_ticker_calls_until_the_end_and_once_more():
    calls = []
    with Ticker(calls.append, 0.01, "test"):
        until(lambda: len(calls) > 2)
    assert calls[-1] is True and not any(calls[:-1])
    with Ticker(calls.append, 60.0, "test"):
        calls.clear()
    assert calls == [True]


def test_a_ticker_logs_a_fault_of_each_type_once_and_goes_on(caplog):
    calls = []

    def call(last):
        calls.append(last)
        raise (SystemExit if len(calls) % 2 else TypeError)("a fault")

    with Ticker(call, 0.001, "test"):
        until(lambda: len(calls) > 5)
    assert calls[-1] is True
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "SystemExit" in caplog.records[0].exc_text and "TypeError" in caplog.records[1].exc_text
