"""SARIF of several things side by side: of two adapters, and of several methods on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters import NAMES, Q, V, draw, factors, write_adapter
from s3lora import __version__
from s3lora.adapter import ModuleName
from s3lora.compare import STATUSES, Difference
from s3lora.report import Comparison, ModuleFacts, Ranking, Source, sarif_log
from s3lora.report.formats import render
from s3lora.report.sarif import CANNOT_JUDGE
from s3lora.report.sarif_comparison import KINDS
from s3lora.scores import Score, ScoreTable, Skipped
from sarif_runs import by_rule, run_of, scanned

TOOL = {"name": "s3lora", "version": "1.2"}
PROOF = "A score is a reason to look at a module, no proof of harm."


def source(ref: str) -> Source:
    return Source(ref, f"{ref}/w.safetensors", ref[-1] * 64, "example/base", 1000, 84)


def compared(*rows: Difference) -> dict[str, Any]:
    return run_of(render(Comparison(TOOL, source("to/a"), source("to/b"), rows), "sarif"))


def ranked(k: int, tables: dict[str, ScoreTable]) -> dict[str, Any]:
    names = sorted({name for table in tables.values() for name in table.names})
    facts = {name: ModuleFacts(2, (8, 6)) for name in names}
    labels = tuple(tables)
    result = Ranking(TOOL, source("to/a"), facts, tuple(tables.values()), labels, k, ())
    return run_of(render(result, "sarif"))


def table(method: str, scores: dict[str, float], unsafe: Any, *skipped: Skipped) -> ScoreTable:
    told = tuple(Score(ModuleName(name), value) for name, value in scores.items())
    return ScoreTable(method, {}, unsafe, told, skipped)


def told(run: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rule, level, file and message of each result."""
    return [
        (
            result["ruleId"],
            result["level"],
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            result["message"]["text"],
        )
        for result in run["results"]
    ]


# --- comparisons


def test_each_module_that_differs_is_a_note_with_its_figures():
    run = compared(
        Difference(ModuleName("l.0.same"), "same", 1.0, 1.0, 0.0),
        Difference(ModuleName("l.1.other"), "changed", 2.0, 3.0, 0.123456),
        Difference(ModuleName("l.2.grown"), "changed", 0.0, 7.0, None),
        Difference(ModuleName("l.3.gone"), "only in A", 4.0, None, None),
        Difference(ModuleName("l.4.new"), "only in B", None, 0.25, None),
        Difference(ModuleName("l.5.odd"), "not comparable", 5.0, None, None),
    )
    a, b, sides = "to/a/w.safetensors", "to/b/w.safetensors", "A is to/a, B is to/b"
    changed, odd = "difference/changed", "difference/not-comparable"
    lines = [
        (changed, b, "l.1.other: changed; norm 2 in A, norm 3 in B, relative change 0.1235"),
        (changed, b, "l.2.grown: changed; norm 0 in A, norm 7 in B, relative change unknown"),
        ("difference/only-in-a", a, "l.3.gone: only in A; norm 4 in A"),
        ("difference/only-in-b", b, "l.4.new: only in B; norm 0.25 in B"),
        (odd, b, "l.5.odd: not comparable; norm 5 in A, norm unknown in B"),
    ]
    assert told(run) == [(rule, "note", file, f"{text}. {sides}") for rule, file, text in lines]
    (place,) = run["results"][0]["locations"][0]["logicalLocations"]
    assert place == {"name": "other", "fullyQualifiedName": "l.1.other", "kind": "module"}
    assert run["automationDetails"] == {"id": "s3lora/compare/to/a/to/b/"}
    assert run["properties"]["comparison"] == {
        "a": "to/a",
        "b": "to/b",
        "verdict": "1 of 6 modules are the same; "
        "2 changed, 1 only in A, 1 only in B, 1 not comparable.",
    }


def test_there_is_a_rule_for_every_kind_of_difference_and_none_for_what_is_the_same():
    assert [*KINDS] == [status for status in STATUSES if status != "same"]
    run = compared()
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        "difference/changed",
        "difference/only-in-a",
        "difference/only-in-b",
        "difference/not-comparable",
    ]
    assert run["results"] == []
    assert run["tool"]["driver"]["version"] == "1.2"


def test_both_files_are_artifacts_and_a_result_points_to_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_adapter(Path("a"), [Q, V])
    write_adapter(Path("b"), {Q: factors(seed=7)})
    run, status = scanned("compare", "a", "b")
    assert status == 0
    assert by_rule(run) == {
        "difference/changed": [("note", Q)],
        "difference/only-in-a": [("note", V)],
    }
    uris = [artifact["location"]["uri"] for artifact in run["artifacts"]]
    assert uris == [f"{side}/adapter_model.safetensors" for side in "ab"]
    places = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in run["results"]]
    assert [place["index"] for place in places] == [1, 0]
    assert [place["uri"] for place in places] == [uris[1], uris[0]]
    assert scanned("compare", "a", "a")[0]["results"] == []


def test_a_difference_is_the_same_alert_when_its_figures_change():
    def alert(*figures: float, name: str = Q, status: str = "changed") -> dict[str, Any]:
        (result,) = compared(Difference(ModuleName(name), status, *figures))["results"]
        return dict(result)

    first, second = alert(1.0, 2.0, 0.5), alert(1.0, 3.0, 0.7)
    assert first["message"] != second["message"]
    assert first["partialFingerprints"] == second["partialFingerprints"]
    others = alert(1.0, 2.0, 0.5, name=V), alert(1.0, 2.0, 0.5, status="not comparable")
    assert all(o["partialFingerprints"] != first["partialFingerprints"] for o in others)


