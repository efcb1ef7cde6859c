"""A ranking as SARIF: a note for each module among the top of a method, by a rule for each method.

As in a scan, a module that could not be judged is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from s3lora.adapter import ModuleName
from s3lora.report import Ranking
from s3lora.report.advice import NO_PROOF
from s3lora.report.escape import printable
from s3lora.report.sarif import CANNOT_JUDGE, METHOD, OWN_RULES, method_rule, placed
from s3lora.report.sarif_log import Row, log, spread, weights_of
from s3lora.report.verdict import verdict


def render(ranking: Ranking) -> str:
    """A ranking as SARIF."""
    named = zip(ranking.labels, ranking.tables, strict=True)
    return log(
        [*_unjudged(ranking), *_tops(ranking)],
        [OWN_RULES[CANNOT_JUDGE], *(method_rule(table.method, label) for label, table in named)],
        [ranking.source],
        version=ranking.tool["version"],
        name=f"rank/{ranking.ref}",
        about={"ranking": _about(ranking)},
    )


def _about(ranking: Ranking) -> dict[str, Any]:
    named = zip(ranking.labels, ranking.tables, strict=True)
    return {
        "ref": printable(ranking.ref),
        "verdict": verdict(ranking),
        "k": ranking.k,
        "methods": [
            {"label": printable(label), "name": table.method, "params": dict(table.params)}
            for label, table in named
        ],
    }


def _tops(ranking: Ranking) -> Iterator[Row]:
    """The top K of each method, the first place first."""
    path = weights_of(ranking.source)
    for label, table in zip(ranking.labels, ranking.tables, strict=True):
        scores = table.ranked()
        top = scores[: ranking.k]
        for at, score in enumerate(top, 1):
            text = f"{placed(score, at, len(scores))} by {label}, among its top {len(top)}."
            text = f"{text} {NO_PROOF}"
            yield Row(f"{METHOD}{label}", "note", score.module, text, path, True)


def _unjudged(ranking: Ranking) -> Iterator[Row]:
    """A row for the modules that the same methods could not judge for the same reasons."""
    reasons: dict[ModuleName, dict[str, list[str]]] = {name: {} for name in ranking.modules}
    for label, table in zip(ranking.labels, ranking.tables, strict=True):
        for row in table.skipped:
            if not row.judged:
                reasons[row.module].setdefault(row.reason, []).append(label)
    names: dict[str, list[ModuleName]] = {}
    for name, methods in reasons.items():
        text = "; ".join(f"{why} (by {', '.join(labels)})" for why, labels in methods.items())
        if text:
            names.setdefault(text, []).append(name)
    path = weights_of(ranking.source)
    for text, modules in names.items():
        yield spread(CANNOT_JUDGE, "warning", modules, text, path, True)
