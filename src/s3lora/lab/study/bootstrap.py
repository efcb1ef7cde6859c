"""Drawing the prompts and held-out rows of one adapter again, alike for all that is compared.

Prompts and rows are crossed: every resample draws both, once each. Adapters are not drawn: they
are few, and `units` has the intervals over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from s3lora.lab.metrics.intervals import Better, Figure, missing
from s3lora.lab.study.rows import Quantity, Row
from s3lora.linalg import Array


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How often things are drawn again, with replacement, and from which seed."""

    resamples: int = 2000
    seed: int = 0

    def counts(self, size: int, of: str) -> Array:
        """How often each is drawn, (1 + resamples, size); the first row is the sample itself."""
        return _counts(size, of, self.resamples, self.seed)

    def means(self, quantity: Quantity, values: Sequence[Array], rows: Sequence[Row]) -> Array:
        """The weighted means of values (items,) like those of rows: (1 + resamples, values)."""
        columns = []
        for items, row in zip(values, rows, strict=True):
            counts = self.counts(len(items), quantity.field) * quantity.weights(row)
            columns.append(counts @ items / counts.sum(1))
        return np.asarray(np.array(columns).T)

    def of_groups(self, quantity: Quantity, groups: Sequence[Sequence[Row]]) -> Array:
        """The mean over the rows of each group in each sample: (1 + resamples, groups)."""
        values = [quantity.items(group).mean(0) for group in groups]
        return self.means(quantity, values, [group[0] for group in groups])


DEFAULT = Bootstrap()


@lru_cache(maxsize=16)
def _counts(size: int, of: str, resamples: int, seed: int) -> Array:
    random = np.random.default_rng([seed, *of.encode()])
    drawn = random.multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.vstack([np.ones(size), drawn])


def figure(name: str, samples: Array, n: int, unit: str, better: Better) -> Figure:
    """The value in the sample, which comes first, with the 95 % interval over the resamples."""
    if np.isnan(samples[0]):
        return missing(name, unit, better, "it has no value", n)
    low, high = np.nanquantile(samples[1:], (0.025, 0.975)).tolist() if n > 1 else (None, None)
    return Figure(name, float(samples[0]), n, low, high, unit, better)
