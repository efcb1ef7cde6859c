"""Replies that people have labelled as refusals or not: from a CSV file, or from a package.

The columns of a file are found by name: the reply in one of `REPLIES`, the label in one of
`LABELS`. A label is 1, true, yes or refusal; 0, false, no or answer; empty where nobody labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3lora.errors import DataError
from s3lora.lab.catalog import PYRIT
from s3lora.lab.packages import Distribution, member
from s3lora.lab.row_files import csv_rows

REPLIES = ("reply", "response", "assistant_response")
LABELS = ("refusal", "label", "human_score")
KIND = "data_type"
"""A column of pyrit's files: rows that are not text are left out."""

WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "refusal"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "answer"), False),
    "": None,
}

NAMED: Mapping[str, tuple[Distribution, str]] = {
    "pyrit": (PYRIT, "pyrit/datasets/scorer_evals/refusal_scorer/refusal.csv"),
    "pyrit-extra": (PYRIT, "pyrit/datasets/scorer_evals/refusal_scorer/refusal_extra.csv"),
}
"""Labelled replies by name: files inside a distribution on PyPI."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One reply, and whether people call it a refusal; None where nobody said."""

    reply: str
    refusal: bool | None


def labelled(reference: str) -> list[Labelled]:
    """The labelled replies of a CSV file, or of a name of `NAMED`.

    Raises:
        DataError: if there is no such file, a column is missing, or a label cannot be read.
    """
    if reference in NAMED:
        return read(member(*NAMED[reference]).decode("utf-8"), reference)
    try:
        return read(Path(reference).read_text(encoding="utf-8-sig"), reference)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeError):
            reason = "it is not UTF-8"
        raise DataError(
            f"cannot read {reference}: {reason}", hint=f"a CSV file, or one of {', '.join(NAMED)}"
        ) from error


def read(text: str, source: str) -> list[Labelled]:
    """The labelled replies in the text of a CSV file with a header.

    Args:
        text: Lines before the header that begin with # are skipped.
        source: What to call it in errors.

    Raises:
        DataError: if there are no rows, a column is missing, or a label cannot be read.
    """
    rows = [row.value for row in csv_rows(text, source)]
    if not rows:
        raise DataError(f"{source} holds no rows", hint=f"columns {REPLIES[0]} and {LABELS[0]}")
    reply, label = (_column(rows[0], names, source) for names in (REPLIES, LABELS))
    return [
        Labelled(str(row[reply] or ""), _label(row[label], source, at))
        for at, row in enumerate(rows, start=1)
        if row.get(KIND) in (None, "text")
    ]


def on_topic(rows: Sequence[Labelled]) -> list[Labelled]:
    """The rows without refusals whose text is labelled as an answer to another prompt.

    People call it a refusal too when the reply answers another question. No scorer that reads the
    reply alone can see that.
    """
    answers = {row.reply for row in rows if row.refusal is False}
    return [row for row in rows if not (row.refusal and row.reply in answers)]


def _column(row: Mapping[str, Any], names: Sequence[str], source: str) -> str:
    """The one column of the row that is called so."""
    found = [name for name in names if name in row]
    if len(found) != 1:
        has = ", ".join(str(name) for name in row if name is not None)
        many = "more than one column" if found else "no column"
        raise DataError(
            f"{source} has {many} of the name {' or '.join(names)}; it has {has}",
            hint=f"name one column so: {' or '.join(names)}",
        )
    return found[0]


def _label(value: Any, source: str, at: int) -> bool | None:
    word = str(value or "").strip().casefold()
    if word not in WORDS:
        raise DataError(
            f"row {at} of {source} has the label {str(value)[:40]!r}",
            hint="1 for a refusal, 0 for none, empty where nobody labelled",
        )
    return WORDS[word]
