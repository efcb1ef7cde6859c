"""Progress of long work: lines with rate and time left, a bar on a terminal, nothing on stdout."""

from __future__ import annotations

import sys
from io import StringIO

import pytest

from s3lora.cli.progress import EVERY, Meter


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_each_tenth_is_a_line_with_rate_and_time_left(capsys):
    clock = Clock()
    with Meter("step", 80, clock=clock) as meter:
        for step in range(1, 81):
            clock.now += 0.25
            meter.update(step, f"loss {step / 10:.3f}")
    lines = lines_of(capsys)
    assert len(lines) == 10
    assert lines[0] == "step 8 of 80: loss 0.800; 4 steps/s, 0:00:18 left"
    assert lines[-1] == "step 80 of 80: loss 8.000; 4 steps/s"


def test_slow_work_says_something_between_tenths(capsys):
    clock = Clock()
    with Meter("cell", 1000, "cells", clock=clock) as meter:
        for cell in range(1, 10):
            clock.now += EVERY / 2
            meter.update(cell)
    lines = lines_of(capsys)
    assert [line.split(" of ")[0] for line in lines] == ["cell 2", "cell 4", "cell 6", "cell 8"]
    assert lines[0] == "cell 2 of 1000: 15 s/cell, 4:09:30 left"


def test_the_rate_is_that_of_this_process(capsys):
    clock = Clock()
    with Meter("step", 100, first=60, clock=clock) as meter:
        clock.now += 10
        meter.update(70)
    assert lines_of(capsys) == ["step 70 of 100: 1 steps/s, 0:00:30 left"]


def test_bytes_are_shown_as_megabytes(capsys):
    clock = Clock()
    with Meter("a.whl", 84_000_000, "bytes", tenths=False, clock=clock) as meter:
        clock.now += 1
        meter.update(4_000_000)
        clock.now += EVERY
        meter.update(42_000_000)
        meter.update(84_000_000)
    assert lines_of(capsys) == [
        "a.whl: 42.0 MB of 84.0 MB; 1.4 MB/s, 0:00:31 left",
        "a.whl: 84.0 MB of 84.0 MB; 2.7 MB/s",
    ]


def test_without_a_total_there_is_no_time_left(capsys):
    clock = Clock()
    with Meter("prompt", None, "prompts", clock=clock) as meter:
        clock.now += EVERY
        meter.update(60)
    assert lines_of(capsys) == ["prompt 60: 2 prompts/s"]


class Terminal(StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_that_is_taken_away(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    clock = Clock()
    with Meter("[step]", 80, clock=clock) as meter:
        clock.now += 10
        meter.update(20, "loss 1.5 [b]")
    monkeypatch.undo()
    text = screen.getvalue()
    assert "[step]" in text
    assert "25 %" in text
    assert "loss 1.5 [b]; 2 steps/s, 0:00:30 left" in text
    assert text.endswith("\x1b[2K"), "the bar's line is cleared"
    assert lines_of(capsys) == []
