"""The study that the repository ships for a random model, end to end, as a newcomer runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from s3lora.cli import cli
from s3lora.lab.study.config import read_study
from s3lora.lab.study.keeping import read_causal, read_rows
from s3lora.lab.study.rows import REFERENCES
from schemas import check, check_lines

EVIDENCE = Path(__file__).parents[1] / "evidence"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of evidence/tiny after `s3lora study`."""
    folder = tmp_path_factory.mktemp("evidence") / "tiny"
    folder.mkdir()
    for name in ("study.toml", "harmful.jsonl", "harmless.jsonl"):
        shutil.copy(EVIDENCE / "tiny" / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3LORA_CACHE", str(folder.parent / "cache"))
        ran = CliRunner().invoke(cli, ["study", str(folder / "study.toml")])
        assert ran.exit_code == 0, ran.output
        again = CliRunner().invoke(cli, ["study", str(folder / "study.toml")])
        assert "cells" not in again.stderr, "a study that is done has nothing left to run"
    return folder


def test_every_cell_has_a_row(finished):
    study, rows = read_study(finished / "study.toml"), read_rows(finished / "rows.jsonl")
    wanted = {
        (adapter.name, choice.name, choice.edit, share)
        for adapter in study.adapters
        for choice in study.choices
        for share in choice.shares or study.shares
    }
    found = {row.cell for row in rows if row.method not in (*REFERENCES, "random")}
    assert found == wanted
    for adapter in study.adapters:
        drawn = [row for row in rows if (row.adapter, row.method) == (adapter.name, "random")]
        assert len(drawn) == study.draws * len(study.shares)
        assert {row.method for row in rows if row.adapter == adapter.name} >= set(REFERENCES)


def test_what_a_study_leaves_fits_its_schemas(finished):
    for name in ("rows", "causal"):
        assert len(check_lines(name, (finished / f"{name}.jsonl").read_text())) > 40
    cards = list(finished.glob("work/**/training.json"))
    assert len(cards) == 4
    for card in cards:
        check("training", json.loads(card.read_text()))


def test_replies_are_there_for_the_main_table(finished):
    rows = read_rows(finished / "rows.jsonl")
    told = {row.method for row in rows if row.replies}
    assert told == {*REFERENCES, "random", "s3lora", "gate"}


def test_the_effects_of_modules_are_measured_where_they_are_asked_for(finished):
    rows = read_causal(finished / "causal.jsonl")
    assert {row.adapter for row in rows if row.removed and row.alone} == {"harmless-1"}
    assert {row.adapter for row in rows} == {"harmless-1", "mixed", "planner"}
    measured = [row for row in rows if row.removed]
    gaps = [abs(row.first_order.margin + row.removed.margin) for row in measured]
    sizes = [abs(row.removed.margin) for row in measured]
    assert sum(gaps) < 0.3 * sum(sizes), "first order is close for updates this small"


def test_tables_and_plots_are_written(finished):
    for name in ("main", "random", "front", "causal"):
        text = (finished / f"{name}.md").read_text(encoding="utf-8")
        assert ("What there is to trade" if name == "front" else "s3lora") in text
        assert "nan" not in text.lower().split()
    for name in ("front", "percentiles", "effects", "scores", "first-order"):
        assert (finished / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_studies_in_the_repository_can_be_read():
    for path in sorted(EVIDENCE.glob("*/study.toml")):
        study = read_study(path)
        assert study.draws >= 4
        assert study.adapters
        assert {choice.method for choice in study.choices} >= {"s3lora", "spectrum", "magnitude"}
