"""What every single module does: by its gate to first order, taken out alone, and kept alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from s3lora.adapter import LoraModule, ModuleName
from s3lora.lab.gate import slopes
from s3lora.lab.probes import Measured, Probe
from s3lora.lab.resume import Resumed
from s3lora.lab.study.config import Choice, Study
from s3lora.lab.study.rows import CausalRow, Effect
from s3lora.lab.study.stand import Stand


def causal_rows(stand: Stand, study: Study) -> Iterator[CausalRow]:
    """One row a module, in natural order; the true effects where the study asks for them.

    All figures are of the study's probe, so that they are paired with its cells.
    """
    adapter, patched = stand.chooser.adapter, stand.patched
    whole = [adapter.read(name) for name in adapter.names]
    patched.apply(whole)
    found = slopes(patched, whole, stand.probe)
    scores = _scores(stand, study.choices)
    measured = stand.trained.name in study.causal
    removed = _removed(stand, whole) if measured else {}
    alone = _alone(stand, whole) if measured else {}
    for name in adapter.names:
        yield CausalRow(
            stand.trained.name,
            name,
            Effect(found.log_odds[name], found.margin[name], found.loss[name]),
            removed.get(name),
            alone.get(name),
            {method: table.get(name) for method, table in scores.items()},
        )


def _scores(stand: Stand, choices: Sequence[Choice]) -> dict[str, dict[ModuleName, float]]:
    """By method, the scores of all modules; high is the end to look at."""
    tables = {}
    for choice in choices:
        if not (choice.by_layer or choice.only):
            table = stand.chooser.table(choice)
            sign = 1 if table.unsafe == "high" else -1
            tables[choice.name] = {score.module: sign * score.value for score in table.scores}
    return tables


def _removed(stand: Stand, whole: Sequence[LoraModule]) -> dict[ModuleName, Effect]:
    """The change when a module alone is taken out of the adapter."""
    stand.patched.apply(whole)
    resumed = Resumed(stand.patched.model, stand.probe.continuations)
    return {
        module.name: _effect(stand, resumed, module, [m for m in whole if m is not module])
        for module in whole
    }


def _alone(stand: Stand, whole: Sequence[LoraModule]) -> dict[ModuleName, Effect]:
    """The change when a module alone is put on the aligned model."""
    stand.patched.apply(())
    resumed = Resumed(stand.patched.model, stand.probe.continuations)
    return {module.name: _effect(stand, resumed, module, [module]) for module in whole}


def _effect(
    stand: Stand, resumed: Resumed, module: LoraModule, kept: Sequence[LoraModule]
) -> Effect:
    stand.patched.apply(kept)
    depth = resumed.depth(module.name)
    now = stand.probe.figures(resumed.means_from(depth))
    return difference(stand.probe, stand.probe.figures(resumed.means), now)


def difference(probe: Probe, before: Measured, after: Measured) -> Effect:
    """The change of the mean log-odds and margin, and of the loss per response token."""
    losses = np.subtract(after.losses, before.losses)
    return Effect(
        float(np.mean(np.subtract(after.log_odds, before.log_odds))),
        float(np.mean(np.subtract(after.margins, before.margins))),
        float(np.average(losses, weights=probe.tokens)),
    )
