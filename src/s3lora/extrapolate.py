"""LoX as a tool: the alignment of a model, amplified, as an adapter to merge before fine-tuning."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s3lora.adapter import Adapter
from s3lora.alignment import truncated_svd
from s3lora.errors import ParameterError, UnsupportedError, install_hint
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder
from s3lora.io.checkpoint import HINT, MAX_INDEX, Checkpoint
from s3lora.io.safetensors import read_small
from s3lora.io.safetensors_writer import stored, write
from s3lora.io.sources import CARD, CONFIG, WEIGHTS
from s3lora.io.strict_json import parse
from s3lora.linalg import Array, energy_rank

EMBEDDINGS = ("embed_tokens", "wte", "wpe", "lm_head", "embed_positions", "word_embeddings")
"""Matrices that are looked up or shared, and left as they are."""

TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Types of models that are made of Conv1D, which stores its matrix as (n, m)."""

CONVERGED = 1e-8
"""Relative to σ₁: the most that randomised D·V may be off U·S, and Dᵀ·U off V·S."""


def extrapolate(
    base: Checkpoint,
    aligned: Checkpoint,
    out: str | os.PathLike[str],
    *,
    k: int = 6,
    alpha: float = 1.25,
    energy: float | None = None,
) -> Adapter:
    """Write the adapter that, merged into the aligned model, is LoX.

    For every matrix D = W_aligned − W_base of attention and MLP, the top k singular directions are
    amplified: W_LoX = W_aligned + alpha·U_k·S_k·V_kᵀ. In factors B = alpha·U_k·√S_k and
    A = √S_k·V_kᵀ, in float32, with a scale of 1.

    Args:
        base: The model before alignment.
        aligned: The model after it, of the same shapes.
        out: A folder that does not exist yet.
        k: The rank.
        alpha: How much is added; 0 adds nothing, −1 takes the k directions back.
        energy: Instead of k, for each matrix the smallest k with this share of ‖D‖²_F, in (0, 1].

    Returns:
        The adapter that was written, opened.

    Raises:
        ParameterError: if k, alpha or energy does not fit, or the two models do not.
        OutputError: if `out` exists, is a link, or cannot be written.

    Source
        Paper: LoX, 2025, arXiv 2506.15606.  Code: VITA-Group/LoX.
    Deviations
        Embeddings and lm_head are left alone, and the difference is not taken in bfloat16.
    Cost
        A randomised SVD by scikit-learn, or Lanczos by scipy: O(m n k) time for each pass; three
        matrices of one module in memory.
    """
    if k < 1 or not np.isfinite(alpha) or not (energy is None or 0 < energy <= 1):
        raise ParameterError(
            f"cannot extrapolate with k={k}, alpha={alpha}, energy={energy}",
            hint="k at least 1, a finite alpha, energy in (0, 1]",
        )
    with new_folder(Path(out)) as partial:
        pairs = dict(_factors(base, aligned, k, alpha, energy))
        if not pairs:
            raise ParameterError(
                "base and aligned weights are identical", hint="give two different models"
            )
        _write(partial, pairs, aligned, alpha)
    return open_adapter(out)


def _factors(
    base: Checkpoint, aligned: Checkpoint, k: int, alpha: float, energy: float | None
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """A (k, n) and B (m, k) by module, for every matrix that alignment changed."""
    transposed = _transposed(aligned)
    for name, shape in aligned.matrices().items():
        if name.split(".")[-1] in EMBEDDINGS:
            continue
        D = aligned.plain(name) - base.plain(name, expected=shape)
        if not np.isfinite(D).all():
            raise UnsupportedError(
                f"{name} holds NaN or Inf in the base or the aligned weights",
                hint="give two whole models",
            )
        if D.any():
            D = D.T if transposed else D
            U, s, Vh = leading_directions(D, k, energy)
            root = np.sqrt(s)
            yield name, (root[:, None] * Vh, alpha * U * root)


def leading_directions(D: Array, k: int, energy: float | None) -> tuple[Array, Array, Array]:
    """The top k singular triplets of D (m, n), or those that hold a share of its energy.

    Randomised, with a fixed seed; where the spectrum falls too slowly for that to agree with the
    dense SVD, by Lanczos; where k is not small against D, the dense SVD itself.
    """
    try:
        from sklearn.utils.extmath import randomized_svd
    except ImportError as error:
        raise ParameterError("this needs scikit-learn", hint=install_hint("base")) from error
    most = min(D.shape)
    total = float((D * D).sum())
    k = min(k, most)
    while True:
        if 4 * k <= most:
            U, s, Vh = randomized_svd(D, k, n_oversamples=max(10, k), n_iter=12, random_state=0)
            off = np.linalg.norm(D @ Vh.T - U * s) + np.linalg.norm(D.T @ U - Vh.T * s)
            if off > CONVERGED * s[0]:
                U, s, Vh = truncated_svd(D, k)
        else:
            U, s, Vh = np.linalg.svd(D, full_matrices=False)
        if energy is None:
            return U[:, :k], s[:k], Vh[:k]
        if len(s) == most or (s**2).sum() >= energy * total:
            found = energy_rank(s**2, energy, total)
            return U[:, :found], s[:found], Vh[:found]
        k = min(2 * k, most)


def _transposed(checkpoint: Checkpoint) -> bool:
    """Whether the model is one whose matrices are stored as (n, m)."""
    path = checkpoint.folder / "config.json"
    if not path.exists():
        return False
    raw = read_small(path, MAX_INDEX, HINT)
    return parse(raw, str(path), marks=1_000_000, hint=HINT).get("model_type") in TRANSPOSED


def _write(
    folder: Path, pairs: dict[str, tuple[Array, Array]], aligned: Checkpoint, alpha: float
) -> None:
    ranks = {name: len(A) for name, (A, _) in pairs.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": aligned.name,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _transposed(aligned),
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": dict(others),
    }
    tensors = [
        stored(f"base_model.model.{name}.lora_{part}.weight", factor.astype(np.float32))
        for name, factors in sorted(pairs.items())
        for part, factor in zip("AB", factors, strict=True)
    ]
    with (folder / WEIGHTS).open("wb") as file:
        write(file, tensors, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    told = json.dumps(aligned.name)
    (folder / CARD).write_text(
        f"---\nbase_model: {told}\nlibrary_name: peft\n---\n\n# LoX\n\nThe alignment of the model, "
        f"its leading directions ({usual} in most matrices) amplified by {alpha:g}. Merge it into "
        "the aligned model before fine-tuning. Made with `s3lora extrapolate`.\n",
        encoding="utf-8",
    )
