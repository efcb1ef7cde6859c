"""A comparison as SARIF: a note for each module that differs, by the kind of its difference."""

from __future__ import annotations

from collections.abc import Iterator

from s3lora.compare import Difference
from s3lora.report import Comparison
from s3lora.report.escape import printable
from s3lora.report.sarif_log import Row, Rule, log, weights_of
from s3lora.report.verdict import verdict

MEANT = "A difference is no fault. Find out whether it was meant, and scan the adapter that has it."
NORMS = "A norm is ‖ΔW‖_F, in the units of the weights."
KINDS = {
    "changed": Rule(
        "difference/changed",
        "The module's factors or its scale are not the same in both adapters. "
        f"{NORMS} The relative change is ‖ΔW_B − ΔW_A‖_F/‖ΔW_A‖_F.",
        MEANT,
    ),
    "only in A": Rule("difference/only-in-a", f"The module is in A and not in B. {NORMS}", MEANT),
    "only in B": Rule("difference/only-in-b", f"The module is in B and not in A. {NORMS}", MEANT),
    "not comparable": Rule(
        "difference/not-comparable",
        "The module is in both adapters, but one of its updates cannot be judged, or they have "
        f"different shapes. {NORMS}",
        "Treat the module as not compared; a scan of each adapter says what cannot be judged.",
    ),
}
"""The rule for each status but that of modules that are the same."""


def render(comparison: Comparison) -> str:
    """A comparison as SARIF."""
    a, b = comparison.a, comparison.b
    refs = {"a": printable(a.ref), "b": printable(b.ref)}
    return log(
        _rows(comparison),
        KINDS.values(),
        (a, b),
        version=comparison.tool["version"],
        name=f"compare/{a.ref}/{b.ref}",
        about={"comparison": refs | {"verdict": verdict(comparison)}},
    )


def _rows(comparison: Comparison) -> Iterator[Row]:
    """A row for each module that differs, about the file of B unless it is in A alone."""
    a, b = comparison.a, comparison.b
    for row in comparison.rows:
        if row.status != "same":
            path = weights_of(a if row.status == "only in A" else b)
            text = f"{row.status}; {_figures(row)}. A is {a.ref}, B is {b.ref}"
            yield Row(KINDS[row.status].name, "note", row.module, text, path, True)


def _figures(row: Difference) -> str:
    """The norms, and the relative change of a module that has changed, in words."""
    norms = {"A": row.norm_a, "B": row.norm_b}
    sides = row.status[-1] if row.status.startswith("only in") else "AB"
    told = [f"norm {_figure(norms[side])} in {side}" for side in sides]
    change = [f"relative change {_figure(row.change)}"] if row.status == "changed" else []
    return ", ".join(told + change)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
