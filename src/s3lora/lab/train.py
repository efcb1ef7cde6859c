"""LoRA fine-tuning on the responses of chat examples, with transformers' Trainer and PEFT."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed

from s3lora.errors import OutputError, ParameterError
from s3lora.io.atomic import new_folder, reset_modes
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.chat import NO_LABEL, Encoded, cut_responses, encode, padded
from s3lora.lab.data import Example, digest_of, refuse_unanswered
from s3lora.lab.defences.interface import NAME, Defence, Guard, Run, params_of, refuse_missing
from s3lora.lab.models import Chat
from s3lora.lab.partial_training import (
    DEFENCE_STATE,
    STATE,
    WRITE_ERRORS,
    PartialTraining,
    identity_of,
    partial_training,
    writing,
)
from s3lora.lab.settings import ATTENTION, Settings, with_lora
from s3lora.lab.training_card import describe
from s3lora.lab.training_cost import Spent, machine

Discard = Literal["nothing", "other", "all"]

__all__ = ["ATTENTION", "Collator", "Settings", "train"]


def train(
    chat: Chat,
    examples: Sequence[Example],
    out: Path,
    settings: Settings,
    *,
    recipe: str = "own rows",
    callbacks: Sequence[TrainerCallback] = (),
    defence: Defence | None = None,
    safety: Sequence[Example] = (),
    base: Checkpoint | None = None,
    discard: Discard = "nothing",
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train an adapter on the responses of the examples and write its folder.

    An interrupted run is continued when the same call is made again: checkpoints are kept in
    `.NAME.training` beside `out` until the adapter is written.

    Args:
        chat: The model; it is wrapped in place, and a defence may change its weights.
        examples: Prompts with responses.
        out: The folder to write; it must not exist yet.
        settings: Of LoRA and the optimiser.
        recipe: What the card says the rows are.
        callbacks: Further callbacks of transformers' Trainer.
        defence: One of `s3lora.lab.defences`.
        safety: Harmful prompts with safe responses, for a defence that needs them.
        base: The weights before alignment, for a defence that needs them.
        discard: What an interrupted run has kept may be thrown away: `nothing` of it, that of a
            run with `other` settings, or `all` of it, to start anew in any case.
        say: Called with what there is to say of the rows before the first step.

    Returns:
        `out`, with the adapter in PEFT's layout, its README.md and `training.json`.

    Raises:
        DataError: if a row has no response.
        ParameterError: if no module has one of the target names, or the defence lacks what it
            needs.
        OutputError: if `out` exists already or cannot be written, a checkpoint cannot, or
            `.NAME.training` keeps a run of other settings; the hint says what is kept.
    """
    if os.path.lexists(out):
        raise OutputError(f"{out} exists already", hint="give the path of a new folder")
    refuse_unanswered(examples)
    rows = [encode(chat.tokenizer, example, settings.longest) for example in examples]
    if not rows:
        raise ParameterError("there are no rows to train on", hint="check the data set")
    if defence:
        refuse_missing(defence, safety=bool(safety), base=base is not None)
    identity = identity_of(settings, chat.reference, examples, defence, safety, base)
    partial = partial_training(out)
    if discard == "nothing":
        partial.refuse_other(identity)
    cut = cut_responses(rows, settings.longest)
    if cut and say:
        say(cut)
    set_seed(settings.seed)
    run = Run(with_lora(chat.model, settings), chat.tokenizer, settings, examples, safety, base)
    found = partial.checkpoint if partial.is_of(identity) and discard != "all" else None
    if found is None:
        partial.clear(identity)
    try:
        begun, history = _steps(run, rows, partial, found, defence, callbacks)
    except BaseException:
        partial.remove_unless_useful()
        raise
    card = {
        "recipe": recipe,
        "base": chat.reference,
        "rows": len(rows),
        "rows_digest": digest_of(examples),
        "cut_rows": sum(row.cut > 0 for row in rows),
        "settings": asdict(settings),
        "seconds": round(begun.spent.seconds, 1),
        "resumed_from": partial.step if found else None,
        **_losses(history),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "machine": machine(),
    }
    with writing(str(out), partial.now), new_folder(out) as folder:
        figures = _export(begun.guard, run.model, folder)
        if defence:
            card["defence"] = _described(defence, begun, safety, figures)
        peak = begun.spent.peak
        card["peak_mib"] = None if peak is None else round(peak, 1)
        describe(folder, card)
        reset_modes(folder)
    shutil.rmtree(partial.folder, ignore_errors=True)
    return out


