"""The rows of a study on disk, one line of JSON a cell.

A line is written whole and put on disk before the next cell starts. What follows the last line
end, left by a run that was killed, is no row: it is ignored on reading and cut off on appending.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from s3lora.errors import DataError, OutputError
from s3lora.lab.study.rows import CausalRow, Effect, Replies, Row

_T = TypeVar("_T", bound=Row | CausalRow)


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a study; of two with one key the later. A file that is not there has none.

    Raises:
        DataError: if a line, other than an unfinished last one, is no row.
    """
    return _read(path, _row)


def read_causal(path: Path) -> tuple[CausalRow, ...]:
    """The same for the effects of single modules."""
    return _read(path, _causal)


def append_row(path: Path, row: Row | CausalRow) -> None:
    """Add a row in one write and have it put on disk; the file and its folder may be missing.

    Raises:
        OutputError: if the row has a value that is not finite, or cannot be written.
    """
    try:
        line = json.dumps(dataclasses.asdict(row), allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as error:
        what = f"the row {row.key} has a value that is NaN or infinite"
        raise OutputError(what, hint="find out why before it enters the study") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_unfinished(path)
        with path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        raise OutputError(what, hint="check permissions and free space") from error


def _cut_unfinished(path: Path) -> None:
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)


def _read(path: Path, made: Callable[[dict[str, Any]], _T]) -> tuple[_T, ...]:
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = {}
    for number, line in enumerate(lines, 1):
        try:
            row = made(json.loads(line, parse_constant=int))  # int() refuses NaN and Infinity
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"{path}, line {number} is no row of a study: {error!r}"
            raise DataError(what, hint="remove it, and run the cell again") from error
        rows[row.key] = row
    return tuple(rows.values())


def _row(data: dict[str, Any]) -> Row:
    """Lists become tuples; a field that is not known is left out."""
    replies = data.pop("replies", None)
    known = Replies(**_known(Replies, replies)) if replies else None
    return Row(**_known(Row, data), replies=known)


def _causal(data: dict[str, Any]) -> CausalRow:
    first, *measured = (data[name] for name in ("first_order", "removed", "alone"))
    removed, alone = (Effect(**effect) if effect else None for effect in measured)
    what = data["adapter"], data["module"], Effect(**first)
    return CausalRow(*what, removed, alone, data["scores"])


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in data.items() if name in names}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
