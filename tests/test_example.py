"""The adapter that the package ships: what it claims to be, scored as the definition says."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

import dense
from s3lora import open_adapter, scan
from s3lora.adapter import layer_of

EXAMPLE = files("s3lora") / "example"


@pytest.fixture(scope="module")
def adapter():
    return open_adapter(str(EXAMPLE / "adapter"))


@pytest.fixture(scope="module")
def table(adapter):
    return scan(adapter)


def test_it_is_a_trained_adapter_of_all_seven_projections(adapter):
    leaves = {name.rpartition(".")[2] for name in adapter.names}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert leaves == projections
    assert len(adapter.names) == 210
    assert {slot.rank for slot in adapter.slots.values()} == {8}
    assert {info.dtype for info in adapter.tensors.infos.values()} == {"BF16"}
    assert adapter.findings == ()


def test_its_training_log_shows_that_it_learned():
    lines = (EXAMPLE / "training-log.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    held_out = {event["when"]: event for event in events if event["event"] == "held-out"}
    assert held_out["after"]["loss"] < held_out["before"]["loss"] / 10
    assert held_out["before"]["valid"]["hits"] == 0
    assert held_out["after"]["valid"]["hits"] > 30


def test_every_module_has_a_score_in_natural_order(adapter, table):
    assert [score.module for score in table.scores] == list(adapter.names)
    depths = [int(layer_of(name).rpartition(".")[2]) for name in adapter.names]
    assert depths == sorted(depths)


@pytest.mark.parametrize("layer", [0, 9, 19, 29])
def test_scores_agree_with_the_dense_definition(adapter, table, layer):
    scores = [s for s in table.scores if layer_of(s.module) == f"model.layers.{layer}"]
    assert len(scores) == 7
    for score in scores:
        module = adapter.read(score.module)
        X = module.scaling * module.B @ module.A
        s = np.linalg.svd(X, compute_uv=False)
        assert score.value == pytest.approx(dense.ssi(X), abs=1e-9)
        assert score.parts["plain_ssi"] == pytest.approx(s[0] / s.sum(), abs=1e-9)
        assert score.parts["frobenius"] == pytest.approx(np.linalg.norm(X))
        assert score.parts["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2)
