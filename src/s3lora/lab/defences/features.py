"""Which directions a module's outputs take on rows: what SaLoRA is told by data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from s3lora.adapter import ModuleName
from s3lora.errors import ParameterError
from s3lora.lab.chat import NO_LABEL, encode, padded
from s3lora.lab.data import Example
from s3lora.lab.defences.interface import Branch
from s3lora.lab.recipes import Pools, refusing

ZERO = 1e-12
"""An eigenvalue of a Gram matrix that is smaller against the largest is rounding."""


def safety_rows(pools: Pools, seed: int) -> list[Example]:
    """The harmful prompts that alignment may see, each once, refused as by the recipe `refusal`."""
    return refusing(pools, len(pools.aligning[0]), seed, share=1.0)


class _Gram:
    """XᵀX of a module's inputs or YᵀY of its outputs, whichever is smaller, in float64."""

    def __init__(self, branch: Branch) -> None:
        m, n = branch.W.shape
        self.W, self.of_outputs = branch.W, m <= n
        self.total = torch.zeros((min(m, n),) * 2, dtype=torch.float64)

    def add(self, X: torch.Tensor) -> None:
        """Inputs at some tokens, shape (tokens, n)."""
        seen = (X.to(self.W.dtype) @ self.W.T if self.of_outputs else X).cpu().double()
        self.total += seen.T @ seen

    def leading(self, k: int) -> torch.Tensor:
        """The top k eigenvectors of W·XᵀX·Wᵀ, shape (m, at most k), without those of value 0."""
        values, vectors = torch.linalg.eigh(self.total)  # ascending
        roots = values.clamp(min=0).sqrt()
        if self.of_outputs:
            U, s = vectors.flip(1), roots.flip(0)
        else:
            half = self.W.cpu().double() @ (vectors * roots)  # (m, n), half·halfᵀ = W·XᵀX·Wᵀ
            U, s, _ = torch.linalg.svd(half, full_matrices=False)
        count = int((s**2 > ZERO * s[0] ** 2).sum())
        return U[:, : min(k, count)].contiguous()


@torch.no_grad()
def output_directions(
    model: Any, tokenizer: Any, rows: Sequence[Example], branches: Sequence[Branch], k: int,
    *, longest: int, batch: int,
) -> Mapping[ModuleName, torch.Tensor]:  # fmt: skip
    """For each module the top k directions of its outputs W·x at the rows' response tokens.

    Args:
        model: Its B are 0, so that it is the model before training.
        tokenizer: With a chat template.
        rows: Prompts with responses.
        branches: The modules.
        k: How many directions; fewer where the outputs take fewer.
        longest: Responses are cut after so many tokens.
        batch: Rows a forward pass.

    Returns:
        By module, orthonormal columns, shape (m, at most k), float64.

    Cost
        A forward pass over the rows; O(tokens·min(m, n)²) time and O(min(m, n)²) memory a module.
    """
    grams = {branch.name: _Gram(branch) for branch in branches}
    mask = torch.zeros(0)
    hooks = [
        branch.layer.register_forward_pre_hook(_seeing(grams[branch.name], lambda: mask))
        for branch in branches
    ]
    model.eval()
    try:
        for start in range(0, len(rows), batch):
            encoded = [encode(tokenizer, row, longest) for row in rows[start : start + batch]]
            labels = torch.tensor(padded([row.labels for row in encoded], NO_LABEL))
            ids = torch.tensor(padded([row.ids for row in encoded], tokenizer.pad_token_id))
            seen = torch.tensor(padded([[1] * len(row.ids) for row in encoded], 0))
            mask = labels.to(model.device) != NO_LABEL  # (rows, longest)
            model(
                input_ids=ids.to(model.device),
                attention_mask=seen.to(model.device),
                use_cache=False,
            )
    finally:
        for hook in hooks:
            hook.remove()
    return {name: gram.leading(k) for name, gram in grams.items()}


def _seeing(gram: _Gram, mask: Callable[[], torch.Tensor]) -> Any:
    def add(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[:2] != mask().shape:
            raise ParameterError(
                "a module does not see whole sequences, so its response tokens are not known",
                hint="leave the experts of a mixture out of --targets",
            )
        gram.add(inputs[0][mask()])

    return add
