"""A scan as SARIF 2.1.0, as code scanning shows it: a result for each finding and chosen module.

Findings have a rule each, and so has the method: a chosen module is a note by it, or a warning if
the gate caught it too. A module that could not be judged is a warning, since no result would say
that there is nothing to see. GitHub's limits are kept (`MOST_RESULTS`); what is beyond is counted
in a last result for each rule, never left out silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import quote

from s3lora._version import __version__
from s3lora.findings import RULES, Severity
from s3lora.io.sources import CONFIG
from s3lora.report import Report
from s3lora.report.advice import NO_PROOF, advice, meaning, method_summary
from s3lora.report.escape import printable
from s3lora.report.verdict import verdict

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
Level = Literal["error", "warning", "note"]
LEVELS: dict[Severity, Level] = {"high": "error", "medium": "warning", "low": "note"}
ORDER: tuple[Level, ...] = ("error", "warning", "note")
METHOD = "method/"
"""Before a method's name, in the rule by which it chose a module."""

CANNOT_JUDGE = "cannot-judge"
UNREADABLE = "unreadable-adapter"
OWN_RULES: dict[str, tuple[str, str]] = {
    CANNOT_JUDGE: (
        "The module's update cannot be computed from the files, so it has no score.",
        "Give the weights it needs by --base, or treat the module as not checked.",
    ),
    UNREADABLE: (
        "The adapter cannot be opened, so nothing of it was checked.",
        "Repair the files, or convert them to what PEFT saves in safetensors.",
    ),
}
"""Rules beside those of findings: what they mean, and what to do."""
MOST_RESULTS = 25_000
"""In a run, as GitHub takes it; it shows 5,000 of them, the most severe first."""
LONGEST = 1000
"""Of a text, in characters; GitHub cuts descriptions at 1,024."""
IN_CONFIG = frozenset({"missing-module", "unknown-setting", "dead-pattern", "conditional-update"})
"""Rules whose findings are about a line of the config."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result."""

    rule: str
    level: Level
    where: str
    """A module, tensor, config field or file; empty if it is about the whole adapter."""
    text: str
    path: str
    """The file it is about."""
    module: bool = False
    """Whether `where` is a module."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An adapter that could not be opened."""

    ref: str
    reason: str
    weights: str = ""


def render(report: Report) -> str:
    """A scan, or a plan to prune, as SARIF."""
    return render_all([report], name=report.ref)


