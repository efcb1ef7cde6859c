"""Lines of text for people: escaped, folded at the width of the terminal, and fast.

A hostile file can bring a hundred thousand findings, and rich takes a third of a millisecond for a
line; a line from here takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from unicodedata import east_asian_width

from rich.color import ColorSystem
from rich.console import Console

from s3lora.report.escape import printable

LONGEST = 2000
"""How much of one text is shown, in characters; names of modules and files are shorter."""


class Lines:
    """Prints text on a console, escaped and folded."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._width = console.width
        self._coloured = console.color_system is not None and not console.legacy_windows

    def say(self, text: str, style: str = "", *, head: str = "", indent: str = "") -> None:
        """Print a text.

        Args:
            text: Of any length and content.
            style: Of the head if there is one, else of the text.
            head: Printed before the text, on its first line.
            indent: Printed before the text on every further line.
        """
        for at, line in enumerate(folded(shortened(text), self._width, head or indent, indent)):
            styled = len(line) if not head else 0 if at else len(head)
            self.console.file.write(self._styled(line[:styled], style) + line[styled:] + "\n")

    def _styled(self, text: str, style: str) -> str:
        """The text as the terminal wants it; unchanged where there is none."""
        if not style or not self._coloured:
            return text
        chosen = self.console.get_style(style)
        chosen = chosen.without_color if self.console.no_color else chosen
        return chosen.render(text, color_system=ColorSystem.STANDARD)


def shortened(text: str) -> str:
    """The text escaped, and what is beyond `LONGEST` counted only."""
    if len(text) <= LONGEST:
        return printable(text)
    return f"{printable(text[:LONGEST])}… and {len(text) - LONGEST} more characters"


def folded(text: str, width: int, head: str = "", indent: str = "") -> Iterator[str]:
    """The text in lines of at most `width` cells, broken at spaces where there are any."""
    if not text.isascii() and any(east_asian_width(c) in "WF" for c in text):
        width //= 2
    start, lead = 0, head
    while len(lead) + len(text) - start > width:
        end = start + max(width - len(lead), 1)
        space = text.rfind(" ", start + 1, end + 1)
        end = space if space > 0 else end
        yield lead + text[start:end]
        start = end + (text[end] == " ")
        lead = indent
    yield lead + text[start:]
