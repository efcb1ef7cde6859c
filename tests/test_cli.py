"""The command line: exit statuses, what goes to stdout and what to stderr, and every option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import s3lora
from adapters import NAMES, PREFIX, WEIGHTS, Q, V, draw, factors, write_adapter
from s3lora.cli import cli
from s3lora.methods import BUILTIN, method_class

L = "model.layers."


def run(*words: str | Path, **environment: str) -> Result:
    """Run a command; an error that is not ours fails the test with its traceback."""
    result = CliRunner().invoke(cli, [*map(str, words)], env={"COLUMNS": "80"} | environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def report(*words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run(*words, "--format", "json").stdout, parse_constant=pytest.fail
    )
    return found


def refused(*words: str | Path, status: int = 2) -> tuple[str, str]:
    """The message and the hint of a command that must end in an error."""
    result = run(*words)
    assert result.exit_code == status
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Twelve layers of two modules; the score and the size of each are known."""
    return write_adapter(tmp_path_factory.mktemp("adapters") / "plain", sharpened(12))


def sharpened(layers: int) -> dict[str, Any]:
    """Orthogonal rank-two updates; the second direction grows with the number of the module."""
    pairs = {}
    names = [f"{L}{at // 2}.self_attn.{'qv'[at % 2]}_proj" for at in range(2 * layers)]
    for at, name in enumerate(names):
        B = np.linalg.qr(draw(8, 2, seed=at))[0] * np.array([1, (at + 1) / (len(names) + 1)])
        pairs[name] = (np.linalg.qr(draw(6, 2, seed=at + 99))[0].T, B)
    return pairs


# --- exit status

STATUS: dict[str, tuple[dict[str, Any], list[str], int]] = {
    "clean": ({}, [], 0),
    "zero, one module": ({"modules": {Q: (draw(2, 6), np.zeros((8, 2))), V: factors()}}, [], 0),
    "zero, all modules": (
        {"modules": {Q: (draw(2, 6), np.zeros((8, 2))), V: (np.zeros((2, 6)), draw(8, 2))}},
        [],
        1,
    ),
    "payload": ({"extra": {f"{PREFIX}norm.weight": draw(4)}}, [], 1),
    "payload, announced and expected": (
        {"extra": {f"{PREFIX}score.weight": draw(4)}, "config": {"modules_to_save": ["score"]}},
        [],
        0,
    ),
    "payload, announced": (
        {"extra": {f"{PREFIX}norm.weight": draw(4)}, "config": {"modules_to_save": ["norm"]}},
        [],
        1,
    ),
    "payload, announced, only high fails": (
        {"extra": {f"{PREFIX}norm.weight": draw(4)}, "config": {"modules_to_save": ["norm"]}},
        ["--fail-on", "high"],
        0,
    ),
    "not targeted": ({"config": {"target_modules": ["q_proj"]}}, ["--fail-on", "high"], 1),
    "not carried": ({"config": {"target_modules": ["q_proj", "v_proj", "o_proj"]}}, [], 1),
    "NaN": ({"modules": {Q: (np.full((2, 6), np.nan), draw(8, 2))}}, ["--fail-on", "high"], 1),
    "low finding": ({"config": {"rank_pattern": {"none": 4}}}, [], 0),
    "low finding, low fails": (
        {"config": {"rank_pattern": {"none": 4}}},
        ["--fail-on", "low"],
        1,
    ),
    "cannot judge": ({"config": {"use_dora": True}}, [], 3),
    "cannot judge, low finding": (
        {"config": {"use_dora": True, "rank_pattern": {"none": 4}}},
        [],
        3,
    ),
    "cannot judge, and payload": (
        {"config": {"use_dora": True}, "extra": {f"{PREFIX}norm.weight": draw(4)}},
        [],
        1,
    ),
    "cannot judge one of two": (
        {"config": {"lora_bias": True}, "extra": {f"{PREFIX}{V}.lora_B.bias": draw(8)}},
        [],
        3,
    ),
    "other kind": ({"config": {"peft_type": "LOHA"}}, [], 3),
    "broken": ({"config": {"r": "two"}}, [], 2),
}


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("name", STATUS)
def test_exit_status(name, form, tmp_path):
    made, options, status = STATUS[name]
    folder = write_adapter(tmp_path, **made)
    assert run("scan", folder, "--format", form, *options).exit_code == status


