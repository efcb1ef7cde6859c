"""Text from a file, made safe to print; apart from rich, so that an error costs no import of it."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything a terminal might act on escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
