r"""Names and regular expressions that come from a file, matched as PEFT does, in bounded time.

A `target_modules` string and the keys of `rank_pattern` and `alpha_pattern` are regular
expressions. A plain name among them is matched here and now. Anything else is run in a child
process, which is ended after a second: Python's `re` cannot be stopped from within, and a pattern
such as `(a+)+$` would hang whoever loads the adapter.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence

from s3lora.errors import AdapterError

SECONDS = 1.0
"""How long all the patterns of an adapter may take together."""
MAX_PATTERN = 2**16
"""The longest pattern that is tried, in characters."""

_PLAIN = re.compile(r"[\w.-]*", re.ASCII)

_CHILD = """
import json, re, sys
patterns, names = json.load(sys.stdin)
compiled = [re.compile(p) for p in patterns]
json.dump([[n for n, name in enumerate(names) if c.fullmatch(name)] for c in compiled], sys.stdout)
"""


def is_plain(pattern: str) -> bool:
    """Whether a pattern is a name: nothing in it repeats or branches, so it cannot run away."""
    return _PLAIN.fullmatch(pattern) is not None


def full_matches(patterns: Sequence[str], names: Sequence[str]) -> list[set[str]]:
    """For each regular expression, the names that it matches from end to end.

    Raises:
        AdapterError: if one is too long or no valid expression, or they take too long together.
    """
    hint = "PEFT would run the same expression; do not load this adapter without looking at it"
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN:
            raise AdapterError(
                f"a pattern of {len(pattern)} characters in adapter_config.json", hint=hint
            )
    if not patterns:
        return []
    import subprocess  # slow to import, seldom needed

    try:
        child = subprocess.run(  # noqa: S603  our own interpreter and script; the rest is data
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps([list(patterns), list(names)]).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise AdapterError(
            f"the patterns in adapter_config.json take more than {SECONDS:g} s to match: "
            + ", ".join(repr(p[:60]) for p in patterns[:3]),
            hint=hint,
        ) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise AdapterError(
            f"a pattern in adapter_config.json is not a regular expression: {''.join(reason)}",
            hint=hint,
        ) from error
    return [{names[n] for n in matched} for matched in json.loads(child.stdout)]


def suffix_pattern(key: str) -> str:
    r"""The expression by which PEFT matches a key of a rank or alpha pattern to a module."""
    return rf"(.*\.)?({key})$"


def plain_suffix_matches(keys: Iterable[str], names: Sequence[str]) -> dict[str, set[str]]:
    """For each plain key, the names that `suffix_pattern` matches; a dot stands for any character.

    Keys are tried only on suffixes of their own length, so that a pattern for each of a thousand
    modules costs milliseconds.
    """
    by_length: dict[int, list[tuple[str, re.Pattern[str]]]] = {}
    matched: dict[str, set[str]] = {key: set() for key in keys}
    for key in matched:
        by_length.setdefault(len(key), []).append((key, re.compile(key)))
    for name in names:
        for start in [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]:
            suffix = name[start:]
            for key, compiled in by_length.get(len(suffix), ()):
                if compiled.fullmatch(suffix):
                    matched[key].add(name)
    return matched
