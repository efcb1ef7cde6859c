"""What differs between two adapters, module by module, from their factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from s3lora.adapter import Adapter, LoraModule, ModuleName, natural_key
from s3lora.errors import UnsupportedError
from s3lora.linalg import difference_values, singular_values

STATUSES = ("same", "changed", "only in A", "only in B", "not comparable")


@dataclass(frozen=True, slots=True)
class Difference:
    """One module in two adapters."""

    module: ModuleName
    status: str
    """One of `STATUSES`. same: factors and scale are equal · not comparable: one of the updates
    cannot be judged, or they have different shapes."""
    norm_a: float | None
    """‖ΔW‖_F in A, in the units of the weights; None if it is not there or cannot be judged."""
    norm_b: float | None
    """The same in B."""
    change: float | None
    """‖ΔW_B − ΔW_A‖_F/‖ΔW_A‖_F; None if not comparable, or where the norm of A is zero."""
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The singular values of the update in `a` and in `b`, descending, in the units of the
    weights; without an entry where the norm is None."""


def compare(a: Adapter, b: Adapter) -> tuple[Difference, ...]:
    """Compare two adapters.

    Args:
        a: The one before.
        b: The one after.

    Returns:
        One row for every module of either, in natural order of the names.

    Cost
        O((m + n) r^2) time per module, two modules in memory at a time.
    """
    names = sorted(a.slots.keys() | b.slots.keys(), key=natural_key)
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        return tuple(_difference(name, a, b) for name in names)


def _difference(name: ModuleName, a: Adapter, b: Adapter) -> Difference:
    before, after = _read(a, name), _read(b, name)
    series = {
        side: spectrum
        for side, module in (("a", before), ("b", after))
        if (spectrum := _spectrum(module)) is not None
    }
    norm_a, norm_b = (math.hypot(*series[side]) if side in series else None for side in "ab")
    if name not in b.slots:
        return Difference(name, "only in A", norm_a, None, None, series)
    if name not in a.slots:
        return Difference(name, "only in B", None, norm_b, None, series)
    if before is None or after is None or norm_a is None or norm_b is None:
        return Difference(name, "not comparable", norm_a, norm_b, None, series)
    if _equal(before, after):
        return Difference(name, "same", norm_a, norm_b, 0.0, series)
    if (before.B.shape[0], before.A.shape[1]) != (after.B.shape[0], after.A.shape[1]):
        return Difference(name, "not comparable", norm_a, norm_b, None, series)
    change = _change(before, after, norm_a)
    return Difference(name, "changed", norm_a, norm_b, change, series)


def _read(adapter: Adapter, name: ModuleName) -> LoraModule | None:
    try:
        return adapter.read(name) if name in adapter.slots else None
    except UnsupportedError:
        return None


def _spectrum(module: LoraModule | None) -> tuple[float, ...] | None:
    """The singular values of s·B·A; None if they, or their norm, cannot be told."""
    if module is None or not module.finite:
        return None
    s = tuple((abs(module.scaling) * singular_values(module.B, module.A)).tolist())
    return s if math.isfinite(math.hypot(*s)) else None


def _equal(a: LoraModule, b: LoraModule) -> bool:
    same_factors = np.array_equal(a.A, b.A) and np.array_equal(a.B, b.B)
    return same_factors and a.scaling == b.scaling


def _change(a: LoraModule, b: LoraModule, norm: float) -> float | None:
    """‖s_b·B_b·A_b − s_a·B_a·A_a‖_F/norm, as one update of the summed rank; None if not finite."""
    B, B_less = a.scaling * a.B, b.scaling * b.B
    if norm == 0 or not (np.isfinite(B).all() and np.isfinite(B_less).all()):
        return None
    change = math.hypot(*difference_values(B, a.A, B_less, b.A)) / norm
    return change if math.isfinite(change) else None
