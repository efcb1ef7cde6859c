"""The log of `sharpness` as SVG: how sharp the updates are over the steps, by projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s3lora.io.atomic import write_file
from s3lora.lab.drawing import add_legend, looks_of, panels_of, svg_of, with_axes
from s3lora.lab.metrics.extras import needed
from s3lora.report.plot_style import STYLE

TITLES = {"ssi": "SSI", "plain_ssi": "plain σ₁/Σσ"}


def sharpness_plot(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the plot: the median over layers of each projection, between its quartiles.

    Args:
        rows: As `sharpness.jsonl` has them; modules without a figure are left out.
        out: The SVG; one that is there already is replaced.

    Raises:
        ParameterError: if matplotlib is not installed.
        OutputError: if the file cannot be written.
    """
    with needed("matplotlib").rc_context(STYLE):
        write_file(out, svg_of(figure(rows)))


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The matplotlib figure, a panel for each of SSI and plain σ₁/Σσ."""
    looks = looks_of(sorted({_projection(row) for row in rows}))
    drawn, panels = panels_of(len(TITLES), 3.6, 3.1)
    for panel, (key, title) in zip(panels, TITLES.items(), strict=True):
        for projection, look in looks.items():
            lines = _quartiles([row for row in rows if _projection(row) == projection], key)
            if len(lines):
                steps, low, middle, high = lines.T
                panel.plot(steps, middle, **look, markersize=3, label=projection)
                panel.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
        panel.set(title=title, ylim=(0, 1.02))
    add_legend(drawn, panels)
    return with_axes(drawn, "step (line: median over layers, band: quartiles)", "sharpness")


def _projection(row: Mapping[str, Any]) -> str:
    return str(row["module"]).rpartition(".")[2]


def _quartiles(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Step and the three quartiles of a figure over modules, shape (steps, 4)."""
    told: dict[int, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            told.setdefault(row["step"], []).append(row[key])
    return np.array([[step, *np.percentile(v, (25, 50, 75))] for step, v in told.items()])
