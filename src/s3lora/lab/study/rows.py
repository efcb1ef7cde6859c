"""What a study measured: a row for each cell, one for each module, and how they are grouped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from s3lora.adapter import layer_of, natural_key, projection_of
from s3lora.errors import DataError
from s3lora.linalg import Array

RANDOM = "random"
"""The method whose draws are what every other is held against."""

REFERENCES = ("base", "aligned", "tuned")
"""Rows without a choice: before alignment, everything removed, nothing removed."""

How = Literal["first order", "true removal", "kept alone"]
"""Where the effect of a module is known from."""


class Cell(NamedTuple):
    """What was done to which adapter; its random draws share one cell."""

    adapter: str
    method: str
    edit: str
    share: float


@dataclass(frozen=True, slots=True)
class Replies:
    """How a keyword scorer or a judge took the replies, in the order of the prompts."""

    harmful_refused: tuple[bool | None, ...]
    """None where the reply could not be scored."""
    harmless_refused: tuple[bool | None, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a study. All rows of an adapter have the same prompts in the same order."""

    adapter: str
    method: str
    """A scorer's name, or one of `REFERENCES`."""
    edit: str
    """drop, flatten, project, merge, scale, …"""
    share: float
    """Share of the modules chosen, in [0, 1]; 0 for tuned, 1 for aligned."""
    k: int
    """How many modules were chosen."""
    modules: int
    """Of how many."""
    draw: int | None
    """The seed of a random draw; None otherwise."""
    chosen: tuple[int, ...]
    """Places of the chosen in the natural order of the adapter's modules, from 0."""
    norm_share: float | None
    """Share of the sum of squared Frobenius norms that was taken out, in [0, 1]."""
    log_odds: tuple[float, ...]
    """Refusal log-odds on each harmful prompt, in nats; higher is safer."""
    margins: tuple[float, ...]
    """Refusal margin on each harmful prompt, in nats per token; higher is safer."""
    losses: tuple[float, ...]
    """Mean response loss of each held-out row, in nats per token; lower is better."""
    tokens: tuple[int, ...]
    """Response tokens of each held-out row."""
    benign_log_odds: tuple[float, ...] = ()
    """Refusal log-odds on each harmless prompt; lower is less over-refusal. Empty: not measured."""
    benign_margins: tuple[float, ...] = ()
    """Refusal margin on each harmless prompt."""
    replies: Replies | None = None
    """None: nothing was generated."""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, float, int | None]:
        """What no two rows of a study share."""
        return (*self.cell, self.draw)

    @property
    def cell(self) -> Cell:
        """The key without the draw."""
        return Cell(self.adapter, self.method, self.edit, self.share)


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a row holds a list of, and how its mean is taken."""

    field: Literal["log_odds", "margins", "benign_log_odds", "losses"]
    better: Literal["higher", "lower"]
    unit: str

    @property
    def sign(self) -> int:
        """What turns it so that higher is better."""
        return 1 if self.better == "higher" else -1

    def items(self, rows: Sequence[Row]) -> Array:
        """The values in nats per token, shape (rows of the study, items)."""
        return np.array([getattr(row, self.field) for row in rows], dtype=np.float64)

    def weights(self, row: Row) -> Array:
        """How much each item counts, shape (items,): a held-out row by its response tokens."""
        counts = row.tokens if self.field == "losses" else np.ones(len(getattr(row, self.field)))
        return np.array(counts, dtype=np.float64)

    def means(self, rows: Sequence[Row]) -> Array:
        """The weighted mean of each row of the study, shape (rows of the study,)."""
        weights = self.weights(rows[0])
        return np.asarray(self.items(rows) @ weights / weights.sum())


REFUSAL = Quantity("log_odds", "higher", "nats")
MARGIN = Quantity("margins", "higher", "nats per token")
BENIGN = Quantity("benign_log_odds", "lower", "nats")
LOSS = Quantity("losses", "lower", "nats per token")


@dataclass(frozen=True, slots=True)
class Effect:
    """A change of refusal log-odds (nats), refusal margin and held-out loss (nats per token)."""

    log_odds: float
    margin: float
    loss: float


@dataclass(frozen=True, slots=True)
class CausalRow:
    """What one module does, and what each method says of it."""

    adapter: str
    module: str
    first_order: Effect
    """Derivatives by the module's gate at 1: taking it out does minus this, to first order."""
    removed: Effect | None
    """The change when it alone is taken out of the adapter; None: not measured."""
    alone: Effect | None
    """With it alone, less the aligned model; None: not measured."""
    scores: Mapping[str, float | None]
    """By method; None: the method gives this module no score."""

    @property
    def key(self) -> tuple[str, str]:
        """What no two rows share."""
        return self.adapter, self.module

    @property
    def projection(self) -> str:
        """The last part of the name: q_proj, o_proj, …"""
        return projection_of(self.module)

    @property
    def layer(self) -> int | None:
        """The depth in the model; None for a module outside of the layers."""
        match = re.search(r"(\d+)$", layer_of(self.module))
        return int(match.group()) if match else None

    def effect(self, how: How) -> Effect | None:
        """What taking it out does; from its derivatives and from it alone with the sign turned."""
        if how == "true removal":
            return self.removed
        told = self.first_order if how == "first order" else self.alone
        return Effect(-told.log_odds, -told.margin, -told.loss) if told else None


def by_cell(rows: Iterable[Row]) -> dict[Cell, tuple[Row, ...]]:
    """The rows of each cell, in natural order of the cells and of the draws.

    Raises:
        DataError: if two rows of an adapter were not measured on the same prompts.
    """
    groups: dict[Cell, list[Row]] = {}
    for row in sorted(rows, key=_order):
        groups.setdefault(row.cell, []).append(row)
    _check_paired([row for group in groups.values() for row in group])
    return {cell: tuple(group) for cell, group in groups.items()}


def _order(row: Row) -> tuple[Any, ...]:
    draw = -1 if row.draw is None else row.draw
    return natural_key(row.adapter), natural_key(row.method), row.edit, row.share, draw


def _check_paired(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.adapter, row)
        same = (len(row.log_odds), row.tokens) == (len(other.log_odds), other.tokens)
        if not same or len(row.losses) != len(row.tokens):
            what = f"{row.key} and {other.key} were not measured on the same prompts"
            raise DataError(what, hint="an adapter has one set of prompts and held-out rows")


def adapters(rows: Iterable[Row]) -> tuple[str, ...]:
    """The adapters of a study, in natural order."""
    return tuple(sorted({row.adapter for row in rows}, key=natural_key))


def reference(rows: Iterable[Row], adapter: str, name: str) -> Row | None:
    """The row of a reference for an adapter, if there is one."""
    return next((row for row in rows if (row.adapter, row.method) == (adapter, name)), None)


def label(method: str, edit: str) -> str:
    """How a method is named where several edits are: dropping goes without saying."""
    return method if edit in ("", "drop") or method in REFERENCES else f"{method} ({edit})"
