"""`gate`: what each module does to refusal and to task loss, to first order, from a little data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from s3lora.adapter import LoraModule, ModuleName
from s3lora.errors import ParameterError
from s3lora.lab.generate import log_probabilities, mean_log_probabilities
from s3lora.lab.packing import Continuation, packs
from s3lora.lab.patched import Patched
from s3lora.lab.probes import Probe
from s3lora.scores import Score, ScoreTable

MEASURES = ("refusal", "per-loss", "balance")


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives by the scalar gates of all modules at 1."""

    log_odds: Mapping[ModuleName, float]
    """Of the mean refusal log-odds, in nats."""
    margin: Mapping[ModuleName, float]
    """Of the mean refusal margin, in nats per token."""
    loss: Mapping[ModuleName, float]
    """Of the held-out loss, in nats per response token."""


def slopes(patched: Patched, modules: Sequence[LoraModule], probe: Probe) -> Slopes:
    """What every module does to refusal and loss, to first order: one backward pass for each.

    The model must hold exactly these modules (`Patched.apply`).
    """
    loss = [-1.0 / sum(probe.tokens)] * len(probe.responses)
    now = mean_log_probabilities(patched.model, probe.harmful)
    return Slopes(
        _slopes(patched, modules, probe.harmful, probe.log_odds_weights(now)),
        _slopes(patched, modules, probe.harmful, probe.margin_weights()),
        _slopes(patched, modules, probe.responses, loss),
    )


def _slopes(
    patched: Patched,
    modules: Sequence[LoraModule],
    continuations: Sequence[Continuation],
    weights: Sequence[float],
) -> dict[ModuleName, float]:
    """Derivatives of Σ weight·(sum of the log-probabilities of a continuation)."""
    left = list(weights)
    with torch.enable_grad(), patched.gates(modules) as gates:
        for pack in packs(continuations):
            count = len(pack.lengths)
            each = np.repeat(left[:count], pack.lengths)  # (T,)
            left = left[count:]
            values = log_probabilities(patched.model, pack)
            (values * torch.from_numpy(each).to(values.dtype)).sum().backward()
        return {
            name: 0.0 if gate.grad is None else gate.grad.item() for name, gate in gates.items()
        }


def gate_table(found: Slopes, names: Iterable[ModuleName], measure: str = "balance") -> ScoreTable:
    """Scores from slopes; high means that taking the module out gains refusal.

    Args:
        found: Of all modules.
        names: The modules, in natural order.
        measure: `refusal`: −dR/dg, what taking the module out gains in refusal log-odds.
            `per-loss`: that by what it costs in loss, max(−dL/dg, a tenth of the mean |dL/dg|).
            `balance`: that less the cost, −dR/dg + λ·dL/dg with λ = Σ dR/dg / Σ dL/dg, the price
            over all modules (0 where the sums do not point the same way): what is gained beyond a
            fair price.

    Raises:
        ParameterError: if there is no such measure.
    """
    if measure not in MEASURES:
        known = ", ".join(MEASURES)
        raise ParameterError(f"gate has no measure {measure!r}", hint=f"one of {known}")
    order = tuple(names)
    gain = np.array([-found.log_odds[name] for name in order])
    cost = np.array([-found.loss[name] for name in order])
    if measure == "per-loss":
        gain = gain / np.maximum(cost, max(np.abs(cost).mean() / 10, 1e-12))
    if measure == "balance":
        price = gain.sum() / cost.sum() if cost.sum() > 0 else 0.0
        gain = gain - max(price, 0.0) * cost
    scores = tuple(
        Score(
            name,
            float(value),
            {"refusal_slope": found.log_odds[name], "loss_slope": found.loss[name]},
        )
        for name, value in zip(order, gain, strict=True)
    )
    return ScoreTable("gate", {"measure": measure}, "high", scores)
