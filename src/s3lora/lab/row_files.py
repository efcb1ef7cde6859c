"""Files of rows, .json, .jsonl, .csv and .txt: where each row stands, and what is wrong with it.

A file may come from anywhere: it is bounded in size and entries, and JSON is read strictly.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from s3lora.errors import AdapterError, DataError
from s3lora.io.safetensors import read_small
from s3lora.io.strict_json import RefusedError, strict_value

MAX_FILE = 2**27
"""Bytes; Alpaca has 23 million."""
MAX_ROWS = 1_000_000
MAX_MARKS = 20_000_000
"""Colons, commas, braces and brackets of a JSON file: each may cost some ten bytes of memory."""

LAYOUTS = (
    ".jsonl has one JSON object a line, .json a list of them, .csv a header, .txt one prompt a line"
)


class Row(NamedTuple):
    """One row as its file has it."""

    value: Any
    place: str
    """For messages: the file and the line, or the row of a list; both from 1."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, by the ending of its name; a byte order mark is skipped.

    Raises:
        DataError: if the file cannot be read, is no regular file, is too large, is not UTF-8, or
            is not of its layout; with the line.
    """
    if path.suffix not in READERS:
        endings = ", ".join(READERS)
        raise DataError(f"{path} is not a file of rows", hint=f"its name must end in {endings}")
    try:
        raw = read_small(path, MAX_FILE, f"give a file of at most {MAX_FILE >> 20} MiB")
    except AdapterError as error:
        raise DataError(f"cannot read {path}: {error}", hint="check the file") from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read {path}: {reason}", hint="check the file") from error
    return READERS[path.suffix](_text(raw, path.name), path.name)


def _text(raw: bytes, source: str) -> str:
    """The text of a file, with plain line ends."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            fault = f"{source} is UTF-16, not UTF-8"
        else:
            fault = f"{source}, line {line}, is not UTF-8"
        raise DataError(f"cannot read {fault}", hint="save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_rows(text: str, source: str) -> list[Row]:
    """The rows of a JSON list.

    Raises:
        DataError: if it is none, or is not strict JSON.
    """
    value = _value(text, source)
    if not isinstance(value, list):
        raise DataError(f"{source} is {kind_of(value)}, not a list of rows", hint=LAYOUTS)
    return _bounded((Row(row, f"{source}, row {n}") for n, row in enumerate(value, 1)), source)


def jsonl_rows(text: str, source: str) -> list[Row]:
    """The rows of a file with one JSON value a line; empty lines are skipped.

    Raises:
        DataError: if a line is not strict JSON.
    """

    def rows() -> Iterator[Row]:
        for number, line in enumerate(text.split("\n"), 1):  # U+2028 may stand within a string
            if line.strip():
                place = f"{source}, line {number}"
                yield Row(_value(line, place, lines=False), place)

    return _bounded(rows(), source)


def csv_rows(text: str, source: str) -> list[Row]:
    """The rows of a CSV file with a header; lines before it that start with # are skipped.

    Raises:
        DataError: if a row has more fields than the header, or a field is too long.
    """
    lines = text.split("\n")
    skipped = 0
    while lines[skipped].startswith("#") and skipped + 1 < len(lines):
        skipped += 1
    reader = csv.reader(io.StringIO("\n".join(lines[skipped:]), newline=""))

    def rows() -> Iterator[Row]:
        header: list[str] | None = None
        end = 0  # the last line of the row before: a quoted field may hold line ends
        try:
            for fields in reader:
                place, end = f"{source}, line {skipped + end + 1}", reader.line_num
                if header is None:
                    header = fields or None
                elif len(fields) > len(header):
                    raise DataError(
                        f"{place} has {len(fields)} fields, the header {len(header)}",
                        hint="put text that holds a comma in double quotes",
                    )
                elif fields:
                    fill: list[str | None] = [None] * (len(header) - len(fields))
                    yield Row(dict(zip(header, [*fields, *fill], strict=True)), place)
        except csv.Error as error:
            place = f"{source}, line {skipped + reader.line_num}"
            raise DataError(f"{place}: {error}", hint="check the quotes of the file") from error

    return _bounded(rows(), source)


def text_rows(text: str, source: str) -> list[Row]:
    """The prompts of a file with one a line; empty lines are skipped."""
    lines = enumerate(text.split("\n"), 1)
    return _bounded(
        (Row(line.strip(), f"{source}, line {n}") for n, line in lines if line.strip()), source
    )


READERS: dict[str, Callable[[str, str], list[Row]]] = {
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".txt": text_rows,
}
"""By the ending of a file's name."""


def kind_of(value: Any) -> str:
    """What a JSON value is, with an article; of an object, its fields too."""
    if isinstance(value, dict):
        return f"an object with the fields {fields_of(value)}" if value else "an empty object"
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def fields_of(row: Mapping[Any, Any]) -> str:
    """The names of a row's fields, the first eight of them, for a message."""
    names = [repr(str(name)[:40]) for name in list(row)[:8]]
    return ", ".join(names) + (f" and {len(row) - 8} more" if len(row) > 8 else "")


def _value(text: str, place: str, *, lines: bool = True) -> Any:
    """The value of a JSON text; `lines`: whether the message says in which line it is wrong."""
    if sum(text.count(mark) for mark in ":,{[") > MAX_MARKS:
        raise DataError(f"{place} has more than {MAX_MARKS} entries", hint="give fewer rows")
    try:
        value = strict_value(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if lines else place
        fault = f"{where}, column {error.colno} is not valid JSON: {error.msg}"
        raise DataError(fault, hint=LAYOUTS) from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise DataError(
            f"{place} holds {half}, which is half a character", hint="write whole characters"
        ) from error
    except RecursionError as error:
        raise DataError(f"{place} is nested too deeply", hint=LAYOUTS) from error
    except RefusedError as error:
        raise DataError(f"{place} {error}", hint="write strict JSON: null for no value") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{place}: {error}", hint="check the number") from error
    return value


def _bounded(rows: Iterator[Row], source: str) -> list[Row]:
    listed: list[Row] = []
    for row in rows:
        if len(listed) == MAX_ROWS:
            raise DataError(f"{source} has more than {MAX_ROWS} rows", hint="give fewer rows")
        listed.append(row)
    return listed