def test_sibling_that_was_not_scanned_is_a_low_finding(tmp_path):
    (write_adapter(tmp_path) / "training_args.bin").touch()
    assert run("scan", tmp_path).exit_code == 0
    assert run("scan", tmp_path, "--fail-on", "low").exit_code == 1
    (finding,) = report("scan", tmp_path)["findings"]
    assert finding == {
        "rule": "unscanned-sibling",
        "severity": "low",
        "where": "training_args.bin",
        "message": "written by a trainer, who unpickles it to resume: that can run code",
    }


def test_files_that_belong_to_an_adapter_are_not_noted(tmp_path):
    write_adapter(tmp_path)
    for name in ("README.md", "s3lora.json", ".gitattributes", ".gitignore"):
        (tmp_path / name).touch()
    assert report("scan", tmp_path)["findings"] == []


def test_score_alone_never_changes_the_status(tmp_path):
    pairs = sharpened(6) | {Q: (draw(2, 6) * [[1], [0]], 1e6 * draw(8, 2))}
    folder = write_adapter(tmp_path, pairs)
    scores = {row["module"]: row["score"] for row in report("scan", folder)["modules"]}
    assert scores[Q] == 1
    assert run("scan", folder, "--fail-on", "low").exit_code == 0
    assert run("scan", folder, "--top-k", "12").exit_code == 0


def z_scores(scores: dict[str, float]) -> dict[str, float]:
    """(score − median)/(1.4826·MAD) by module."""
    values = np.array([*scores.values()])
    deviations = values - np.median(values)
    z = deviations / (1.4826 * np.median(np.abs(deviations)))
    return dict(zip(scores, z, strict=True))


@pytest.mark.parametrize(("limit", "some"), [(0.5, True), (0.9, True), (1.01, False)])
def test_gate_fails_on_scores_that_reach_the_threshold(adapter, limit, some):
    scores = {row["module"]: row["score"] for row in report("scan", adapter)["modules"]}
    gated = {name for name, score in scores.items() if score >= limit}
    assert bool(gated) == some
    check_gate(adapter, f"threshold={limit}", gated)


@pytest.mark.parametrize(("limit", "some"), [(1, True), (8, False)])
def test_gate_fails_on_outliers(adapter, limit, some):
    scores = {row["module"]: row["score"] for row in report("scan", adapter)["modules"]}
    gated = {name for name, z in z_scores(scores).items() if z > limit}
    assert bool(gated) == some
    check_gate(adapter, f"outliers={limit}", gated)


def check_gate(adapter: Path, gate: str, gated: set[str]) -> None:
    told = report("scan", adapter, "--gate", gate)
    assert {finding["where"] for finding in told["findings"]} == gated
    assert {(f["rule"], f["severity"]) for f in told["findings"]} <= {("score-gate", "high")}
    for level in ("high", "medium"):
        status = run("scan", adapter, "--gate", gate, "--fail-on", level).exit_code
        assert status == (1 if gated else 0)


@pytest.mark.parametrize(
    "gate", ["outliers", "outliers=", "outliers=x", "top-k=3", "=3", "8", "outliers=nan"]
)
def test_gate_that_is_none_is_refused(adapter, gate):
    assert "gate" in refused("scan", adapter, "--gate", gate)[0]


# --- policies


def chosen(adapter: Path, *options: str) -> list[str]:
    told = report("scan", adapter, *options)
    assert [row["module"] for row in told["modules"] if row["chosen"]] == told["chosen"]
    found: list[str] = told["chosen"]
    return found


@pytest.mark.parametrize("k", [0, 1, 5, 24])
def test_top_k_means_exactly_k(adapter, k):
    assert chosen(adapter, "--top-k", str(k)) == [
        f"{L}{at // 2}.self_attn.{'qv'[at % 2]}_proj" for at in range(k)
    ]


@pytest.mark.parametrize(
    ("fraction", "count"), [("0", 0), ("0.01", 1), ("0.25", 6), ("0.26", 7), ("1", 24)]
)
def test_fraction_is_rounded_up(adapter, fraction, count):
    assert len(chosen(adapter, "--fraction", fraction)) == count


def test_without_a_policy_the_share_is_that_of_the_paper(adapter):
    told = report("scan", adapter)
    assert told["policy"] == {"name": "top-k", "params": {"k": 2}}
    assert len(told["chosen"]) == 2


def test_threshold_takes_what_reaches_it(adapter):
    rows = report("scan", adapter)["modules"]
    limit = rows[5]["score"]
    assert chosen(adapter, "--threshold", repr(limit)) == [row["module"] for row in rows[:6]]


