"""`last-layers`: the depth of the module. The rule of thumb that later layers matter more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from s3lora.adapter import LoraModule, Weights, layer_of
from s3lora.scores import Score, Unsafe


@dataclass(frozen=True, slots=True)
class LastLayers:
    """The number of the layer that the module is in; −1 for one outside the layers.

    Modules of one layer tie, and ties are broken by name, so that top-K takes whole layers from
    the end but for the last one it reaches.
    """

    name: ClassVar[str] = "last-layers"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The depth, read off the module's name."""
        depth = re.search(r"\d+$", layer_of(module.name))
        return Score(module.name, float(depth.group()) if depth else -1.0)
