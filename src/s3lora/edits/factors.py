"""New factors for an update from its singular value decomposition."""

from __future__ import annotations

import numpy as np

from s3lora.adapter import Replace
from s3lora.linalg import Array, ThinSVD


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
