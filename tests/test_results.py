"""Results as JSON and back: the identity, the published schemas, and documents that are none."""

from __future__ import annotations

import copy
import json
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from rich.console import Console

from adapters import NAMES, PREFIX, Q, draw, write_adapter
from result_values import RESULTS
from s3lora.cli import cli
from s3lora.errors import S3LoraError
from s3lora.findings import RULES
from s3lora.report import Comparison, Ranking, Report, formats
from s3lora.report.advice import ADVICE
from s3lora.report.formats import FORMS, RENDERERS, render, show
from s3lora.report.reading import read
from schemas import check, schema

KINDS = {Report: "scan", Ranking: "rank", Comparison: "compare"}


def invoke(*words: object) -> Any:
    told = CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "80"})
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told


# --- the identity


@settings(max_examples=60, deadline=None)
@given(RESULTS)
def test_a_result_is_the_same_after_being_saved_and_read(result):
    text = render(result, "json")
    again = read(text.encode())
    assert type(again) is type(result)
    assert render(again, "json") == text
    check(KINDS[type(result)], json.loads(text))


@settings(max_examples=30, deadline=None)
@given(RESULTS)
def test_nothing_but_digits_of_spectra_is_lost(result):
    once = read(render(result, "json").encode())
    assert read(render(once, "json").encode()) == once
    if isinstance(result, Comparison):
        assert once == result
    if isinstance(result, Report):
        assert (once.findings, once.chosen, once.plan) == (
            result.findings,
            result.chosen,
            result.plan,
        )
        assert [s.parts for s in once.table.scores] == [s.parts for s in result.table.scores]
        for level in ("high", "medium", "low"):
            assert once.exit_code(level) == result.exit_code(level)


@settings(max_examples=40, deadline=None)
@given(RESULTS, st.booleans())
def test_every_format_takes_every_result_it_is_for(result, verbose):
    for form, kinds in RENDERERS.items():
        if type(result) in kinds and form != "html":  # a file of its own tests that
            text = render(result, form)
            assert text.endswith("\n")
            assert not {c for c in text if not c.isprintable()} - {"\n"}
    buffer = StringIO()
    show(result, Console(file=buffer, width=80, color_system=None), verbose=verbose)
    assert not {c for c in buffer.getvalue() if not c.isprintable()} - {"\n"}


# --- what the commands write


@pytest.fixture
def odd(tmp_path):
    """An adapter with findings and with modules that cannot be judged."""
    extra = {f"{PREFIX}{Q}.lora_news": draw(2), f"{PREFIX}norm.weight": draw(4)}
    return write_adapter(tmp_path / "odd", NAMES, None, extra)


@pytest.fixture
def plain(tmp_path):
    return write_adapter(tmp_path / "plain")


COMMANDS = [
    ("scan", ["scan", "{odd}"]),
    ("scan", ["scan", "{plain}", "-m", "random"]),
    ("scan", ["scan", "{plain}", "--gate", "threshold=0.5"]),
    ("scan", ["scan", "{plain}", "-m", "spectrum", "--modules", Q]),
    ("scan", ["prune", "{plain}", "--dry-run", "--target", "zero-fill"]),
    ("scan", ["prune", "{plain}", "--dry-run", "--edit", "flatten", "--top-k", "2"]),
    ("scan", ["prune", "{plain}", "--dry-run", "--edit", "truncate", "-e", "energy=0.5"]),
    ("scan", ["prune", "{plain}", "-o", "{out}"]),
    ("rank", ["rank", "{odd}"]),
    ("rank", ["rank", "{plain}", "-m", "s3lora:keep=1", "-m", "s3lora", "-m", "last-layers"]),
    ("compare", ["compare", "{odd}", "{plain}"]),
    ("compare", ["compare", "{plain}", "{plain}"]),
]


