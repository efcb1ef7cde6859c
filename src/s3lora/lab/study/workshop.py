"""The models and adapters of a study: trained once, and kept in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from s3lora.adapter import Adapter
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.patched import Patched
from s3lora.lab.recipes import Pools, pools, rows_for
from s3lora.lab.study.config import Study, Trained
from s3lora.lab.train import train

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

    def refusal(self) -> Adapter:
        """The adapter that aligns the model."""
        return self._trained(self.study.align, self.study.model)

    def aligned(self) -> Path:
        """The checkpoint of the aligned model: the refusal adapter merged into the base."""
        out = self.study.folder / "aligned"
        if not out.exists():
            adapter = self.refusal()
            chat = load_chat(self.study.model)
            merge(chat, adapter, out)
        return out

    def adapter(self, trained: Trained) -> Adapter:
        """An adapter trained on the aligned model."""
        return self._trained(trained, str(self.aligned()))

    def _trained(self, trained: Trained, model: str) -> Adapter:
        out = self.study.folder / "adapters" / trained.name
        if not out.exists():
            settings = trained.settings
            self.say(f"training {trained.name}: {trained.recipe}, {settings.steps} steps")
            rows = rows_for(
                trained.recipe, self.pools, settings.steps * settings.batch, settings.seed
            )
            train(load_chat(model), rows, out, settings, recipe=trained.recipe)
        return open_adapter(out)


def merge(chat: Chat, adapter: Adapter, out: Path) -> None:
    """Write the checkpoint of a model with an adapter's updates in its weights."""
    Patched(chat.model, adapter).apply(adapter.read(name) for name in adapter.names)
    with new_folder(out) as folder:
        chat.model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
