"""What a method says about modules: a `Score` or a reason why not, and the table of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from s3lora.adapter import ModuleName, natural_key
from s3lora.findings import Finding

Unsafe = Literal["high", "low"]
"""Which end of a method's scale is the one to look at."""


@dataclass(frozen=True, slots=True)
class Score:
    """One method's number for one module. It is a reason to look, no proof of harm."""

    module: ModuleName
    value: float
    """In the method's own unit; always finite."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Figures from the same pass that stand beside it, by name; all finite."""
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Spectra from the same pass, by name, each descending and finite, in the units of the weights:
    `update`, the singular values of s·B·A; `rebuild`, those of a robust rebuild of it. Empty with
    a method that takes none."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A module without a score, and why."""

    module: ModuleName
    reason: str
    judged: bool = False
    """True if there is nothing to judge (a zero update); False if it could not be judged."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of one method for all modules of one adapter."""

    method: str
    """The method's registered name."""
    params: Mapping[str, Any]
    """The method's parameters by name."""
    unsafe: Unsafe
    """Whether a high or a low score is the one to look at."""
    scores: tuple[Score, ...]
    """In natural order of the modules' names."""
    skipped: tuple[Skipped, ...] = ()
    """In the same order."""
    findings: tuple[Finding, ...] = ()
    """What reading the numbers brought up: NaN, Inf, nothing but zeros."""

    def ranked(self) -> tuple[Score, ...]:
        """The scores, the one to look at first; ties in natural order of the names."""
        sign = -1.0 if self.unsafe == "high" else 1.0
        return tuple(
            sorted(self.scores, key=lambda score: (sign * score.value, natural_key(score.module)))
        )

    @property
    def names(self) -> frozenset[ModuleName]:
        """Every module of the adapter, scored or skipped."""
        return frozenset([s.module for s in self.scores] + [s.module for s in self.skipped])
