"""Text from a file that may be hostile, made safe to stand in Markdown.

Names stand in code spans that they cannot close; sentences have what Markdown acts on escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from s3lora.report.escape import printable

ADDRESS = re.compile(r"\S*(?:://|www\.|@|mailto:|xmpp:)\S*", re.IGNORECASE)
"""A word that renderers make a link of although it is not written as one (GFM's autolinks)."""


def grid(sides: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown.

    Args:
        sides: For each column l or r, as its text is to stand left or right.
        titles: Of the columns; like the cells, safe to stand in a table.
        rows: Their cells.
    """
    rule = "|".join("---" if side == "l" else "---:" for side in sides)
    yield f"| {' | '.join(titles)} |"
    yield f"|{rule}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def cell(text: str) -> str:
    """A text as a code span in a table."""
    return code(text).replace("|", "\\|")


def figure(value: float | None) -> str:
    """A number in a table."""
    return "–" if value is None else f"{value:.4g}"


def code(text: str) -> str:
    """A text as a code span that nothing in it ends."""
    text = printable(text) or " "  # two backticks alone are no span, but may begin one
    longest = max(map(len, re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`"
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"


def escaped(text: str) -> str:
    """A text with what Markdown or HTML would act on escaped, and bare addresses as code spans.

    A backslash does not keep an address with @ from being a link, so it is no way out for them.
    """
    parts, start = [], 0
    text = printable(text)
    for address in ADDRESS.finditer(text):
        parts += [_escaped(text[start : address.start()]), code(address.group())]
        start = address.end()
    return "".join([*parts, _escaped(text[start:])])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*\[\]<&])", r"\\\1", text)