def test_a_name_in_a_comparison_is_escaped():
    name = ModuleName("[x](http://h) {0} \x1b")
    ((_, _, _, text),) = told(compared(Difference(name, "only in A", None, None, None)))
    assert text.startswith("\\[x\\](http://h) {{0}} \\x1b: only in A; norm unknown in A.")


def test_more_differences_than_are_taken_are_counted(monkeypatch):
    monkeypatch.setattr(sarif_log, "MOST_RESULTS", 10)
    rows = [Difference(ModuleName(f"m{at}"), "only in B", None, 1.0, None) for at in range(12)]
    run = compared(*rows)
    assert len(run["results"]) == 10
    assert run["results"][-1]["message"]["text"].startswith("3 more by this rule: the JSON report")


# --- rankings


def test_the_top_of_each_method_are_notes_with_score_and_place():
    run = ranked(
        2,
        {
            "rows": table("rows", {"l.0.q": 1.0, "l.1.q": 3.0, "l.2.q": 2.0}, "high"),
            "safe-lora(x=1)": table("safe-lora", {"l.0.q": 0.125, "l.1.q": 0.5}, "low"),
        },
    )
    lines = [
        ("rows", "l.1.q: score 3, place 1 of 3 by rows, among its top 2"),
        ("rows", "l.2.q: score 2, place 2 of 3 by rows, among its top 2"),
        ("safe-lora(x=1)", "l.0.q: score 0.125, place 1 of 2 by safe-lora(x=1), among its top 2"),
        ("safe-lora(x=1)", "l.1.q: score 0.5, place 2 of 2 by safe-lora(x=1), among its top 2"),
    ]
    assert told(run) == [
        (f"method/{label}", "note", "to/a/w.safetensors", f"{text}. {PROOF}")
        for label, text in lines
    ]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [CANNOT_JUDGE, "method/rows", "method/safe-lora(x=1)"]
    assert run["automationDetails"] == {"id": "s3lora/rank/to/a/"}
    assert run["properties"]["ranking"]["k"] == 2
    assert run["properties"]["ranking"]["methods"][1] == {
        "label": "safe-lora(x=1)",
        "name": "safe-lora",
        "params": {},
    }


def test_with_no_top_there_are_no_results():
    assert ranked(0, {"rows": table("rows", {"a": 1.0}, "high")})["results"] == []


def test_what_a_method_cannot_judge_is_a_warning_with_each_reason_once():
    name, zero = ModuleName("l.0.q"), Skipped(ModuleName("l.1.q"), "zero update", True)
    run = ranked(
        1,
        {
            "rows": table("rows", {}, "high", Skipped(name, "DoRA"), zero),
            "random": table("random", {"l.0.q": 0.5}, "high", zero),
            "s3lora": table("s3lora", {}, "high", Skipped(name, "DoRA"), zero),
            "splora": table("splora", {}, "high", Skipped(name, "no base"), zero),
        },
    )
    first, second = told(run)
    reasons = "l.0.q: DoRA (by rows, s3lora); no base (by splora)"
    assert first == (CANNOT_JUDGE, "warning", "to/a/w.safetensors", reasons)
    assert second[:2] == ("method/random", "note")


@pytest.mark.parametrize(("words", "count"), [([], 1), (["--top-k", "3"], 3)])
def test_the_command_takes_its_own_k_or_that_of_the_table(words, count, tmp_path):
    folder = write_adapter(tmp_path)  # 10 of 128, of four modules and rounded up, is one
    run, status = scanned("rank", folder, "-m", "magnitude", "-m", "rows", *words)
    assert status == 0
    found = by_rule(run)
    assert {rule: len(results) for rule, results in found.items()} == {
        "method/magnitude": count,
        "method/rows": count,
    }
    chosen = by_rule(scanned("scan", folder, "-m", "magnitude", "--top-k", count)[0])
    assert set(chosen["method/magnitude"]) == set(found["method/magnitude"])
    (artifact,) = run["artifacts"]
    assert len(artifact["hashes"]["sha-256"]) == 64
    assert run["tool"]["driver"]["version"] == __version__


def test_an_adapter_that_no_method_can_judge_is_not_clean(tmp_path):
    folder = write_adapter(tmp_path, config={"use_dora": True})
    run, _ = scanned("rank", folder, "-m", "s3lora", "-m", "magnitude")
    assert by_rule(run) == {CANNOT_JUDGE: [("warning", NAMES[0])]}
    assert all(" (by s3lora, magnitude)" in text for *_, text in told(run))


def test_a_module_at_the_top_is_the_same_alert_when_scores_change(tmp_path):
    prints, texts = [], []
    for size in (1, 9):
        modules = {name: (draw(2, 6), size * draw(8, 2)) for name in NAMES}
        run, _ = scanned("rank", write_adapter(tmp_path, modules), "-m", "magnitude")
        (result,) = run["results"]
        prints.append(result["partialFingerprints"])
        texts.append(result["message"]["text"])
    assert prints[0] == prints[1]
    assert texts[0] != texts[1]
