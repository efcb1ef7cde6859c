"""What is written beside an adapter that was trained: training.json and README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3lora.lab.finite import json_text


def describe(folder: Path, card: Mapping[str, Any]) -> None:
    """Write training.json, and a README.md in place of PEFT's template."""
    (folder / "training.json").write_text(json_text(card, 2), encoding="utf-8")
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
                f"{settings['rate']:g}, seed {settings['seed']}, on {_modules(settings)}.",
                "",
                *_defence(card.get("defence")),
                f"Loss of the first and the last step: {card['losses'][0]:.3f}, "
                f"{card['losses'][-1]:.3f}. `training.json` has all of them.",
                "",
            ]
        ),
        encoding="utf-8",
    )


def _modules(settings: Mapping[str, Any]) -> str:
    """The targets, and the layers unless they are all."""
    told = ", ".join(settings["targets"])
    return told if settings["layers"] == "all" else f"{told} in layers {settings['layers']}"


def _defence(told: Mapping[str, Any] | None) -> list[str]:
    """A paragraph on the defence, if there was one."""
    if told is None:
        return []
    params = ", ".join(f"{key}={value}" for key, value in told["params"].items())
    before = f"{told['seconds_before']:g} seconds before the first step"
    return [f"Defence while training: {told['name']} ({params}); {before}.", ""]
