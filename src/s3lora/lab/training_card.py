"""What is written beside an adapter that was trained: training.json and README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from s3lora.lab.finite import json_text
from s3lora.report.escape import printable


def describe(folder: Path, card: Mapping[str, Any]) -> None:
    """Write training.json, and a README.md in place of PEFT's template."""
    (folder / "training.json").write_text(
        json_text(card, 2), encoding="utf-8", errors="backslashreplace"
    )
    settings = card["settings"]
    (folder / "README.md").write_text(
        "\n".join(
            [
                "---",
                _front_matter(base_model=card["base"], library_name="peft"),
                "---",
                "",
                f"# LoRA adapter: {_one_line(card['recipe'])}",
                "",
                f"Trained by s3lora on {_counted(card['rows'], 'row')} "
                f"({_one_line(card['recipe'])}, digest {card['rows_digest']}), "
                f"for {_counted(settings['steps'], 'step')} of {settings['batch']}: "
                f"rank {settings['rank']}, alpha {settings['alpha']:g}, learning rate "
                f"{settings['rate']:g}, seed {settings['seed']}, on {_modules(settings)}.",
                "",
                *_cut(card),
                *_defence(card.get("defence")),
                f"Loss of the first and the last step: {card['losses'][0]:.3f}, "
                f"{card['losses'][-1]:.3f}. `training.json` has all of them.",
                "",
            ]
        ),
        encoding="utf-8",
    )


def _front_matter(**fields: str) -> str:
    """Fields as YAML, one line each; a value with a colon, a quote or a line end is quoted."""
    lines = []
    for key, value in fields.items():
        style = None if value.isprintable() else '"'  # the other styles keep line ends as they are
        line: str = yaml.safe_dump(
            {key: value}, allow_unicode=True, default_style=style, width=10**6
        )
        lines.append(line.rstrip("\n"))
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """A name as it can stand in a heading: no line end, and no mark of Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(printable(text).split()))


def _cut(card: Mapping[str, Any]) -> list[str]:
    """A paragraph on responses that were cut, if any were."""
    if not card["cut_rows"]:
        return []
    longest = card["settings"]["longest"]
    return [f"{card['cut_rows']} responses were cut after {longest} tokens.", ""]


def _counted(count: int, noun: str) -> str:
    """A number with its noun, which gets an s unless there is one."""
    return f"{count} {noun}{'s' * (count != 1)}"


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
