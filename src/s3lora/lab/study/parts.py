"""What a study is made of: models, adapters, methods, and how much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3lora.lab.defences import make_defence
from s3lora.lab.probes import Openings
from s3lora.lab.settings import Settings

if TYPE_CHECKING:
    from s3lora.lab.defences.interface import Defence


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter that the study trains."""

    name: str
    recipe: str
    """A name of `s3lora.lab.recipes.RECIPES`."""
    settings: Settings = field(default_factory=Settings)
    openings: Openings = field(default_factory=Openings)
    """What the refusal margin compares for this adapter."""
    aligned: str = ""
    """The aligner whose model it is trained on; empty: that of [align]."""
    defence: str = ""
    """What guards safety meanwhile, one of `s3lora.lab.defences`; empty: nothing."""
    defence_params: Mapping[str, Any] = field(default_factory=dict)

    def guard(self) -> Defence | None:
        """The defence with its parameters set; None for plain training.

        Raises:
            ParameterError: if there is no such defence, or a parameter does not fit.
        """
        return make_defence(self.defence, self.defence_params) if self.defence else None


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to choose modules and what becomes of them."""

    method: str
    """A method of `s3lora methods`, or a variant of `s3lora.lab.study.variants`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    edit: str = "drop"
    edit_params: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """What the tables call it; the method's name if empty."""
    by_layer: bool = False
    """Choose whole layers."""
    within: bool = False
    """Choose the same share within each projection."""
    only: tuple[str, ...] = ()
    """Choose among the modules of these projections alone; the share is of all modules."""
    shares: tuple[float, ...] = ()
    """Some of the study's shares; empty: all of them."""
    replies: bool = False
    """Whether the main table has a row for it: replies are written at the main share."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.label or self.method


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured in a cell."""

    harmful: int = 40
    """Harmful prompts for the refusal margin."""
    harmless: int = 12
    """Harmless prompts for the same margin; they are asked at the first share alone."""
    rows: int = 24
    """Held-out rows for the response loss."""
    longest: int = 64
    """Response tokens of a held-out row, at most."""
    replies: int = 100
    """Prompts of each kind that are replied to for the main table; 0: none."""
    new_tokens: int = 24
    """Tokens of a reply."""
    random_replies: int = 5
    """How many random draws are replied with."""


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study."""

    results: Path
    """Where rows, tables and plots go: the folder of the TOML file."""
    folder: Path
    """Where models and adapters are kept; they may be deleted when all is measured."""
    model: str
    """The model before alignment."""
    align: Trained
    """The refusal adapter that, merged, gives the aligned model."""
    adapters: tuple[Trained, ...]
    choices: tuple[Choice, ...]
    harmful: tuple[str, ...] = ("advbench", "strongreject", "do-not-answer")
    """Data sets of harmful prompts."""
    harmless: tuple[str, ...] = ("alpaca",)
    """Data sets of harmless rows."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.1, 0.05)
    """Shares of the modules to choose; the first is that of the main table and is run first."""
    draws: int = 20
    """Random choices at every share."""
    aligners: tuple[Trained, ...] = ()
    """Other ways of aligning the model before alignment, for the adapters that name one."""
    aligned_folder: Path | None = None
    """Where the aligned model and its refusal adapter are kept; None: in `folder`."""
    causal: tuple[str, ...] = ()
    """Adapters whose modules are taken out, and kept, one at a time; first order is for all."""
    sizes: Sizes = field(default_factory=Sizes)
    plotted: tuple[str, ...] = ()
    """The methods that the plots show, at most about seven; empty: all."""

    @property
    def defended(self) -> bool:
        """Whether it is also about trainings: with a defence, or on models aligned otherwise."""
        return bool(self.aligners) or any(t.defence for t in (self.align, *self.adapters))
