"""Outputs never go over inputs, whatever name the output has; see `s3lora.cli.inputs`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapters import CONFIG, WEIGHTS, write_adapter
from s3lora.cli import cli


def run(*words: object) -> Result:
    done = CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "80"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def bytes_of(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two adapters, one of them as links into a cache, a base model, and results of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "blobs"):
        write_adapter(Path(name))
        Path(name, "README.md").write_text("mine")
        Path(name, "tokenizer.json").write_text("{}")
    Path("linked").mkdir()
    for name in (WEIGHTS, CONFIG):
        Path("linked", name).symlink_to(Path("..", "blobs", name))
    os.link(Path("a", WEIGHTS), "hard")
    Path("base").mkdir()
    Path("base", "model.safetensors").write_bytes(Path("a", WEIGHTS).read_bytes())
    Path("base", "config.json").write_text("{}")
    assert run("scan", "a", "--format", "json", "-o", "scan.json").exit_code == 0
    assert run("rank", "a", "-m", "spectrum", "--format", "json", "-o", "r.json").exit_code == 0
    return tmp_path


OUTPUTS = [
    ["scan", "a", "-o", f"a/{WEIGHTS}"],
    ["scan", "a", "-o", f"./b/../a/{CONFIG}"],
    ["scan", "a", "-o", "a/README.md"],
    ["scan", "a", "-o", "a/tokenizer.json"],
    ["scan", f"a/{WEIGHTS}", "-o", f"a/{CONFIG}"],
    ["scan", "a", "-o", "hard"],
    ["scan", "linked", "-o", f"blobs/{WEIGHTS}"],
    ["scan", "a", "--base", "base", "-o", "base/model.safetensors"],
    ["scan", "a", "--aligned", "base", "-o", "base/config.json"],
    ["rank", "a", "-m", "spectrum", "-o", f"a/{WEIGHTS}"],
    ["compare", "a", "b", "-o", f"b/{WEIGHTS}"],
    ["report", "scan.json", "-o", "scan.json"],
    ["report", "scan.json", "--format", "html", "-o", "a/../scan.json"],
    ["plot", "r.json", "-o", "r.json"],
    ["check", "a", "--sarif", f"a/{CONFIG}"],
    ["check", ".", "--sarif", f"b/{WEIGHTS}"],
    ["check", "--sarif", f"b/{WEIGHTS}"],
    ["prune", "a", "--top-k", "1", "-o", "a", "--force"],
    ["prune", "a", "--top-k", "1", "--base", "base", "-o", "base", "--force"],
    ["prune", "a", "--edit", "merge", "--with", "b", "--top-k", "1", "-o", "b", "--force"],
    ["extrapolate", "--base", "base", "--aligned", "base", "-o", "base"],
]


@pytest.mark.parametrize("words", OUTPUTS, ids=" ".join)
def test_an_output_that_is_an_input_is_refused(words, here):
    before = bytes_of(here)
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert bytes_of(here) == before


def test_a_report_beside_an_input_is_written_and_written_again(here):
    for _ in range(2):
        assert run("scan", "a", "--format", "html", "-o", "a/report.html").exit_code == 0
        assert run("scan", "a", "--format", "json", "-o", "a/scan.json").exit_code == 0
        assert run("check", "a", "--sarif", "a/check.sarif").exit_code == 0
