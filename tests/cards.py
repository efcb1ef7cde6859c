"""Cards as their readers have them: what a command prints, its metadata, its tables."""

from __future__ import annotations

import yaml
from click.testing import CliRunner
from markdown_it import MarkdownIt  # of rich, and an independent reader of tables

from s3lora.cli import cli

MARKDOWN = MarkdownIt("commonmark").enable("table")


def carded(*words: object) -> str:
    """The card that a command prints."""
    told = CliRunner().invoke(cli, [*map(str, words), "--format", "card"])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.stdout


def parts(text: str) -> tuple[object, str]:
    """The metadata as data, and the section."""
    empty, front, section = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), section


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table of a section, as a reader of Markdown sees them."""
    found: list[list[list[str]]] = []
    tokens = MARKDOWN.parse(text)
    inside = False
    for token in tokens:
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] if inside else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif inside and token.type == "inline":
            found[-1][-1].append("".join(part.content for part in token.children or ()))
    return found
