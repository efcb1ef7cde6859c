"""What the plots of the lab share: panels, a look for each line, one legend, SVG.

A line is known by its marker as well as by its colour.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from s3lora.lab.metrics.extras import needed
from s3lora.report.plot_style import COLOURS

MARKERS = "osD^vPXh*<>p"
COLUMNS = 3

_T = TypeVar("_T")


def svg_of(figure: Any) -> str:
    """The figure as SVG, the same bytes every time."""
    held = io.StringIO()
    nothing = {"Date": None, "Creator": None}
    figure.savefig(held, format="svg", metadata=nothing, bbox_inches="tight")
    return "\n".join(line.rstrip() for line in held.getvalue().splitlines()) + "\n"


def panels_of(
    count: int, width: float, height: float, columns: int = COLUMNS
) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, each of a size in inches; the places left over stay empty."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    size = (width * columns, height * lines)
    figure = needed("matplotlib.figure").Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def looks_of(names: Iterable[_T]) -> dict[_T, dict[str, Any]]:
    """Colour, marker and line by name; no two of the first 84 look alike."""
    return {
        name: {
            "color": COLOURS[at % len(COLOURS)],
            "marker": MARKERS[at % len(MARKERS)],
            "linestyle": "-" if at < len(COLOURS) else "--",
        }
        for at, name in enumerate(names)
    }


def with_axes(figure: Any, x: str, y: str) -> Any:
    """The figure with one label for all its x axes and one for all its y axes."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure


def add_legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend above all panels, each label once."""
    told: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            told.setdefault(name, handle)
    columns = 5 if len(panels) > 2 else 3
    figure.legend(list(told.values()), list(told), loc="outside upper center", ncols=columns)
