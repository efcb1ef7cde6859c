"""Softer edits than taking a module out: what is put in the place of its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np

from s3lora.adapter import Adapter, LoraModule, Replace, Weights
from s3lora.alignment import UNDEFINED, direction, reweighted, subspace
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.linalg import Array, ThinSVD, energy_rank, thin_svd
from s3lora.mas_svd import mas_svd
from s3lora.parameters import typed_values

STEPS = 64
"""How many caps `Flatten` tries before it looks closer."""


class Editor(Protocol):
    """Says what becomes of one module; knows neither its score nor the others."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Which weights it cannot do without: "base", "aligned", both or none."""

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters by name, for the manifest."""
        ...

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors that this module gets."""
        ...


@dataclass(frozen=True, slots=True)
class Project:
    """B becomes Π·B: the update is projected on the alignment direction; A, rank and alpha stay.

    Guarantees that the update is Π·ΔW to float32. `safe-lora`: Π = V·Vᵀ/‖V‖_F, which also
    shrinks. `subspace`: the projector on the leading left singular vectors of V, so that editing
    twice changes nothing more.

    Source
        Paper: Hsu et al., 2024, arXiv 2405.16833.
    Cost
        O(m n r) time for safe-lora, O(m n min(m, n)) for subspace.
    """

    projection: str = "safe-lora"
    energy: float = 0.9
    """subspace: the share of ‖V‖² that the vectors hold."""

    name: ClassVar[str] = "project"
    needs: ClassVar[frozenset[str]] = frozenset({"base", "aligned"})

    @property
    def params(self) -> dict[str, Any]:
        """Projection and energy."""
        return {"projection": self.projection, "energy": self.energy}

    def __post_init__(self) -> None:
        if self.projection not in ("safe-lora", "subspace") or not 0 < self.energy <= 1:
            raise ParameterError(
                f"project cannot take projection={self.projection!r}, energy={self.energy}",
                hint="safe-lora or subspace; energy in (0, 1]",
            )

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """A and Π·B."""
        V = direction(weights)
        if V is None:
            raise UnsupportedError(f"{module.name}: {UNDEFINED}", hint="choose other modules")
        if not np.isfinite(V).all():
            fault = f"{module.name}: the base or the aligned weights hold NaN or Inf"
            raise UnsupportedError(fault, hint="choose other modules")
        if self.projection == "safe-lora":
            return Replace(module.A, reweighted(V, module.B))
        U = subspace(V, self.energy)
        return Replace(module.A, U @ (U.T @ module.B))


@dataclass(frozen=True, slots=True)
class Flatten:
    """The leading singular values come down to the level of the rest, until SSI is at `level`.

    All singular values are capped at one height, the highest that was found to do; directions,
    rank and alpha stay. Guarantees that the SSI of what is written is at most `level`, and that no
    singular value has grown. A module that is below already stays as it is. Ours.

    Cost
        Some seventy evaluations of SSI per module at most.
    """

    level: float
    """SSI to come down to, such as the adapter's median, in (0, 1]."""
    keep: int = 5
    """As in `s3lora`."""

    name: ClassVar[str] = "flatten"
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def params(self) -> dict[str, Any]:
        """Level and keep."""
        return {"level": self.level, "keep": self.keep}

    def __post_init__(self) -> None:
        if not (0 < self.level <= 1 and self.keep >= 1):
            raise ParameterError(
                f"flatten cannot take level={self.level}, keep={self.keep}",
                hint="level in (0, 1]; keep at least 1",
            )

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors of the capped update."""
        svd = thin_svd(module.B, module.A)
        if not len(svd.s) or self._ssi(svd) <= self.level:
            return Replace(module.A, module.B)
        caps = np.geomspace(svd.s[0], svd.s[-1], STEPS)  # from as it is down to flat
        for high, cap in pairwise(caps):
            made = self._capped(svd, cap, len(module.A))
            if made:
                return self._higher(svd, cap, high, made)
        raise UnsupportedError(
            f"{module.name}: no cap of its spectrum brings its SSI down to {self.level:.4f}",
            hint="drop the module, or give a higher level",
        )

    def _higher(self, svd: ThinSVD, low: float, high: float, made: Replace) -> Replace:
        """The factors under the highest cap found between one that does and one that does not."""
        for _ in range(6):
            middle = (low + high) / 2
            better = self._capped(svd, middle, len(made.A))
            made, low, high = (better, middle, high) if better else (made, low, middle)
        return made

    def _capped(self, svd: ThinSVD, cap: float, rank: int) -> Replace | None:
        """The factors under a cap, if their SSI is low enough as they are written.

        SSI jumps where another pair of directions is fitted first, so that the float32 factors
        themselves have to be asked.
        """
        made = refactored(ThinSVD(svd.U, np.minimum(svd.s, cap), svd.V), rank)
        written = thin_svd(made.B.astype(np.float32), made.A.astype(np.float32))
        return made if self._ssi(written) <= self.level else None

    def _ssi(self, svd: ThinSVD) -> float:
        sigma = mas_svd(svd, self.keep)
        return float(sigma[0] / sigma.sum())


@dataclass(frozen=True, slots=True)
class Truncate:
    """Only the leading directions stay that hold a share of the energy; the rank falls.

    Guarantees the smallest rank k with Σ_{i≤k}σ_i² ≥ energy·Σσ_i², and the best update of that
    rank (Eckart and Young): ‖change‖_F² = Σ_{i>k}σ_i². A module that needs its whole rank stays
    as it is.
    """

    energy: float = 0.9
    """In (0, 1]."""

    name: ClassVar[str] = "truncate"
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def params(self) -> dict[str, Any]:
        """Energy."""
        return {"energy": self.energy}

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ParameterError(f"energy={self.energy} is no share", hint="a number in (0, 1]")

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors of the leading directions."""
        svd = thin_svd(module.B, module.A)
        if not len(svd.s):
            return Replace(module.A, module.B)
        k = energy_rank((svd.s / svd.s[0]) ** 2, self.energy)
        return truncated(svd, k) if k < len(module.A) else Replace(module.A, module.B)


