r"""Names and regular expressions that come from a file, matched as PEFT does, in bounded time.

A `target_modules` string and the keys of `rank_pattern` and `alpha_pattern` are regular
expressions. A plain name among them is looked up here and now. Anything else is run in a child
process, which is ended after a second: Python's `re` cannot be stopped from within, and a pattern
such as `(a+)+$` would hang whoever loads the adapter.
"""

from __future__ import annotations

import heapq
import json
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from s3lora.errors import AdapterError

SECONDS = 1.0
"""How long all the patterns of an adapter may take together."""
MAX_PATTERN = 2**16
"""The longest pattern that is tried, in characters."""

HINT = "PEFT would match the same patterns; do not load this adapter without looking at them"

_PLAIN = re.compile(r"[\w.-]*", re.ASCII)

_CHILD = """
import json, re, sys
how, patterns, names = json.load(sys.stdin)
tests = [getattr(re.compile(pattern), how) for pattern in patterns]
json.dump([[n for n, name in enumerate(names) if test(name)] for test in tests], sys.stdout)
"""


def is_plain(pattern: str) -> bool:
    """Whether a pattern is a name: nothing in it repeats or branches, so it cannot run away."""
    return _PLAIN.fullmatch(pattern) is not None


def endings(name: str) -> Iterator[str]:
    """The name itself, and what is left of it after each of its dots."""
    yield name
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


def stretches(name: str, lengths: Collection[int]) -> Iterator[str]:
    """The runs of whole pieces of a name that have one of the lengths: of `a.b.c` `b.c` and `b`."""
    for ending in endings(name):
        for length in lengths:
            if length == len(ending) or ending[length : length + 1] == ".":
                yield ending[:length]


class Matcher:
    """Matches the patterns of one config to the modules of one file; all share one second.

    Of this process's own time for what is looked up here, of the clock's for what runs in a child:
    other work on the machine makes no plain name slow.
    """

    def __init__(self) -> None:
        self._own_seconds = SECONDS
        self._own_until = 0.0
        self._child_seconds = SECONDS

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what is done inside against the time of all patterns; see `refuse_late`."""
        start = time.process_time()
        self._own_until = start + self._own_seconds
        try:
            yield
        finally:
            self._own_seconds = self._own_until - time.process_time()

    def refuse_late(self, patterns: Collection[str]) -> None:
        """Stop the matching of these patterns if, inside `timed`, the time of all is used up.

        Raises:
            AdapterError: if it is.
        """
        if time.process_time() > self._own_until:
            raise _too_slow(patterns)

    def keys(self, keys: Iterable[str], names: Sequence[str]) -> dict[str, set[str]]:
        r"""For each key of a rank or alpha pattern that matches at all, the names it matches.

        PEFT asks for `re.match(rf"(.*\.)?({key})$", name)`.

        Raises:
            AdapterError: if one is too long or no valid expression, or they take too long.
        """
        keys = list(keys)
        matched = self.plain([key for key in keys if is_plain(key)], names, within=False)
        odd = [key for key in keys if not is_plain(key)]
        hits = self._expressions([rf"(.*\.)?({key})$" for key in odd], names, "match")
        return matched | {key: found for key, found in zip(odd, hits, strict=True) if found}

    def whole(self, pattern: str, names: Sequence[str]) -> set[str]:
        """The names that a regular expression matches from end to end.

        Raises:
            AdapterError: if it is too long or no valid expression, or takes too long.
        """
        return self._expressions([pattern], names, "fullmatch")[0]

    def plain(
        self, keys: Iterable[str], names: Sequence[str], *, within: bool
    ) -> dict[str, set[str]]:
        """For each plain key that matches at all, the names that end in it, or have it within.

        A dot in a key stands for any character. Keys are told apart by where their dots are, and
        looked up, so that a pattern for each of a thousand modules costs milliseconds.

        Raises:
            AdapterError: if they take too long.
        """
        known = frozenset(keys)
        shapes: dict[int, set[tuple[int, ...]]] = {}
        for key in known:
            shapes.setdefault(len(key), set()).add(tuple(map(len, key.split("."))))
        matched: dict[str, set[str]] = {}
        with self.timed():
            for name in names if known else ():
                self.refuse_late(known)
                for part in stretches(name, shapes) if within else endings(name):
                    for key in self._alike(part, shapes.get(len(part), ()), known):
                        matched.setdefault(key, set()).add(name)
        return matched

    def _alike(
        self, part: str, shapes: Iterable[tuple[int, ...]], known: Collection[str]
    ) -> Iterator[str]:
        """The keys of these shapes that match a part of a name."""
        for steps, shape in enumerate(shapes):
            if steps % 1024 == 1023:
                self.refuse_late(known)
            key = _dotted(part, shape)
            if key in known:
                yield key

    def _expressions(
        self, patterns: Sequence[str], names: Sequence[str], how: Literal["match", "fullmatch"]
    ) -> list[set[str]]:
        for pattern in patterns:
            if len(pattern) > MAX_PATTERN:
                raise AdapterError(
                    f"a pattern of {len(pattern)} characters in adapter_config.json", hint=HINT
                )
        if not patterns:
            return []
        question = json.dumps([how, list(patterns), list(names)])
        start = time.monotonic()
        answer = _ask_child(question, self._child_seconds)
        self._child_seconds -= time.monotonic() - start
        if answer is None:
            raise _too_slow(patterns)
        return [{names[n] for n in found} for found in answer]


def _ask_child(question: str, seconds: float) -> list[list[int]] | None:
    """For each pattern the places of the names it matches; None if that took too long."""
    import subprocess  # slow to import, seldom needed

    try:
        child = subprocess.run(  # noqa: S603  our own interpreter and script; the rest is data
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=question.encode(),
            capture_output=True,
            timeout=max(seconds, 0.0),
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise AdapterError(
            "a pattern in adapter_config.json is not a regular expression: "
            + "".join(reason)[:200],
            hint=HINT,
        ) from error
    found: list[list[int]] = json.loads(child.stdout)
    return found


def _too_slow(patterns: Collection[str]) -> AdapterError:
    shown = ", ".join(repr(pattern[:60]) for pattern in heapq.nsmallest(3, patterns))
    return AdapterError(
        f"the patterns in adapter_config.json take more than {SECONDS:g} s to match: {shown}",
        hint=HINT,
    )


def _dotted(part: str, shape: tuple[int, ...]) -> str:
    """The key of this shape, given as the lengths between its dots, that would match the part."""
    pieces, start = [], 0
    for length in shape:
        pieces.append(part[start : start + length])
        start += length + 1
    return ".".join(pieces)
