"""A map of the scores at a terminal: layers from left to right, a row for each projection.

In colour two rows share a line of half blocks; without, each has a line of shades, or of digits
where the terminal has nothing but ASCII. A deep model has several layers in a column; a cell shows
the score to look at first of all that fall into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.style import Style
from rich.text import Text

from s3lora.adapter import layer_of, natural_key, projection_of
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.scores import ScoreTable

SHADES = "·░▒▓█"
DIGITS = "0123456789"
SCALE = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (254, 232, 56))
"""Red, green and blue from the lowest heat to the highest: dark blue to yellow, told apart by
lightness alone too, so that colour-blind readers can use it (as cividis)."""
FEWEST_LAYERS = 2
LEAST_ROOM = 16
"""Columns for layers below which no map is drawn."""
LONGEST_LABEL = 16


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers of one kind, such as those of a decoder, and the heat of their modules."""

    name: str
    """What their names begin with: model.layers."""
    depths: tuple[int, ...]
    projections: tuple[str, ...]
    heat: dict[tuple[str, int], float]
    """By projection and depth; 1 is the score to look at first, 0 the one to look at last."""


def show_heat(table: ScoreTable, console: Console) -> bool:
    """Print a map of each stack of layers; whether there was one that fits the width."""
    shown = False
    for stack in stacks(table):
        label = min(max(map(len, stack.projections)), LONGEST_LABEL)
        coloured = _coloured(console)
        room = console.width - (label + 1) * (2 if coloured else 1)
        if len(stack.depths) < FEWEST_LAYERS or room < min(len(stack.depths), LEAST_ROOM):
            continue
        columns = _columns(stack.depths, room)
        marks = DIGITS if console.options.ascii_only else SHADES
        Lines(console).say(_title(table, stack, columns, "" if coloured else marks))
        draw = _in_colour(stack, columns, label) if coloured else ()
        wide = 2 if 2 * len(columns) <= room else 1
        for line in draw or _in_shades(stack, columns, label, marks, wide):
            console.print(line, soft_wrap=True)
        shown = True
    return shown


def stacks(table: ScoreTable) -> list[Stack]:
    """The layers of a table by what their names begin with; modules outside layers are left out."""
    values = [score.value for score in table.scores]
    if not values or min(values) == max(values):
        return []
    low, high = min(values), max(values)
    unit = 1.0 if math.isfinite(high - low) else 0.25  # the spread of the largest floats overflows
    found: dict[str, dict[tuple[str, int], float]] = {}
    for score in table.scores:
        layer = layer_of(score.module)
        name, _, depth = layer.rpartition(".")
        if layer == score.module or not depth.isdecimal():
            continue
        share = (unit * score.value - unit * low) / (unit * high - unit * low)
        share = share if table.unsafe == "high" else 1 - share
        place = projection_of(score.module), int(depth)
        cells = found.setdefault(name, {})
        cells[place] = max(share, cells.get(place, 0.0))
    return [_stack(name, found[name]) for name in sorted(found, key=natural_key)]


def _stack(name: str, cells: dict[tuple[str, int], float]) -> Stack:
    depths = sorted({depth for _, depth in cells})
    return Stack(name, tuple(depths), tuple(dict.fromkeys(p for p, _ in cells)), cells)


def _columns(depths: Sequence[int], room: int) -> list[Sequence[int]]:
    """The depths of each column, as many to one as it takes to fit."""
    each = -(-len(depths) // room)
    return [depths[at : at + each] for at in range(0, len(depths), each)]


def _title(table: ScoreTable, stack: Stack, columns: list[Sequence[int]], marks: str) -> str:
    values = sorted((score.value for score in table.scores), reverse=table.unsafe == "low")
    first, last = f"{values[0]:.4g}", f"{values[-1]:.4g}"
    scale = f"{marks[0]} {first} to {marks[-1]} {last}" if marks else f"dark {first}, light {last}"
    each = f", {len(columns[0])} to a column" if len(columns[0]) > 1 else ""
    name = f"{printable(stack.name)}." if stack.name else "layers "
    layers = f"{name}{stack.depths[0]} to {stack.depths[-1]}"
    return f"Scores, {layers} from left to right{each}; {scale}"


def _heat(stack: Stack, projection: str, depths: Sequence[int]) -> float | None:
    found = [stack.heat[projection, depth] for depth in depths if (projection, depth) in stack.heat]
    return max(found, default=None)


def _in_shades(
    stack: Stack, columns: list[Sequence[int]], width: int, marks: str, wide: int
) -> list[Text]:
    lines = []
    for projection in stack.projections:
        cells = [_heat(stack, projection, depths) for depths in columns]
        row = "".join((" " if t is None else marks[_level(t, len(marks))]) * wide for t in cells)
        lines.append(Text(f"{_label(projection, width)} {row}".rstrip()))
    return lines


def _in_colour(stack: Stack, columns: list[Sequence[int]], width: int) -> list[Text]:
    lines = []
    names = stack.projections
    for upper, lower in zip_longest(names[::2], names[1::2]):
        line = Text(f"{_label(upper, width)} ")
        for depths in columns:
            above = _heat(stack, upper, depths)
            below = None if lower is None else _heat(stack, lower, depths)
            line.append(*_half_block(above, below))
        if lower is not None:
            line.append(f" {_label(lower, width).rstrip()}")
        lines.append(line)
    return lines


def _half_block(above: float | None, below: float | None) -> tuple[str, Style]:
    if above is None and below is None:
        return " ", Style()
    if above is None or below is None:
        return ("▀", Style(color=_colour(above))) if below is None else ("▄", _style(below))
    return "▀", Style(color=_colour(above), bgcolor=_colour(below))


def _style(heat: float) -> Style:
    return Style(color=_colour(heat))


def _colour(heat: float | None) -> Color:
    place = (heat or 0.0) * (len(SCALE) - 1)
    at = min(int(place), len(SCALE) - 2)
    share = place - at
    mixed = (round(a + (b - a) * share) for a, b in zip(SCALE[at], SCALE[at + 1], strict=True))
    return Color.from_triplet(ColorTriplet(*mixed))


def _level(heat: float, levels: int) -> int:
    return min(int(heat * levels), levels - 1)


def _label(projection: str, width: int) -> str:
    text = printable(projection)
    return f"{text if len(text) <= width else text[: width - 1] + '…':<{width}}"


def _coloured(console: Console) -> bool:
    """Whether the terminal has colours enough for a scale."""
    fits = console.color_system in ("256", "truecolor")
    return fits and not console.no_color and not console.legacy_windows
