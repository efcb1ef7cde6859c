"""Figures of a result for papers: a map of the scores, spectra, and how far methods agree.

Needs matplotlib (extra `plot`). A figure is a vector, and the same result gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from s3lora.errors import ParameterError, install_hint
from s3lora.report import Ranking, Result
from s3lora.report.escape import printable
from s3lora.report.places import Stack, places_of
from s3lora.report.plot_style import COLOURS, DARK, GREY, OF_FILES, STYLE, bytes_of
from s3lora.report.plot_values import Values, agreements, spectra_of, values_of

FORMS = ("pdf", "svg")
MOST_METHODS = 30
"""A matrix of more methods cannot be read."""
LABEL, TICK = 44, 24
"""How much of a name is written, in characters: in a title, and beside an axis."""
COLUMNS = 3
NAMES = {"update": "update", "rebuild": "robust rebuild", "a": "update in A", "b": "update in B"}


def render(result: Result, figure: str, form: str, *, method: str = "", top: int = 6) -> bytes:
    """A figure of a result.

    Args:
        result: A scan, a plan to prune, a ranking or a comparison.
        figure: A key of `FIGURES`.
        form: `pdf` or `svg`.
        method: For a ranking: the label of the method to show; empty for the first.
        top: For the spectra: how many modules, those to look at first.

    Raises:
        ParameterError: if matplotlib is not installed, or the result has nothing of the kind.
    """
    try:
        matplotlib = import_module("matplotlib")
    except ImportError as error:
        hint = install_hint("plot")
        raise ParameterError("plots need matplotlib", hint=hint) from error
    with matplotlib.rc_context({**STYLE, **OF_FILES}):
        return bytes_of(FIGURES[figure](result, method, top), form)


def _heat(result: Result, method: str, top: int) -> Any:
    """Layers against projections, one panel for each stack of layers, chosen modules marked."""
    values = values_of(result, method)
    found = places_of(values.names)
    known = [value for value in values.of.values() if value is not None]
    if not found.stacks or not known:
        raise ParameterError(
            "no module with a score is in a layer", hint="plot the spectra: --figure spectra"
        )
    if not math.isfinite(2 * (max(known) - min(known))):
        raise ParameterError(
            f"scores from {min(known):.3g} to {max(known):.3g} are beyond what an axis can show",
            hint="print the table, or plot the spectra: --figure spectra",
        )
    colours = import_module("matplotlib.colors")
    norm = colours.Normalize(min(known), max(known))
    high = [0.22 * len(stack.projections) + 0.5 for stack in found.stacks]
    long = max(len(stack.layers) for stack in found.stacks)
    figure = _figure((min(2.6 + 0.2 * long, 16), sum(high) + 0.6))
    panels = figure.subplots(len(found.stacks), 1, squeeze=False, height_ratios=high)[:, 0]
    for number, (panel, stack) in enumerate(zip(panels, found.stacks, strict=True)):
        cells = {
            (place.projection, place.layer): name
            for name, place in zip(values.names, found.places, strict=True)
            if place is not None and place.stack == number
        }
        drawn = _stack(panel, stack, cells, values, norm)
    _bar(figure, drawn, list(panels), cut(values.label))
    return figure


def _stack(
    panel: Any, stack: Stack, cells: dict[tuple[int, int], Any], values: Values, norm: Any
) -> Any:
    rows, columns = len(stack.projections), len(stack.layers)
    scores = [[values.of.get(cells.get((p, n))) for n in range(columns)] for p in range(rows)]
    grid = import_module("numpy").ma.masked_invalid(
        [[float("nan") if value is None else value for value in row] for row in scores]
    )
    colours = "cividis" if values.unsafe == "high" else "cividis_r"
    look = {"cmap": colours, "norm": norm, "edgecolors": "white", "linewidth": 0.6}
    mesh = panel.pcolormesh(grid, **look)
    for (p, n), name in cells.items():
        if values.of[name] is None:
            panel.plot(n + 0.5, p + 0.5, marker="x", color=GREY, markersize=4, linestyle="none")
        if name in values.chosen:
            edge = {"markerfacecolor": "white", "markeredgecolor": DARK, "markersize": 3.5}
            panel.plot(n + 0.5, p + 0.5, marker="o", linestyle="none", **edge)
    panel.invert_yaxis()
    panel.set_yticks([p + 0.5 for p in range(rows)], [cut(x, TICK) for x in stack.labels])
    every = max(1, -(-columns // 16))
    ticks = range(0, columns, every)
    panel.set_xticks([n + 0.5 for n in ticks], [cut(stack.layers[n], TICK) for n in ticks])
    panel.set_xlabel(f"layer of {cut(stack.path)}" if stack.path else "layer")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return mesh


def _spectra(result: Result, method: str, top: int) -> Any:
    """Singular values by number, a panel for each of the modules to look at first."""
    found = spectra_of(result, method)[:top]
    if not found:
        raise ParameterError(
            "the result holds no spectra", hint="write it again with this version of s3lora"
        )
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = _figure((2.6 * columns, 2.0 * lines + 0.4))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels[len(found) :]:
        panel.remove()
    for panel, (name, series) in zip(panels, found, strict=False):
        for at, key in enumerate(key for key in series if series[key]):
            look = {"color": COLOURS[at % len(COLOURS)], "marker": "os^v"[at % 4]}
            x = range(1, len(series[key]) + 1)
            label = NAMES.get(key, cut(key, TICK))
            panel.plot(x, series[key], "--" if at else "-", markersize=3, label=label, **look)
        panel.set_title(cut(name), fontsize=7)
        panel.set_ylim(bottom=0)
    shown = {text: line for p in panels[: len(found)] for line, text in _legend(p)}
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=4)
    figure.supxlabel("number of the singular value", fontsize=9)
    figure.supylabel("σ", fontsize=9)
    return figure


def _legend(panel: Any) -> Sequence[tuple[Any, str]]:
    return list(zip(*panel.get_legend_handles_labels(), strict=True))


def _agreement(result: Result, method: str, top: int) -> Any:
    """Spearman's correlation above the diagonal, the share of the top in both below it."""
    if not isinstance(result, Ranking) or len(result.labels) < 2:
        raise ParameterError(
            "agreement is between methods", hint="give the result of s3lora rank with two or more"
        )
    if len(result.labels) > MOST_METHODS:
        raise ParameterError(
            f"a matrix of {len(result.labels)} methods cannot be read",
            hint=f"rank at most {MOST_METHODS} of them",
        )
    grid = agreements(result)
    count = len(result.labels)
    figure = _figure((1.8 + 0.62 * count, 1.2 + 0.5 * count))
    panel = figure.subplots()
    look = {"cmap": "cividis", "vmin": -1, "vmax": 1, "edgecolors": "white", "linewidth": 0.6}
    mesh = panel.pcolormesh(import_module("numpy").ma.masked_invalid(grid), **look)
    for p, row in enumerate(grid):
        for n, value in enumerate(row):
            if value == value:
                text = f"{value:+.2f}" if n > p else f"{value:.0%}"
                dark = {"color": "black" if value > 0 else "white", "fontsize": 8}
                panel.text(n + 0.5, p + 0.5, text, ha="center", va="center", **dark)
    panel.invert_yaxis()
    labels = [cut(label, TICK) for label in result.labels]
    at = [n + 0.5 for n in range(count)]
    panel.set_yticks(at, labels)
    panel.set_xticks(at, labels, rotation=40, ha="right", rotation_mode="anchor")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_title(f"Spearman above, share of the top {result.k} in both below", fontsize=8)
    _bar(figure, mesh, [panel], "")
    return figure


def cut(text: str, longest: int = LABEL) -> str:
    """The head of a text from a file, its control characters escaped."""
    shown = printable(text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _bar(figure: Any, mesh: Any, panels: Sequence[Any], label: str) -> None:
    """The scale of the colours, as a vector too."""
    bar = figure.colorbar(mesh, ax=panels, label=label, aspect=14)
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.outline.set_visible(False)


def _figure(size: tuple[float, float]) -> Any:
    return import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")


FIGURES: dict[str, Callable[[Result, str, int], Any]] = {
    "heat": _heat,
    "spectra": _spectra,
    "agreement": _agreement,
}
"""What can be drawn, by name."""