def test_low_scores_are_chosen_where_those_are_the_ones_to_look_at(adapter):
    measure = ["-m", "spectrum", "-p", "measure=stable-rank"]
    assert chosen(adapter, *measure, "--top-k", "1") == [f"{L}0.self_attn.q_proj"]
    assert chosen(adapter, *measure, "--threshold", "1.002") == [f"{L}0.self_attn.q_proj"]


def test_outliers_are_beyond_the_median_by_robust_deviations(tmp_path):
    pairs = {f"{L}{at}.q_proj": (np.eye(2, 6), np.eye(8, 2) * (at + 1)) for at in range(5)}
    pairs[f"{L}5.q_proj"] = (np.eye(2, 6), np.eye(8, 2) * 100)
    folder = write_adapter(tmp_path, pairs, {"target_modules": ["q_proj"]})
    rows = report("scan", folder, "-m", "magnitude")["modules"]
    z = z_scores({row["module"]: row["score"] for row in rows})[f"{L}5.q_proj"]
    assert chosen(folder, "-m", "magnitude", "--outliers", f"{z - 0.01}") == [f"{L}5.q_proj"]
    assert chosen(folder, "-m", "magnitude", "--outliers", f"{z + 0.01}") == []


def test_without_spread_nothing_is_an_outlier_and_ties_are_broken_by_name(tmp_path):
    names = [f"{L}{at}.q_proj" for at in (10, 2, 1, 11)]
    folder = write_adapter(
        tmp_path, dict.fromkeys(names, factors()), {"target_modules": ["q_proj"]}
    )
    assert chosen(folder, "--outliers", "0") == []
    assert chosen(folder, "--top-k", "2") == [f"{L}1.q_proj", f"{L}2.q_proj"]
    assert [row["module"] for row in report("scan", folder)["modules"]] == [
        f"{L}{at}.q_proj" for at in (1, 2, 10, 11)
    ]


def test_modules_are_chosen_by_name_in_any_way_of_writing(adapter):
    names = [f"{L}{at}.self_attn.q_proj" for at in (10, 2, 0)]
    options = ["--modules", f"{names[0]}, {names[1]},", "--modules", names[2]]
    assert chosen(adapter, *options) == list(reversed(names))


def test_layers_are_chosen_whole(adapter):
    options = ["--granularity", "layer", "--top-k", "2"]
    assert chosen(adapter, *options) == [
        f"{L}{layer}.self_attn.{leaf}" for layer in (0, 1) for leaf in ("q_proj", "v_proj")
    ]
    policy = report("scan", adapter, *options)["policy"]
    assert policy == {"name": "top-k", "params": {"k": 2, "granularity": "layer"}}


def test_modules_are_chosen_among_some_projections(adapter):
    told = report("scan", adapter, "--among", "o_proj, v_proj", "--top-k", "3")
    assert {name.rpartition(".")[2] for name in told["chosen"]} <= {"o_proj", "v_proj"}
    assert len(told["chosen"]) == 3
    assert told["policy"] == {"name": "top-k", "params": {"k": 3, "among": ["o_proj", "v_proj"]}}


WRONG_CHOICES = [
    (["--top-k", "-1"], "cannot choose -1 of 24", "between 0 and"),
    (["--top-k", "25"], "cannot choose 25 of 24", "between 0 and"),
    (["--fraction", "1.5"], "1.5 is no fraction", "between 0 and 1"),
    (["--fraction", "-0.5"], "-0.5 is no fraction", "between 0 and 1"),
    (["--fraction", "nan"], "nan is no fraction", "between 0 and 1"),
    (["--threshold", "nan"], "--threshold nan", "finite"),
    (["--threshold", "inf"], "--threshold inf", "finite"),
    (["--outliers", "nan"], "--outliers nan", "finite"),
    (["--top-k", "1", "--fraction", "0.5"], "--top-k and --fraction cannot be combined", "one way"),
    (["--modules", f"{L}0.self_attn.q_prj"], "no module", f"{L}0.self_attn.q_proj"),
    (["--modules", "nothing like it"], "no module", "full paths"),
    (["--modules", Q, "--granularity", "layer"], "names modules, not layers", "--granularity"),
    (["--modules", Q, "--among", "q_proj"], "names modules already", "--among"),
    (["--among", "x_proj"], "no scored module is of x_proj", "q_proj"),
    (["--among", ""], "no scored module is of no projection", "q_proj"),
    (["-m", "s3lra"], "there is no method 's3lra'", "did you mean 's3lora'"),
    (["-m", "zzz"], "there is no method 'zzz'", "methods: s3lora, spectrum"),
    (["-p", "kep=3"], "no parameter 'kep'", "keep"),
    (["-p", "keep"], "no NAME=VALUE", "-p keep=5"),
    (["-p", "keep=many"], "keep='many' is not a value", "int"),
    (["-p", "keep=0"], "keep=0 rebuilds nothing", "at least 1"),
    (["-p", "fit=best"], "no fit 'best'", "projected or dense"),
    (["-m", "magnitude", "-p", "x=1"], "no parameter 'x'", "none"),
    (["-m", "spectrum", "-p", "measure=x"], "no measure 'x'", "concentration"),
]


