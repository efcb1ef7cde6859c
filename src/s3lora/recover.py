"""The true update of modules whose factors alone do not give it, with the base weights at hand."""

from __future__ import annotations

import numpy as np

from s3lora.adapter import Adapter, LoraModule, ModuleName
from s3lora.alignment import truncated_svd
from s3lora.errors import UnsupportedError
from s3lora.linalg import Array


def true_update(adapter: Adapter, name: ModuleName, W: Array) -> LoraModule:
    """What loading the adapter does to the weight matrix W (m, n) of one module.

    DoRA: diag(m/‖W + s·B·A‖)·(W + s·B·A) − W with the norm of each row: dense and of full rank, so
    one of the factors is the identity. PiSSA and OLoRA take a start s·B₀·A₀ out of the base: of
    PiSSA the top r singular directions of W, of OLoRA s times the first r columns and rows of its
    QR. The update s·(B·A − B₀·A₀) has rank 2r and stays in factors.

    Args:
        adapter: With a variant in the module's slot.
        name: The module.
        W: Base weights, shape (m, n).

    Raises:
        UnsupportedError: if DoRA's magnitudes are not one for each row.

    Source
        DoRA: Liu et al., 2024, arXiv 2402.09353. PiSSA: Meng et al., 2024, arXiv 2404.02948.
        OLoRA: Büyükakyüz, 2024, arXiv 2406.01775. As PEFT 0.21 initialises them.
    Cost
        DoRA: O(m n r) here, and O(m n min(m, n)) for whoever decomposes it. PiSSA: a truncated SVD
        of W. OLoRA: O(m n r).
    """
    slot, stored = adapter.slots[name], adapter.stored(name)
    B, A = stored.scaling * stored.B, stored.A
    if slot.variant == "dora":
        tuned = W + B @ A
        scale = _magnitude(adapter, name) / np.linalg.norm(tuned, axis=1)  # (m,)
        return _dense(name, scale[:, None] * tuned - W)
    if slot.variant == "pissa":
        U, s, Vh = truncated_svd(W, slot.rank)
        start_B, start_A = U * s, Vh
    else:
        Q = np.linalg.qr(W[:, : slot.rank])[0]
        start_B, start_A = stored.scaling * Q, Q.T @ W
    return LoraModule(name, np.vstack([A, start_A]), np.hstack([B, -start_B]), 1.0)


def _magnitude(adapter: Adapter, name: ModuleName) -> Array:
    """DoRA's norm of each row, shape (m,)."""
    slot = adapter.slots[name]
    extra = [adapter.tensors.read(key) for key in slot.keys[2:]]
    if len(extra) != 1 or extra[0].size != slot.shape[0]:
        sizes = " and ".join(str(list(each.shape)) for each in extra)
        raise UnsupportedError(
            f"DoRA: magnitudes of shape {sizes} for {slot.shape[0]} rows",
            hint="such a module can be taken out by name, not read",
        )
    return np.asarray(extra[0].ravel(), np.float64)


def _dense(name: ModuleName, X: Array) -> LoraModule:
    """A dense update as factors, one of which is the identity of the smaller side."""
    m, n = X.shape
    return LoraModule(name, X, np.eye(m), 1.0) if m < n else LoraModule(name, np.eye(n), X, 1.0)
