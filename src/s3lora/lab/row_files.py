"""Files of rows, .json, .jsonl, .csv and .txt: where each row stands, and what is wrong with it.

A file may come from anywhere: it is bounded in size and entries, and JSON is read strictly.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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

QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"(?=[,\n]|\Z)')
"""A field of a CSV file in quotes, as far as its closing quote, where one ends it."""
PLAIN = re.compile(r"[^,\n]*")
"""A field without quotes; a quote in the middle of it is a character like any other."""

LAYOUTS = (
    ".jsonl has one JSON object a line, .json a list of them, .csv a header, .txt one prompt a line"
)


class Row(NamedTuple):
    """One row as its file has it."""

    value: Any
    place: str
    """For messages: the file and the line, or the row of a list; both from 1."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, by the ending of its name in any case; a byte order mark is skipped.

    Raises:
        DataError: if the file cannot be read, is no regular file, is too large, is not UTF-8, or
            is not of its layout; with the line.
    """
    ending = ending_of(path)
    if ending not in READERS:
        endings = ", ".join(READERS)
        raise DataError(f"{path} is not a file of rows", hint=f"its name must end in {endings}")
    try:
        raw = read_small(path, MAX_FILE, f"give a file of at most {MAX_FILE >> 20} MiB")
    except AdapterError as error:
        raise DataError(str(error), hint="check the file") from error
    return READERS[ending](_text(raw, path.name), path.name)


def ending_of(path: Path) -> str:
    """The last ending of a file's name with its dot, in small letters; empty if it has none."""
    return path.suffix.lower()


def _text(raw: bytes, source: str) -> str:
    """The text of a file, with plain line ends."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            fault = f"{source} is UTF-16, not UTF-8"
        else:
            fault = f"{source}, line {line} is not UTF-8"
        raise DataError(fault, hint="save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_rows(text: str, source: str) -> list[Row]:
    """The rows of a JSON list.

    Raises:
        DataError: if it is none, or is not strict JSON; with the row, where it is a row's fault.
    """
    try:
        value = _value(text, source)
    except DataError as error:
        if isinstance(error.__cause__, RefusedError | UnicodeEncodeError):
            for number, row in enumerate(_texts_of_list(text), 1):
                _value(row, f"{source}, row {number}")
        raise
    if not isinstance(value, list):
        raise DataError(f"{source} is {kind_of(value)}, not a list of rows", hint=LAYOUTS)
    return _bounded((Row(row, f"{source}, row {n}") for n, row in enumerate(value, 1)), source)


def _texts_of_list(text: str) -> Iterator[str]:
    """The text of each item of a JSON list, as far as they can be told apart."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    try:
        at = _after_blanks(text, 0)
        while at < len(text) and text[at] in "[,":
            start = _after_blanks(text, at + 1)
            _, end = decoder.raw_decode(text, start)
            yield text[start:end]
            at = _after_blanks(text, end)
    except (json.JSONDecodeError, RecursionError):
        return


def _after_blanks(text: str, at: int) -> int:
    """Where the blanks of JSON that begin at a place end."""
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


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
        DataError: if the header has a column twice, a row has more or fewer fields than the
            header, a quote is not closed or does not end its field, or a field is too long.
    """
    lines = text.split("\n")
    skipped = 0
    while lines[skipped].startswith("#") and skipped + 1 < len(lines):
        skipped += 1
    lines = lines[skipped:]
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), strict=True)

    def rows() -> Iterator[Row]:
        header: list[str] | None = None
        end = 0  # the last line of the row before: a quoted field may hold line ends
        try:
            for fields in reader:
                place, end = f"{source}, line {skipped + end + 1}", reader.line_num
                if header is None:
                    header = fields or None
                    _refuse_double_columns(fields, place)
                elif fields and len(fields) != len(header):
                    many, much = len(fields), len(header)
                    raise DataError(
                        f"{place} has {many} field{'s' * (many != 1)}, the header {much}",
                        hint="give every line as many fields as the header; put text that holds a "
                        "comma in double quotes",
                    )
                elif fields:
                    yield Row(dict(zip(header, fields, strict=True)), place)
        except csv.Error as error:
            line, fault = _quote_fault(lines[end:])
            place = f"{source}, line {skipped + (end + line if line else reader.line_num)}"
            limit = csv.field_size_limit()
            too_long = f"a field has more than {limit} characters"
            reason = fault or (too_long if "limit" in str(error) else str(error))
            raise DataError(f"{place}: {reason}", hint="check the quotes of the file") from error

    return _bounded(rows(), source)


def _refuse_double_columns(header: Sequence[str], place: str) -> None:
    """Refuse a header with one name twice; columns without a name are nobody's."""
    counts = Counter(name for name in header if name.strip())
    double = next((name for name, count in counts.items() if count > 1), None)
    if double is not None:
        raise DataError(
            f"{place}: the header has the column {double[:40]!r} {counts[double]} times",
            hint="give each column a name of its own",
        )


def _quote_fault(lines: Sequence[str]) -> tuple[int, str]:
    """Where a CSV row goes wrong by its quotes, and how; 0 and no reason if it does not.

    Args:
        lines: The lines of the file from the one that the row begins in.
    """
    text = "\n".join(lines).replace("\r\n", "\n")
    at = 0
    while at < len(text):
        field = QUOTED.match(text, at)
        if field is None and text[at] == '"':
            line = text.count("\n", 0, at) + 1
            closed = re.compile(r'"[^"]*(?:""[^"]*)*"(?!")').match(text, at)
            return line, (
                "after the quote that closes a field comes more text"
                if closed
                else "the quote that opens a field there is never closed"
            )
        end = (field or PLAIN.match(text, at)).end()  # type: ignore[union-attr]
        if text[end : end + 1] == "\n":
            break
        at = end + 1
    return 0, ""


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
        raise DataError(
            f"{place} {error}",
            hint="write strict JSON: each key once, finite numbers, null for no value",
        ) from error
    return value


def _bounded(rows: Iterator[Row], source: str) -> list[Row]:
    listed: list[Row] = []
    for row in rows:
        if len(listed) == MAX_ROWS:
            raise DataError(f"{source} has more than {MAX_ROWS} rows", hint="give fewer rows")
        listed.append(row)
    return listed
