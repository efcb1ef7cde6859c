"""One adapter of a study, trained in a process of its own: its time and its memory are its own."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import transformers
from transformers import TrainerCallback

from s3lora.errors import DataError, ParameterError, S3LoraError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.data import Example
from s3lora.lab.models import load_chat, model_folder
from s3lora.lab.study.parts import Trained
from s3lora.lab.train import train

REFUSED = 2
"""Exit status of a training that says on stdout what is wrong."""

TOLD = 15
"""Lines of stderr that are passed on from a training that broke off."""


@dataclass(frozen=True, slots=True)
class Training:
    """All that the training of one adapter needs."""

    trained: Trained
    model: str
    """What it is trained on: a name or a checkpoint folder."""
    rows: tuple[Example, ...]
    out: Path
    safety: tuple[Example, ...] = ()
    """Harmful prompts with safe responses, for a defence that needs them."""
    base: str | None = None
    """The model before alignment, for a defence that needs it."""

    def run(self, callback: TrainerCallback) -> None:
        """Train here, in this process."""
        guard = self.trained.guard()
        train(
            load_chat(self.model),
            self.rows,
            self.out,
            self.trained.settings,
            recipe=self.trained.recipe,
            callbacks=[callback],
            defence=guard,
            safety=self.safety,
            base=Checkpoint(model_folder(self.base)) if self.base else None,
            discard="other",  # the study says what is wanted now
        )


def train_apart(training: Training) -> None:
    """Train in a new process, which ends with this one.

    Raises:
        ParameterError: if the training refused what it was given.
        DataError: if it broke off; called again it goes on from its last checkpoint.
    """
    command = [sys.executable, "-m", __name__]
    given = pickle.dumps(training)
    ended = subprocess.run(command, input=given, capture_output=True, check=False)  # noqa: S603
    if ended.returncode == REFUSED:
        told = json.loads(ended.stdout)
        raise ParameterError(told["error"], hint=told["hint"])
    if ended.returncode:
        last = "\n".join(ended.stderr.decode(errors="replace").splitlines()[-TOLD:])
        raise DataError(
            f"training {training.trained.name} broke off with status {ended.returncode}\n{last}",
            hint="run the study again: it goes on from the last checkpoint",
        )


class WhileStarterLives(TrainerCallback):
    """Ends a training whose study was killed: another run of it would train the same."""

    def __init__(self, starter: Callable[[], int] = os.getppid) -> None:
        self.starter = starter
        self.first = starter()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Before a checkpoint, so that nothing is written any more."""
        if self.starter() != self.first:
            raise SystemExit("the study that this training is for has ended")


def main() -> int:
    """Train what stdin holds; stdout is for what is wrong with it alone."""
    callback = WhileStarterLives()
    training: Training = pickle.load(sys.stdin.buffer)  # noqa: S301  from the process that started this one
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), catch_warnings():
            simplefilter("ignore", FutureWarning)
            training.run(callback)
    except S3LoraError as error:
        print(json.dumps({"error": str(error), "hint": error.hint}))  # noqa: T201  its answer
        return REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
