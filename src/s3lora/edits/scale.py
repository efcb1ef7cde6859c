"""`scale`: the update made smaller, with its shape kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from s3lora.adapter import LoraModule, Replace, Weights
from s3lora.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Scale:
    """The update becomes factor·ΔW: between leaving the module (1) and taking it out (0).

    Guarantees exactly that, to float32: B is multiplied and everything else stays, the rank too.
    """

    factor: float = 0.5
    """In [0, 1]."""

    name: ClassVar[str] = "scale"
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def params(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ParameterError(f"factor={self.factor} is no share", hint="a number in [0, 1]")

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """A as it is, and B times the factor."""
        return Replace(module.A, self.factor * module.B)
