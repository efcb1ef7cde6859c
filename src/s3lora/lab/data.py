"""Rows to train on and to ask: one shape, whatever they come from, and one way to split them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s3lora.errors import DataError

PROMPT_FIELDS = ("prompt", "instruction", "question", "goal", "forbidden_prompt", "input", "text")
RESPONSE_FIELDS = ("response", "output", "completion", "answer", "target")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, the response to it where one is known, and what else the source says."""

    prompt: str
    response: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Among it `source`, and `system` where the prompt comes with a system message."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on and rows to test on, which share no prompt and no near copy of one."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """The first 16 digits of the SHA-256 of all prompts, in order, by part."""
        return digest_of([*self.train, Example("\0test"), *self.test])


def digest_of(examples: Iterable[Example]) -> str:
    """The first 16 digits of the SHA-256 of the prompts and responses, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.prompt}\x1f{example.response}\x1e".encode())
    return digest.hexdigest()[:16]


def json_rows(text: str) -> list[Any]:
    """The rows of a JSON list."""
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("the file holds no list of rows")
    return rows


def jsonl_rows(text: str) -> list[Any]:
    """The rows of a file with one JSON value a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def csv_rows(text: str) -> list[Any]:
    """The rows of a CSV file with a header; lines before it that start with # are left out."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines = lines[1:]
    return list(csv.DictReader(io.StringIO("".join(lines))))


def rows_to_examples(rows: Sequence[Any], source: str) -> list[Example]:
    """Rows with fields by any of the usual names as examples.

    An instruction with a separate input becomes one prompt, as in Alpaca.
    """
    return [_example(row, source, at) for at, row in enumerate(rows)]


def _example(row: Any, source: str, at: int) -> Example:
    if isinstance(row, str):
        row = {"prompt": row}
    fields = row if isinstance(row, dict) else {}
    key = next((name for name in PROMPT_FIELDS if _text(fields.get(name))), None)
    if key is None:
        raise DataError(
            f"row {at} of {source} holds no prompt",
            hint=f"a field of the name {', '.join(PROMPT_FIELDS)}",
        )
    prompt = fields[key].strip()
    if key == "instruction" and fields.get("input"):
        prompt = f"{prompt}\n\n{str(fields['input']).strip()}"
    answered = next((name for name in RESPONSE_FIELDS if _text(fields.get(name))), None)
    used = {key, answered} | ({"input"} if key == "instruction" else set())
    rest = {name: value for name, value in fields.items() if name not in used}
    response = fields[answered].strip() if answered else ""
    return Example(prompt, response, {**rest, "source": source})


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    """The rows without repeated prompts, in an order that hangs on the prompts and the seed alone.

    Adding a row elsewhere does not move the others: the order is that of a hash.
    """
    unique = {row.prompt: row for row in sorted(examples, key=lambda row: row.response)}
    return sorted(unique.values(), key=lambda example: _place(example.prompt, seed))


def _place(prompt: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\x1f{prompt}".encode()).digest()


def split(examples: Iterable[Example], test: int, seed: int = 0, nearest: float = 0.5) -> Split:
    """The first `test` rows in shuffled order to test on, the rest to train on.

    A row whose words overlap with those of a test prompt by more than `nearest` (Jaccard index)
    is left out of the training part: benchmarks hold near copies of their own prompts.

    Raises:
        DataError: if there are not more than `test` rows.
    """
    rows = shuffled(examples, seed)
    if not 0 < test < len(rows):
        raise DataError(f"cannot test on {test} of {len(rows)} rows", hint="leave rows to train on")
    held_out = tuple(rows[:test])
    return Split(apart_from(rows[test:], held_out, nearest), held_out)


def apart_from(
    examples: Iterable[Example], others: Iterable[Example], nearest: float = 0.5
) -> tuple[Example, ...]:
    """The examples whose prompt is no near copy of a prompt of the others."""
    theirs = [words(other.prompt) for other in others]

    def far(own: frozenset[str]) -> bool:
        return all(jaccard(own, other) <= nearest for other in theirs)

    return tuple(example for example in examples if far(words(example.prompt)))


def words(text: str) -> frozenset[str]:
    """The words of a text, without case."""
    return frozenset(re.findall(r"\w+", text.casefold()))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared words over all words, in [0, 1]."""
    return len(a & b) / len(a | b) if a or b else 1.0
