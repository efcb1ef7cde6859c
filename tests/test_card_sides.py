"""Cards of several things side by side: of two adapters, and of several methods on one."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from hypothesis import given, settings

from adapters import WEIGHTS, Q, V, factors, write_adapter
from cards import carded, parts, tables
from result_values import comparisons, rankings
from s3lora.adapter import ModuleName
from s3lora.agreement import Agreement
from s3lora.compare import Difference
from s3lora.report import Comparison, ModuleFacts, Ranking, Source
from s3lora.report.card_comparison import MOST
from s3lora.report.escape import printable
from s3lora.report.formats import render
from s3lora.scores import Score, ScoreTable, Skipped

TOOL = {"name": "s3lora", "version": "1.2"}
A = Source("to/a", "to/a/w", "a" * 64, "example/base", 1000, 1234567)
B = dataclasses.replace(A, ref="to/b", sha256="b" * 64)


def compared(*rows: Difference, a: Source = A, b: Source = B) -> tuple[Any, str]:
    return parts(render(Comparison(TOOL, a, b, rows), "card"))


def row(name: str, status: str, *figures: float | None) -> Difference:
    return Difference(ModuleName(name), status, *figures)


# --- comparisons


def test_a_comparison_as_a_card():
    metadata, section = compared(
        row("m.same", "same", 1.0, 1.0, 0.0),
        row("m.odd", "not comparable", 5.0, None, None),
        row("m.changed", "changed", 2.0, 3.0, 0.75),
        row("m.grown", "changed", 0.0, 7.0, None),
        row("m.gone", "only in A", 4.0, None, None),
        row("m.new", "only in B", None, 0.25, None),
    )
    assert metadata == {"base_model": "example/base", "library_name": "peft", "tags": ["lora"]}
    assert section == (
        f"""
## Compared with s3lora

1 of 6 modules are the same; 1 not comparable, 2 changed, 1 only in A, 1 only in B.

- A: `to/a`, 5 LoRA modules, 1,234,567 parameters
- SHA-256 of the weights: `{"a" * 64}`
- B: `to/b`, 5 LoRA modules, 1,234,567 parameters
- SHA-256 of the weights: `{"b" * 64}`
- Tool: s3lora 1.2

### Largest differences

| module | difference | ‖ΔW‖ in A | ‖ΔW‖ in B | ‖ΔW_B − ΔW_A‖ | relative change |
|---|---|---:|---:|---:|---:|
| `m.grown` | changed | 0 | 7 | 7 | – |
| `m.gone` | only in A | 4 | – | 4 | – |
| `m.changed` | changed | 2 | 3 | 1.5 | 0.75 |
| `m.new` | only in B | – | 0.25 | 0.25 | – |
| `m.odd` | not comparable | 5 | – | – | – |
"""
    )


def test_the_largest_differences_are_shown_and_the_others_counted():
    rows = [row(f"m{at:02}", "only in B", None, float(at), None) for at in range(1, MOST + 4)]
    _, section = compared(*rows)
    ((_, *shown),) = tables(section)
    assert [cells[0] for cells in shown] == [f"m{at:02}" for at in range(MOST + 3, 3, -1)]
    assert section.endswith("\n\n3 more: the JSON report has every one of them.\n")
    assert "more:" not in compared(*rows[:MOST])[1]


def test_two_that_are_the_same_have_no_table():
    _, section = compared(row("m", "same", 1.0, 1.0, 0.0))
    assert "1 of 1 modules are the same." in section
    assert tables(section) == []
    assert "Largest" not in section


def test_base_models_that_differ_are_named_and_not_in_the_metadata():
    metadata, section = compared(b=dataclasses.replace(B, base_model="other/base"))
    assert metadata == {"library_name": "peft", "tags": ["lora"]}
    told = "- The base models are not the same: `example/base` in A, `other/base` in B\n"
    assert told in section
    _, section = compared(a=dataclasses.replace(A, base_model=""))
    assert "- The base models are not the same: none in A, `example/base` in B\n" in section


def test_what_an_early_version_did_not_save_is_left_out():
    _, section = compared(a=Source("to/a", "", "", "example/base", 0, 0))
    assert "- A: `to/a`, 0 LoRA modules\n- B: " in section


def test_the_card_of_two_folders_has_the_hashes_of_both(tmp_path):
    a = write_adapter(tmp_path / "a", [Q, V])
    b = write_adapter(tmp_path / "b", {Q: factors(seed=7)})
    metadata, section = parts(carded("compare", a, b))
    for side, folder, count in (("A", a, 2), ("B", b, 1)):
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        size = f"{count} LoRA modules, {28 * count} parameters"  # 2·6 + 8·2 each
        assert f"- {side}: `{folder}`, {size}\n- SHA-256 of the weights: `{digest}`\n" in section
    assert metadata["base_model"] == "example/base"
    ((_, *shown),) = tables(section)
    assert {(cells[0], cells[1]) for cells in shown} == {(Q, "changed"), (V, "only in A")}


@settings(max_examples=40, deadline=None)
@given(comparisons())
def test_every_name_of_a_comparison_stays_in_its_cell(comparison):
    _, section = render(comparison, "card").split("## Compared", 1)
    differ = {printable(row.module).strip() for row in comparison.rows if row.status != "same"}
    for titles, *rows in tables(section):
        assert titles[:2] == ["module", "difference"]
        assert {cells[0].strip() for cells in rows} == differ
    assert bool(tables(section)) == bool(differ)


# --- rankings


def table(method: str, values: dict[str, float], unsafe: Any, *skipped: Skipped) -> ScoreTable:
    scores = tuple(Score(ModuleName(name), value) for name, value in values.items())
    return ScoreTable(method, {"x": 1} if method == "splora" else {}, unsafe, scores, skipped)


def ranked(k: int, labels: dict[str, ScoreTable], *pairs: Agreement) -> tuple[Any, str]:
    names = sorted({name for told in labels.values() for name in told.names})
    facts = {name: ModuleFacts(2, (8, 6)) for name in names}
    ranking = Ranking(TOOL, A, facts, tuple(labels.values()), tuple(labels), k, pairs)
    return parts(render(ranking, "card"))


def test_a_ranking_as_a_card():
    metadata, section = ranked(
        2,
        {
            "rows": table("rows", {"m.a": 1.0, "m.b": 3.0, "m.c": 2.0}, "high"),
            "splora(x=1)": table(
                "splora", {"m.a": 0.125, "m.b": 0.5}, "low", Skipped(ModuleName("m.c"), "no base")
            ),
            "random": table("random", {"m.a": 0.1, "m.b": 0.2, "m.c": 0.3}, "high"),
        },
        Agreement("rows", "splora(x=1)", 2, -1.0, 1.0),
        Agreement("rows", "random", 3, 0.5, 0.5),
        Agreement("splora(x=1)", "random", 2, None, None),
    )
    assert metadata == {"base_model": "example/base", "library_name": "peft", "tags": ["lora"]}
    assert section == (
        f"""
