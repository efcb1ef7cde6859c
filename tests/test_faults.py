"""The fault-injection script: its checks notice what is wrong. It is run by hand (strace)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import faults
from s3lora import open_adapter, prune

FUZZ = Path(faults.__file__).parent


@pytest.fixture
def stand(tmp_path, monkeypatch):
    """A stand whose runs are played: `stand.play` says what the command does to the output."""
    made = faults.Stand(tmp_path, [])
    made.play = lambda: None

    def run(*_: str) -> subprocess.CompletedProcess[str]:
        made.out.parent.mkdir(exist_ok=True)
        words = made.play() or ("", 2)
        return subprocess.CompletedProcess([], words[1], "", words[0])

    monkeypatch.setattr(made, "run", run)
    return made


def test_a_refusal_in_words_is_right(stand):
    stand.play = lambda: ("error: no space\nhint: free some\n", 2)
    assert stand.fault("write", 1, "ENOSPC") == "failed, nothing"


def test_what_is_wrong_is_noticed(stand):
    def change_input():
        (stand.source / "README.md").write_text("x")

    def half():
        prune(open_adapter(stand.source), [faults.Q], stand.out)
        (stand.out / "adapter_config.json").write_text("{")
        return "", 0

    def remains():
        (stand.out.parent / ".out.x.partial").mkdir()
        return "error: x\n", 2

    for play, words in (
        (lambda: ("Traceback (most recent call last):\nOSError: x", 1), "traceback: OSError"),
        (half, "half an output"),
        (lambda: ("", 0), "status 0 without output"),
        (lambda: ("", 1), "status 1"),
        (remains, "left behind"),
        (change_input, "the input has changed"),
    ):
        stand.play = play
        assert words in stand.fault("write", 3, "EIO")
        faults.shutil.rmtree(stand.out.parent)


def test_the_recorded_run_found_nothing_wrong():
    record = json.loads((FUZZ / "results" / "faults.json").read_text())
    assert record["faults"] > 200
    assert record["wrong"] == []
    assert record["faults"] == sum(record["outcomes"].values())
