"""A saved result read back: what `s3lora.report.json` wrote, as the value it was made of.

A document of schema 1 that an earlier version wrote lacks what was added since; it is read all the
same, with empty texts and zeros in those places. Fields that are not known are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from s3lora.adapter import ModuleName, natural_key
from s3lora.agreement import Agreement
from s3lora.compare import STATUSES, Difference
from s3lora.findings import SEVERITIES, Finding
from s3lora.io import strict_json
from s3lora.io.safetensors import read_small
from s3lora.report import (
    Comparison,
    ModuleFacts,
    PlanFacts,
    PlannedEdit,
    Ranking,
    Report,
    Result,
    Source,
)
from s3lora.report.fields import HINT, Fields, check_text, refuse
from s3lora.report.json import SCHEMA
from s3lora.scores import Score, ScoreTable, Skipped

MAX_BYTES = 96 * 2**20
"""Largest result read: the scan of 50,000 modules of rank 256 without spectra has 40 MB."""
MAX_MARKS = 20_000_000
"""Colons, commas and brackets: a thousand modules of rank 256 have about a million."""
MAX_NAME = 1000
"""Longest name of a module, in characters: what a file may name so, and the index of an expert."""
RULE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
HALVES = re.compile(rb"\\u[dD][89a-fA-F]")
"""Before a half of a character that is written as two; most documents hold none."""


def load(path: Path) -> Result:
    """Read a saved result.

    Raises:
        AdapterError: if there is no such file, or it is not JSON.
        DataError: if it is something else than a result of this schema.
    """
    return read(read_small(path, MAX_BYTES, f"a result has at most {MAX_BYTES} bytes"))


def read(raw: bytes) -> Result:
    """A result from the bytes of its JSON.

    Raises:
        AdapterError: if it is not JSON, or not as strict as `s3lora.io.strict_json` wants it.
        DataError: if it is something else than a result of this schema.
    """
    parsed = strict_json.parse(raw, "the result", marks=MAX_MARKS, hint=HINT)
    if HALVES.search(raw):
        check_text(parsed)
    document = Fields(parsed)
    schema = document.whole("schema")
    if schema != SCHEMA:
        refuse(f"its schema is {schema}, and this version reads schema {SCHEMA}")
    kind = document.text("kind", _kind(document))
    if kind not in READERS:
        refuse(f"its kind is {kind[:80]!r}, not one of {', '.join(READERS)}")
    result: Result = READERS[kind](document)
    return result


def _kind(document: Fields) -> str:
    """What a document is that does not say so itself."""
    signs = {"scan": "policy", "rank": "agreement", "compare": "b"}
    found = [kind for kind, sign in signs.items() if sign in document.value]
    return found[0] if len(found) == 1 else "unknown"


def _scan(document: Fields) -> Report:
    adapter, method = document.fields("adapter"), document.fields("method")
    scores, skipped = [], []
    facts: dict[ModuleName, ModuleFacts] = {}
    for row in document.each("modules"):
        name = _new_name(row, facts)
        parts = row.fields("parts")
        scores.append(
            Score(
                name, row.number("score"), {k: parts.number(k) for k in parts.value}, _series(row)
            )
        )
    for row in document.each("skipped"):
        _new_name(row, facts)
        skipped.append(_skipped(row))
    if len(facts) != adapter.whole("modules"):
        refuse(f"{adapter.at('modules')} is not the number of modules that follow")
    chosen = _known(document.texts("chosen"), facts, "chosen")
    policy = document.fields("policy")
    return Report(
        tool=_tool(document),
        ref=adapter.text("ref"),
        sha256=adapter.text("sha256"),
        base_model=adapter.text("base_model"),
        nbytes=adapter.whole("bytes"),
        parameters=adapter.whole("parameters"),
        modules=_ordered(facts),
        table=ScoreTable(
            method.text("name"),
            method.fields("params").value,
            method.one_of("unsafe", ("high", "low")),
            tuple(scores),
            tuple(skipped),
        ),
        findings=tuple(
            Finding(
                _rule(row),
                row.one_of("severity", SEVERITIES),
                row.text("where"),
                row.text("message"),
            )
            for row in document.each("findings")
        ),
        policy_name=policy.text("name"),
        policy_params=_policy_params(policy.fields("params")),
        chosen=chosen,
        plan=_plan(document.fields("plan"), chosen) if "plan" in document.value else None,
        weights=adapter.text("weights", ""),
    )


def _rule(row: Fields) -> str:
    """The name of a rule; a later version may have more than this one."""
    rule = row.text("rule")
    if not RULE.fullmatch(rule):
        refuse(f"{row.at('rule')} is no name of a rule: {rule[:80]!r}")
    return rule


def _policy_params(params: Fields) -> dict[str, Any]:
    """The parameters of a policy: those of s3lora's own are of their types, as commands use them.

    Parameters of another policy are shown and never used.
    """
    readers: Mapping[str, Callable[[str], Any]] = {
        "k": params.whole,
        "fraction": params.number,
        "threshold": params.number,
        "z": params.number,
        "granularity": lambda key: params.one_of(key, ("module", "layer")),
        "among": lambda key: list(params.texts(key)),
        "names": lambda key: list(params.texts(key)),
    }
    return {key: readers.get(key, params.value.get)(key) for key in params.value}


def _plan(plan: Fields, chosen: tuple[ModuleName, ...]) -> PlanFacts:
    edits, errors, ranks = plan.fields("edits"), plan.fields("errors"), plan.fields("ranks", {})
    edit = plan.fields("edit")
    made = {
        _known((name,), chosen, edits.path)[0]: PlannedEdit(
            edits.one_of(name, ("drop", "zero", "replace")),
            ranks.whole(name) if name in ranks.value else None,
            errors.number(name) if name in errors.value else 0.0,
        )
        for name in edits.value
    }
    return PlanFacts(
        chosen=chosen,
        edit=edit.text("name"),
        edit_params=edit.fields("params").value,
        target=plan.text("target"),
        fold_scale=plan.flag("fold_scale"),
        edits=made,
        notes=plan.texts("notes"),
    )


def _rank(document: Fields) -> Ranking:
    facts: dict[ModuleName, ModuleFacts] = {}
    rows = [(_new_name(row, facts), row) for row in document.each("modules")]
    tables, labels = [], []
    for method in document.each("methods"):
        label = method.text("label")
        scored = [(name, row.fields("scores").maybe(label)) for name, row in rows]
        scores = tuple(Score(name, value) for name, value in scored if value is not None)
        told = {row.text("module"): _skipped(row) for row in method.each("skipped", [])}
        without = [name for name, value in scored if value is None]
        skipped = tuple(told.get(name, Skipped(name, "not told")) for name in without)
        unsafe = method.one_of("unsafe", ("high", "low"))
        params = method.fields("params").value
        tables.append(ScoreTable(method.text("name"), params, unsafe, scores, skipped))
        labels.append(label)
    if len(set(labels)) < len(labels):
        refuse("two methods have the same label")
    series = {name: found for name, row in rows if (found := _series(row))}
    return Ranking(
        tool=_tool(document),
        source=_source(document.text("adapter"), document.fields("source", {})),
        modules=_ordered(facts),
        tables=tuple(tables),
        labels=tuple(labels),
        k=document.whole("k"),
        agreement=tuple(_agreement(row, labels) for row in document.each("agreement")),
        series=series,
    )


def _agreement(row: Fields, labels: list[str]) -> Agreement:
    a, b = (str(row.one_of(side, labels)) for side in "ab")
    return Agreement(a, b, row.whole("modules"), row.maybe("spearman"), row.maybe("overlap"))


def _compare(document: Fields) -> Comparison:
    sources, seen = document.fields("sources", {}), dict[ModuleName, ModuleFacts]()
    a, b = (_source(document.text(side), sources.fields(side, {})) for side in "ab")
    rows = tuple(
        Difference(
            _new_name(row, seen),
            row.one_of("status", STATUSES),
            row.maybe("norm_a"),
            row.maybe("norm_b"),
            row.maybe("change"),
            _series(row),
        )
        for row in document.each("modules")
    )
    return Comparison(_tool(document), a, b, rows)


READERS: dict[str, Any] = {"scan": _scan, "rank": _rank, "compare": _compare}


def _tool(document: Fields) -> dict[str, str]:
    tool = document.fields("tool", {"name": "s3lora", "version": ""})
    return {"name": tool.text("name"), "version": tool.text("version")}


def _source(ref: str, row: Fields) -> Source:
    return Source(
        ref=ref,
        weights=row.text("weights", ""),
        sha256=row.text("sha256", ""),
        base_model=row.text("base_model", ""),
        nbytes=row.whole("bytes", 0),
        parameters=row.whole("parameters", 0),
    )


def _new_name(row: Fields, facts: dict[ModuleName, ModuleFacts]) -> ModuleName:
    """The name of a module, noted with what is told of it; it must not have come before."""
    name = ModuleName(row.text("module"))
    if len(name) > MAX_NAME:
        refuse(f"{row.at('module')} is {len(name)} characters long, more than {MAX_NAME}")
    if name in facts:
        refuse(f"{row.path} is of a module that came before")
    shape = row.numbers("shape") if "shape" in row.value else (0, 0)
    if len(shape) != 2 or not all(type(size) is int and size >= 0 for size in shape):
        refuse(f"{row.at('shape')} is not the two sizes of a matrix")
    facts[name] = ModuleFacts(row.whole("rank", 0), (int(shape[0]), int(shape[1])))
    return name


def _ordered(facts: dict[ModuleName, ModuleFacts]) -> dict[ModuleName, ModuleFacts]:
    return {name: facts[name] for name in sorted(facts, key=natural_key)}


def _known(names: tuple[str, ...], among: Any, where: str) -> tuple[ModuleName, ...]:
    for name in names:
        if name not in among:
            refuse(f"{where} names {name[:80]!r}, which is not among the modules")
    return tuple(ModuleName(name) for name in names)


def _skipped(row: Fields) -> Skipped:
    reason = row.text("reason")
    return Skipped(
        ModuleName(row.text("module")), reason, row.flag("judged", reason == "zero update")
    )


def _series(row: Fields) -> dict[str, tuple[float, ...]]:
    spectra = row.fields("spectra", {})
    return {name: spectra.numbers(name) for name in spectra.value}
