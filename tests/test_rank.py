"""Several methods side by side: correlation, overlap, labels, the table and the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy.stats import spearmanr

from adapters import NAMES, draw, write_adapter
from s3lora import open_adapter, scan
from s3lora.adapter import ModuleName
from s3lora.agreement import agreement, label, spearman
from s3lora.cli import cli
from s3lora.cli.rank import USUAL
from s3lora.errors import ParameterError
from s3lora.methods import make_method, method_class
from s3lora.scores import Score, ScoreTable, Skipped

MANY = [f"model.layers.{layer}.self_attn.{leaf}_proj" for layer in range(6) for leaf in "qkvo"]
TARGETS = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
WEIGHED = "safe-lora", "splora"


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter", MANY, TARGETS)


@pytest.fixture
def models(tmp_path):
    """Folders of base and aligned weights for the adapter."""
    folders = []
    for seed, role in enumerate(("base", "aligned")):
        (tmp_path / role).mkdir()
        tensors = {
            f"{name}.weight": draw(8, 6, seed=100 * seed + at) for at, name in enumerate(MANY)
        }
        save_file(tensors, tmp_path / role / "model.safetensors")
        folders += [f"--{role}", tmp_path / role]
    return folders


def run(*args: object) -> Any:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["rank", *[str(arg) for arg in args]])


def ranked(*args: object) -> dict[str, Any]:
    told = run(*args, "--format", "json")
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def table(method: str, values: dict[str, float | None], unsafe: Any = "high") -> ScoreTable:
    """A table of given scores; a module with None is skipped."""
    scores = [Score(ModuleName(name), v) for name, v in values.items() if v is not None]
    skipped = [Skipped(ModuleName(name), "none") for name, v in values.items() if v is None]
    return ScoreTable(method, {}, unsafe, tuple(scores), tuple(skipped))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_spearman_is_scipys_with_ties(pairs):
    x, y = np.array(pairs, float).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman(x, y) is None
    else:
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_needs_two():
    assert spearman(np.zeros(0), np.zeros(0)) is None
    assert spearman(np.ones(1), np.ones(1)) is None


def test_agreement_by_hand():
    a = table("magnitude", {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
    b = table("spectrum", {"a": 3.0, "b": 1.0, "c": 4.0, "d": 2.0})
    (pair,) = agreement([a, b], 2)  # the tops: a b, and c a
    assert (pair.a, pair.b, pair.modules) == ("magnitude", "spectrum", 4)
    assert pair.overlap == 0.5
    assert pair.spearman == pytest.approx(0.0, abs=1e-15)  # 1 − 6·(1 + 4 + 4 + 1)/60
    assert agreement([a, b], 0)[0].overlap is None
    assert agreement([a, b], 9)[0].overlap == 1.0


def test_both_are_turned_to_the_end_to_look_at():
    values = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    high, low = table("magnitude", values), table("safe-lora", values, "low")
    (pair,) = agreement([high, low], 1)
    assert pair.spearman == pytest.approx(-1.0)
    assert pair.overlap == 0.0


def test_only_modules_that_both_scored_count():
    a = table("magnitude", {"a": 9.0, "b": 3.0, "c": 2.0, "d": 1.0})
    b = table("spectrum", {"a": None, "b": 3.0, "c": 2.0, "d": None})
    (pair,) = agreement([a, b], 1)
    assert pair.modules == 2
    assert pair.overlap == 1.0, "a is no candidate: spectrum has no score for it"
    assert pair.spearman == pytest.approx(1.0)
    (pair,) = agreement([a, table("rows", dict.fromkeys("abcd"))], 2)
    assert (pair.modules, pair.spearman, pair.overlap) == (0, None, None)


def test_every_pair_is_compared_once():
    tables = [table(name, {"a": 1.0, "b": 2.0}) for name in ("random", "rows", "spectrum")]
    pairs = [(pair.a, pair.b) for pair in agreement(tables, 1)]
    assert pairs == [("random", "rows"), ("random", "spectrum"), ("rows", "spectrum")]


def test_labels_name_what_is_not_the_default(adapter):
    opened = open_adapter(adapter)
    shown = [
        label(scan(opened, make_method("s3lora", params)))
        for params in ({}, {"keep": 5}, {"keep": 3}, {"keep": 3, "fit": "dense"})
    ]
    assert shown == ["s3lora", "s3lora", "s3lora(keep=3)", "s3lora(keep=3, fit=dense)"]


def test_a_method_that_is_not_registered_has_a_label():
    assert label(ScoreTable("of-ones-own", {"x": 1}, "high", ())) == "of-ones-own(x=1)"


def test_one_method_asked_for_twice_is_refused(adapter):
    for first, again in (("s3lora", "s3lora"), ("s3lora", "s3lora:keep=5"), ("random", "random")):
        told = run(adapter, "-m", first, "-m", again, "--format", "json")
        assert told.exit_code == 2
        assert f"error: {first} is there twice" in told.output
    with pytest.raises(ParameterError, match="rows is there twice"):
        agreement([table("rows", {"a": 1.0}), table("rows", {"a": 2.0})], 1)


def test_two_entries_of_one_method_stay_apart(adapter):
    document = ranked(adapter, "-m", "s3lora:keep=1", "-m", "s3lora", "-m", "random:seed=3")
    assert [row["label"] for row in document["methods"]] == [
        "s3lora(keep=1)", "s3lora", "random(seed=3)",
    ]  # fmt: skip
    assert [row["params"] for row in document["methods"]][2] == {"seed": 3}
    scores = document["modules"][0]["scores"]
    assert scores["s3lora(keep=1)"] == 1.0 != scores["s3lora"]


def test_the_json_says_what_the_scans_say(adapter):
    document = ranked(adapter, "-m", "s3lora", "-m", "magnitude", "--top-k", 5)
    assert document.keys() == {
        "schema",
        "kind",
        "tool",
        "adapter",
        "source",
        "methods",
        "modules",
        "k",
        "agreement",
    }
    assert (document["schema"], document["k"], document["adapter"]) == (1, 5, str(adapter))
    assert sorted(row["module"] for row in document["modules"]) == sorted(MANY)
    tables = [scan(open_adapter(adapter), name) for name in ("s3lora", "magnitude")]
    for one in tables:
        values = {score.module: score.value for score in one.scores}
        places = {score.module: at for at, score in enumerate(one.ranked(), 1)}
        for row in document["modules"]:
            assert row["scores"][one.method] == values[row["module"]]
            assert row["places"][one.method] == places[row["module"]]
    x, y = ([score.value for score in one.scores] for one in tables)
    (pair,) = document["agreement"]
    assert pair["spearman"] == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    tops = [{score.module for score in one.ranked()[:5]} for one in tables]
    assert pair["overlap"] == len(tops[0] & tops[1]) / 5


def test_without_methods_those_that_need_nothing_are_ranked(adapter):
    document = ranked(adapter)
    assert tuple(row["name"] for row in document["methods"]) == USUAL
    assert all(not method_class(name).needs for name in USUAL)
    assert document["k"] == 2, "10 of 128, rounded up, of 24"
    assert len(document["agreement"]) == len(USUAL) * (len(USUAL) - 1) // 2


def test_methods_that_need_weights_are_ranked_with_them(adapter, models):
    asked = [word for name in (*WEIGHED, "s3lora") for word in ("-m", name)]
    document = ranked(adapter, *asked, *models)
    assert [row["name"] for row in document["methods"]] == [*WEIGHED, "s3lora"]
    assert all(None not in row["scores"].values() for row in document["modules"])
    told = run(adapter, *asked)
    assert told.exit_code == 2
    assert "needs the aligned and the base weights" in told.output


def test_a_module_without_a_score_is_there_without_one(tmp_path):
    modules = {name: (draw(2, 6, seed=at), draw(8, 2)) for at, name in enumerate(NAMES)}
    modules[NAMES[1]] = draw(2, 6), np.zeros((8, 2), np.float32)
    folder = write_adapter(tmp_path / "zero", modules)
    document = ranked(folder, "-m", "s3lora", "-m", "magnitude")
    row = next(row for row in document["modules"] if row["module"] == NAMES[1])
    assert row["scores"] == row["places"] == {"s3lora": None, "magnitude": None}
    assert document["agreement"][0]["modules"] == 3
    assert "s3lora has no score for 1 modules" in run(folder, "-m", "s3lora").output


LONG = [f"base.model.decoder.layers.{n}.block.self_attention.query_key_value" for n in range(3)]


@pytest.mark.parametrize("names", [MANY, LONG, ["x"]], ids=["usual", "long", "one"])
@pytest.mark.parametrize(
    "methods",
    [
        (),
        ("s3lora:keep=3,fit=dense", "spectrum", "random:seed=123456789", "random:seed=-7"),
        ("magnitude",),
    ],
    ids=["default", "long labels", "one"],
)
@pytest.mark.parametrize("to_file", [False, True])
def test_no_line_of_the_table_is_wider_than_the_terminal(tmp_path, names, methods, to_file):
    leaves = sorted({name.split(".")[-1] for name in names})
    folder = write_adapter(tmp_path / "a", names, {"target_modules": leaves})
    asked = [word for method in methods for word in ("-m", method)]
    told = run(folder, *asked, "-v", *(["-o", tmp_path / "table"] if to_file else []))
    assert told.exit_code == 0, told.output
    text = (tmp_path / "table").read_text() if to_file else told.stdout
    assert max(map(len, text.splitlines())) <= 80
    joined = "".join(text.split())
    for method in methods or USUAL:
        assert method.partition(":")[0] in joined
    table = scan(open_adapter(folder), make_method((methods or USUAL)[-1].partition(":")[0]))
    if methods in ((), ("magnitude",)):
        assert all(f"{score.value:.4g}" in text for score in table.scores)


def test_all_modules_are_shown_only_when_asked(adapter):
    short, whole = run(adapter, "-m", "rows").stdout, run(adapter, "-m", "rows", "-v").stdout
    assert "… 9 more; -v shows all" in short
    assert sum(name in short for name in MANY) == 15
    assert all(name in whole for name in MANY)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-m", "s3lroa"], "there is no method 's3lroa'"),
        (["-m", "s3lora:keep"], "'keep' is no NAME=VALUE"),
        (["-m", "s3lora:keep=0"], "keep=0 rebuilds nothing"),
        (["-m", "random:sead=1"], "no parameter 'sead'"),
        (["--top-k", "-1"], "Invalid value for '--top-k'"),
    ],
)
def test_a_wrong_question_is_refused(adapter, args, message):
    told = run(adapter, *args)
    assert told.exit_code == 2
    assert message in told.output


def test_the_result_is_written_to_a_file(adapter, tmp_path):
    out: Path = tmp_path / "ranking.json"
    told = run(adapter, "-m", "rows", "--format", "json", "-o", out)
    assert told.exit_code == 0
    assert told.stdout == ""
    assert json.loads(out.read_text())["methods"][0]["label"] == "rows"
