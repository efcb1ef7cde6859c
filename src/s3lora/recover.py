"""The true update of modules whose factors alone do not give it, with the base weights at hand."""

from __future__ import annotations

import numpy as np

from s3lora.adapter import Adapter, LoraModule, ModuleName
from s3lora.alignment import truncated_svd
from s3lora.linalg import Array


def true_update(adapter: Adapter, name: ModuleName, W: Array) -> LoraModule:
    """What loading the adapter does to the weight matrix W (m, n) of one module.

    DoRA: diag(m/‖W + s·B·A‖)·(W + s·B·A) − W with the norm of each row: dense and of full rank, so
    one of the factors is the identity. PiSSA and OLoRA take a start s·B₀·A₀ out of the base: the
    top r singular directions of W, or the first r columns of its QR. The update s·(B·A − B₀·A₀)
    has rank 2r and stays in factors.

    Args:
        adapter: With a variant in the module's slot.
        name: The module.
        W: Base weights, shape (m, n).

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
        magnitude = adapter.tensors.read(slot.keys[2]).astype(np.float64).ravel()  # (m,)
        tuned = W + B @ A
        dense = (magnitude / np.linalg.norm(tuned, axis=1))[:, None] * tuned - W
        return _dense(name, dense)
    if slot.variant == "pissa":
        U, s, Vh = truncated_svd(W, slot.rank)
        start_B, start_A = U * s, Vh
    else:
        Q = np.linalg.qr(W[:, : slot.rank])[0]
        start_B, start_A = Q, Q.T @ W
    return LoraModule(name, np.vstack([A, start_A]), np.hstack([B, -start_B]), 1.0)


def _dense(name: ModuleName, X: Array) -> LoraModule:
    """A dense update as factors, one of which is the identity of the smaller side."""
    m, n = X.shape
    return LoraModule(name, X, np.eye(m), 1.0) if m < n else LoraModule(name, np.eye(n), X, 1.0)
