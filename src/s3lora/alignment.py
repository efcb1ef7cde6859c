"""What base and aligned weights say about an update: the alignment direction and its projections.

V = W_aligned − W_base is the alignment direction of one module. Dense decompositions come from
numpy, truncated ones from scipy (the extra `base`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from s3lora.adapter import Weights
from s3lora.errors import ParameterError, install_hint
from s3lora.linalg import Array, energy_rank

UNDEFINED = "undefined: the base and the aligned weights of the module are identical"


def direction(weights: Weights) -> Array | None:
    """V = W_aligned − W_base, shape (m, n); None if the two are identical."""
    assert weights.base is not None  # noqa: S101  scan has seen to it
    assert weights.aligned is not None  # noqa: S101
    V = weights.aligned - weights.base
    return V if V.any() else None


def reweighted(V: Array, X: Array) -> Array:
    """C·X with Safe LoRA's C = V·Vᵀ/‖V‖_F, never forming C.

    C is no projector: it weighs each direction of V by σ²/‖V‖_F, so that it also shrinks.

    Args:
        V: Alignment direction, shape (m, n), not zero.
        X: Shape (m, k).

    Returns:
        Shape (m, k).

    Source
        Paper: Hsu et al., 2024, arXiv 2405.16833.
    Cost
        O(m n k) time, O((m + n) k) memory; forming C would take O(m^2 n) and O(m^2).
    """
    shrunk: Array = V @ (V.T @ X) / np.linalg.norm(V)
    return shrunk


def subspace(V: Array, energy: float, k: int = 0) -> Array:
    """Orthonormal basis U_k (m, k) of the leading left singular vectors of V.

    Args:
        V: Shape (m, n), not zero.
        energy: With k = 0: the smallest k with Σ_{i≤k}σ_i² ≥ energy·Σσ_i², in (0, 1].
        k: How many; at most min(m, n).

    Cost
        With k = 0 an eigendecomposition of the smaller Gram matrix: O(m n min(m, n)) time.
    """
    if k:
        return truncated_svd(V, min(k, *V.shape))[0]
    tall = V.shape[0] > V.shape[1]
    eigenvalues, E = np.linalg.eigh(V.T @ V if tall else V @ V.T)
    eigenvalues, E = eigenvalues[::-1].clip(min=0), E[:, ::-1]
    count = energy_rank(eigenvalues, energy)
    if not tall:
        return np.asarray(E[:, :count])
    return np.asarray(np.linalg.qr(V @ E[:, :count])[0])


def truncated_svd(
    X: Array, k: int, matvecs: tuple[Callable[[Array], Array], ...] = ()
) -> tuple[Array, Array, Array]:
    """The k largest singular triplets of X, by scipy: U (m, k), s (k,), Vh (k, n), descending.

    Args:
        X: Shape (m, n); with `matvecs`, only its shape counts.
        k: From 1 to min(m, n).
        matvecs: x -> X·x and x -> Xᵀ·x on columns, for an X that is not formed.

    Raises:
        ParameterError: if scipy is not installed.
        LinAlgError: if the iteration fails.
    """
    try:
        from scipy.sparse.linalg import ArpackError, LinearOperator, svds
    except ImportError as error:
        raise ParameterError("this needs scipy", hint=install_hint("base")) from error
    if k > min(X.shape) // 2 and not matvecs:
        U, s, Vh = np.linalg.svd(X, full_matrices=False)
        return U[:, :k], s[:k], Vh[:k]
    operator = X
    if matvecs:
        forward, backward = matvecs
        operator = LinearOperator(
            X.shape, matvec=forward, matmat=forward, rmatvec=backward, rmatmat=backward
        )
    start = np.random.default_rng(0).standard_normal(min(X.shape))  # the same result every time
    try:
        U, s, Vh = svds(operator, k=k, v0=start)
    except ArpackError as error:
        raise np.linalg.LinAlgError(str(error)) from error
    order = np.argsort(s)[::-1]
    return U[:, order], s[order], Vh[order]
