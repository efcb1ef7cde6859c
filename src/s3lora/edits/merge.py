"""`merge`: the update mixed with that of a safe adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s3lora.adapter import Adapter, LoraModule, Replace, Weights
from s3lora.edits.factors import truncated
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.linalg import thin_svd


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
