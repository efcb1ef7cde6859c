"""Projection type alone, the baseline of every score; and scores that choose nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import rankdata

from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.culprits import constant_scores, culprits
from s3lora.lab.study.projection_type import TYPE, type_scores
from s3lora.lab.study.rows import CausalRow, Effect, Row
from s3lora.lab.study.tables import choosing, write_tables

PROJECTIONS = ("q_proj", "v_proj", "up_proj", "o_proj")
SHARP = (0.9, 0.2, 0.5, 0.3, 0.1, 0.6, 0.4, 0.8)
SIZE = (1.0, 2.0, 4.0, 1.0, 1.0, 2.0, 1.0, 8.0)


def modules(**scores):
    """Two layers of four projections; effects as type says, with the sharper first within each."""
    rows = []
    for at, (sharp, size) in enumerate(zip(SHARP, SIZE, strict=True)):
        name = f"model.layers.{at // 4}.x.{PROJECTIONS[at % 4]}"
        effect = Effect(-(10 * "quvo".index(PROJECTIONS[at % 4][0]) + sharp), 0.0, -0.1)
        own = {"spectrum": sharp, "magnitude": size, **{k: v[at] for k, v in scores.items()}}
        rows.append(CausalRow("a", name, effect, None, None, own))
    return rows


def test_the_type_is_what_writes_before_gates_before_what_looks():
    assert type_scores(modules())[TYPE].tolist() == [0, 2, 1, 2] * 2


def test_a_score_ranks_within_each_projection():
    told = type_scores(modules())
    sharp = told["type, then spectrum"]
    # two modules a projection: the ranks are 1/3 and 2/3, and each beats all of the type below
    assert sharp == pytest.approx(
        [0 + 2 / 3, 2 + 1 / 3, 1 + 2 / 3, 2 + 1 / 3, 1 / 3, 2 + 2 / 3, 1 + 1 / 3, 2 + 2 / 3]
    )
    by_size = told["type, then spectrum/magnitude"]
    # 0.9 and 0.1; 0.1 and 0.3; 0.125 and 0.4; 0.3 and 0.1
    assert [round(3 * (value % 1)) for value in by_size] == [2, 1, 1, 2, 1, 2, 2, 1]


def test_ties_share_their_rank():
    rows = modules()
    same = [replace(row, scores={**row.scores, "spectrum": 0.5}) for row in rows]
    assert {round(x % 1, 6) for x in type_scores(same)["type, then spectrum"]} == {0.5}
    assert rankdata([0.5, 0.5])[0] / 3 == 0.5


def test_without_a_role_or_a_score_there_is_no_row():
    odd = [replace(modules()[0], module="model.layers.0.x.c_attn"), *modules()[1:]]
    assert type_scores(odd) == {}
    bare = [replace(row, scores={}) for row in modules()]
    assert list(type_scores(bare)) == [TYPE]


def test_the_baseline_is_in_the_table_of_correlations(tmp_path):
    rows = [replace(row, adapter=name) for name in "abc" for row in modules()]
    found = {x.x: x for x in culprits(rows, Bootstrap(20)) if x.scope == "all"}
    assert found["type, then spectrum"].spearman.value > found[TYPE].spearman.value > 0.8
    write_tables((), rows, tmp_path, bootstrap=Bootstrap(20))
    text = (tmp_path / "causal.md").read_text()
    assert "| projection type " in text
    assert "mean of data sets (n=3)" in text


def test_a_score_that_is_the_same_everywhere_chooses_nothing(tmp_path):
    causal = modules(keep=[1.0] * 8, some=[1.0] * 7 + [None])
    assert constant_scores(causal) == ("keep",)
    shape = {"k": 2, "modules": 8, "draw": None, "chosen": (0, 1), "norm_share": 0.1}
    figures = {"log_odds": (0.0,), "margins": (0.0,), "losses": (1.0,), "tokens": (1,)}
    rows = [Row("a", name, "drop", 0.25, **shape, **figures) for name in ("keep", "spectrum")]
    kept, scores = choosing(rows, causal)
    assert [row.method for row in kept] == ["spectrum"]
    assert "keep" not in scores[0].scores
    write_tables(rows, causal, tmp_path, bootstrap=Bootstrap(20))
    for name in ("main", "random", "front", "causal"):
        assert "| keep" not in (tmp_path / f"{name}.md").read_text()
    assert "Left out: keep." in (tmp_path / "main.md").read_text()
