"""What every single module does: by its gate to first order, taken out alone, and kept alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from s3lora.adapter import LoraModule, ModuleName
from s3lora.lab.gate import slopes
from s3lora.lab.patched import Patched
from s3lora.lab.probes import Measured, Probe
from s3lora.lab.resume import Resumed
from s3lora.lab.study.config import Choice, Study
from s3lora.lab.study.rows import CausalRow, Effect
from s3lora.lab.study.stand import Stand


def causal_rows(stand: Stand, study: Study) -> Iterator[CausalRow]:
    """One row a module, in natural order; the true effects where the study asks for them.

    All figures are of the study's probe, so that they are paired with its cells; its harmless
    prompts have no part in them and are not asked.
    """
    adapter, patched = stand.chooser.adapter, stand.patched
    whole = [adapter.read(name) for name in adapter.names]
    probe = replace(stand.probe, harmless=())
    patched.apply(whole)
    found = slopes(patched, whole, probe)
    scores = scored(stand, _scoring(study.choices))
    measured = stand.trained.name in study.causal
    removed = _removed(patched, whole, probe) if measured else {}
    alone = _alone(patched, whole, probe) if measured else {}
    for name in adapter.names:
        yield CausalRow(
            stand.trained.name,
            name,
            Effect(found.log_odds[name], found.margin[name], found.loss[name]),
            removed.get(name),
            alone.get(name),
            {method: table.get(name) for method, table in scores.items()},
        )


def scored(stand: Stand, choices: Sequence[Choice]) -> dict[str, dict[ModuleName, float]]:
    """By what the tables call a choice, its scores of all modules; high is the end to look at."""
    tables = {}
    for choice in choices:
        table = stand.chooser.table(choice)
        sign = 1 if table.unsafe == "high" else -1
        tables[choice.name] = {score.module: sign * score.value for score in table.scores}
    return tables


def _scoring(choices: Sequence[Choice]) -> list[Choice]:
    """Those with scores of their own: not whole layers, nor some projections alone."""
    return [choice for choice in choices if not (choice.by_layer or choice.only)]


def unscored(choices: Sequence[Choice], rows: Sequence[CausalRow]) -> list[Choice]:
    """The choices whose scores some row lacks."""
    return [c for c in _scoring(choices) if any(c.name not in row.scores for row in rows)]


def rescored(stand: Stand, new: Sequence[Choice], rows: Sequence[CausalRow]) -> Iterator[CausalRow]:
    """The rows of an adapter with the scores of choices that came later; effects stay."""
    tables = scored(stand, new)
    for row in rows:
        added = {method: table.get(ModuleName(row.module)) for method, table in tables.items()}
        yield replace(row, scores={**row.scores, **added})


def _removed(
    patched: Patched, whole: Sequence[LoraModule], probe: Probe
) -> dict[ModuleName, Effect]:
    """The change when a module alone is taken out of the adapter."""
    left = {module.name: [m for m in whole if m is not module] for module in whole}
    return _effects(patched, whole, left, probe)


def _alone(patched: Patched, whole: Sequence[LoraModule], probe: Probe) -> dict[ModuleName, Effect]:
    """The change when a module alone is put on the aligned model."""
    return _effects(patched, (), {module.name: [module] for module in whole}, probe)


def _effects(
    patched: Patched,
    before: Sequence[LoraModule],
    after: Mapping[ModuleName, Sequence[LoraModule]],
    probe: Probe,
) -> dict[ModuleName, Effect]:
    """What changes where one module does, by its name."""
    patched.apply(before)
    resumed = Resumed(patched.model, probe.continuations)
    start, effects = probe.figures(resumed.means), {}
    for name, modules in after.items():
        patched.apply(modules)
        now = probe.figures(resumed.means_from(resumed.depth(name)))
        effects[name] = difference(probe, start, now)
    return effects


def difference(probe: Probe, before: Measured, after: Measured) -> Effect:
    """The change of the mean log-odds and margin, and of the loss per response token."""
    losses = np.subtract(after.losses, before.losses)
    return Effect(
        float(np.mean(np.subtract(after.log_odds, before.log_odds))),
        float(np.mean(np.subtract(after.margins, before.margins))),
        float(np.average(losses, weights=probe.tokens)),
    )