def _steps(
    run: Run,
    rows: Sequence[Encoded],
    partial: PartialTraining,
    found: Path | None,
    defence: Defence | None,
    callbacks: Sequence[TrainerCallback],
) -> tuple[_Begun, Sequence[Mapping[str, float]]]:
    """Do the steps, from a checkpoint on if one was found; what took how long, and the losses."""
    begun = _begin(defence, run, found)
    if found and partial.step == run.settings.steps:  # all that was missing is the output
        run.model.load_adapter(str(found), NAME, is_trainable=True)
        return begun, TrainerState.load_from_json(str(found / STATE)).log_history
    trainer = _Trainer(
        begun,
        partial,
        model=run.model,
        args=_arguments(partial.folder, run.settings),
        train_dataset=[
            {"input_ids": row.ids, "labels": row.labels, "length": len(row.ids)} for row in rows
        ],
        data_collator=Collator(run.tokenizer.pad_token_id),
        callbacks=[*begun.guard.callbacks, *callbacks],
    )
    begun.spent.start()
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    return begun, trainer.state.log_history


class _Begun(NamedTuple):
    """A defence in this training, and what it takes."""

    guard: Guard
    spent: Spent


class _Trainer(Trainer):
    """A Trainer that adds a defence's penalty to the loss, and saves what the defence keeps."""

    def __init__(self, begun: _Begun, partial: PartialTraining, **named: Any) -> None:
        self.begun = begun
        self.partial = partial
        self.penalty: float | None = None
        super().__init__(**named)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of the responses, and the penalty if there is one."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.begun.guard.penalty:
            penalty = self.begun.guard.penalty()
            self.penalty = float(penalty.detach())
            loss = loss + penalty.to(loss)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the penalty beside the loss that it is part of."""
        if "loss" in logs and self.penalty is not None:
            logs["penalty"] = self.penalty
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a checkpoint's adapter, and what the defence keeps; its state is written after."""
        super().save_model(output_dir, _internal_call)
        kept = {
            key: value.detach().clone().contiguous()
            for key, value in self.begun.guard.kept().items()
        }
        file = Path(output_dir or str(self.args.output_dir)) / DEFENCE_STATE
        save_file(kept, file, metadata=self.begun.spent.kept())

    def _save_checkpoint(self, *args: Any, **named: Any) -> None:
        """Save a checkpoint; if that fails, make room again by removing what there is of it."""

        def kept() -> PartialTraining:
            self.partial.remove_unless_useful()
            return self.partial.now()

        what = f"the checkpoint of step {self.state.global_step}"
        with writing(what, kept, (*WRITE_ERRORS, RuntimeError)):
            super()._save_checkpoint(*args, **named)


def _begin(defence: Defence | None, run: Run, found: Path | None) -> _Begun:
    """Let the defence prepare the model, anew or from a checkpoint."""
    if found is None:
        preparing = Spent()
        preparing.start()
        guard = defence.begin(run) if defence else Guard()
        return _Begun(guard, Spent(before=preparing.seconds))
    with safe_open(found / DEFENCE_STATE, framework="pt") as file:
        saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
        spent = Spent.from_kept(file.metadata())
    return _Begun(defence.begin(replace(run, saved=saved)) if defence else Guard(), spent)


def _export(guard: Guard, model: Any, folder: Path) -> Mapping[str, Any]:
    if guard.export is None:
        model.save_pretrained(folder, save_embedding_layers=False)
        return {}
    return guard.export(folder)


def _described(
    defence: Defence, begun: _Begun, safety: Sequence[Example], figures: Mapping[str, Any]
) -> dict[str, Any]:
    """What the card says of the defence."""
    rows = {"safety_rows": len(safety), "safety_digest": digest_of(safety)}
    return {
        "name": defence.name,
        "params": params_of(defence),
        "seconds_before": round(begun.spent.before, 1),
        **(rows if "safety" in defence.needs else {}),
        **figures,
    }


def _losses(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The losses of the responses by step, and the penalties where there are any."""
    steps = [entry for entry in history if "loss" in entry]
    found = {"losses": [entry["loss"] - entry.get("penalty", 0.0) for entry in steps]}
    penalties = [entry["penalty"] for entry in steps if "penalty" in entry]
    return {**found, "penalties": penalties} if penalties else found


@dataclass(frozen=True, slots=True)
class Collator:
    """Rows of different lengths as one batch, filled up on the right."""

    filler: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (rows, longest): ids, mask and labels."""
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": torch.tensor(padded(ids, self.filler)),
            "attention_mask": torch.tensor(padded([[1] * len(row) for row in ids], 0)),
            "labels": torch.tensor(padded([row["labels"] for row in rows], NO_LABEL)),
        }


def _arguments(work: Path, settings: Settings) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        warmup_steps=max(1, settings.steps // 20),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        seed=settings.seed,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=1,
        report_to="none",
        dataloader_pin_memory=False,
    )
