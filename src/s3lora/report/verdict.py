"""A result in one line: what a reader wants to know first. It never says that anything is safe."""

from __future__ import annotations

from collections import Counter

from s3lora.findings import SEVERITIES, Severity
from s3lora.report import Comparison, Ranking, Report, Result
from s3lora.report.alike import alike
from s3lora.report.escape import printable


def verdict(result: Result) -> str:
    """The result in one line, at most 80 characters but for very large numbers and long names."""
    match result:
        case Report():
            return _of_report(result)
        case Ranking():
            return _of_ranking(result)
        case Comparison():
            return _of_comparison(result)


def worst(report: Report) -> Severity | None:
    """The highest severity among the findings; medium if a module could not be judged."""
    levels = {finding.severity for finding in report.findings}
    if any(not row.judged for row in report.table.skipped):
        levels.add("medium")
    return next((level for level in SEVERITIES if level in levels), None)


def state(report: Report) -> str:
    """What was found in an adapter, in one line, whatever was chosen.

    What holds in many places is one finding.
    """
    counts = Counter(row.severity for row in alike(report.findings))
    told = ", ".join(f"{counts[level]} {level}" for level in SEVERITIES if counts[level])
    count, unjudged = len(report.modules), sum(not row.judged for row in report.table.skipped)
    clauses = [f"findings: {told}"] if told else []
    clauses += [f"cannot judge {unjudged} of {count} modules"] if unjudged else []
    clauses += [] if told else ["no findings"]
    clauses += [] if unjudged else [f"{len(report.table.scores)} of {count} modules scored"]
    line = f"{'; '.join(clauses)}."
    return line[0].upper() + line[1:]


def _of_report(report: Report) -> str:
    done = "chosen" if report.plan is None else _done(report.plan.edit)
    return f"{state(report)[:-1]}, {len(report.chosen)} {done}."


def _done(edit: str) -> str:
    return {"drop": "taken out", "zero": "zeroed"}.get(edit, f"edited by {printable(edit)}")


def _of_ranking(ranking: Ranking) -> str:
    told = f"{len(ranking.tables)} methods on {len(ranking.modules)} modules"
    pairs = [pair for pair in ranking.agreement if pair.spearman is not None]
    if not pairs:
        return f"{told}."
    best = max(pairs, key=lambda pair: pair.spearman or 0.0)
    return f"{told}; {printable(best.a)} and {printable(best.b)} agree most, {best.spearman:+.2f}."


def _of_comparison(comparison: Comparison) -> str:
    counts = Counter(row.status for row in comparison.rows)
    same = counts.pop("same", 0)
    line = f"{same} of {len(comparison.rows)} modules are the same"
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{line}; {told}." if told else f"{line}."
