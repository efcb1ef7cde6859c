"""LoRA fine-tuning on the responses of chat examples, with transformers' Trainer and PEFT."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from s3lora.errors import ParameterError
from s3lora.io.atomic import new_folder
from s3lora.lab.chat import NO_LABEL, encode, padded
from s3lora.lab.data import Example, digest_of
from s3lora.lab.models import Chat

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION
    """Names of the linear modules that get an adapter."""
    rate: float = 5e-4
    """Peak learning rate, after a warm-up of a twentieth of the steps; then half a cosine."""
    steps: int = 80
    batch: int = 8
    longest: int = 64
    """Responses are cut after so many tokens."""
    seed: int = 0
    save_every: int = 20
    """Steps between checkpoints, from which an interrupted run goes on."""

    def __post_init__(self) -> None:
        counts = (self.rank, self.steps, self.batch, self.longest, self.save_every)
        if min(counts) < 1 or self.rate <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ParameterError(
                "rank, steps, batch and lengths must be at least 1, the rate above 0, dropout in "
                "[0, 1), and targets not empty",
                hint="s3lora train --help shows the defaults",
            )


def train(
    chat: Chat,
    examples: Sequence[Example],
    out: Path,
    settings: Settings,
    *,
    recipe: str = "own rows",
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train an adapter on the responses of the examples and write its folder.

    An interrupted run is continued when the same call is made again: checkpoints are kept in
    `.NAME.training` beside `out` until the adapter is written.

    Args:
        chat: The model; it is wrapped in place.
        examples: Prompts with responses.
        out: The folder to write; it must not exist yet.
        settings: Of LoRA and the optimiser.
        recipe: What the card says the rows are.
        callbacks: Further callbacks of transformers' Trainer.

    Returns:
        `out`, with the adapter in PEFT's layout, its README.md and `training.json`.

    Raises:
        DataError: if a row has no response.
        ParameterError: if no module has one of the target names.
        OutputError: if `out` exists already or cannot be written.
    """
    rows = [encode(chat.tokenizer, example, settings.longest) for example in examples]
    if not rows:
        raise ParameterError("there are no rows to train on", hint="check the data set")
    set_seed(settings.seed)
    model = _with_lora(chat.model, settings)
    work = out.with_name(f".{out.name}.training")
    trainer = Trainer(
        model=model,
        args=_arguments(work, settings),
        train_dataset=[
            {"input_ids": row.ids, "labels": row.labels, "length": len(row.ids)} for row in rows
        ],
        data_collator=Collator(chat.tokenizer.pad_token_id),
        callbacks=list(callbacks),
    )
    started = time.perf_counter()
    told = {**asdict(settings), "base": chat.reference, "rows_digest": digest_of(examples)}
    trainer.train(resume_from_checkpoint=_interrupted(work, told))
    card = {
        "recipe": recipe,
        "base": chat.reference,
        "rows": len(rows),
        "rows_digest": digest_of(examples),
        "settings": asdict(settings),
        "seconds": round(time.perf_counter() - started, 1),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    with new_folder(out) as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        _describe(folder, card)
    shutil.rmtree(work, ignore_errors=True)
    return out


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


def _with_lora(model: Any, settings: Settings) -> Any:
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT takes and keeps any number
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ParameterError(
            f"no adapter can be put on this model: {error}",
            hint="--targets takes the last part of the names of linear modules",
        ) from error


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


def _interrupted(work: Path, settings: dict[str, Any]) -> str | None:
    """The last whole checkpoint of an earlier run of the same; other remains are cleared."""
    told = work / "settings.json"
    wanted = json.dumps(settings, sort_keys=True)
    states = work.glob("checkpoint-*/trainer_state.json")  # the file that is written last
    checkpoints = sorted((s.parent for s in states), key=lambda path: int(path.name[11:]))
    if checkpoints and told.is_file() and told.read_text(encoding="utf-8") == wanted:
        return str(checkpoints[-1])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    told.write_text(wanted, encoding="utf-8")
    return None


def _describe(folder: Path, card: dict[str, Any]) -> None:
    """Write training.json, and a README.md in place of PEFT's template."""
    text = json.dumps(card, indent=2, ensure_ascii=False)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    settings = card["settings"]
    (folder / "README.md").write_text(
        "\n".join(
            [
                "---",
                f"base_model: {card['base']}",
                "library_name: peft",
                "---",
                "",
                f"# LoRA adapter: {card['recipe']}",
                "",
                f"Trained by s3lora on {card['rows']} rows ({card['recipe']}, digest "
                f"{card['rows_digest']}), for {settings['steps']} steps of {settings['batch']}: "
                f"rank {settings['rank']}, alpha {settings['alpha']:g}, learning rate "
                f"{settings['rate']:g}, seed {settings['seed']}, on "
                f"{', '.join(settings['targets'])}.",
                "",
                f"Loss of the first and the last step: {card['losses'][0]:.3f}, "
                f"{card['losses'][-1]:.3f}. `training.json` has all of them.",
                "",
            ]
        ),
        encoding="utf-8",
    )