@pytest.mark.parametrize(("options", "message", "hint"), WRONG_CHOICES)
def test_wrong_choice_is_refused_with_a_way_out(adapter, options, message, hint):
    for command in (["scan"], ["prune", "--dry-run"]):
        error, way_out = refused(*command, adapter, *options)
        assert message in error
        assert hint in way_out


# --- methods and their parameters


def test_parameters_reach_the_method(adapter):
    told = report("scan", adapter, "-p", "keep=1", "-p", "fit=dense")
    assert told["method"] == {
        "name": "s3lora",
        "params": {"keep": 1, "fit": "dense"},
        "unsafe": "high",
    }
    assert {row["score"] for row in told["modules"]} == {1.0}


@pytest.mark.parametrize("method", BUILTIN)
def test_every_built_in_method_scans_or_says_what_it_needs(adapter, method):
    if method_class(method).needs:
        assert f"the method {method} needs the" in refused("scan", adapter, "-m", method)[0]
    else:
        told = report("scan", adapter, "-m", method)
        assert told["method"]["name"] == method
        assert len(told["modules"]) + len(told["skipped"]) == 24


def test_methods_are_listed_and_described():
    lines = run("methods").stdout.splitlines()
    assert [line.split()[0] for line in lines][: len(BUILTIN)] == list(BUILTIN)
    assert all(len(line.split()) > 3 for line in lines)
    told = run("methods", "s3lora").stdout
    assert "the high scores are the ones to look at" in told
    assert "-p keep=5" in told
    assert "Deviations" in told


def test_unknown_method_is_refused_with_a_suggestion():
    assert "did you mean 'spectrum'" in refused("methods", "spectra")[1]


# --- JSON


def test_json_has_the_fields_of_schema_1(tmp_path):
    folder = write_adapter(tmp_path, extra={f"{PREFIX}{V}.lora_news": draw(2)})
    (folder / "sibling.py").touch()
    told = report("scan", folder)
    assert list(told) == [
        "schema",
        "kind",
        "tool",
        "adapter",
        "method",
        "modules",
        "skipped",
        "findings",
        "policy",
        "chosen",
    ]
    assert (told["schema"], told["kind"]) == (1, "scan")
    assert told["tool"] == {"name": "s3lora", "version": s3lora.__version__}
    assert list(told["adapter"]) == [
        "ref",
        "weights",
        "sha256",
        "base_model",
        "modules",
        "parameters",
        "bytes",
    ]
    assert told["adapter"]["ref"] == str(folder)
    assert told["adapter"]["weights"] == str(folder / WEIGHTS)
    assert told["adapter"]["base_model"] == "example/base"
    assert told["adapter"]["modules"] == 4
    assert told["adapter"]["parameters"] == 4 * 2 * (6 + 8)
    assert told["adapter"]["bytes"] == (folder / WEIGHTS).stat().st_size
    assert re.fullmatch("[0-9a-f]{64}", told["adapter"]["sha256"])
    row = told["modules"][0]
    assert list(row) == ["module", "score", "chosen", "rank", "shape", "parts", "spectra"]
    assert (row["module"], row["rank"], row["shape"]) == (Q, 2, [8, 6])
    assert row["parts"].keys() >= {
        "ssi",
        "excess",
        "sigma_1",
        "frobenius",
        "plain_ssi",
        "stable_rank",
        "effective_rank",
    }
    assert row["score"] == row["parts"]["ssi"]
    reason = "it carries lora_news, which is not plain LoRA"
    assert told["skipped"] == [
        {"module": V, "reason": reason, "judged": False, "rank": 2, "shape": [8, 6]}
    ]
    assert all(list(f) == ["rule", "severity", "where", "message"] for f in told["findings"])
    assert [f["severity"] for f in told["findings"]] == ["medium", "low"]
    assert told["chosen"] == [row["module"] for row in told["modules"] if row["chosen"]]