## Ranked with s3lora

3 methods on 3 modules; rows and random agree most, +0.50.

- Adapter: `to/a`, 3 LoRA modules, 1,234,567 parameters
- SHA-256 of the weights: `{"a" * 64}`
- Tool: s3lora 1.2
- Method: `rows`, the highest score first
- Method: `splora` (x = 1), the lowest score first
- Method: `random`, the highest score first
- `splora(x=1)` has no score for 1 modules

A score is a reason to look at a module, no proof of harm.

### Agreement

Above the diagonal: Spearman's correlation.
Below it: the share of the top 2 that is in both.

| method | `rows` | `splora(x=1)` | `random` |
|---|---:|---:|---:|
| `rows` |  | -1.00 | +0.50 |
| `splora(x=1)` | 100% |  | – |
| `random` | 50% | – |  |

### Top by each method

| method | place | module | score |
|---|---:|---|---:|
| `rows` | 1 | `m.b` | 3 |
| `rows` | 2 | `m.c` | 2 |
| `splora(x=1)` | 1 | `m.a` | 0.125 |
| `splora(x=1)` | 2 | `m.b` | 0.5 |
| `random` | 1 | `m.c` | 0.3 |
| `random` | 2 | `m.b` | 0.2 |
"""
    )


def test_a_long_top_is_cut_with_a_count_and_an_empty_one_is_left_out():
    many = {f"m{at}": float(at) for at in range(9)}
    labels = {"rows": table("rows", many, "high"), "random": table("random", many, "low")}
    _, section = ranked(7, labels)
    ((_, *shown),) = tables(section)
    assert [cells[1:3] for cells in shown[:5]] == [[str(at), f"m{9 - at}"] for at in range(1, 6)]
    assert [cells[0] for cells in shown] == ["rows"] * 5 + ["random"] * 5
    assert section.endswith(
        "\n\n4 more are among the top 7 of a method: the JSON report has every one of them.\n"
    )
    _, section = ranked(0, labels)
    assert tables(section) == []
    assert "Top by" not in section


def test_the_card_of_a_folder_has_its_tops_and_the_matrix(tmp_path):
    folder = write_adapter(tmp_path)
    metadata, section = parts(carded("rank", folder, "-m", "magnitude", "-m", "rows", "--top-k", 4))
    assert metadata["base_model"] == "example/base"
    matrix, (_, *tops) = tables(section)
    assert matrix[0] == ["method", "magnitude", "rows"]
    assert matrix[2] == ["rows", "100%", ""]
    assert -1 <= float(matrix[1][2]) <= 1
    assert [cells[:2] for cells in tops] == [
        [name, str(place)] for name in ("magnitude", "rows") for place in range(1, 5)
    ]
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert f"- SHA-256 of the weights: `{digest}`\n" in section


@settings(max_examples=40, deadline=None)
@given(rankings())
def test_every_name_of_a_ranking_stays_in_its_cell(ranking):
    _, section = render(ranking, "card").split("## Ranked", 1)
    expected = [
        [printable(label).strip(), str(at), printable(score.module).strip()]
        for label, table in zip(ranking.labels, ranking.tables, strict=True)
        for at, score in enumerate(table.ranked()[: ranking.k], 1)
    ]
    shown = [rows for titles, *rows in tables(section) if titles[1:2] == ["place"]]
    found = [[cell.strip() for cell in cells[:3]] for rows in shown for cells in rows]
    assert found == expected
