"""The cells of a study: which modules are chosen, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from s3lora.adapter import Adapter, LoraModule, ModuleName, projection_of
from s3lora.edits import make_editor
from s3lora.errors import ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.evaluation_plan import left_by
from s3lora.lab.study.config import Choice, Study
from s3lora.lab.study.rows import RANDOM, REFERENCES
from s3lora.lab.study.variants import VARIANTS, within_projections
from s3lora.linalg import difference_values, singular_values
from s3lora.methods import make_method
from s3lora.plan import plan
from s3lora.scan import scan
from s3lora.scores import ScoreTable
from s3lora.selection import ByLayer, Fraction, TopK


@dataclass(frozen=True, slots=True)
class Job:
    """One cell to run on one adapter."""

    choice: Choice
    """Its method is one of `REFERENCES` where nothing is chosen."""
    share: float
    draw: int | None = None
    replies: bool = False
    """Whether replies are written too."""

    @property
    def core(self) -> bool:
        """Whether the main table needs it: a reference, a random draw, a choice with replies."""
        return self.choice.replies or self.choice.method in (RANDOM, *REFERENCES)

    @property
    def key(self) -> tuple[str, str, float, int | None]:
        """What no two jobs of an adapter share."""
        return self.choice.name, self.choice.edit, self.share, self.draw


def jobs(study: Study, share: float) -> Iterator[Job]:
    """The cells at one share; the references come with the first, which has the replies."""
    main = share == study.shares[0]
    if main:
        told = bool(study.sizes.replies)
        for name in REFERENCES:
            yield Job(Choice(name), 0.0 if name == "tuned" else 1.0, replies=told)
    for choice in study.choices:
        if share in (choice.shares or study.shares):
            yield Job(choice, share, replies=main and choice.replies)
    for draw in range(study.draws):
        told = main and draw < study.sizes.random_replies
        yield Job(Choice(RANDOM, {"seed": draw}), share, draw, replies=told)


class Chooser:
    """The choices for one adapter; every table is made once."""

    def __init__(
        self,
        adapter: Adapter,
        base: Checkpoint,
        aligned: Checkpoint,
        safe: Adapter,
        gate: Callable[[str], ScoreTable],
    ) -> None:
        self.adapter = adapter
        self.weights = {"base": base, "aligned": aligned}
        self.safe = safe
        self.gate = gate
        self.tables: dict[str, ScoreTable] = {}

    def table(self, choice: Choice) -> ScoreTable:
        """The scores behind a choice."""
        key = f"{choice.method} {sorted(choice.params.items())}"
        if key not in self.tables:
            self.tables[key] = self._scored(choice)
        table = self.tables[key]
        if choice.only:
            kept = [s for s in table.scores if projection_of(s.module) in choice.only]
            table = replace(table, scores=tuple(kept))
        return within_projections(table) if choice.within else table

    def _scored(self, choice: Choice) -> ScoreTable:
        if choice.method == "gate":
            return self.gate(str(choice.params.get("measure", "balance")))
        if choice.method in VARIANTS:
            return VARIANTS[choice.method](self.adapter)
        method = make_method(choice.method, choice.params)
        weights = {role: self.weights[role] for role in method.needs if role in self.weights}
        return scan(self.adapter, method, **weights)  # type: ignore[arg-type]

    def chosen(self, job: Job) -> tuple[ModuleName, ...]:
        """The modules of a cell, in natural order.

        Raises:
            ParameterError: if the choice has no module to choose from.
        """
        if job.choice.method in REFERENCES:
            return () if job.share == 0 else self.adapter.names
        table = self.table(job.choice)
        if job.choice.by_layer:
            return ByLayer(Fraction(job.share))(table)
        count = min(math.ceil(job.share * len(self.adapter.names)), len(table.scores))
        if not count:
            raise ParameterError(
                f"{job.choice.name} scores no module of {self.adapter.ref}",
                hint="leave the method out for this adapter",
            )
        return TopK(count)(table)

    def left(self, job: Job, chosen: tuple[ModuleName, ...]) -> tuple[LoraModule, ...]:
        """The modules that the adapter still has, edited ones with their new factors."""
        if job.choice.edit == "drop":  # all may go, which no plan allows
            names = (name for name in self.adapter.names if name not in chosen)
            return tuple(map(self.adapter.read, names))
        params: dict[str, Any] = dict(job.choice.edit_params)
        if job.choice.edit == "merge":
            params["safe"] = self.safe
        if job.choice.edit == "flatten" and "level" not in params:
            table = self.table(Choice("s3lora"))
            params["level"] = float(np.median([score.parts["ssi"] for score in table.scores]))
        editor = make_editor(job.choice.edit, params)
        weights = {role: self.weights[role] for role in editor.needs if role in self.weights}
        planned = plan(self.adapter, chosen, edit=editor, **weights)  # type: ignore[arg-type]
        return left_by(self.adapter, planned)

    def norm_share(self, left: tuple[LoraModule, ...]) -> float:
        """Σ‖ΔW − ΔW'‖_F² over Σ‖ΔW‖_F²: how much of the update was taken out."""
        now = {module.name: module for module in left}
        taken = whole = 0.0
        for name in self.adapter.names:
            old = self.adapter.read(name)
            size = _square(old.scaling * singular_values(old.B, old.A))
            new = now.get(name)
            whole += size
            if new is None:
                taken += size
            elif new.B is not old.B and not np.array_equal(new.B, old.B):
                gap = difference_values(old.scaling * old.B, old.A, new.scaling * new.B, new.A)
                taken += _square(gap)
        return taken / whole if whole else 0.0


def _square(values: Any) -> float:
    return float(values @ values)
