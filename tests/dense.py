"""MAS-SVD and SSI by the definition, dense and float64: slow, and easy to check by eye.

It forms every update, refits every pair after every deflation, and takes the singular values of
the rebuilt matrix, so that none of the shortcuts of the product is in it.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def lower_median(x, w):
    """The smallest x at which the cumulative weight reaches half of the total."""
    order = np.lexsort((x,))
    reached = np.add.accumulate(w[order])
    return x[order][np.argmax(reached >= reached[-1] / 2)]


def on_sphere(X, axis):
    norms = np.sqrt((X**2).sum(axis=axis, keepdims=True))
    return np.where(norms > 0, X / np.where(norms > 0, norms, 1), 0)


def projected(E, u, v):
    y, z = E @ v, E.T @ u
    k, j = np.flatnonzero(u), np.flatnonzero(v)
    d_rows = lower_median(y[k] / u[k], abs(u[k]))
    d_columns = lower_median(z[j] / v[j], abs(v[j]))
    d = 0.5 * (d_rows + d_columns)
    rows = np.abs(y).sum() - np.abs(y - d * u).sum()
    columns = np.abs(z).sum() - np.abs(z - d * v).sum()
    return np.abs(v).sum() * rows + np.abs(u).sum() * columns, d


def entrywise(E, u, v):
    P = np.outer(u, v)
    k = P != 0
    d = lower_median(E[k] / P[k], np.abs(P[k]))
    return np.abs(E).sum() - np.abs(E - d * P).sum(), d


def sigma(X, keep=5, fit=projected):
    """Singular values of the robust rebuild of X, descending, shape (R,)."""
    s = np.linalg.svd(X, compute_uv=False)
    if s[0] == 0:
        return np.zeros(0)
    R = min(keep, int(np.sum(s >= 1e-12 * s[0])))
    V = np.linalg.svd(on_sphere(X, 1), full_matrices=False)[2][:R]
    U = np.linalg.svd(on_sphere(X, 0), full_matrices=False)[0].T[:R]
    E, X_hat = X.copy(), np.zeros_like(X)
    rows, columns = set(range(R)), set(range(R))
    while rows:
        fits = {(i, j): fit(E, U[i], V[j]) for i, j in sorted(product(rows, columns))}
        i, j = max(fits, key=lambda pair: fits[pair][0])
        term = fits[i, j][1] * np.outer(U[i], V[j])
        X_hat, E = X_hat + term, E - term
        rows.remove(i)
        columns.remove(j)
    return np.linalg.svd(X_hat, compute_uv=False)[:R]


def ssi(X, keep=5, fit=projected):
    values = sigma(X, keep, fit)
    return values[0] / values.sum()
