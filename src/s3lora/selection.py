"""From a table of scores to the modules that are chosen: the policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction as Rational
from typing import Any, ClassVar, Protocol

import numpy as np

from s3lora.adapter import ModuleName, layer_of, natural_key, projection_of
from s3lora.errors import ParameterError
from s3lora.scores import Score, ScoreTable

PAPER_SHARE = Rational(10, 128)
"""K = 10 of 128 modules, as in the paper's agent runs."""


class Policy(Protocol):
    """Picks modules from a table; the result is in natural order of the names."""

    @property
    def name(self) -> str:
        """What the policy is called."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """The policy's parameters by name."""
        ...

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The chosen modules."""
        ...


def _in_order(names: Collection[ModuleName]) -> tuple[ModuleName, ...]:
    return tuple(sorted(names, key=natural_key))


@dataclass(frozen=True, slots=True)
class TopK:
    """Exactly the K modules to look at first; ties are broken by name."""

    k: int
    """How many; 0 chooses none."""

    name: ClassVar[str] = "top-k"

    @property
    def params(self) -> Mapping[str, Any]:
        """K."""
        return {"k": self.k}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The first K of the ranking.

        Raises:
            ParameterError: if K is negative or larger than the number of scores.
        """
        if not 0 <= self.k <= len(table.scores):
            raise ParameterError(
                f"cannot choose {self.k} of {len(table.scores)} scored modules",
                hint="give a K between 0 and the number of scored modules",
            )
        return _in_order([score.module for score in table.ranked()[: self.k]])


@dataclass(frozen=True, slots=True)
class Fraction:
    """The share F of the scored modules to look at first, rounded up."""

    fraction: float
    """In [0, 1]."""

    name: ClassVar[str] = "fraction"

    @property
    def params(self) -> Mapping[str, Any]:
        """F."""
        return {"fraction": self.fraction}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The first ⌈F·count⌉ of the ranking, with F read as the decimal that was written.

        Raises:
            ParameterError: if F is not in [0, 1].
        """
        if not 0 <= self.fraction <= 1:
            raise ParameterError(
                f"{self.fraction} is no fraction", hint="give a number between 0 and 1"
            )
        share = Rational(str(self.fraction))
        return TopK(math.ceil(share * len(table.scores)))(table)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Every module whose score is at least T; at most T where a low score is the one to look at."""

    threshold: float
    """In the method's unit."""

    name: ClassVar[str] = "threshold"

    @property
    def params(self) -> Mapping[str, Any]:
        """T."""
        return {"threshold": self.threshold}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The modules at or beyond the threshold."""
        sign = 1 if table.unsafe == "high" else -1
        picked = [s.module for s in table.scores if sign * s.value >= sign * self.threshold]
        return _in_order(picked)


@dataclass(frozen=True, slots=True)
class Outliers:
    """Every module whose score lies more than Z robust standard deviations from the median.

    Median + Z·1.4826·MAD, or median − Z·1.4826·MAD where a low score is the one to look at. A
    spread of zero picks nothing. Z has no population behind it: it ranks, it does not judge.
    """

    z: float

    name: ClassVar[str] = "outliers"

    @property
    def params(self) -> Mapping[str, Any]:
        """Z."""
        return {"z": self.z}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The modules beyond the limit."""
        sign = 1 if table.unsafe == "high" else -1
        deviations = robust_z(table)
        return _in_order([name for name, z in deviations.items() if sign * z > self.z])


def robust_z(table: ScoreTable) -> dict[ModuleName, float]:
    """(score − median)/(1.4826·MAD) by module; empty where the spread is zero.

    A quotient beyond the largest finite number is that number.
    """
    if not table.scores:
        return {}
    values = np.array([score.value for score in table.scores], np.float64)
    if np.abs(values).max() > 1e300:  # z has no unit: a difference of two such would overflow
        values = values / 4
    deviations = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(deviations)))
    if spread == 0:
        return {}
    most = np.finfo(values.dtype).max
    with np.errstate(over="ignore"):
        z = np.clip(deviations / spread, -most, most).tolist()
    return {score.module: value for score, value in zip(table.scores, z, strict=True)}


@dataclass(frozen=True, slots=True)
class Named:
    """The modules with these names, scored or not."""

    names: tuple[str, ...]
    """Full paths in the base model."""

    name: ClassVar[str] = "modules"

    @property
    def params(self) -> Mapping[str, Any]:
        """The names."""
        return {"names": list(self.names)}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The names themselves.

        Raises:
            ParameterError: if the adapter has no module of that name.
        """
        from difflib import get_close_matches

        known = table.names
        for name in self.names:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                guess = f"did you mean {close[0]}?" if close else "names are full paths"
                raise ParameterError(f"the adapter has no module {name!r}", hint=guess)
        return _in_order({ModuleName(name) for name in self.names})


@dataclass(frozen=True, slots=True)
class ByLayer:
    """Another policy, applied to layers: a layer's score is the mean of its modules'.

    A module outside the layers, such as lm_head, is a layer of its own. All scored modules of a
    chosen layer are chosen.
    """

    policy: Policy
    """TopK(3) chooses three layers."""

    @property
    def name(self) -> str:
        """The inner policy's name."""
        return self.policy.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The inner policy's parameters and the granularity."""
        return {**self.policy.params, "granularity": "layer"}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """The scored modules of the chosen layers."""
        layers: dict[str, list[Score]] = {}
        for score in table.scores:
            layers.setdefault(layer_of(score.module), []).append(score)
        means = (
            Score(ModuleName(layer), float(np.mean([score.value for score in scores])))
            for layer, scores in layers.items()
        )
        chosen = self.policy(replace(table, scores=tuple(means), skipped=()))
        return _in_order([score.module for layer in chosen for score in layers[layer]])


@dataclass(frozen=True, slots=True)
class Among:
    """Another policy, applied to the modules of some projections; the others are left alone.

    Robust limits and shares are of those modules too.
    """

    projections: tuple[str, ...]
    """Last parts of module names, such as v_proj and o_proj."""
    policy: Policy

    @property
    def name(self) -> str:
        """The inner policy's name."""
        return self.policy.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The inner policy's parameters and the projections."""
        return {**self.policy.params, "among": list(self.projections)}

    def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
        """What the inner policy chooses of them.

        Raises:
            ParameterError: if no scored module is of such a projection.
        """
        kept = [s for s in table.scores if projection_of(s.module) in self.projections]
        if not kept:
            known = ", ".join(sorted({projection_of(score.module) for score in table.scores}))
            raise ParameterError(
                f"no scored module is of {' or '.join(self.projections) or 'no projection'}",
                hint=f"the adapter has {known}" if known else "no module has a score",
            )
        return self.policy(replace(table, scores=tuple(kept)))


AnyPolicy = Callable[[ScoreTable], tuple[ModuleName, ...]]


def paper_k(count: int) -> int:
    """K for so many modules or layers: 10 of 128, rounded up."""
    return math.ceil(PAPER_SHARE * count)


def default_policy(table: ScoreTable, *, by_layer: bool = False) -> Policy:
    """Top-K with K = 10 of 128, as in the paper's agent runs, rounded up; 17 of 210."""
    units = {layer_of(s.module) for s in table.scores} if by_layer else table.scores
    policy = TopK(paper_k(len(units)))
    return ByLayer(policy) if by_layer else policy
