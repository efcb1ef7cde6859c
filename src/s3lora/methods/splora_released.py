"""`splora-released`: what the published code of SPLoRA computes, so that anyone can see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.alignment import UNDEFINED, direction, reweighted
from s3lora.errors import ParameterError
from s3lora.scores import Score, Skipped, Unsafe

COPIES = 50


@dataclass(frozen=True, slots=True)
class SploraReleased:
    """The released E-DIEM, whose 50 samples are 50 copies of one pair: rounding noise.

    The distance d between C·B·A and B·A is held against the mean and the spread of 50 numbers
    that are all d. `iqr`: (d + 1e-6 − mean)/(IQR + 1e-6) − v_m with v_m the difference of the
    lower quartiles; `std`: (d − mean)/√(var + 1e-6). For reproduction only; `splora` is the method.

    Source
        Paper: SPLoRA, 2025, arXiv 2506.18931.  Code: as released, our reading.
    Deviations
        None intended. Sums in single precision are numpy's, so the noise is another than torch's.
    Cost
        O(m n r) time, O(m n) memory.
    """

    form: str = "iqr"
    """iqr, the one that the released scripts use, or std."""

    name: ClassVar[str] = "splora-released"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset({"base", "aligned"})

    def __post_init__(self) -> None:
        if self.form not in ("iqr", "std"):
            raise ParameterError(f"splora-released has no form {self.form!r}", hint="iqr or std")

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """The released number; the distance beside it."""
        V = direction(weights)
        if V is None:
            return Skipped(module.name, UNDEFINED)
        A = module.A.astype(np.float32)
        O = module.B.astype(np.float32) @ A  # noqa: E741  the released code's name
        P = reweighted(V, module.B).astype(np.float32) @ A
        d = np.linalg.norm(P - O)
        samples = np.full(COPIES, d, np.float32)
        mean = samples.mean(dtype=np.float32)
        if self.form == "std":
            value = float((d - mean) / np.sqrt(samples.var(dtype=np.float32) + np.float32(1e-6)))
        else:
            low, high = np.quantile(samples, [0.25, 0.75])
            shift = np.quantile(P, 0.25) - np.quantile(O, 0.25)
            value = float((d + np.float32(1e-6) - mean) / (high - low + np.float32(1e-6)) - shift)
        return Score(module.name, value, {"distance": float(d)})
