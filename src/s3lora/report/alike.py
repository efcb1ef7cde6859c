"""Findings that say the same of many places, as one with a count: one oddity, one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3lora.findings import SEVERITIES, Finding, Severity

EXAMPLES = 3
"""How many of the places are named where not all of them are."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Findings of one rule and severity with the same message."""

    rule: str
    severity: Severity
    message: str
    places: tuple[str, ...]
    """Where, in the order of the findings."""

    @property
    def where(self) -> str:
        """The place if it is one; else how many there are, and the first of them."""
        return listed(self.places)


def alike(findings: Iterable[Finding]) -> tuple[Alike, ...]:
    """The findings gathered, most severe first, then in the order of the first of each."""
    places: dict[tuple[Severity, str, str], list[str]] = {}
    for finding in findings:
        key = finding.severity, finding.rule, finding.message
        places.setdefault(key, []).append(finding.where)
    gathered = [
        Alike(rule, level, message, tuple(where))
        for (level, rule, message), where in places.items()
    ]
    return tuple(sorted(gathered, key=lambda row: SEVERITIES.index(row.severity)))


def listed(places: Sequence[str], count: int | None = None) -> str:
    """Places in a few words: all of up to three, else how many they are and three of them.

    Args:
        places: Where; more than three are enough.
        count: How many they are, if not all of them are given.
    """
    count = len(places) if count is None else count
    shown = ", ".join(places[:EXAMPLES])
    return shown if count <= EXAMPLES else f"{count} places, such as {shown}"
