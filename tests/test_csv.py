"""CSV: a row a module, columns in an order that stays."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

from click.testing import CliRunner
from hypothesis import given, settings

from adapters import NAMES, PREFIX, Q, V, draw, write_adapter
from result_values import RESULTS
from s3lora.cli import cli
from s3lora.report import Comparison, Ranking
from s3lora.report.csv import COMPARE, RANK, SCAN, render


def printed(*words: object) -> str:
    told = CliRunner().invoke(cli, [*map(str, words)])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.stdout


def rows(*words: object) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(printed(*words, "--format", "csv"))))


def document(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(*words, "--format", "json"))
    return found


def test_the_columns_are_those_of_the_documentation():
    assert tuple("module place score z chosen edit rank m n not_scored".split()) == SCAN
    assert RANK == ("module", "rank", "m", "n")
    assert COMPARE == ("module", "status", "norm_a", "norm_b", "change")


def test_a_scan_has_a_row_for_each_module_with_numbers_in_full(tmp_path):
    folder = write_adapter(tmp_path, extra={f"{PREFIX}{V}.lora_news": draw(2)})
    words = "scan", folder, "--top-k", "1"
    told, found = document(*words), rows(*words)
    assert list(found[0]) == [*SCAN, *told["modules"][0]["parts"]]
    assert [row["module"] for row in found] == list(NAMES)
    by_name = {row["module"]: row for row in found}
    for module in told["modules"]:
        row = by_name[module["module"]]
        assert float(row["score"]) == module["score"]
        assert float(row["frobenius"]) == module["parts"]["frobenius"]
        assert row["chosen"] == ("true" if module["chosen"] else "false")
        assert (row["rank"], row["m"], row["n"], row["edit"]) == ("2", "8", "6", "")
    assert sorted(row["place"] for row in found) == ["", "1", "2", "3"]
    assert by_name[V]["not_scored"] == "it carries lora_news, which is not plain LoRA"
    assert by_name[V]["score"] == by_name[V]["ssi"] == ""


def test_a_plan_says_what_becomes_of_each_module(tmp_path):
    folder = write_adapter(tmp_path)
    words = "prune", folder, "--modules", Q, "--dry-run", "--target", "zero-fill"
    assert {row["module"]: row["edit"] for row in rows(*words)} == {
        name: "zero" if name == Q else "" for name in NAMES
    }


def test_a_ranking_has_a_column_for_each_method(tmp_path):
    words = "rank", write_adapter(tmp_path), "-m", "random:seed=3", "-m", "magnitude"
    found, told = rows(*words), document(*words)
    assert list(found[0]) == [*RANK, "random(seed=3)", "magnitude"]
    for row, module in zip(found, told["modules"], strict=True):
        assert {key: float(row[key]) for key in module["scores"]} == module["scores"]


def test_a_comparison_has_both_norms(tmp_path):
    a, b = write_adapter(tmp_path / "a"), write_adapter(tmp_path / "b", NAMES[:3])
    found = rows("compare", a, b)
    assert list(found[0]) == list(COMPARE)
    assert [row["status"] for row in found] == ["same"] * 3 + ["only in A"]
    assert found[3]["norm_b"] == found[3]["change"] == ""
    assert float(found[3]["norm_a"]) > 0


@settings(max_examples=60, deadline=None)
@given(RESULTS)
def test_every_row_has_every_column_and_none_is_a_formula(result):
    table = list(csv.reader(StringIO(render(result))))
    modules = result.rows if isinstance(result, Comparison) else result.modules
    assert len(table) == len(modules) + 1
    assert {len(row) for row in table} == {len(table[0])}
    first = {"module"} | (set(result.labels) if isinstance(result, Ranking) else set())
    for row in table:
        assert not row[0].startswith(("=", "+", "-", "@"))
    assert first <= set(table[0]) | {label for label in first if not label.isprintable()}
