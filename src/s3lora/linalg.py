"""Factored algebra on an update X = B·A, which is never formed: norms, thin SVD, weighted medians.

Everything is float64, numpy only, and takes the factors as LoRA stores them: B (m, r), A (r, n).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TINY = 1e-12
"""Relative: a singular value below TINY times the largest counts as zero."""

WELL_CONDITIONED = 1e-7
"""Smallest over largest eigenvalue of a factor's Gram matrix from which Gram is as good as QR."""

BLOCK = 2**22
"""How many numbers are worked on at a time where a copy of a factor would be made, 32 MiB."""


def row_blocks(X: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows of X (m, r) as views of at most `BLOCK` numbers; one view if X is no larger."""
    rows = max(1, BLOCK // X.shape[1])
    for start in range(0, len(X), rows):
        yield X[start : start + rows]


class ThinSVD(NamedTuple):
    """X = U·diag(s)·Vᵀ with zero singular values left out: U (m, k), s (k,), V (n, k)."""

    U: Array
    s: Array
    V: Array


def thin_svd(B: NDArray[Any], A: NDArray[Any]) -> ThinSVD:
    """Singular value decomposition of B·A from its factors.

    Each factor is split into an orthonormal basis and an (r, r) core; the SVD of the product of
    the two cores gives that of B·A. The split goes through the Gram matrix where that loses
    nothing, and through QR where a factor is ill conditioned, rank-deficient or wider than tall.

    Args:
        B: Up projection, shape (m, r), any real dtype, finite.
        A: Down projection, shape (r, n), any real dtype, finite.

    Returns:
        Left vectors (m, k), singular values (k,), descending, and right vectors (n, k), where k
        is the rank of B·A: singular values below TINY of the largest are left out. k = 0 for a
        zero update.

    Cost
        O((m + n) r^2) time, O((m + n) r) memory.
    """
    left, right = _split(B), _split(A.T)
    if left is None or right is None:
        return ThinSVD(np.zeros((B.shape[0], 0)), np.zeros(0), np.zeros((A.shape[1], 0)))
    W, s, Zh = np.linalg.svd(left.core @ right.core.T)  # (p, p), (min(p, q),), (q, q)
    k = int((s > TINY * s[0]).sum())
    U = left.columns @ (left.turn @ W[:, :k])
    V = right.columns @ (right.turn @ Zh[:k].T)
    return ThinSVD(U, s[:k] * left.scale * right.scale, V)


def singular_values(B: NDArray[Any], A: NDArray[Any]) -> Array:
    """Singular values of B·A, descending, zeros left out; cheaper than `thin_svd`.

    Args:
        B: Up projection, shape (m, r), any real dtype, finite.
        A: Down projection, shape (r, n), any real dtype, finite.

    Returns:
        Shape (k,), k the rank of B·A.
    """
    left, right = _split(B), _split(A.T)
    if left is None or right is None:
        return np.zeros(0)
    s: Array = np.linalg.svd(left.core @ right.core.T, compute_uv=False)
    return np.asarray(s[s > TINY * s[0]] * left.scale * right.scale)


class Split(NamedTuple):
    """X = scale·(columns·turn)·core, where columns·turn is orthonormal: (m, p), (p, p), (p, r)."""

    columns: Array
    turn: Array
    core: Array
    scale: float


def _split(X: NDArray[Any]) -> Split | None:
    """Split a factor X (m, r); None if it is zero."""
    X = np.asarray(X, np.float64)
    scale = max(float(X.max(initial=0.0)), -float(X.min(initial=0.0)))
    if scale == 0.0:
        return None
    if not 1e-100 < scale < 1e100:  # squares would overflow or vanish
        X = X / scale
    else:
        scale = 1.0
    if X.shape[0] >= X.shape[1]:
        eigenvalues, E = np.linalg.eigh(X.T @ X)
        if eigenvalues[0] > WELL_CONDITIONED * eigenvalues[-1]:
            root = np.sqrt(eigenvalues)
            return Split(X, E / root, (E * root).T, scale)
    Q, R = _qr(X)
    return Split(Q, np.eye(len(R)), R, scale)


def _qr(X: Array) -> tuple[Array, Array]:
    """QR of X (m, r); by blocks of rows where X is large, for LAPACK copies what it is given.

    Source
        Demmel, Grigori, Hoemmen and Langou, 2012, SIAM Journal on Scientific Computing 34 (TSQR).
    """
    if X.size <= BLOCK or BLOCK // X.shape[1] < X.shape[1]:
        return np.linalg.qr(X)
    Q, cores = np.empty_like(X), []
    for rows, part in zip(row_blocks(Q), row_blocks(X), strict=True):
        width = min(part.shape)
        rows[:, :width], core = np.linalg.qr(part)
        cores.append(core)
    turns, R = np.linalg.qr(np.vstack(cores))
    start = 0
    for rows, core in zip(row_blocks(Q), cores, strict=True):
        rows[:] = rows[:, : len(core)] @ turns[start : start + len(core)]
        start += len(core)
    return Q, R


def spectrum_summary(s: Array) -> dict[str, float]:
    """The plain figures of a spectrum that stand beside every score.

    Args:
        s: Singular values of the update, descending, shape (k,), k >= 1, all positive.

    Returns:
        sigma_1 and frobenius in the units of the weights; plain_ssi = σ₁/Σσ in (0, 1];
        stable_rank = ‖·‖_F²/σ₁² and effective_rank = exp(entropy of σ/Σσ), both in [1, k].

    Source
        Effective rank: Roy and Vetterli, 2007, EUSIPCO.
    """
    ratio = s / s[0]
    share = ratio / ratio.sum()
    stable_rank = float(ratio @ ratio)
    return {
        "sigma_1": float(s[0]),
        "frobenius": float(s[0]) * stable_rank**0.5,
        "plain_ssi": float(share[0]),
        "stable_rank": stable_rank,
        "effective_rank": float(np.exp(-(share @ np.log(share)))),
    }


def energy_rank(squares: Array, share: float, total: float | None = None) -> int:
    """The smallest k with Σ_{i≤k} squares_i ≥ share·total, but for rounding; at most all of them.

    Args:
        squares: Squared singular values, descending, shape (k,), k >= 1.
        share: In (0, 1].
        total: What the share is of; the sum of the squares if it is not given.
    """
    reached = np.cumsum(squares)
    wanted = share * (float(reached[-1]) if total is None else total) * (1 - 1e-12)
    return min(int(np.searchsorted(reached, wanted)) + 1, len(squares))


def difference_values(B: Array, A: Array, B_less: Array, A_less: Array) -> Array:
    """Singular values of B·A − B_less·A_less, as of one update of the summed rank.

    Args:
        B: Shape (m, r).
        A: Shape (r, n).
        B_less: Shape (m, r').
        A_less: Shape (r', n).
    """
    return singular_values(np.hstack([B, -B_less]), np.vstack([A, A_less]))


def weighted_median(values: Array, weights: Array) -> float:
    """The lower weighted median: the smallest value whose cumulative weight reaches half.

    Args:
        values: Shape (m,), finite.
        weights: Shape (m,), not negative, not all zero.

    Cost
        O(m log m) time; the sort is most of it.
    """
    order = _order(values)
    cumulative = weights.take(order).cumsum()
    return float(values[order[cumulative.searchsorted(cumulative[-1] / 2)]])


def _order(values: Array) -> NDArray[np.int64]:
    """The indices that sort `values` (m,), finite, in a third of argsort's time.

    The index is written over the last bits of each value, so that a plain sort, which numpy
    vectorises, carries it along. Values that differ by less than 2m units of the last place may
    trade places.
    """
    mask = (1 << len(values).bit_length()) - 1
    tagged = (values.view(np.int64) & ~mask) | np.arange(len(values))
    tagged.view(np.float64).sort()
    return tagged & mask
