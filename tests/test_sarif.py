"""SARIF: any result valid by the official schema, and what code scanning shows of a scan."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from hypothesis import given, settings

from adapters import NAMES, PREFIX, Q, V, draw, write_adapter
from result_values import RESULTS
from s3lora import __version__
from s3lora.cli import cli
from s3lora.findings import RULES, Finding
from s3lora.report import Report, sarif_log
from s3lora.report.formats import render as render_as
from s3lora.report.reading import read
from s3lora.report.sarif import CANNOT_JUDGE, UNREADABLE, render
from sarif_runs import SCHEMA, VALIDATOR, by_rule, run_of, scanned


@settings(max_examples=100, deadline=None)
@given(RESULTS)
def test_any_result_is_valid(result):
    run_of(render_as(result, "sarif"))


def test_the_official_schema_is_one_that_refuses():
    assert SCHEMA["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/")
    assert not VALIDATOR.is_valid({"version": "2.1.0", "runs": [{"results": []}]})


def test_findings_are_errors_warnings_and_notes_by_their_severity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_adapter(
        Path("a b"),
        ["model.layers.0.self_attn.q_proj"],
        {"r": 2, "rank_pattern": {"nothing": 3}},
        {f"{PREFIX}norm.weight": draw(4)},
    )
    (folder / "loader.py").touch()
    run, status = scanned("scan", folder)
    assert status == 1
    told = by_rule(run)
    assert told["base-weight-payload"] == [("error", f"{PREFIX}norm.weight")]
    assert ("warning", "v_proj") in told["missing-module"]
    assert told["unscanned-sibling"] == [("note", "loader.py")]
    assert [r["level"] for r in run["results"]] == sorted(
        (r["level"] for r in run["results"]), key=["error", "warning", "note"].index
    )
    places = {
        r["ruleId"]: r["locations"][0]["physicalLocation"]["artifactLocation"]
        for r in run["results"]
    }
    assert places["base-weight-payload"] == {
        "uri": "a%20b/adapter_model.safetensors",
        "uriBaseId": "%SRCROOT%",
        "index": 0,
    }
    assert places["missing-module"]["uri"] == "a%20b/adapter_config.json"
    assert places["dead-pattern"]["uri"] == "a%20b/adapter_config.json"
    assert places["unscanned-sibling"]["uri"] == "a%20b/loader.py"
    (artifact,) = run["artifacts"]
    assert artifact["length"] == (folder / "adapter_model.safetensors").stat().st_size
    assert len(artifact["hashes"]["sha-256"]) == 64


def test_chosen_modules_are_notes_of_the_method_and_warnings_when_gated(tmp_path):
    folder = write_adapter(tmp_path)
    run, status = scanned("scan", folder, "--top-k", "4", "-m", "magnitude")
    assert status == 0
    assert {level for level, _ in by_rule(run)["method/magnitude"]} == {"note"}
    assert {where for _, where in by_rule(run)["method/magnitude"]} == set(NAMES)
    scores = [float(r["message"]["text"].split("score ")[1].split(",")[0]) for r in run["results"]]
    limit = sorted(scores)[-2]
    gate = f"threshold={limit - 0.01 * limit}"
    run, status = scanned("scan", folder, "--top-k", "4", "-m", "magnitude", "--gate", gate)
    assert status == 1
    told = by_rule(run)
    gated = {where for _, where in told["score-gate"]}
    assert len(gated) == 2
    assert {level for level, _ in told["score-gate"]} == {"error"}
    for level, where in told["method/magnitude"]:
        assert level == ("warning" if where in gated else "note")
    kinds = {r["locations"][0]["logicalLocations"][0]["kind"] for r in run["results"]}
    assert kinds == {"module"}


def test_what_could_not_be_judged_is_a_warning(tmp_path):
    run, status = scanned("scan", write_adapter(tmp_path, config={"use_dora": True}))
    assert status == 3
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == (CANNOT_JUDGE, "warning")
    named = [row["fullyQualifiedName"] for row in result["locations"][0]["logicalLocations"]]
    assert named == list(NAMES)
    assert result["message"]["text"].startswith(f"4 places, such as {NAMES[0]}, {NAMES[1]}, ")


def test_what_is_odd_alike_in_many_places_is_one_result_and_files_have_their_own(tmp_path):
    findings = [Finding("unusual-key", "medium", f"t{at}", "odd") for at in range(448)]
    findings += [Finding("unusual-key", "medium", "t", "odder")]
    findings += [Finding("unscanned-sibling", "low", f"f{at}", "odd") for at in range(2)]
    run = run_of(render(sample(tmp_path, tuple(findings))))
    texts = {r["message"]["text"] for r in run["results"] if r["ruleId"] in RULES}
    many = "448 places, such as t0, t1, t2: odd"
    assert texts == {many, "t: odder", "f0: odd", "f1: odd"}


def test_every_rule_has_help_and_the_driver_a_version(tmp_path):
    run, _ = scanned("prune", write_adapter(tmp_path), "--dry-run")
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("s3lora", __version__)
    ids = [rule["id"] for rule in driver["rules"]]
    assert ids == [*RULES, CANNOT_JUDGE, UNREADABLE, "method/s3lora"]
    for rule in driver["rules"]:
        assert rule["name"].isalnum()
        assert rule["shortDescription"]["text"].endswith(".")
        assert len(rule["fullDescription"]["text"]) <= 1024
        assert len(rule["help"]["text"]) > len(rule["fullDescription"]["text"])
    assert "planned to be taken out" in run["results"][0]["message"]["text"]


def test_an_alert_is_the_same_one_when_scores_change(tmp_path):
    folder = write_adapter(tmp_path)
    runs = [scanned("scan", folder, "--modules", Q, "-m", "magnitude")[0]]
    write_adapter(tmp_path, {name: (draw(2, 6), 9 * draw(8, 2)) for name in NAMES})
    runs.append(scanned("scan", folder, "--modules", Q, "-m", "magnitude")[0])
    (first,), (second,) = (run["results"] for run in runs)
    assert first["message"] != second["message"]
    assert first["partialFingerprints"] == second["partialFingerprints"]
    other = scanned("scan", folder, "--modules", V, "-m", "magnitude")[0]["results"][0]
    assert other["partialFingerprints"] != first["partialFingerprints"]


def sample(tmp_path: Path, findings: tuple[Finding, ...]) -> Report:
    told = CliRunner().invoke(cli, ["scan", str(write_adapter(tmp_path)), "--format", "json"])
    report = read(told.stdout.encode())
    assert isinstance(report, Report)
    import dataclasses

    return dataclasses.replace(report, findings=findings)


def test_more_results_than_are_taken_are_counted_and_the_severe_ones_come_first(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sarif_log, "MOST_RESULTS", 10)
    findings = [Finding("base-weight-payload", "high", f"t{at}", f"odd {at}") for at in range(6)]
    findings += [Finding("unscanned-sibling", "low", f"f{at}", "odd") for at in range(20)]
    run = run_of(render(sample(tmp_path, tuple(findings))))
    assert len(run["results"]) <= 10
    levels = [r["level"] for r in run["results"]]
    assert levels.count("error") == 6
    told = [
        r["message"]["text"] for r in run["results"] if "more by this rule" in r["message"]["text"]
    ]
    listed = sum(r["ruleId"] == "unscanned-sibling" for r in run["results"]) - 1
    assert f"{20 - listed} more by this rule: the JSON report has every one of them" in told


def test_links_and_placeholders_in_a_name_are_escaped(tmp_path):
    found = Finding("unknown-tensor", "low", "[x](http://h) {0} \x1b", "a {b}")
    run = run_of(render(sample(tmp_path, (found,))))
    (text,) = [r["message"]["text"] for r in run["results"] if r["ruleId"] == "unknown-tensor"]
    assert text == "\\[x\\](http://h) {{0}} \\x1b: a {{b}}"
