"""What `check` says of each adapter, in few words, and of all together; as JSON and as a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from s3lora.errors import S3LoraError
from s3lora.findings import Finding, Severity
from s3lora.report import Report, tool

State = Literal["clean", "findings", "cannot judge", "error"]
STATE_OF: Mapping[int, State] = {0: "clean", 1: "findings", 2: "error", 3: "cannot judge"}
"""By exit status."""
GRAVITY = (0, 3, 1, 2)
"""Exit statuses from the mildest to the gravest: that of several adapters is the gravest."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter, or one path that could not be looked into."""

    ref: str
    state: State
    accepted: bool = False
    """Whether it cannot be judged and was accepted by name."""
    sha256: str = ""
    base_model: str = ""
    modules: int = 0
    scored: int = 0
    findings: tuple[Finding, ...] = ()
    unjudged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Modules that could not be judged, by reason."""
    error: S3LoraError | None = None
    """Why nothing of it was judged."""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The exit status that it asks for."""
        return 0 if self.accepted else {s: code for code, s in STATE_OF.items()}[self.state]


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """A link to a folder that was not followed."""

    path: str
    target: str
    behind: str
    """searched, adapters or none: see `s3lora.io.search`."""
    accepted: bool = False

    @property
    def status(self) -> int:
        """The exit status that it asks for: behind it is what was not checked."""
        return 3 if self.behind == "adapters" and not self.accepted else 0


def checked(
    report: Report, fail_on: Severity, *, accepted: bool, notes: tuple[str, ...]
) -> Checked:
    """The row of an adapter that was opened."""
    unjudged: dict[str, list[str]] = {}
    for skipped in report.table.skipped:
        if not skipped.judged:
            unjudged.setdefault(skipped.reason, []).append(skipped.module)
    state = STATE_OF[report.exit_code(fail_on)]
    return Checked(
        ref=report.ref,
        state=state,
        accepted=accepted and state == "cannot judge",
        sha256=report.sha256,
        base_model=report.base_model,
        modules=len(report.modules),
        scored=len(report.table.scores),
        findings=report.findings,
        unjudged=unjudged,
        notes=notes,
    )


def failed(ref: str, error: S3LoraError, *, accepted: bool) -> Checked:
    """The row of an adapter of which nothing was judged."""
    state = STATE_OF[error.exit_code]
    return Checked(ref, state, accepted=accepted and state == "cannot judge", error=error)


class Counts:
    """How many adapters are in which state, counted as they come."""

    def __init__(self) -> None:
        self.status = 0
        self.states: Counter[str] = Counter()
        self.links = 0
        self.hidden = 0

    def add(self, row: Checked | Unfollowed) -> None:
        """Count one more."""
        self.status = max(self.status, row.status, key=GRAVITY.index)
        if isinstance(row, Unfollowed):
            self.links += 1
        else:
            self.states["accepted" if row.accepted else row.state] += 1

    @property
    def adapters(self) -> int:
        """How many in all."""
        return self.states.total()

    def line(self) -> str:
        """All in one line."""
        words = {
            "clean": "clean",
            "findings": "with findings",
            "cannot judge": "cannot be judged",
            "accepted": "cannot be judged, as accepted",
            "error": "cannot be opened",
        }
        parts = [f"{self.states[key]} {text}" for key, text in words.items() if self.states[key]]
        clauses = [f"{_many(self.adapters, 'adapter')}: {', '.join(parts) or 'none'}"]
        clauses += [f"{_many(self.links, 'link')} not followed"] if self.links else []
        clauses += [f"{_many(self.hidden, 'hidden folder')} not searched"] if self.hidden else []
        return f"{'; '.join(clauses)}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def render(
    rows: Iterable[Checked],
    links: Iterable[Unfollowed],
    counts: Counts,
    settings: Mapping[str, Any],
) -> str:
    """All rows as JSON, schema 1; `settings` is what was asked for."""
    document = {
        "schema": 1,
        "kind": "check",
        "tool": tool(),
        "status": counts.status,
        "settings": dict(settings),
        "counts": {
            "adapters": counts.adapters,
            **{
                key.replace(" ", "_"): counts.states[key]
                for key in ("clean", "findings", "cannot judge", "accepted", "error")
            },
            "links": counts.links,
            "hidden": counts.hidden,
        },
        "adapters": [_adapter(row) for row in rows],
        "not_followed": [
            {
                "path": link.path,
                "target": link.target,
                "behind": link.behind,
                "accepted": link.accepted,
                "status": link.status,
            }
            for link in links
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _adapter(row: Checked) -> dict[str, Any]:
    return {
        "ref": row.ref,
        "state": row.state,
        "accepted": row.accepted,
        "status": row.status,
        "sha256": row.sha256,
        "base_model": row.base_model,
        "modules": row.modules,
        "scored": row.scored,
        "findings": [
            {"rule": f.rule, "severity": f.severity, "where": f.where, "message": f.message}
            for f in row.findings
        ],
        "unjudged": [
            {"reason": reason, "modules": list(names)} for reason, names in row.unjudged.items()
        ],
        "error": row.error and {"message": str(row.error), "hint": row.error.hint},
        "notes": list(row.notes),
    }
