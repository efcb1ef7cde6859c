"""The findings of a result in plain words: gathered by rule, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s3lora.findings import SEVERITIES, Finding
from s3lora.report.advice import advice, meaning
from s3lora.report.alike import EXAMPLES, listed
from s3lora.report.alike import alike as gathered
from s3lora.report.escape import printable
from s3lora.scores import Skipped

SHOWN = 200
"""How many places are listed for one rule; the rest are counted."""
LONGEST = 300
"""How much of a text is shown, in characters."""


@dataclass(frozen=True, slots=True)
class Told:
    """The findings of one rule and one severity."""

    rule: str
    severity: str
    what: str
    """What the rule is about."""
    advice: str
    places: tuple[tuple[str, str], ...]
    """Where, and what is odd there; places with the same message are one."""
    more: int
    """How many of these are not listed."""
    count: int
    """In how many places it is so."""


def told(findings: Sequence[Finding]) -> tuple[Told, ...]:
    """The findings by severity and rule, most severe first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.rule), []).append(finding)
    ordered = sorted(groups, key=lambda key: [*SEVERITIES, key[0]].index(key[0]))
    return tuple(_told(severity, rule, groups[severity, rule]) for severity, rule in ordered)


def _told(severity: str, rule: str, alike: Sequence[Finding]) -> Told:
    rows = gathered(alike)
    places = tuple((_where(row.places), short(row.message)) for row in rows[:SHOWN])
    return Told(
        rule=short(rule),
        severity=severity,
        what=short(meaning(rule)),
        advice=advice(rule),
        places=places,
        more=len(rows) - len(places),
        count=len(alike),
    )


def _where(places: tuple[str, ...]) -> str:
    return listed(tuple(map(short, places[: EXAMPLES + 1])), len(places))


def unscored(skipped: Sequence[Skipped]) -> tuple[tuple[str, bool, int], ...]:
    """Reasons why modules have no score: reason, whether there is nothing to judge, how many."""
    counts: dict[tuple[str, bool], int] = {}
    for row in skipped:
        key = (short(row.reason), row.judged)
        counts[key] = counts.get(key, 0) + 1
    return tuple((*key, count) for key, count in counts.items())


def short(text: str, longest: int = LONGEST) -> str:
    """A text from a file as it is shown: control characters escaped, the middle left out."""
    if len(text) <= longest:
        return printable(text)
    head, tail = longest * 4 // 5, longest // 5
    cut = len(text) - head - tail
    return f"{printable(text[:head])} … {cut} characters … {printable(text[-tail:])}"
