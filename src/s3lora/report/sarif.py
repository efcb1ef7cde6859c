"""A scan as SARIF, as code scanning shows it: a result for each oddity and each chosen module.

What is odd in the same way in many places of a file is one result with a count. Findings have a
rule each, and so has the method: a chosen module is a note by it, or a warning if the gate caught
it too. Modules that could not be judged are a warning, since no result would say that there is
nothing to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from s3lora._version import __version__
from s3lora.findings import RULES, Severity
from s3lora.io.sources import CONFIG
from s3lora.report import Report, Source
from s3lora.report.advice import NO_PROOF, advice, meaning, method_summary
from s3lora.report.alike import alike
from s3lora.report.escape import printable
from s3lora.report.sarif_log import Level, Row, Rule, log, spread, weights_of
from s3lora.report.verdict import verdict
from s3lora.scores import Score

LEVELS: dict[Severity, Level] = {"high": "error", "medium": "warning", "low": "note"}
METHOD = "method/"
"""Before a method's name, in the rule by which it chose a module."""

CANNOT_JUDGE = "cannot-judge"
UNREADABLE = "unreadable-adapter"
OWN_RULES = {
    CANNOT_JUDGE: Rule(
        CANNOT_JUDGE,
        "The module's update cannot be computed from the files, so it has no score.",
        "Give the weights it needs by --base, or treat the module as not checked.",
    ),
    UNREADABLE: Rule(
        UNREADABLE,
        "The adapter cannot be opened, so nothing of it was checked.",
        "Repair the files, or convert them to what PEFT saves in safetensors.",
    ),
}
"""Rules beside those of findings."""
IN_CONFIG = frozenset(
    """missing-module unknown-setting default-setting refused-setting dead-pattern
    conditional-update random-module tied-update replicated-layers imported-code""".split()
)
"""Rules whose findings are about a line of the config."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An adapter that could not be opened."""

    ref: str
    reason: str
    weights: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a log holds of one adapter: much less than the report that it is made of."""

    rows: tuple[Row, ...]
    source: Source
    method: str
    about: dict[str, Any]


def render(report: Report) -> str:
    """A scan, or a plan to prune, as SARIF."""
    return render_all([entry_of(report)], name=report.ref)


def entry_of(report: Report) -> Entry:
    """What a log holds of a scan."""
    return Entry(tuple(_rows(report)), _source(report), report.table.method, _about(report))


def render_all(
    entries: Sequence[Entry], unreadable: Sequence[Unreadable] = (), *, name: str = ""
) -> str:
    """Scans of several adapters as SARIF, in one run.

    Args:
        entries: One for each adapter.
        unreadable: Those of which there is none.
        name: What the run is about; code scanning keeps the alerts of different names apart.
    """
    rows = [row for entry in entries for row in entry.rows]
    rows += [
        Row(UNREADABLE, "error", "", f"{item.ref}: {item.reason}", item.weights or item.ref)
        for item in unreadable
    ]
    methods = (f"{METHOD}{entry.method}" for entry in entries)
    rules = dict.fromkeys([*RULES, *OWN_RULES, *methods, *(row.rule for row in rows)])
    return log(
        rows,
        map(_rule, rules),
        (entry.source for entry in entries),
        version=__version__,
        name=name,
        about={"adapters": [entry.about for entry in entries]},
    )


def _about(report: Report) -> dict[str, Any]:
    return {
        "ref": printable(report.ref),
        "verdict": verdict(report),
        "method": {"name": report.table.method, "params": dict(report.table.params)},
        "policy": {"name": report.policy_name, "params": dict(report.policy_params)},
    }


def _rows(report: Report) -> Iterator[Row]:
    weights = weights_of(_source(report))
    for row in alike(report.findings):
        by_path: dict[str, list[str]] = {}
        for where in row.places:
            by_path.setdefault(_file(row.rule, where, weights), []).append(where)
        for path, alike_there in by_path.items():
            modules = all(where in report.modules for where in alike_there)
            yield spread(row.rule, LEVELS[row.severity], alike_there, row.message, path, modules)
    unjudged: dict[str, list[str]] = {}
    for skipped in report.table.skipped:
        if not skipped.judged:
            unjudged.setdefault(skipped.reason, []).append(skipped.module)
    for reason, names in unjudged.items():
        yield spread(CANNOT_JUDGE, "warning", names, reason, weights, True)
    gated = {finding.where for finding in report.findings if finding.rule == "score-gate"}
    places = {score.module: (at, score) for at, score in enumerate(report.table.ranked(), 1)}
    done = "planned to be taken out or edited" if report.plan else "chosen"
    for name in report.chosen:
        at, score = places.get(name, (0, None))
        scored = placed(score, at, len(places)) if score else "no score"
        text = f"{scored}; {done} by the policy {report.policy_name}. {NO_PROOF}"
        level: Level = "warning" if name in gated else "note"
        yield Row(f"{METHOD}{report.table.method}", level, name, text, weights, True)


def placed(score: Score, at: int, count: int) -> str:
    """A score and its place among so many, in words."""
    return f"score {score.value:.4g}, place {at} of {count}"


def _source(report: Report) -> Source:
    return Source(
        ref=report.ref,
        weights=report.weights,
        sha256=report.sha256,
        base_model=report.base_model,
        nbytes=report.nbytes,
        parameters=report.parameters,
    )


def _file(rule: str, where: str, weights: str) -> str:
    """The file that a finding is about."""
    if rule in IN_CONFIG:
        return str(PurePath(weights).parent / CONFIG)
    return str(PurePath(weights).parent / where) if rule == "unscanned-sibling" else weights


def _rule(name: str) -> Rule:
    if name in OWN_RULES:
        return OWN_RULES[name]
    if name.startswith(METHOD):
        return method_rule(name.removeprefix(METHOD))
    return Rule(name, meaning(name), advice(name))


def method_rule(method: str, label: str = "") -> Rule:
    """The rule by which a method has chosen; the label is its name if it has no other."""
    done = f"{NO_PROOF} Compare it with the others, prune it, and measure what that changes."
    return Rule(f"{METHOD}{label or method}", method_summary(method), done)
