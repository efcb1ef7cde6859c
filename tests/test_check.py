"""`s3lora check`: the adapters of a repository, their statuses, and the files of the CI gate."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from adapters import PREFIX, draw, write_adapter
from s3lora.cli import cli
from test_sarif import run_of

ROOT = Path(__file__).parent.parent


def run(*words: object) -> Result:
    told = CliRunner().invoke(cli, [*map(str, words)], env={"COLUMNS": "80"})
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told


def clean(folder: Path) -> Path:
    return write_adapter(folder)


def found(folder: Path) -> Path:
    return write_adapter(folder, extra={f"{PREFIX}norm.weight": draw(4)})


def unjudged(folder: Path) -> Path:
    return write_adapter(folder, config={"use_dora": True})


def pickled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"x")
    return folder


def broken(folder: Path) -> Path:
    write_adapter(folder)
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    return folder


@pytest.mark.parametrize(
    ("makers", "status"),
    [
        ([], 0),
        ([clean], 0),
        ([clean, clean], 0),
        ([clean, unjudged], 3),
        ([pickled, clean], 3),
        ([unjudged, found, clean], 1),
        ([found, pickled], 1),
        ([found, broken, unjudged], 2),
    ],
)
def test_the_status_is_that_of_the_gravest(makers, status, tmp_path):
    for at, make in enumerate(makers):
        make(tmp_path / f"deep/{at}/adapter")
    told = run("check", tmp_path, "--sarif", tmp_path / "all.sarif")
    assert told.exit_code == status
    heads = [line for line in told.stdout.splitlines() if line and not line.startswith(" ")]
    assert len([line for line in heads if not line.startswith("Not scored")]) == len(makers)
    log = run_of((tmp_path / "all.sarif").read_text())
    levels = {result["level"] for result in log["results"]}
    assert ("error" in levels) == bool({found, broken, pickled} & set(makers))
    assert len(log["artifacts"]) == sum(make not in (broken, pickled) for make in makers)
    assert ("there is no adapter here" in told.stderr) == (not makers)


def test_findings_of_two_adapters_stay_apart_in_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        found(Path(name))
    assert run("check", "--sarif", "all.sarif").exit_code == 1
    results = run_of(Path("all.sarif").read_text())["results"]
    uris = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results]
    assert uris == ["a/adapter_model.safetensors", "b/adapter_model.safetensors"]
    assert len({json.dumps(r["partialFingerprints"]) for r in results}) == 2


def test_a_file_stands_for_its_adapter_and_each_is_checked_once(tmp_path):
    folder = found(tmp_path / "a")
    files = sorted(folder.iterdir())
    told = run("check", *files, folder, tmp_path)
    assert told.exit_code == 1
    assert told.stdout.count("Findings: 1 high") == 1
    (tmp_path / "notes.txt").touch()
    assert run("check", tmp_path / "notes.txt").stdout == ""


def test_weights_of_another_name_are_checked_when_named(tmp_path):
    folder = clean(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "mine.safetensors")
    assert run("check", folder / "mine.safetensors").exit_code == 0
    assert run("check", folder).exit_code == 2


def test_hidden_folders_and_links_are_not_searched(tmp_path):
    found(tmp_path / ".git" / "a")
    found(tmp_path / "elsewhere" / "a")
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "link").symlink_to(tmp_path / "elsewhere")
    assert run("check", tmp_path / "repository").stdout == ""
    assert run("check", tmp_path).stdout.count("Findings") == 1


def test_gates_and_levels_are_those_of_scan(tmp_path):
    folder = clean(tmp_path / "a")
    (folder / "loader.py").touch()
    assert run("check", folder).exit_code == 0
    assert run("check", folder, "--fail-on", "low").exit_code == 1
    assert run("check", folder, "-m", "magnitude", "--gate", "threshold=0").exit_code == 1
    assert run("check", folder, "--gate", "nonsense").exit_code == 2


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    told = run("check", tmp_path / "typo")
    assert told.exit_code == 2
    assert "does not exist" in told.stderr


# --- the workflow and the hook


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_is_valid_and_its_command_runs(tmp_path, monkeypatch):
    from check_jsonschema.cli import main

    words = ["--builtin-schema", "vendor.github-workflows", str(ROOT / "examples/ci/adapters.yml")]
    assert CliRunner().invoke(main, words).exit_code == 0
    steps = loaded("examples/ci/adapters.yml")["jobs"]["check"]["steps"]
    (command,) = [step["run"] for step in steps if step.get("run", "").startswith("s3lora")]
    (upload,) = [step["with"] for step in steps if "upload-sarif" in step.get("uses", "")]
    monkeypatch.chdir(tmp_path)
    found(Path("adapters/one"))
    assert run(*shlex.split(command)[1:]).exit_code == 1
    run_of(Path(upload["sarif_file"]).read_text())


def test_the_hook_matches_the_files_of_an_adapter_and_runs_a_command_there_is():
    (hook,) = loaded(".pre-commit-hooks.yaml")
    words = shlex.split(hook["entry"])
    assert words[0] == "s3lora"
    assert words[1] in cli.commands
    for name in ("adapter_config.json", "a/b/adapter_model.safetensors", "a/adapter_model.bin"):
        assert re.search(hook["files"], name)
    for name in ("config.json", "a/my_adapter_config.json", "adapter_config.json.md"):
        assert not re.search(hook["files"], name)


def test_the_workflow_in_the_documentation_is_the_one_in_the_examples():
    assert "examples/ci/adapters.yml" in (ROOT / "docs/ci.md").read_text(encoding="utf-8")