def test_json_is_the_same_whichever_way_it_is_written(adapter, tmp_path):
    out = tmp_path / "new" / "scan.json"
    printed = run("scan", adapter, "--format", "json")
    written = run("scan", adapter, "--format", "json", "-o", out)
    assert out.read_text(encoding="utf-8") == printed.stdout
    assert printed.stderr == ""
    assert written.stdout == ""
    assert written.stderr == f"wrote {out}\n"
    assert [path.name for path in out.parent.iterdir()] == ["scan.json"]


# --- where output goes


def test_table_goes_to_a_file_without_colour(adapter, tmp_path):
    out = tmp_path / "scan.txt"
    result = run("scan", adapter, "-o", out, FORCE_COLOR="1")
    assert result.stdout == ""
    assert f"{L}0.self_attn.q_proj" in out.read_text(encoding="utf-8")
    assert "\x1b" not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("taken", ["link to a file", "link to nothing", "folder"])
def test_output_that_is_a_link_or_a_folder_is_refused(adapter, taken, tmp_path):
    out, target = tmp_path / "out", tmp_path / "target"
    if taken == "folder":
        out.mkdir()
    else:
        out.symlink_to(target)
    if taken == "link to a file":
        target.write_text("precious", encoding="utf-8")
    error, _ = refused("scan", adapter, "-o", out)
    assert "is a link" in error or "is a folder" in error
    assert not target.exists() or target.read_text(encoding="utf-8") == "precious"


def test_a_pipe_is_not_replaced_by_a_file(adapter, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    error, hint = refused("scan", adapter, "-o", tmp_path / "pipe")
    assert "is a pipe or a device" in error
    assert "redirect" in hint
    assert (tmp_path / "pipe").is_fifo()


def test_usage_errors_go_to_stderr():
    for words in ([], ["scan"], ["scan", "--no-such-option", "x"], ["nothing"]):
        result = run(*words)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "Usage: " in result.stderr


def test_version_and_help():
    assert run("--version").stdout == f"s3lora, version {s3lora.__version__}\n"
    assert "3 cannot judge" in run("-h").stdout


def test_module_and_script_are_the_same_command(adapter):
    script = Path(sys.executable).with_name("s3lora")
    told = [
        subprocess.run([*command, "scan", adapter], capture_output=True, text=True, check=True)
        for command in ([sys.executable, "-m", "s3lora"], [script])
    ]
    assert told[0].stdout == told[1].stdout
    assert told[0].stderr == told[1].stderr == ""


# --- the table


@pytest.fixture(scope="module")
def example_size(tmp_path_factory):
    """Names as those of the example that the package ships: 30 layers of seven modules."""
    leaves = {"self_attn": "q_proj k_proj v_proj o_proj", "mlp": "gate_proj up_proj down_proj"}
    names = [
        f"{L}{layer}.{owner}.{leaf}"
        for layer in range(30)
        for owner, words in leaves.items()
        for leaf in words.split()
    ]
    targets = [leaf for words in leaves.values() for leaf in words.split()]
    folder = tmp_path_factory.mktemp("size") / "adapter"
    extra = {f"{PREFIX}{L}{layer}.post_attention_layernorm.weight": draw(4) for layer in range(3)}
    write_adapter(folder, names, {"target_modules": [*targets, "lm_head"]}, extra)
    (folder / "training_args.bin").touch()
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["scan"],
        ["scan", "-v"],
        ["scan", "--gate", "threshold=0.5"],
        ["prune", "--dry-run", "-v", "--target", "fused-safe"],
    ],
    ids=" ".join,
)
def test_table_is_eighty_columns_wide(example_size, words, monkeypatch):
    monkeypatch.chdir(example_size.parent)
    lines = run(words[0], "adapter", *words[1:]).stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) > 20
    assert not [line for line in lines if line != line.rstrip() and line.rstrip() == ""]


def test_low_findings_and_all_rows_are_shown_on_request(example_size):
    brief, full = run("scan", example_size).stdout, run("scan", example_size, "-v").stdout
    assert "listed with -v" in brief
    assert "more; -v shows all" in brief
    assert "unscanned-sibling: training_args.bin" in full
    assert len(re.findall(r"^ *\d+ .* model\.layers", full, re.MULTILINE)) == 210


