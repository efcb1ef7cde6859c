"""`s3lora check`: the adapters of a repository, their statuses, and the files of the CI gate."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from adapters import PREFIX, Q, V, draw, factors, tensor_bytes, write_adapter
from s3lora.cli import cli
from s3lora.report import Report, make_report
from schemas import check as check_schema
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
    assert len(heads(told)) == len(makers)
    log = run_of((tmp_path / "all.sarif").read_text())
    levels = {result["level"] for result in log["results"]}
    assert ("error" in levels) == bool({found, broken, pickled} & set(makers))
    assert len(log["artifacts"]) == sum(make not in (broken, pickled) for make in makers)
    assert ("there is no adapter here" in told.stderr) == (not makers)


def heads(result: Result) -> list[str]:
    """The lines of the output that name an adapter or a link."""
    lines = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    return [line for line in lines if not line.startswith("Not scored")]


def document(*words: object) -> dict[str, Any]:
    result = run("check", *words, "--format", "json")
    told: dict[str, Any] = json.loads(result.stdout)
    check_schema("check", told)
    assert told["status"] == result.exit_code
    assert sum(list(told["counts"].values())[1:6]) == told["counts"]["adapters"]
    assert len(told["adapters"]) == told["counts"]["adapters"]
    return told


def test_json_and_the_last_line_count_every_adapter(tmp_path):
    for make in (clean, found, unjudged, pickled, broken):
        make(tmp_path / make.__name__)
    told = document(tmp_path)
    states = {Path(row["ref"]).name: row["state"] for row in told["adapters"]}
    assert states == {
        "clean": "clean",
        "found": "findings",
        "unjudged": "cannot judge",
        "pickled": "cannot judge",
        "broken": "error",
    }
    assert [row["status"] for row in told["adapters"]] == [2, 0, 1, 3, 3]
    last = run("check", tmp_path).stdout.partition("5 adapters: ")[2].split()
    expected = "1 clean, 1 with findings, 2 cannot be judged, 1 cannot be opened."
    assert last == expected.split()


def test_json_has_findings_reasons_and_hints(tmp_path):
    found(tmp_path / "a")
    unjudged(tmp_path / "b")
    broken(tmp_path / "c")
    a, b, c = document(tmp_path)["adapters"]
    assert [f["rule"] for f in a["findings"]] == ["base-weight-payload"]
    assert (a["modules"], a["scored"]) == (4, 4)
    assert len(a["sha256"]) == 64
    ((reason,),) = [[row["reason"] for row in b["unjudged"]]]
    assert reason.startswith("DoRA")
    assert len(b["unjudged"][0]["modules"]) == 4
    assert "git lfs pull" in c["error"]["hint"]


def test_json_of_nothing_is_a_document(tmp_path):
    told = document(tmp_path)
    assert (told["status"], told["adapters"], told["not_followed"]) == (0, [], [])


# --- what cannot be judged, accepted by name


@pytest.mark.parametrize(
    ("patterns", "status"),
    [
        ([], 3),
        (["dora", "old/*"], 0),
        (["*"], 0),
        (["./dora", "old/pickled/"], 0),
        (["dora"], 3),
        (["good"], 3),
        (["DORA", "old/*"], 3),
    ],
)
def test_adapters_that_cannot_be_judged_are_accepted_by_name(
    patterns, status, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    clean(Path("good"))
    unjudged(Path("dora"))
    pickled(Path("old/pickled"))
    words = [word for pattern in patterns for word in ("--accept", pattern)]
    result = run("check", *words)
    assert result.exit_code == status
    told = document(*words)
    assert told["counts"]["clean"] == 1
    assert told["counts"]["accepted"] + told["counts"]["cannot_judge"] == 2
    assert result.stdout.count("Accepted by --accept.") == told["counts"]["accepted"]


@pytest.mark.parametrize("make", [found, broken, clean])
def test_findings_and_errors_are_never_accepted_and_a_useless_pattern_is_told(make, tmp_path):
    make(tmp_path / "a")
    status = run("check", tmp_path).exit_code
    result = run("check", tmp_path, "--accept", "*")
    assert result.exit_code == status
    assert "--accept * accepts nothing here" in result.stderr


# --- other layouts


def kohya(folder: Path) -> Path:
    folder.mkdir(parents=True)
    stem = "lora_unet_proj_in"
    weights = {f"{stem}.lora_down.weight": draw(2, 2), f"{stem}.lora_up.weight": draw(2, 2)}
    for name in ("one", "two"):
        (folder / f"{name}.safetensors").write_bytes(tensor_bytes(weights))
    return folder


def gguf(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "lora.gguf").write_bytes(b"GGUF\x03" + bytes(59))
    return folder


def mlx(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapters.safetensors").write_bytes(tensor_bytes({"m.lora_a": draw(2, 2)}))
    return folder


@pytest.mark.parametrize(("make", "count"), [(kohya, 2), (gguf, 1), (mlx, 1)])
def test_an_adapter_in_another_layout_is_not_passed_over(make, count, tmp_path):
    make(tmp_path / "a")
    (row, *_) = document(tmp_path)["adapters"]
    assert (row["state"], row["status"]) == ("cannot judge", 3)
    result = run("check", tmp_path)
    assert result.exit_code == 3
    assert "there is no adapter here" not in result.stderr
    assert len(heads(result)) == count


# --- what cannot be looked into


def forbidding(monkeypatch, folder: Path) -> None:
    """The system refuses to list a folder, as it does to others than root."""
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_listed_has_status_2_and_the_others_are_checked(
    tmp_path, monkeypatch
):
    clean(tmp_path / "a")
    found(tmp_path / "locked" / "ad")
    clean(tmp_path / "z")
    forbidding(monkeypatch, tmp_path / "locked")
    told = document(tmp_path)
    assert told["status"] == 2
    assert [Path(row["ref"]).name for row in told["adapters"]] == ["a", "locked", "z"]
    assert "Permission denied" in told["adapters"][1]["error"]["message"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_folder_that_another_user_may_not_read_has_status_2(tmp_path):
    found(tmp_path / "locked" / "ad")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    (tmp_path / "locked").chmod(0)
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(run("check", tmp_path).exit_code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


@pytest.mark.parametrize("bad", ["x" * 5000, "typo", "loop/x", "README/x"])
def test_a_path_that_cannot_be_ends_no_check(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("README").touch()
    clean(Path("a"))
    result = run("check", bad, "a")
    assert result.exit_code == 2
    assert "hint: " in result.stdout
    assert result.stdout.count("4 of 4 modules scored") == 1


def test_an_input_error_ends_one_adapter_and_no_check(tmp_path, monkeypatch):
    for name in "abc":
        clean(tmp_path / name)
    real = os.preadv
    number = (tmp_path / "b" / "adapter_model.safetensors").stat().st_ino

    def preadv(fd: int, *words: Any) -> int:
        if os.fstat(fd).st_ino == number:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, *words)

    monkeypatch.setattr(os, "preadv", preadv)
    assert [row["status"] for row in document(tmp_path)["adapters"]] == [0, 2, 0]


# --- links


def test_a_link_to_what_is_searched_anyway_is_told_and_no_failure(tmp_path):
    clean(tmp_path / "a")
    (tmp_path / "latest").symlink_to("a")
    (link,) = document(tmp_path)["not_followed"]
    assert (link["behind"], link["status"]) == ("searched", 0)
    result = run("check", tmp_path)
    assert result.exit_code == 0
    assert "Not followed: a link to" in result.stdout
    assert "1 link not followed" in " ".join(result.stdout.split())


@pytest.mark.parametrize("place", ["a", "deep/er/a", ".hidden/a"])
def test_a_link_to_adapters_elsewhere_is_not_clean(place, tmp_path):
    found(tmp_path / "elsewhere" / place)
    clean(tmp_path / "repository" / "a")
    (tmp_path / "repository" / "link").symlink_to(tmp_path / "elsewhere")
    told = document(tmp_path / "repository")
    assert (told["status"], told["not_followed"][0]["behind"]) == (3, "adapters")
    accepted = ("--accept", f"{tmp_path}/repository/link")
    assert document(tmp_path / "repository", *accepted)["status"] == 0


def test_a_link_to_a_hidden_folder_of_the_repository_is_not_clean(tmp_path):
    found(tmp_path / ".git" / "a")
    (tmp_path / "link").symlink_to(".git/a")
    told = document(tmp_path)
    assert (told["status"], told["counts"]["hidden"]) == (3, 1)


def test_a_link_to_a_folder_without_adapters_is_no_failure(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "docs").symlink_to(tmp_path / "docs")
    (tmp_path / "repository" / "broken").symlink_to("nothing")
    (tmp_path / "repository" / "loop").symlink_to("loop")
    told = document(tmp_path / "repository")
    assert [(link["behind"], link["status"]) for link in told["not_followed"]] == [("none", 0)]


def test_a_model_of_the_hub_is_no_adapter_and_its_adapters_are_found_in_the_cache(tmp_path):
    clean(tmp_path / "source")
    for name, files in (("adapter", True), ("model", False)):
        folder = tmp_path / "hub" / f"models--x--{name}"
        snapshot = folder / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir()
        for at, file in enumerate(sorted((tmp_path / "source").iterdir()) if files else []):
            file.rename(folder / "blobs" / str(at))
            (snapshot / file.name).symlink_to(f"../../blobs/{at}")
    weights = tensor_bytes({"model.norm.weight": draw(4)})
    (tmp_path / "hub/models--x--model/snapshots/abc/model.safetensors").write_bytes(weights)
    told = document(tmp_path / "hub")
    assert [row["state"] for row in told["adapters"]] == ["clean"]
    assert told["not_followed"] == []


# --- weights of the base model


def test_with_base_weights_what_needs_them_is_judged(tmp_path):
    names = {Q: factors(m=6, n=6), V: factors(m=6, n=6, seed=1)}
    magnitude = {f"{PREFIX}{name}.lora_magnitude_vector": np.ones(6, np.float32) for name in names}
    write_adapter(tmp_path / "ads" / "dora", names, {"use_dora": True}, extra=magnitude)
    write_adapter(
        tmp_path / "ads" / "other", {f"other.{Q}.x": factors()}, {"target_modules": ["x"]}
    )
    base = tmp_path / "base"
    base.mkdir()
    weights = {f"{name}.weight": draw(6, 6, seed=at) for at, name in enumerate(names)}
    (base / "model.safetensors").write_bytes(tensor_bytes(weights))
    assert document(tmp_path / "ads")["status"] == 3
    told = document(tmp_path / "ads", "--base", base)
    assert told["status"] == 0
    assert [row["scored"] for row in told["adapters"]] == [2, 1]
    assert told["adapters"][0]["notes"] == []
    assert "without the weights" in told["adapters"][1]["notes"][0]


def test_a_method_that_needs_weights_says_so_once(tmp_path):
    clean(tmp_path / "a")
    result = run("check", tmp_path, "-m", "lox-ratio")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--base DIR" in result.stderr


# --- memory


@pytest.mark.parametrize("words", [(), ("--sarif", "all.sarif")])
def test_no_report_is_kept(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts: list[int] = []

    def kept(*values: Any, **named: Any) -> Report:
        gc.collect()
        counts.append(sum(type(thing) is Report for thing in gc.get_objects()))
        return make_report(*values, **named)

    monkeypatch.setattr(sys.modules["s3lora.cli.check"], "make_report", kept)
    for at in range(4):
        clean(tmp_path / "ads" / str(at))
    assert run("check", "ads", *words).exit_code == 0
    assert len(counts) == 4
    assert counts[-1] == counts[0]


def test_low_findings_are_shown_with_the_option_that_the_output_names(tmp_path):
    folder = clean(tmp_path / "a")
    (folder / "tokenizer.json").touch()
    assert "listed with -v" in run("check", folder).stdout
    assert "tokenizer.json" in run("check", folder, "-v").stdout


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


def test_hidden_folders_are_not_searched(tmp_path):
    found(tmp_path / ".git" / "a")
    found(tmp_path / "b" / "a")
    result = run("check", tmp_path)
    assert result.stdout.count("Findings") == 1
    assert "1 hidden folder not searched" in " ".join(result.stdout.split())
    assert run("check", tmp_path / ".git").exit_code == 1


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
    assert "does not exist" in " ".join(told.stdout.split())


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
    names = ("adapter_config.json", "a/b/adapter_model.safetensors", "a/adapter_model.bin")
    for name in (
        *names,
        "adapter_model-00001-of-00002.safetensors",
        "a/style.safetensors",
        "x.gguf",
    ):
        assert re.search(hook["files"], name)
    for name in ("config.json", "a/my_adapter_config.json", "adapter_config.json.md"):
        assert not re.search(hook["files"], name)


def test_the_workflow_in_the_documentation_is_the_one_in_the_examples():
    assert "examples/ci/adapters.yml" in (ROOT / "docs/ci.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tuned.nemo", "x.lora.h5", "lit_model.pth.lora", "adapters.npz"])
def test_an_adapter_of_another_tool_is_listed_and_cannot_be_judged(name, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_bytes(b"\x93ODD")
    for command in ("check", "scan"):
        for path in (tmp_path / "deep", tmp_path / "deep" / name):
            shown = run(command, path)
            assert shown.exit_code == 3, (command, path)
            assert "layout" in shown.output
