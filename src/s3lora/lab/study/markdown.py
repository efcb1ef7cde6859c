"""Tables, numbers and pages in Markdown. What was not measured is "–", never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from s3lora.lab.metrics.intervals import Figure

NONE = "–"

OVER_ITEMS = (
    "Intervals: the prompts and held-out rows of the one adapter drawn again (bootstrap). They say"
    " nothing about other adapters."
)
OVER_ADAPTERS = (
    "Intervals: Student's t over adapters; and, beside it, over the independent data sets that they"
    " were trained on, adapters on the same rows counting once, with their mean."
)
OVER_MODULES = "Intervals: the modules of the one adapter drawn again (bootstrap)."
_EMPTY = "Nothing measured yet.\n"


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table with its pipes aligned: the first column to the left, the others to the right."""
    lines = [list(header), *(list(line) for line in body)]
    if len(lines) == 1:
        return _EMPTY
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    told = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in told)


def number(value: float | None, digits: int = 2, sign: str = "-") -> str:
    """A number with a true minus and no negative zero; `sign` "+" shows that of positive ones."""
    if value is None:
        return NONE
    rounded = round(value, digits) + 0.0
    return f"{rounded:{sign}.{digits}f}".replace("-", "−")


def interval(told: Figure | None, digits: int = 2, sign: str = "-") -> str:
    """`1.24 [1.18, 1.30]`."""
    if told is None or told.value is None:
        return NONE
    ends = f" [{number(told.low, digits, sign)}, {number(told.high, digits, sign)}]"
    return number(told.value, digits, sign) + (ends if told.low is not None else "")


def counted(told: Iterable[Figure | None]) -> str:
    """How many items the figures have, for the head of their column: ` (n=40)`, ` (n=8–40)`."""
    counts = sorted({one.n for one in told if one and one.value is not None})
    ends = dict.fromkeys(str(n) for n in (*counts[:1], *counts[-1:]))
    return f" (n={'–'.join(ends)})" if counts else ""


def under(table: str, note: str) -> str:
    """A table with a note below it; a table without lines stays as it is."""
    return table if table == _EMPTY else f"{table}\n{note}\n"


def page(title: str, about: str, tables: Mapping[str, str]) -> str:
    """A page of tables, each under its heading."""
    text = "".join(f"\n## {name}\n\n{table}" for name, table in tables.items())
    return f"# {title}\n\n{about} Brackets hold 95 % intervals.\n{text}"


def grid(corner: str, told: Mapping[tuple[str, str], Figure | None], digits: int = 2) -> str:
    """A table of figures by (line, column), both in the order they come in."""
    lines, columns = (list(dict.fromkeys(key[at] for key in told)) for at in (0, 1))
    heads = [f"{c}{counted(told.get((x, c)) for x in lines)}" for c in columns]
    body = [[x, *(interval(told.get((x, c)), digits, "+") for c in columns)] for x in lines]
    return markdown([corner, *heads], body)
