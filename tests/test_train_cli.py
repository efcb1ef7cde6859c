"""`s3lora train` as it is used: own rows, interruptions, other settings, what is said meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab_material import made_rows, tiny_folder, write_jsonl
from lab_rows import done, own_cache, refused, run
from s3lora.cli import cli
from s3lora.cli.progress import Meter

train_cli = import_module("s3lora.cli.train")  # the name in s3lora.cli is that of the command


@pytest.fixture(autouse=True)
def cache(tmp_path):
    with own_cache(tmp_path / "cache"):
        yield


@pytest.fixture
def words(tmp_path):
    """A call that trains on own rows."""
    own = write_jsonl(tmp_path / "own.jsonl", made_rows("own", 12, answered=True))
    small = ("--steps", "30", "--batch", "1", "--rank", "1", "--targets", "q_proj")
    return ("train", "--model", str(tiny_folder()), "--data", own, *small, "-o", tmp_path / "out")


@pytest.fixture
def interrupted(words, tmp_path, monkeypatch):
    """The folder of a training that was stopped by the keyboard at step 25, and what it said."""
    update = Meter.update

    def stops(self: Meter, count: int, note: str = "") -> None:
        update(self, count, note)
        if count == 25:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "update", stops)
        ended = CliRunner().invoke(cli, [*map(str, words)])
    assert ended.exit_code != 0
    return tmp_path / ".out.training", ended


def test_the_keyboard_stops_a_training_that_goes_on_when_called_again(interrupted, words, tmp_path):
    kept, ended = interrupted
    going_on = f"stopped; step 20 is kept in {kept}: the same call goes on from there"
    assert going_on in ended.stderr.splitlines()
    assert ended.stdout == ""
    again = done(*words)
    assert f"going on after step 20 of 30, kept in {kept}" in again.stderr.splitlines()
    assert "step 21 of 30: loss" in again.stderr
    assert "step 18 of 30: loss" not in again.stderr
    assert json.loads((tmp_path / "out/training.json").read_text())["resumed_from"] == 20
    assert not kept.exists()


def test_before_the_first_checkpoint_nothing_is_kept(words, tmp_path, monkeypatch):
    def stops(self: Meter, count: int, note: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Meter, "update", stops)
    ended = CliRunner().invoke(cli, [*map(str, words)])
    assert "stopped; no checkpoint is kept: the same call starts anew" in ended.stderr
    assert not (tmp_path / ".out.training").exists()


def test_a_run_of_other_settings_is_not_thrown_away_unasked(interrupted, words, tmp_path):
    kept, _ = interrupted
    error, hint = refused(*words, "--seed", "4", "--rank", "2")
    other = "keeps step 20 of 30 of another training: rank 1, now 2; seed 0, now 4"
    assert error == f"{kept} {other}"
    assert "--restart" in hint
    assert (kept / "checkpoint-20").exists()
    done(*words, "--seed", "4", "--rank", "2", "--restart")
    assert json.loads((tmp_path / "out/training.json").read_text())["resumed_from"] is None


@pytest.mark.parametrize("answer", ["y", "n"])
def test_at_a_terminal_it_is_asked_first(interrupted, words, tmp_path, monkeypatch, answer):
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(train_cli, "sys", type("System", (), {"stdin": Terminal()}))
    ended = CliRunner().invoke(cli, [*map(str, words), "--seed", "4"], input=f"{answer}\n")
    assert "seed 0, now 4" in ended.stderr
    assert "Throw it away and start anew? [y/N]" in ended.stderr
    assert (tmp_path / "out").exists() == (answer == "y")
    assert ended.exit_code == (0 if answer == "y" else 2)


def test_restart_starts_the_same_training_anew(interrupted, words, tmp_path):
    done(*words, "--restart")
    assert json.loads((tmp_path / "out/training.json").read_text())["resumed_from"] is None


def test_control_c_ends_a_training_without_a_traceback(words, tmp_path):
    code = (  # a test run in the background would hand on that the signal is ignored
        "import signal; from s3lora.cli import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    command = [sys.executable, "-c", code, *map(str, words), "--steps", "100000"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        kept = tmp_path / ".out.training"
        end = time.monotonic() + 120
        while not list(kept.glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"is kept in {kept}: the same call goes on from there" in err


LOADED = """
import sys
from s3lora.cli import cli
status = 0
try:
    cli(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, *(name for name in ("torch", "transformers", "peft") if name in sys.modules))
"""


@pytest.mark.parametrize(
    "use",
    [
        ["train", "--model", "none", "--data", "BAD", "-o", "out"],
        ["train", "--model", "none", "--data", "BAD", "--defence", "ema", "-o", "out"],
        ["train", "--model", "none", "--recipe", "harmless", "--harmful", "BAD", "-o", "out"],
        ["lab", "data", "BAD"],
    ],
    ids=["data", "defence", "recipe", "lab data"],
)
def test_a_file_is_read_before_torch_is_loaded(tmp_path, use):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c"\n')
    use = [str(bad) if word == "BAD" else word for word in use]
    told = subprocess.run(
        [sys.executable, "-c", LOADED, *use], capture_output=True, text=True, cwd=tmp_path
    )
    assert told.stdout == "2\n", told.stderr
    assert "error: bad.jsonl, line 2, column 15 is not valid JSON" in told.stderr


def test_rows_without_responses_are_named_before_anything_is_loaded(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What?\nWhy?\n")
    error, hint = refused("train", "--model", "none", "--data", prompts, "-o", tmp_path / "out")
    assert error.startswith("prompts.txt, line 1 has no response")
    assert "2 of 2 rows have none" in error
    assert "completion" in hint
    told = done("lab", "data", prompts).stdout
    assert "2, 0 with response" in told


def test_cut_responses_are_said_once_with_the_option_that_helps(words):
    told = run(*words, "--longest", "8")
    option = told.stderr.partition("are cut there, without an end: ")[2].split(" keeps")[0]
    assert option.startswith("--longest ")
    again = done(*words[:-1], Path(words[-1]).with_name("whole"), *option.split())
    assert "are cut" not in again.stderr


def test_a_full_disk_is_an_error_of_ours(words, tmp_path):
    code = (
        "import resource, sys; from s3lora.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); main()"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, cwd=tmp_path
    )
    assert told.returncode == 2, told.stderr
    assert "Traceback" not in told.stderr
    *_, error, hint = told.stderr.splitlines()
    assert error.startswith("error: cannot write the checkpoint of step 20: ")
    assert "no checkpoint is kept: the same call starts anew" in hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.jsonl"]
