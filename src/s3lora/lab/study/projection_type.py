"""The baseline of every score of modules: which projection a module is, and nothing else.

What writes into the residual stream by way of values comes first, gates before it next, and what
only decides where attention looks last. The order was fixed before it was tried on adapters that
are new; it needs no weight of the adapter. A score is of use where it adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s3lora.lab.study.rows import CausalRow
from s3lora.linalg import Array

ROLES = {
    "v_proj": 2,
    "o_proj": 2,
    "down_proj": 2,
    "gate_proj": 1,
    "up_proj": 1,
    "q_proj": 0,
    "k_proj": 0,
}
"""What a projection does, high for those that are looked at first."""

TYPE = "projection type"
SHARPNESS, SIZE = "spectrum", "magnitude"


def type_scores(rows: Sequence[CausalRow]) -> dict[str, Array]:
    """By name, scores (modules,) of the type alone, and of scores ranked within each projection.

    The latter add to the type the rank, in (0, 1), among the modules of the same projection.
    Nothing where a projection has no role.
    """
    projections = np.array([row.projection for row in rows])
    if not set(projections.tolist()) <= ROLES.keys():
        return {}
    roles = np.array([ROLES[name] for name in projections], dtype=np.float64)
    sharpness, size = (
        np.array([row.scores.get(name) for row in rows], dtype=np.float64)
        for name in (SHARPNESS, SIZE)
    )
    scores = {TYPE: roles}
    if not np.isnan(sharpness).any():
        scores[f"type, then {SHARPNESS}"] = roles + _ranks(sharpness, projections)
        if not np.isnan(size).any() and size.all():
            name = f"type, then {SHARPNESS}/{SIZE}"
            scores[name] = roles + _ranks(sharpness / size, projections)
    return scores


def _ranks(values: Array, groups: Array) -> Array:
    """The mean rank of each value within its group, over one more than the group's size."""
    ranks = np.empty(len(values))
    for group in np.unique(groups):
        inside = groups == group
        own = values[inside]
        below, equal = (test(own, own[:, None]).sum(1) for test in (np.less, np.equal))
        ranks[inside] = (below + (equal + 1) / 2) / (len(own) + 1)
    return ranks