@pytest.mark.parametrize(("kind", "words"), COMMANDS, ids=[" ".join(w) for _, w in COMMANDS])
def test_what_a_command_writes_fits_its_schema_and_reads_back(kind, words, odd, plain, tmp_path):
    filled = [w.format(odd=odd, plain=plain, out=tmp_path / "out") for w in words]
    told = invoke(*filled, "--format", "json")
    document = json.loads(told.stdout)
    check(kind, document)
    assert document["kind"] == kind
    assert render(read(told.stdout.encode()), "json") == told.stdout
    saved = tmp_path / "saved.json"
    saved.write_text(told.stdout, encoding="utf-8")
    if filled[0] == "prune" and "-o" in filled:
        return
    for form in FORMS:
        if form != "html":
            words = "--format", form
            again = invoke("report", saved, *words)
            live = invoke(*filled, *words)
            assert again.stdout == live.stdout, form
            assert again.exit_code == (2 if live.exit_code == 2 else 0)


def test_the_manifest_fits_its_schema(plain, tmp_path):
    for at, edit in enumerate((["drop"], ["zero"], ["truncate", "-e", "energy=0.5"])):
        out = tmp_path / f"out{at}"
        assert invoke("prune", plain, "--top-k", "1", "-o", out, "--edit", *edit).exit_code == 0
        check("manifest", json.loads((out / "s3lora.json").read_text()))


def test_spectra_stand_beside_each_score(plain):
    told = json.loads(invoke("scan", plain, "--format", "json").stdout)
    for row in told["modules"]:
        update, rebuild = row["spectra"]["update"], row["spectra"]["rebuild"]
        assert update == sorted(update, reverse=True)
        assert update[0] == pytest.approx(row["parts"]["sigma_1"], rel=1e-5)
        assert sum(x * x for x in update) ** 0.5 == pytest.approx(
            row["parts"]["frobenius"], rel=1e-5
        )
        assert rebuild[0] / sum(rebuild) == pytest.approx(row["parts"]["ssi"], rel=1e-4)
        assert all(float(f"{x:.6g}") == x for x in update + rebuild)


def test_the_spectrum_of_a_comparison_is_that_of_each_side(plain, odd):
    told = json.loads(invoke("compare", plain, odd, "--format", "json").stdout)
    for row in told["modules"]:
        for side in "ab":
            norm = row[f"norm_{side}"]
            if norm is None:
                assert side not in row["spectra"]
            else:
                squares = sum(x * x for x in row["spectra"][side])
                assert squares**0.5 == pytest.approx(norm, rel=1e-5)


# --- formats that do not fit


def test_every_format_is_for_every_kind_of_result():
    assert [*RENDERERS] == ["json", "html", "sarif", "card", "csv"]
    assert all([*kinds] == [Report, Ranking, Comparison] for kinds in RENDERERS.values())


def test_a_format_is_refused_before_anything_is_written(plain, tmp_path, monkeypatch):
    broken = {**RENDERERS, "card": {Report: "s3lora.no_such_package"}}
    monkeypatch.setattr(formats, "RENDERERS", broken)
    told = invoke("prune", plain, "-o", tmp_path / "out", "--format", "card")
    assert told.exit_code == 2
    assert "--format card needs s3lora.no_such_package, which is not installed" in told.stderr
    assert not (tmp_path / "out").exists()


# --- documents that are none


@pytest.fixture
def saved(odd):
    return json.loads(invoke("prune", odd, "--dry-run", "--modules", Q, "--format", "json").stdout)


def changed(document: Any, path: str, value: Any) -> bytes:
    """The document with another value at a path, or without it where the value is `...`."""
    found = copy.deepcopy(document)
    *way, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
    holder = found
    for step in way:
        holder = holder[step]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(found).encode()


