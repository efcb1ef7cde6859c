"""What the trainings of a study took: read from their cards, and kept beside the rows.

The adapters are not kept, so that their cards go; `defences.jsonl` is what is left of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3lora.adapter import Adapter
from s3lora.errors import DataError, ParameterError
from s3lora.io import open_adapter
from s3lora.io.atomic import write_file
from s3lora.lab.defences.interface import params_of
from s3lora.lab.finite import json_text
from s3lora.lab.study.parts import Trained
from s3lora.scan import scan

COSTS = "defences.jsonl"
LAST = 10
"""Steps whose mean is the last loss."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one training was, and what it took."""

    adapter: str
    recipe: str
    aligns: bool
    """Whether the adapter makes an aligned model, and is not one that is measured."""
    aligned: str
    """The aligner whose model it was trained on; empty: that of [align]."""
    defence: str
    """Empty: plain LoRA."""
    given: Mapping[str, Any]
    """The parameters of the defence that the study sets."""
    params: Mapping[str, Any]
    """All of them."""
    settings: Mapping[str, Any]
    """Rank, rate, steps and so on."""
    seconds_before: float
    """Until the first step: what the defence does before training."""
    seconds: float
    """Of all steps."""
    peak_mib: float | None
    """The largest resident memory of the process, in MiB; None: not known."""
    modules: int
    """That the written adapter changes."""
    parameters: int
    """Numbers in its factors."""
    norm: float | None
    """‖ΔW‖_F of all modules together; None: a module could not be judged."""
    last_loss: float | None
    """Mean response loss of the last ten steps, in nats per token, without a penalty.

    None: it was not finite."""
    rows_digest: str
    """Of the rows that were trained on."""
    truncation_error: float | None = None
    """The largest relative error of writing an average with rank r; None: nothing was cut."""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def cost_of(trained: Trained, folder: Path, *, aligns: bool = False) -> Cost:
    """What the card of an adapter says.

    Raises:
        DataError: if it has none.
    """
    card, adapter = card_of(folder), open_adapter(folder)
    defence, losses = card.get("defence") or {}, card["losses"][-LAST:]
    return Cost(
        adapter=trained.name,
        recipe=trained.recipe,
        aligns=aligns,
        aligned=trained.aligned,
        defence=defence.get("name", ""),
        given=dict(trained.defence_params),
        params=defence.get("params", {}),
        settings=card["settings"],
        seconds_before=defence.get("seconds_before", 0.0),
        seconds=card["seconds"],
        peak_mib=card.get("peak_mib"),
        modules=len(adapter.names),
        parameters=adapter.parameters,
        norm=_norm(adapter),
        last_loss=None if None in losses else round(sum(losses) / len(losses), 4),
        rows_digest=card["rows_digest"],
        truncation_error=defence.get("truncation_error"),
        machine=card.get("machine", ""),
        versions=card.get("versions", {}),
    )


def _norm(adapter: Adapter) -> float | None:
    table = scan(adapter, "magnitude")
    if not all(module.judged for module in table.skipped):
        return None
    return round(math.hypot(*(score.value for score in table.scores)), 6)


def card_of(folder: Path) -> dict[str, Any]:
    """The training.json of an adapter.

    Raises:
        DataError: if there is none, or it is no JSON.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} has no training.json that can be read: {error}",
            hint="remove the folder, and the study trains the adapter again",
        ) from error
    return found


def refuse_other(trained: Trained, folder: Path) -> None:
    """Refuse an adapter that is there, but was trained as the study's file no longer says.

    Raises:
        ParameterError: naming what differs.
    """
    card = card_of(folder)
    defence = card.get("defence") or {}
    guard = trained.guard()
    now = {
        **dataclasses.asdict(trained.settings),
        "recipe": trained.recipe,
        "defence": trained.defence,
        **(_named(params_of(guard)) if guard else {}),
    }
    was = {
        **card["settings"],
        "recipe": card["recipe"],
        "defence": defence.get("name", ""),
        **_named(defence.get("params", {})),
    }
    for key in was.keys() & now.keys() - {"save_every"}:
        if _plain(was[key]) != _plain(now[key]):
            raise ParameterError(
                f"{folder} was trained with {key}={was[key]!r}, the study says {now[key]!r}",
                hint="give it a new name, or remove the folder and what was measured of it",
            )


def _named(params: Mapping[str, Any]) -> dict[str, Any]:
    """Apart from settings of the same name."""
    return {f"defence_params.{key}": value for key, value in params.items()}


def _plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    return list(value) if isinstance(value, tuple) else value


def write_costs(path: Path, costs: Sequence[Cost]) -> None:
    """One line of JSON each.

    Raises:
        OutputError: if the file cannot be written.
    """
    write_file(path, "".join(json_text(dataclasses.asdict(cost), None) for cost in costs))


def read_costs(path: Path) -> tuple[Cost, ...]:
    """What `write_costs` wrote; nothing where there is no file.

    Raises:
        DataError: if a line is no cost.
    """
    if not path.exists():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(Cost(**json.loads(line)) for line in lines)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} does not hold the costs of trainings: {error}",
            hint="run the study: it writes the file anew from the adapters' cards",
        ) from error