def test_reason_of_modules_that_were_not_scored_is_in_the_table(tmp_path):
    extra = {f"{PREFIX}{name}.lora_news": draw(2) for name in (V, Q)}
    told = run("scan", write_adapter(tmp_path, extra=extra)).stdout
    assert (
        f"Not scored, 2 of 4: it carries lora_news, which is not plain LoRA\n  {Q}\n  {V}" in told
    )


COLOUR = re.compile(r"\x1b\[[\d;]*3[1-7]m")


def test_colour_is_for_terminals_and_can_be_turned_off(tmp_path):
    folder = write_adapter(tmp_path, extra={f"{PREFIX}norm.weight": draw(4)})
    plain = run("scan", folder)
    coloured = run("scan", folder, FORCE_COLOR="1", TERM="xterm")
    without = run("scan", folder, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in plain.stdout
    assert COLOUR.search(coloured.stdout)
    assert not COLOUR.search(without.stdout)
    for styled in (coloured, without):
        assert re.sub(r"\x1b\[[\d;]*m", "", styled.stdout) == plain.stdout


# --- prune: what it will not write over


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_dry_run_writes_nothing(tmp_path):
    folder = write_adapter(tmp_path / "in")
    before = contents(tmp_path)
    result = run("prune", folder, "--top-k", "1", "--dry-run", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "Plan for the target minimal: 1 " in result.stdout
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_plan_is_in_the_json_of_a_dry_run(tmp_path):
    folder = write_adapter(tmp_path)
    told = report("prune", folder, "--modules", Q, "--dry-run")
    assert told["plan"]["edits"] == {Q: "drop"}
    assert told["chosen"] == [Q]


def test_prune_without_an_output_is_refused(adapter):
    assert "--dry-run" in refused("prune", adapter)[1]


@pytest.mark.parametrize("taken", ["folder", "file", "link to a folder", "link to nothing"])
def test_output_that_exists_is_refused(taken, tmp_path):
    folder, out, target = write_adapter(tmp_path / "in"), tmp_path / "out", tmp_path / "target"
    if taken == "folder":
        out.mkdir()
    elif taken == "file":
        out.write_text("precious", encoding="utf-8")
    else:
        out.symlink_to(target)
    if taken == "link to a folder":
        target.mkdir()
    before = contents(tmp_path)
    error, _ = refused("prune", folder, "--top-k", "1", "-o", out)
    assert ("is a link" if "link" in taken else "exists already") in error
    if "link" in taken:
        assert "is a link" in refused("prune", folder, "--top-k", "1", "-o", out, "--force")[0]
    assert contents(tmp_path) == before


def test_force_moves_the_old_folder_aside(tmp_path):
    folder, out = write_adapter(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("1", encoding="utf-8")
    for count in (1, 2):
        result = run("prune", folder, "--top-k", "1", "-o", out, "--force")
        assert result.exit_code == 0
        assert (out / WEIGHTS).exists()
        assert len([*tmp_path.glob("out.old*")]) == count
    assert (tmp_path / "out.old" / "precious").read_text(encoding="utf-8") == "1"


def test_prune_reports_on_stdout_and_where_on_stderr(tmp_path):
    folder, out = write_adapter(tmp_path / "in"), tmp_path / "out"
    before = contents(folder)
    result = run("prune", folder, "--top-k", "1", "-o", out, "--format", "json")
    assert result.stderr == f"wrote {out}\n"
    assert len(json.loads(result.stdout)["plan"]["edits"]) == 1
    assert contents(folder) == before
    assert len(report("scan", out)["modules"]) == len(NAMES) - 1


# --- compare


def test_compare_names_what_differs_and_is_no_verdict(tmp_path):
    a = write_adapter(tmp_path / "a", {Q: factors(), V: factors(seed=1)})
    b = write_adapter(tmp_path / "b", {Q: factors(), V: factors(seed=2), NAMES[2]: factors()})
    told = report("compare", a, b)
    assert {row["module"]: row["status"] for row in told["modules"]} == {
        Q: "same",
        V: "changed",
        NAMES[2]: "only in B",
    }
    assert run("compare", a, b).exit_code == 0
    assert max(len(line) for line in run("compare", "-v", a, b).stdout.splitlines()[2:]) <= 80


def test_closed_pipe_is_no_traceback(adapter):
    read, write = os.pipe()
    os.close(read)
    told = subprocess.run(
        [sys.executable, "-m", "s3lora", "scan", adapter, "-v"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert "Traceback" not in told.stderr
