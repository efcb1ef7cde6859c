"""docs/evidence.md says what the measured rows say: its tables, its first figures, its claims."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALPACA = ("harmless-1", "harmless-2", "harmless-r32", "mixed")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_evidence", ROOT / "docs/make_evidence.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def smollm2(script):
    return script.Evidence("smollm2")


@pytest.fixture(scope="module")
def text():
    return (ROOT / "docs/evidence.md").read_text(encoding="utf-8")


def test_the_tables_are_made_of_the_rows(script, smollm2, text):
    assert text == script.page(text, smollm2, script.Evidence("defences"))


def test_the_text_has_the_figures_of_the_rows(script, smollm2, text):
    words = " ".join(text.split())
    missing = [wanted for wanted in script.sentences(smollm2) if wanted not in words]
    assert missing == []


def test_four_adapters_are_one_data_set(smollm2):
    assert {smollm2.sets[name] for name in ALPACA} == {"harmless rows"}
    assert len(set(smollm2.sets.values())) == 3
    one = smollm2.over_all["s3lora", 0.25].refusal
    assert (one.difference.n, one.by_data.n) == (6, 3)
    gains = {a: smollm2.single["s3lora", a].refusal.difference.value for a in smollm2.adapters}
    alpaca = sum(gains[name] for name in ALPACA) / 4
    assert one.by_data.value == pytest.approx((alpaca + gains["identity"] + gains["planner"]) / 3)


def test_no_choice_gains_more_on_harmful_prompts_than_on_harmless_ones(script, smollm2):
    for name in script.METHODS:
        assert smollm2.over_all[name, 0.25].specific.figure.low < 0, name


def test_no_score_without_data_is_ahead_of_the_projection_type(smollm2):
    type_alone = smollm2.correlations["projection type"]
    needs_data = {"gate", "gate by refusal", "gate per loss"}
    for name, values in smollm2.correlations.items():
        if name not in needs_data and not name.startswith(("projection", "type")):
            behind = [type_alone[adapter] - value for adapter, value in values.items()]
            assert sum(behind) / len(behind) > 0.1, name


def test_planner_alone_can_be_judged_at_equal_loss(script, smollm2):
    judged = {x.adapter for x in script.prices(smollm2.rows) if x.shares}
    assert judged == {"planner"}


def test_s3lora_is_above_all_random_choices(smollm2):
    assert smollm2.over_all["s3lora", 0.25].refusal.percentiles == (100.0,) * 6


def test_a_score_that_is_1_everywhere_is_on_no_page(smollm2):
    assert not [row for row in smollm2.rows if row.method == "s3lora keep=1"]
    for path in (ROOT / "evidence/smollm2").glob("*.md"):
        assert "| s3lora keep=1" not in path.read_text(encoding="utf-8")


def test_halving_is_judged_at_its_own_loss(smollm2):
    assert smollm2.over_all["s3lora, halved", 0.25].refusal.difference.value < 0
    assert smollm2.equal_loss["s3lora, halved", 0.25].low > 0
