"""Rows to train on and to ask: one shape, whatever they come from, and one way to split them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s3lora.errors import DataError
from s3lora.lab.row_files import Row, fields_of, kind_of

PROMPT_FIELDS = ("prompt", "instruction", "question", "goal", "forbidden_prompt", "input", "text")
RESPONSE_FIELDS = ("response", "output", "completion", "answer", "target")
FIELDS = (
    f"the prompt is the first text among {', '.join(PROMPT_FIELDS)}; "
    f"the response among {', '.join(RESPONSE_FIELDS)}"
)
"""What is expected of a row, as a hint."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, the response to it where one is known, and what else the source says."""

    prompt: str
    response: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Among it `source`, and `system` where the prompt comes with a system message."""
    place: str = field(default="", compare=False)
    """Where it was read, for messages: a file and a line; empty for a row that was made here."""


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


def rows_to_examples(rows: Iterable[Any], source: str) -> list[Example]:
    """Rows with fields by any of the usual names as examples.

    An instruction with a separate input becomes one prompt, as in Alpaca.

    Raises:
        DataError: if a row holds no prompt; rows are counted from 1.
    """
    return examples_of((Row(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)), source)


def examples_of(rows: Iterable[Row], source: str) -> list[Example]:
    """The same for rows that know where they stand."""
    return [_example(row.value, source, row.place) for row in rows]


def _example(row: Any, source: str, place: str) -> Example:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, dict):
        raise DataError(f"{place} holds no prompt: it is {kind_of(row)}", hint=FIELDS)
    key = next((name for name in PROMPT_FIELDS if _text(row.get(name))), None)
    if key is None:
        raise DataError(f"{place} holds no prompt: {_lack(row, PROMPT_FIELDS)}", hint=FIELDS)
    prompt = row[key].strip()
    more = row.get("input") if key == "instruction" else None
    for name, value in (("input", more), ("system", row.get("system"))):
        if isinstance(value, dict | list):
            raise DataError(f"{place}: its {name!r} is {kind_of(value)}, not a text", hint=FIELDS)
    if more:
        prompt = f"{prompt}\n\n{str(more).strip()}"
    answer = next((name for name in RESPONSE_FIELDS if _text(row.get(name))), None)
    used = {key, answer} | ({"input"} if key == "instruction" else set())
    rest = {name: value for name, value in row.items() if name not in used}
    if rest.get("system") is not None:
        rest["system"] = str(rest["system"])
    response = row[answer].strip() if answer else ""
    return Example(prompt, response, {**rest, "source": source}, place)


def refuse_unanswered(examples: Sequence[Example]) -> None:
    """Refuse rows without a response where each must have one.

    Raises:
        DataError: naming the first such row, what it has instead, and how many there are.
    """
    without = [example for example in examples if not example.response]
    if not without:
        return
    first = without[0]
    fields = {name: value for name, value in first.meta.items() if name != "source"}
    place = first.place or f"the row {first.prompt[:60]!r}"
    count = f"; {len(without)} of {len(examples)} rows have none" if len(without) > 1 else ""
    lack = _lack(fields, RESPONSE_FIELDS, "beside the prompt ")
    raise DataError(f"{place} has no response: {lack}{count}", hint=FIELDS)


def _lack(row: Mapping[str, Any], names: Sequence[str], before: str = "") -> str:
    """Why none of these fields is a text that can be used."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            return f"its {name!r} is empty"
        if value is not None:
            return f"its {name!r} is {kind_of(value)}, not a text"
    for name in names:
        if name in row:
            return f"its {name!r} is null"
    return f"{before}it has the fields {fields_of(row)}" if row else f"{before}it has no fields"


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