def render_all(
    reports: Sequence[Report], unreadable: Sequence[Unreadable] = (), *, name: str = ""
) -> str:
    """Scans of several adapters as SARIF, in one run.

    Args:
        reports: One for each adapter.
        unreadable: Those of which there is none.
        name: What the run is about; code scanning keeps the alerts of different names apart.
    """
    rows = [row for report in reports for row in _rows(report)]
    rows += [
        Row(UNREADABLE, "error", "", f"{item.ref}: {item.reason}", item.weights or item.ref)
        for item in unreadable
    ]
    rows = list(_bounded(sorted(rows, key=lambda row: ORDER.index(row.level))))
    methods = dict.fromkeys(f"{METHOD}{report.table.method}" for report in reports)
    rules = list(dict.fromkeys([*RULES, *OWN_RULES, *methods, *(row.rule for row in rows)]))
    artifacts = {_weights(report): _artifact(report) for report in reports}
    version = reports[0].tool["version"] if reports else __version__
    run = {
        "tool": {
            "driver": {"name": "s3lora", "version": version, "rules": [_rule(r) for r in rules]}
        },
        "automationDetails": {"id": f"s3lora/{printable(name)}/" if name else "s3lora/"},
        "artifacts": list(artifacts.values()),
        "results": list(_results(rows, rules, list(artifacts))),
        "columnKind": "unicodeCodePoints",
        "properties": {"adapters": [_about(report) for report in reports]},
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _about(report: Report) -> dict[str, Any]:
    return {
        "ref": printable(report.ref),
        "verdict": verdict(report),
        "method": {"name": report.table.method, "params": dict(report.table.params)},
        "policy": {"name": report.policy_name, "params": dict(report.policy_params)},
    }


def _rows(report: Report) -> Iterator[Row]:
    weights = _weights(report)
    for finding in report.findings:
        where = finding.where
        level, path = LEVELS[finding.severity], _file(finding.rule, where, weights)
        yield Row(finding.rule, level, where, finding.message, path, where in report.modules)
    for skipped in report.table.skipped:
        if not skipped.judged:
            yield Row(CANNOT_JUDGE, "warning", skipped.module, skipped.reason, weights, True)
    gated = {finding.where for finding in report.findings if finding.rule == "score-gate"}
    places = {score.module: (at, score) for at, score in enumerate(report.table.ranked(), 1)}
    done = "planned to be taken out or edited" if report.plan else "chosen"
    for name in report.chosen:
        at, score = places.get(name, (0, None))
        scored = f"score {score.value:.4g}, place {at} of {len(places)}" if score else "no score"
        text = f"{scored}; {done} by the policy {report.policy_name}. {NO_PROOF}"
        level = "warning" if name in gated else "note"
        yield Row(f"{METHOD}{report.table.method}", level, name, text, weights, True)


def _weights(report: Report) -> str:
    return report.weights or report.ref


def _file(rule: str, where: str, weights: str) -> str:
    """The file that a finding is about."""
    if rule in IN_CONFIG:
        return str(PurePath(weights).parent / CONFIG)
    return str(PurePath(weights).parent / where) if rule == "unscanned-sibling" else weights


def _bounded(rows: list[Row]) -> Iterator[Row]:
    """At most as many results as GitHub takes; for each rule, the rest are counted in one."""
    if len(rows) <= MOST_RESULTS:
        yield from rows
        return
    room = MOST_RESULTS - len({row.rule for row in rows})
    yield from rows[:room]
    rest = Counter((row.rule, row.level) for row in rows[room:])
    for rule in dict.fromkeys(rule for rule, _ in rest):
        levels = [level for other, level in rest if other == rule]
        count = sum(rest[rule, level] for level in levels)
        text = f"{count} more by this rule: the JSON report has every one of them"
        path = next(row.path for row in rows if row.rule == rule)
        yield Row(rule, min(levels, key=ORDER.index), "", text, path)


def _rule(rule: str) -> dict[str, Any]:
    if rule in OWN_RULES:
        told, done = OWN_RULES[rule]
    elif rule.startswith(METHOD):
        told = method_summary(rule.removeprefix(METHOD))
        done = f"{NO_PROOF} Compare it with the others, prune it, and measure what that changes."
    else:
        told, done = meaning(rule), advice(rule)
    return {
        "id": printable(rule),
        "name": "".join(word.capitalize() for word in re.split(r"\W+", printable(rule))),
        "shortDescription": {"text": _text(told.partition(". ")[0].rstrip(".") + ".")},
        "fullDescription": {"text": _text(told)},
        "help": {"text": _text(f"{told} {done}"), "markdown": f"{_text(told)}\n\n{_text(done)}"},
    }


def _results(
    rows: Iterable[Row], rules: list[str], artifacts: list[str]
) -> Iterator[dict[str, Any]]:
    seen: Counter[tuple[str, ...]] = Counter()
    indices = {rule: at for at, rule in enumerate(rules)}
    files = {path: at for at, path in enumerate(artifacts)}
    for row in rows:
        same = row.rule, row.where, row.path
        seen[same] += 1
        yield {
            "ruleId": printable(row.rule),
            "ruleIndex": indices[row.rule],
            "level": row.level,
            "message": {"text": _text(f"{row.where}: {row.text}" if row.where else row.text)},
            "locations": [_location(row, files)],
            "partialFingerprints": _fingerprints(*same, str(seen[same])),
        }


def _location(row: Row, files: Mapping[str, int]) -> dict[str, Any]:
    index = {"index": files[row.path]} if row.path in files else {}
    place = {"artifactLocation": _uri(row.path) | index, "region": {"startLine": 1}}
    location: dict[str, Any] = {"physicalLocation": place}
    if row.where:
        location["logicalLocations"] = [
            {
                "name": printable(row.where.rpartition(".")[2] if row.module else row.where),
                "fullyQualifiedName": printable(row.where),
                "kind": "module" if row.module else "resource",
            }
        ]
    return location


def _fingerprints(*parts: str) -> dict[str, str]:
    """What makes it the same alert as in another run: rule, place and file, not the score."""
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(told).hexdigest()
    return {"s3lora/v1": digest, "primaryLocationLineHash": f"{digest[:16]}:1"}


def _artifact(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"location": _uri(_weights(report))}
    if report.sha256:
        found |= {"hashes": {"sha-256": report.sha256}, "length": report.nbytes}
    return found


def _uri(path: str) -> dict[str, Any]:
    """A path as a URI: relative to the root of the sources, or absolute as it was given."""
    pure = PurePath(path)
    escaped = quote(pure.as_posix().encode("utf-8", "surrogateescape"), safe="/:")
    if pure.is_absolute():
        return {"uri": f"file://{'' if escaped.startswith('/') else '/'}{escaped}"}
    return {"uri": quote(escaped, safe="/%"), "uriBaseId": "%SRCROOT%"}


def _text(text: str) -> str:
    """Text as a plain text message: what would be a link or a placeholder in it is escaped."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    for mark, escaped in (("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(mark, escaped)
    return printable(text)