@dataclass(frozen=True, slots=True)
class Merge:
    """The update becomes (1 − weight)·ΔW + weight·ΔW_safe, with the module of a safe adapter.

    Guarantees exactly that (to float32) at the summed rank; with `rank="same"` the best update of
    the old rank, with the relative error in the plan. `form="factors"` merges A and B apart, as
    the released code does: √(w·s)·A and √(w·s)·B are added up, which adds cross terms.

    Source
        Paper: SafeMERGE, 2025, arXiv 2503.17239.  Code: aladinD/SafeMERGE.
    """

    safe: Adapter
    """An adapter that was trained on refusals, for the same model."""
    weight: float = 0.2
    """Of the safe update, in [0, 1]; 0 changes nothing."""
    rank: str = "sum"
    """Of product. sum: exact. same: the rank that the module had, as with form=factors."""
    form: str = "product"
    """product: of the updates, as the formula says. factors: of A and B, as released."""

    name: ClassVar[str] = "merge"
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def params(self) -> dict[str, Any]:
        """The safe adapter by reference and hash, and how it is merged."""
        return {
            "with": self.safe.ref,
            "sha256": self.safe.digest,
            "weight": self.weight,
            "rank": self.rank,
            "form": self.form,
        }

    def __post_init__(self) -> None:
        fits = self.rank in ("sum", "same") and self.form in ("product", "factors")
        if not (fits and 0 <= self.weight <= 1):
            raise ParameterError(
                f"merge cannot take weight={self.weight}, rank={self.rank}, form={self.form}",
                hint="weight in [0, 1]; rank sum or same; form product or factors",
            )

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors of the merged update."""
        other = self._safe_module(module)
        if self.weight == 0:
            return Replace(module.A, module.B)
        if self.form == "factors":
            return self._of_factors(module, other)
        share = self.weight * other.scaling / module.scaling
        B = np.hstack([(1 - self.weight) * module.B, share * other.B])  # (m, r + r')
        A = np.vstack([module.A, other.A])  # (r + r', n)
        if self.rank == "sum":
            return Replace(A, B)
        svd = thin_svd(B, A)
        return truncated(svd, min(len(module.A), len(svd.s)), pad=len(module.A))

    def _safe_module(self, module: LoraModule) -> LoraModule:
        """The module of the same name in the safe adapter."""
        if module.name not in self.safe.slots:
            raise ParameterError(
                f"the safe adapter {self.safe.ref} has no module {module.name}",
                hint="choose modules that both adapters have",
            )
        other = self.safe.read(module.name)
        if (other.B.shape[0], other.A.shape[1]) != (module.B.shape[0], module.A.shape[1]):
            raise ParameterError(
                f"{module.name} has another shape in {self.safe.ref}",
                hint="both adapters must be for the same model",
            )
        if not other.finite:
            raise UnsupportedError(
                f"{module.name} holds NaN or Inf in {self.safe.ref}", hint="choose other modules"
            )
        return other

    def _of_factors(self, module: LoraModule, other: LoraModule) -> Replace:
        if module.A.shape != other.A.shape:
            raise ParameterError(
                f"{module.name} has another rank in {self.safe.ref}",
                hint="form=factors adds factors of one rank; use form=product",
            )
        if module.scaling < 0 or other.scaling < 0:
            fault = f"{module.name} has a negative scale, which has no root"
            raise UnsupportedError(fault, hint="use form=product")
        a = (module.scaling * (1 - self.weight)) ** 0.5
        b = (other.scaling * self.weight) ** 0.5
        B = (a * module.B + b * other.B) / module.scaling
        return Replace(a * module.A + b * other.A, B)


EDITORS: dict[str, type[Editor]] = {
    "project": Project,
    "flatten": Flatten,
    "truncate": Truncate,
    "merge": Merge,
}


def make_editor(name: str, params: Mapping[str, Any]) -> Editor:
    """An editor by name with its parameters set; text becomes the type of the parameter.

    Raises:
        ParameterError: if there is no such editor or parameter, or a value does not fit.
    """
    if name not in EDITORS:
        raise ParameterError(f"there is no edit {name!r}", hint=f"one of {', '.join(EDITORS)}")
    return EDITORS[name](**typed_values(EDITORS[name], f"the edit {name!r}", params))


def truncated(svd: ThinSVD, k: int, pad: int = 0) -> Replace:
    """The best update of rank k, with the relative error ‖dropped‖_F/‖whole‖_F."""
    whole = float(np.linalg.norm(svd.s))
    error = float(np.linalg.norm(svd.s[k:])) / whole if whole else 0.0
    kept = refactored(ThinSVD(svd.U[:, :k], svd.s[:k], svd.V[:, :k]), max(k, pad))
    return Replace(kept.A, kept.B, error)


def refactored(svd: ThinSVD, rank: int) -> Replace:
    """Factors B = U·√s (m, rank) and A = √s·Vᵀ (rank, n), padded with zeros to the rank."""
    root = np.sqrt(svd.s)
    A: Array = np.zeros((rank, len(svd.V)))
    B: Array = np.zeros((len(svd.U), rank))
    A[: len(root)] = (svd.V * root).T
    B[:, : len(root)] = svd.U * root
    return Replace(A, B)
