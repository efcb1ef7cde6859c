"""`s3lora`: how concentrated the spectrum of a robust, magnitude-aware rebuild of the update is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule
from s3lora.errors import ParameterError
from s3lora.linalg import Array, ThinSVD, spectrum_summary, thin_svd, weighted_median
from s3lora.scores import Score, Unsafe

NOISE = 1e-14
"""Relative to σ₁: a row or column of the update that is this short is zero but for rounding."""


@dataclass(frozen=True, slots=True)
class S3Lora:
    """Spectral Sharpness Index (SSI) of the update by MAS-SVD; no unit, invariant to its scale.

    Top singular vectors are taken of the update with every row, and with every column, on the
    unit sphere, so that a few loud rows or columns cannot hide the structure. Each pair of them is
    fitted back to the update itself in the least absolute sense; pairs are picked greedily by what
    they explain, none twice. SSI = σ₁/Σσ of that rebuild of rank R = min(keep, rank), in
    [1/R, 1]; 1 is a rank-one update. Where the modules of an adapter differ in R, the score is the
    excess (SSI − 1/R)/(1 − 1/R) instead, in [0, 1].

    Source
        Paper: Ao and Rumchurn, 2025, arXiv 2508.15068 (MAS-SVD, SSI); robust SVD: Han, Kim and
        Jung, 2024, arXiv 2402.09754 (SpSVD).
    Deviations
        The released code of the paper scores a rank-one matrix, so that its index follows the
        size of the update. Here the rebuild has rank R, and is fitted to the update and not to
        its normalised copies, so that the magnitudes are in it.
    Cost
        `projected`: O((m + n) (r^2 + R^2)) time, O((m + n) r) memory per module.
        `dense`: O(m n R^3) time, O(m n) memory: for ablations only.
    """

    keep: int = 5
    """How many directions are rebuilt at most; at least 1."""
    fit: str = "projected"
    """projected: fits seen from the other side's vector. dense: over all entries, as in SpSVD."""

    name: ClassVar[str] = "s3lora"
    unsafe: ClassVar[Unsafe] = "high"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ParameterError(f"keep={self.keep} rebuilds nothing", hint="give at least 1")
        if self.fit not in ("projected", "dense"):
            raise ParameterError(f"s3lora has no fit {self.fit!r}", hint="projected or dense")

    def score(self, module: LoraModule) -> Score:
        """SSI; beside it the excess and the plain figures of the update's spectrum."""
        svd = thin_svd(module.B, module.A)
        sigma = mas_svd(svd, self.keep, self.fit)
        total = float(sigma.sum())
        ssi = float(sigma[0]) / total if total else float("nan")
        R = len(sigma)
        excess = (ssi - 1 / R) / (1 - 1 / R) if R > 1 else 1.0
        parts = {"ssi": ssi, "excess": excess, "directions": float(R)}
        return Score(module.name, ssi, parts | spectrum_summary(abs(module.scaling) * svd.s))

    def conclude(self, scores: tuple[Score, ...]) -> tuple[Score, ...]:
        """Score by the excess where the modules differ in R, since the floor 1/R does."""
        if len({score.parts["directions"] for score in scores}) == 1:
            return scores
        return tuple(replace(score, value=score.parts["excess"]) for score in scores)


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
    B, A = svd.U * (svd.s / scale), svd.V * (svd.s / scale)  # X = B·Vᵀ = U·Aᵀ: (m, k), (n, k)
    W = _leading(_unit_rows(B), R)  # (k, R)
    T = _leading(_unit_rows(A), R)  # (k, R)
    u, v = (svd.U @ T).T.copy(), (svd.V @ W).T.copy()  # (R, m), (R, n)
    if fit == "dense":
        return _dense_fits(B @ svd.V.T, u, v) * scale
    y, z = (B @ W).T.copy(), (A @ T).T.copy()  # X·v_j (R, m), Xᵀ·u_i (R, n)
    d, gain = _projected_fits(y, z, u, v)
    sigma: Array = np.sort(np.array([abs(d[i, j]) for i, j in _greedy(gain)]))[::-1] * scale
    return sigma


def _unit_rows(X: Array) -> Array:
    """X, whose σ₁ is 1, with every row on the unit sphere; rows of rounding noise become zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", X, X))
    norms[norms <= NOISE] = np.inf
    scaled: Array = X / norms[:, None]
    return scaled


def _leading(X: Array, R: int) -> Array:
    """The top R right singular vectors of X (m, k), as columns (k, R)."""
    vectors: Array = np.linalg.eigh(X.T @ X)[1]
    return vectors[:, : -R - 1 : -1]


def _projected_fits(y: Array, z: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """For each pair (i, j) the scalar d that fits X by d·u_i·v_jᵀ, and what it explains: (R, R)."""
    R = len(u)
    u_size, v_size = np.abs(u), np.abs(v)
    u_divisor, v_divisor = _divisor(u), _divisor(v)
    u_norm, v_norm = u_size.sum(axis=1), v_size.sum(axis=1)
    y_norm, z_norm = np.abs(y).sum(axis=1), np.abs(z).sum(axis=1)
    d, gain = np.empty((R, R)), np.empty((R, R))
    for i in range(R):
        for j in range(R):
            from_rows = weighted_median(y[j] / u_divisor[i], u_size[i])
            from_columns = weighted_median(z[i] / v_divisor[j], v_size[j])
            d[i, j] = (from_rows + from_columns) / 2
            rows = y_norm[j] - np.abs(y[j] - d[i, j] * u[i]).sum()
            columns = z_norm[i] - np.abs(z[i] - d[i, j] * v[j]).sum()
            gain[i, j] = v_norm[j] * rows + u_norm[i] * columns
    return d, gain


def _divisor(x: Array) -> Array:
    """The divisor x: where it vanishes, and so does its weight, the ratio shall be zero."""
    return np.where(np.abs(x) < 1e-150, np.inf, x)


def _greedy(gain: Array) -> Iterator[tuple[int, int]]:
    """Pairs (i, j) by falling gain, no row and no column twice; the first of equals wins."""
    gain = gain.copy()
    for _ in range(len(gain)):
        i, j = divmod(int(gain.argmax()), len(gain))
        yield i, j
        gain[i, :] = gain[:, j] = -np.inf


def _dense_fits(X: Array, u: Array, v: Array) -> Array:
    """SpSVD's own criterion over all entries of X (m, n): fit, pick the best pair, deflate, again.

    Source
        Han, Kim and Jung, 2024, arXiv 2402.09754 (our reading of the refinement step).
    """
    E, free_u, free_v, d = X.copy(), list(range(len(u))), list(range(len(v))), []
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
    return np.sort(np.abs(d))[::-1]