FAULTS = [
    ("schema", ..., "schema is missing"),
    ("schema", 2, "its schema is 2"),
    ("schema", "1", "schema is not a whole number"),
    ("schema", True, "schema is not a whole number"),
    ("kind", "eval", "its kind is 'eval'"),
    ("kind", 1, "kind is not a text"),
    ("tool", [], "tool is not an object"),
    ("adapter/modules", 7, "adapter.modules is not the number of modules"),
    ("adapter/bytes", -1, "adapter.bytes is negative"),
    ("adapter/sha256", ..., "adapter.sha256 is missing"),
    ("method/unsafe", "both", "method.unsafe is not one of high, low"),
    ("modules", {}, "modules is not a list"),
    ("modules/0", "q", "modules[0] is not an object"),
    ("modules/0/score", "0.5", "modules[0].score is not a number"),
    ("modules/0/score", 10**400, "modules[0].score is too large"),
    ("modules/0/score", None, "modules[0].score is not a number"),
    ("modules/0/parts/ssi", True, "modules[0].parts.ssi is not a number"),
    ("modules/0/shape", [1], "modules[0].shape is not the two sizes"),
    ("modules/0/shape", [1.5, 2], "modules[0].shape is not the two sizes"),
    ("modules/0/spectra/update", ["a"], "modules[0].spectra.update holds what is not a number"),
    ("modules/0/module", Q, "is of a module that came before"),
    ("findings/0/severity", "fatal", "findings[0].severity is not one of"),
    ("findings/0/where", ..., "findings[0].where is missing"),
    ("chosen", ["nothing"], "chosen names 'nothing'"),
    ("chosen", [1], "chosen holds what is not a text"),
    ("plan/edits", {"nothing": "drop"}, "plan.edits names 'nothing'"),
    ("plan/edits", {Q: "burn"}, "is not one of drop, zero, replace"),
    ("plan/fold_scale", 1, "plan.fold_scale is not true or false"),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_a_document_that_is_broken_says_where(saved, path, value, message):
    with pytest.raises(S3LoraError) as told:
        read(changed(saved, path, value))
    assert message in str(told.value)
    assert "--format json" in told.value.hint


FOREIGN = [
    (b"", "not valid JSON"),
    (b"[1]", "not a JSON object"),
    (b"{}", "schema is missing"),
    (b'{"schema": 1}', "its kind is 'unknown'"),
    (b'{"schema": 1, "schema": 1}', "twice"),
    (b'{"schema": NaN}', "NaN"),
    (b'{"schema": 1e999}', "no finite number"),
    (b'{"version": "2.1.0", "runs": []}', "schema is missing"),
    (b"\xff\xfe", "not valid JSON"),
    (b"{" * 100_000, "JSON"),
]


@pytest.mark.parametrize(("raw", "message"), FOREIGN, ids=[str(raw[:20]) for raw, _ in FOREIGN])
def test_what_is_no_result_at_all_is_refused_in_two_lines(raw, message, tmp_path):
    file = tmp_path / "result.json"
    file.write_bytes(raw)
    told = invoke("report", file)
    assert told.exit_code == 2
    assert told.stdout == ""
    error, hint = told.stderr.splitlines()
    assert message in error
    assert hint.startswith("hint: ")


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        assert invoke("report", path).exit_code == 2


@settings(max_examples=100, deadline=None)
@given(RESULTS, st.data())
def test_a_changed_document_is_refused_or_read_and_shown_but_never_crashes(result, data):
    document = json.loads(render(result, "json"))
    holder: Any = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        break
    values = st.sampled_from([None, -1, 1.5, "x", [], {}, True, [[]], {"x": 1}, 10**400, ...])
    value = data.draw(values)
    if value is ...:
        del holder[key]
    else:
        holder[key] = value
    try:
        again = read(json.dumps(document).encode())
    except S3LoraError:
        return
    for form, kinds in RENDERERS.items():
        if type(again) in kinds and form != "html":
            render(again, form)
    show(again, Console(file=StringIO(), width=80), verbose=True)


def test_a_document_of_an_earlier_version_is_read(saved):
    older = copy.deepcopy(saved)
    for where, key in ((older, "kind"), (older["adapter"], "weights"), (older["plan"], "ranks")):
        del where[key]
    for row in older["modules"]:
        del row["spectra"]
    for row in older["skipped"]:
        for key in ("judged", "rank", "shape"):
            del row[key]
    again = read(json.dumps(older).encode())
    assert isinstance(again, Report)
    assert again.chosen == (Q,)
    assert not any(row.judged for row in again.table.skipped)
    with pytest.raises(ValidationError):
        check("scan", older)


def test_a_field_of_a_later_version_is_passed_over(saved):
    text = json.dumps(saved)
    later = saved | {"news": 1, "adapter": saved["adapter"] | {"more": []}}
    assert read(json.dumps(later).encode()) == read(text.encode())
    Draft202012Validator(schema("scan")).validate(later)


def test_every_rule_has_advice():
    assert ADVICE.keys() == RULES.keys()
