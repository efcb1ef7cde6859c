"""`random`: a number drawn for each module. What every method has to beat at the same K."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from s3lora.adapter import LoraModule, Weights
from s3lora.scores import Score, Unsafe


@dataclass(frozen=True, slots=True)
class Random:
    """A number in [0, 1), drawn from the seed and the module's name alone.

    The draw is a hash, so that it is the same on every machine, in any order of the modules, and
    whichever other modules the adapter has.
    """

    seed: int = 0
    """Another seed is another draw."""

    name: ClassVar[str] = "random"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The draw of this module."""
        digest = hashlib.sha256(f"{self.seed}:{module.name}".encode()).digest()
        return Score(module.name, int.from_bytes(digest[:6], "big") / 2**48)
