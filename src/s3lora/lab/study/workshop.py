"""The models and adapters of a study: trained once, and kept in its folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from s3lora.adapter import Adapter
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder, reset_modes, write_file
from s3lora.lab.defences.features import safety_rows
from s3lora.lab.defences.sharpness import PLOT
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.patched import Patched
from s3lora.lab.recipes import Pools, pools, rows_for
from s3lora.lab.study.costs import Cost, cost_of, refuse_other
from s3lora.lab.study.parts import Study, Trained
from s3lora.lab.study.training import Training, train_apart

Say = Callable[[str], None]


class Workshop:
    """The models and adapters of a study, each made when it is first asked for."""

    def __init__(self, study: Study, say: Say) -> None:
        self.study = study
        self.say = say
        self.pools: Pools = pools(study.harmful, study.harmless)
        say(f"harmful prompts: {self._told(0)}; harmless rows: {self._told(1)}")

    def _told(self, which: int) -> str:
        parts = (self.pools.harmful, self.pools.harmless)[which]
        return f"{len(parts.train)} train, {len(parts.test)} test, split {parts.digest}"

    def after(self, trained: Trained) -> Workshop:
        """The workshop whose aligned model is the one that an adapter is trained on."""
        aligner = next((a for a in self.study.aligners if a.name == trained.aligned), None)
        if aligner is None:
            return self
        other = copy.copy(self)
        folder = self._folder_of(aligner)
        other.study = replace(self.study, align=aligner, aligned_folder=folder)
        return other

    @property
    def _aligned_folder(self) -> Path:
        return self.study.aligned_folder or self.study.folder

    def refusal(self) -> Adapter:
        """The adapter that aligns the model."""
        return self._trained(self.study.align, self.study.model, self._aligned_folder)

    def aligned(self) -> Path:
        """The checkpoint of the aligned model: the refusal adapter merged into the base."""
        out = self._aligned_folder / "aligned"
        if not out.exists():
            adapter = self.refusal()
            chat = load_chat(self.study.model)
            merge(chat, adapter, out)
        return out

    def adapter(self, trained: Trained) -> Adapter:
        """An adapter trained on its aligned model."""
        return self._trained(trained, str(self.after(trained).aligned()), self.study.folder)

    def costs(self) -> tuple[Cost, ...]:
        """What every training took: those that align first, then the adapters."""
        study = self.study
        aligning = [_place(self._aligned_folder, study.align)]
        aligning += [_place(self._folder_of(aligner), aligner) for aligner in study.aligners]
        adapters = [_place(study.folder, trained) for trained in study.adapters]
        return (
            *map(partial(cost_of, aligns=True), (study.align, *study.aligners), aligning),
            *map(cost_of, study.adapters, adapters),
        )

    def keep_plots(self) -> None:
        """Copy what the defence `sharpness` drew in an adapter's folder beside the rows."""
        for trained in self.study.adapters:
            drawn = _place(self.study.folder, trained) / PLOT
            if drawn.exists():
                out = self.study.results / f"{trained.name}-{PLOT}"
                write_file(out, drawn.read_text(encoding="utf-8"))

    def _folder_of(self, aligner: Trained) -> Path:
        return self.study.folder / "aligners" / aligner.name

    def _trained(self, trained: Trained, model: str, folder: Path) -> Adapter:
        out = _place(folder, trained)
        if out.exists():
            refuse_other(trained, out)
        else:
            guard = f", defence {trained.defence}" if trained.defence else ""
            count = trained.settings.steps
            steps = f"{count} step{'s' * (count != 1)}"
            self.say(f"training {trained.name}: {trained.recipe}, {steps}{guard}")
            train_apart(self._training(trained, model, out))
        return open_adapter(out)

    def _training(self, trained: Trained, model: str, out: Path) -> Training:
        settings, guard = trained.settings, trained.guard()
        needs = guard.needs if guard else frozenset()
        rows = rows_for(trained.recipe, self.pools, settings.steps * settings.batch, settings.seed)
        safety = safety_rows(self.pools, settings.seed) if "safety" in needs else []
        base = self.study.model if "base" in needs else None
        return Training(trained, model, tuple(rows), out, tuple(safety), base)


def _place(folder: Path, trained: Trained) -> Path:
    return folder / "adapters" / trained.name


def merge(chat: Chat, adapter: Adapter, out: Path) -> None:
    """Write the checkpoint of a model with an adapter's updates in its weights."""
    Patched(chat.model, adapter).apply(adapter.read(name) for name in adapter.names)
    with new_folder(out) as folder:
        chat.model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        reset_modes(folder)
