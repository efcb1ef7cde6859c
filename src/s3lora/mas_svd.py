"""MAS-SVD: a robust, magnitude-aware rebuild of an update, of which the spectrum is taken.

Docs of the method are in `s3lora.methods.s3lora`; this is its algorithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3lora.errors import UnsupportedError
from s3lora.linalg import Array, ThinSVD, row_blocks, weighted_median

NOISE = 1e-14
"""Relative to σ₁: a row or column of the update that is this short is zero but for rounding."""
MAX_FORMED = 2**28
"""Most entries of an update that is formed, 2 GiB in float64: a width of 16,384."""


def mas_svd(svd: ThinSVD, keep: int, fit: str = "projected") -> Array:
    """Singular values of the robust rebuild of an update from its thin SVD.

    Args:
        svd: Of the update X (m, n): U (m, k), s (k,), V (n, k), k >= 1.
        keep: The most directions to rebuild.
        fit: `projected` or `dense`.

    Returns:
        Shape (R,), R = min(keep, k), descending. The chosen vectors are orthonormal on either
        side, so the singular values are the fitted scalars' sizes.
    """
    R = min(keep, len(svd.s))
    scale = float(svd.s[0])
    s = svd.s / scale
    W, T = _leading(svd.U, s, R), _leading(svd.V, s, R)  # (k, R)
    left = np.hstack([T, s[:, None] * W]).T @ svd.U.T  # (2R, m): u_i and X·v_j
    right = np.hstack([W, s[:, None] * T]).T @ svd.V.T  # (2R, n): v_j and Xᵀ·u_i
    if fit == "dense":
        d = _dense_fits(formed(svd.U * s, svd.V.T), left[:R], right[:R])
    else:
        d = _projected_fits(Side(left[:R], left[R:]), Side(right[:R], right[R:]))
    sigma: Array = np.sort(np.abs(np.array(d)))[::-1] * scale
    return sigma


def _leading(Q: Array, s: Array, R: int) -> Array:
    """The top R right singular vectors (k, R) of X = Q·diag(s) with its rows on the unit sphere.

    Q is (m, k); σ₁ of X is 1; a row that is shorter than NOISE is zero but for rounding, and left
    out.
    """
    gram = np.zeros((len(s), len(s)))
    for part in row_blocks(Q):
        X = part * s
        squares = (X * X) @ np.ones(len(s))  # (rows,)
        squares[squares <= NOISE**2] = np.inf
        gram += X.T @ (X / squares[:, None])
    vectors: Array = np.linalg.eigh(gram)[1]
    return vectors[:, : -R - 1 : -1]


class Side:
    """The fits as one side sees them: its vectors w_i, and what X makes of the other side's, x_j.

    For d·w_i to fit x_j in the least absolute sense, d is the median of x_j/w_i weighted by |w_i|.
    """

    def __init__(self, vectors: Array, images: Array) -> None:
        self.vectors, self.images = vectors, images  # (R, m) both
        self.sizes = np.abs(vectors)
        self.divisors = _divisor(vectors)
        self.lengths = self.sizes.sum(axis=1)  # ‖w_i‖₁ (R,)
        self.norms = np.abs(images).sum(axis=1)  # ‖x_j‖₁ (R,)

    def fitted(self, i: int, j: int) -> float:
        """The d that minimises ‖x_j − d·w_i‖₁."""
        return weighted_median(self.images[j] / self.divisors[i], self.sizes[i])

    def explained(self, i: int, j: int, d: float) -> float:
        """‖x_j‖₁ − ‖x_j − d·w_i‖₁."""
        return float(self.norms[j] - np.abs(self.images[j] - d * self.vectors[i]).sum())

    def most(self) -> Array:
        """For each (i, j) the most that any d can explain, or somewhat more: (R, R).

        What is explained is concave in d: at most |d|·g with g = |Σ w_i·sign(x_j)|, its slope at
        zero, and at most 2‖x_j‖₁ − |d|·‖w_i‖₁. The lower of the two is highest where they meet.
        """
        g = np.abs(self.vectors @ np.sign(self.images).T)
        return np.asarray(2 * self.norms * g / (g + self.lengths[:, None]))


def _projected_fits(rows: Side, columns: Side) -> list[float]:
    """The scalars d of the R pairs (i, j) that explain most, greedily, no i and no j twice.

    A pair is fitted only when no other can explain more: until then its gain is a bound.
    """
    gain = columns.lengths * rows.most() + rows.lengths[:, None] * columns.most().T  # (R, R)
    fits: dict[tuple[int, int], float] = {}
    d: list[float] = []
    while len(d) < len(gain):
        i, j = divmod(int(gain.argmax()), len(gain))
        if (i, j) in fits:
            d.append(fits[i, j])
            gain[i, :] = gain[:, j] = -np.inf
            continue
        fits[i, j] = mean = (rows.fitted(i, j) + columns.fitted(j, i)) / 2
        gain[i, j] = columns.lengths[j] * rows.explained(i, j, mean)
        gain[i, j] += rows.lengths[i] * columns.explained(j, i, mean)
    return d


def _divisor(x: Array) -> Array:
    """The divisor x: where it vanishes, and so does its weight, the ratio shall be zero."""
    return np.where(np.abs(x) < 1e-150, np.inf, x)


def formed(B: NDArray[Any], A: NDArray[Any]) -> NDArray[Any]:
    """The update B·A (m, n) as a matrix, for methods that cannot do without its entries.

    Raises:
        UnsupportedError: if it has more than `MAX_FORMED` entries.
    """
    entries = B.shape[0] * A.shape[1]
    if entries > MAX_FORMED:
        raise UnsupportedError(
            f"its update has {entries} entries, more than {MAX_FORMED}",
            hint="choose a method that works on the factors",
        )
    X: NDArray[Any] = B @ A
    return X


def _dense_fits(X: Array, u: Array, v: Array) -> list[float]:
    """SpSVD's own criterion over all entries of X (m, n): fit, pick the best pair, deflate, again.

    Source
        Han, Kim and Jung, 2024, arXiv 2402.09754 (our reading of the refinement step).
    """
    E, free_u, free_v = X.copy(), list(range(len(u))), list(range(len(v)))
    d: list[float] = []
    while free_u:
        fits = {}
        total = np.abs(E).sum()
        for i in free_u:
            for j in free_v:
                outer = np.outer(u[i], v[j])
                fitted = weighted_median((E / _divisor(outer)).ravel(), np.abs(outer).ravel())
                fits[i, j] = (total - np.abs(E - fitted * outer).sum(), fitted)
        i, j = max(fits, key=lambda pair: fits[pair][0])
        d.append(fits[i, j][1])
        E -= d[-1] * np.outer(u[i], v[j])
        free_u.remove(i)
        free_v.remove(j)
    return d
