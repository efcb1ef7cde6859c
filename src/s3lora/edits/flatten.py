"""`flatten`: the update with its leading singular values brought down."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Replace, Weights
from s3lora.edits.factors import refactored
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.linalg import ThinSVD, thin_svd
from s3lora.mas_svd import mas_svd

STEPS = 64
"""How many caps `Flatten` tries before it looks closer."""


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
        if not len(svd.s):  # nothing is left of it in float32
            return np.inf
        sigma = mas_svd(svd, self.keep)
        return float(sigma[0] / sigma.sum())
