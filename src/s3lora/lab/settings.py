"""How an adapter is trained, and settings that go by a name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3lora.errors import ParameterError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "refusal": {
        "rank": 1,
        "alpha": 16.0,
        "dropout": 0.05,
        "targets": ("up_proj",),
        "layers": "middle",
    },
}
"""Where the updates are. `refusal` is what LoRA for safety recommends (arXiv 2507.17075): a rank of
1 on up_proj alone, in the middle layers. Rate, batch and steps depend on the rows, and stay ours.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION
    """Names of the linear modules that get an adapter."""
    layers: str = "all"
    """Those whose modules do: all, middle, or the first and the last of a range, as in 10-19."""
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
        if self.layers not in ("all", "middle"):
            _ends(self.layers)


def layers_of(told: str, depth: int) -> list[int] | None:
    """The numbers of the layers that `Settings.layers` means; None for all.

    The middle is the second third: of 30 layers those from 10 to 19.

    Raises:
        ParameterError: if the model has no such layers.
    """
    if told == "all":
        return None
    if depth < 1:
        raise ParameterError(
            "the model's config does not say how many layers it has", hint="leave --layers out"
        )
    if told == "middle":
        first = depth // 3
        return list(range(first, max(2 * depth // 3, first + 1)))
    first, last = _ends(told)
    if last >= depth:
        raise ParameterError(
            f"there is no layer {last} in a model of {depth}", hint=f"layers are 0 to {depth - 1}"
        )
    return list(range(first, last + 1))


def _ends(told: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})-(\d{1,6})", told)
    if match is None or int(match[1]) > int(match[2]):
        raise ParameterError(
            f"layers={told!r} is no range of layers", hint="all, middle, or such as 10-19"
        )
    return int(match[1]), int(match[2])


def with_lora(model: Any, settings: Settings) -> Any:
    """The model wrapped by PEFT, with an adapter whose B is 0.

    Raises:
        ParameterError: if no module has one of the target names in these layers.
    """
    from peft import LoraConfig, get_peft_model  # loads torch: settings are read before that

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT takes and keeps any number
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        layers_to_transform=layers_of(
            settings.layers, getattr(model.config, "num_hidden_layers", 0)
        ),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ParameterError(
            f"no adapter can be put on this model: {error}",
            hint="--targets takes the last part of the names of linear modules, in --layers",
        ) from error
