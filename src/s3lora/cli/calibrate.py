"""`s3lora eval calibrate`: how far a scorer of refusals agrees with people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.options import TABLE_OR_JSON, out_path
from s3lora.cli.output import emit_text
from s3lora.errors import ParameterError
from s3lora.report import tool

if TYPE_CHECKING:
    from s3lora.lab.metrics.calibration import Calibration
    from s3lora.lab.metrics.intervals import Figure
    from s3lora.lab.metrics.labels import Labelled

ALL = "all"
COLUMNS = {"kappa": "kappa", "recall": "recall", "false_refusals": "false refusals"}
WIDTH = 24
HEAD = "Agreement with people; each figure with its n and its 95 % interval."


@click.command()
@click.option(
    "--scorer",
    default="normalised",
    show_default=True,
    metavar="SCORER",
    help="normalised, published, or MODULE:FUNCTION that takes a reply.",
)
@click.option("--on-topic", is_flag=True, help="Leave out replies that answer another question.")
@TABLE_OR_JSON
@out_path("Write the result to this file instead of stdout.")
@click.argument("labels", nargs=-1, required=True)
def calibrate(
    scorer: str, on_topic: bool, form: str, output: Path | None, labels: tuple[str, ...]
) -> None:
    """Measure a scorer of refusals against people's labels.

    LABELS are CSV files with a header, or pyrit and pyrit-extra, the labelled
    replies in the package pyrit. The reply is in the column reply, response or
    assistant_response; the label in refusal, label or human_score: 1 for a
    refusal, 0 for none, empty where nobody labelled. Other columns do not
    matter. Of several files all rows together are told too.

    MODULE:FUNCTION is imported and run. It says True for a refusal, False, or
    None where it cannot say. --on-topic leaves out the refusals whose text is
    labelled as an answer to another prompt: no scorer that sees the reply
    alone can tell them.
    """
    from s3lora.lab.metrics.calibration import calibrate as measure

    found = {name: measure(scorer, rows) for name, rows in _parts(labels, on_topic).items()}
    if form == "json":
        emit_text(_document(scorer, on_topic, found), output)
    else:
        emit_text(_table(scorer, on_topic, found), output)


def _parts(labels: tuple[str, ...], only_on_topic: bool) -> dict[str, list[Labelled]]:
    """The rows by where they come from; all together too, if there are several files."""
    from s3lora.lab.metrics.labels import labelled, on_topic

    if len(set(labels)) < len(labels):
        raise ParameterError("a file is named twice", hint="name each once")
    parts = {name: labelled(name) for name in labels}
    together = [row for rows in parts.values() for row in rows]
    if only_on_topic:
        kept = {id(row) for row in on_topic(together)}
        parts = {name: [row for row in rows if id(row) in kept] for name, rows in parts.items()}
    if len(parts) > 1:
        parts[ALL] = [row for rows in parts.values() for row in rows]
    return parts


def _table(scorer: str, on_topic: bool, found: Mapping[str, Calibration]) -> str:
    """Lines of at most 80 characters, unless a name is longer."""
    kind = ", replies on topic" if on_topic else ""
    lines = [f"scorer {scorer}{kind}", HEAD]
    for name, told in found.items():
        lines += ["", Path(name).name]
        lines += [_line(label, getattr(told, key)) for key, label in COLUMNS.items()]
        lines.append(_shares(told))
        if told.unscored:
            lines.append(f"  {told.unscored} without text, label or score are left out")
    return "\n".join(lines) + "\n"


def _line(label: str, figure: Figure) -> str:
    if figure.value is None:
        return f"  {label:<{WIDTH}}–      n {figure.n:<6}{figure.note}"
    ends = "" if figure.low is None else f"[{figure.low:.2f}, {figure.high:.2f}]"
    arrow = {"higher": "↑", "lower": "↓", "neither": ""}[figure.better]
    head = f"{label} {arrow}"
    return f"  {head:<{WIDTH}}{figure.value:<7.2f}n {figure.n:<6}{ends}".rstrip()


def _shares(told: Calibration) -> str:
    people, scorer = (
        "–" if figure.value is None else f"{figure.value:.0%}"
        for figure in (told.people, told.scorer)
    )
    return f"  people call {people} refusals, the scorer {scorer}"


def _document(scorer: str, on_topic: bool, found: Mapping[str, Calibration]) -> str:
    parts: list[dict[str, Any]] = [{"labels": name, **asdict(told)} for name, told in found.items()]
    document = {
        "schema": 1,
        "kind": "calibrate",
        "tool": tool(),
        "scorer": scorer,
        "on_topic": on_topic,
        "parts": parts,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
