"""A SARIF 2.1.0 log of one run, made of rows: what is the same for every kind of result.

GitHub's limits are kept (`MOST_RESULTS`); what is beyond is counted in a last result for each rule,
never left out silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import quote

from s3lora.report import Source
from s3lora.report.alike import listed
from s3lora.report.escape import printable
from s3lora.report.markdown import escaped

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
Level = Literal["error", "warning", "note"]
ORDER: tuple[Level, ...] = ("error", "warning", "note")
MOST_RESULTS = 25_000
"""In a run, as GitHub takes it; it shows 5,000 of them, the most severe first."""
MOST_PLACES = 100
"""Of one result; its text says how many there are."""
LONGEST = 1000
"""Of a text, in characters; GitHub cuts descriptions at 1,024."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Why there are results."""

    name: str
    told: str
    """What it means."""
    done: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result."""

    rule: str
    level: Level
    where: str
    """A module, tensor, config field or file; empty if it is about the whole adapter."""
    text: str
    path: str
    """The file it is about."""
    module: bool = False
    """Whether `where`, or each of `places`, is a module."""
    places: tuple[str, ...] = ()
    """Of a result that holds in several places; `where` is empty then."""


def spread(
    rule: str, level: Level, places: Sequence[str], text: str, path: str, module: bool
) -> Row:
    """One result for all the places where the same is so."""
    if len(places) == 1:
        return Row(rule, level, places[0], text, path, module)
    return Row(rule, level, "", text, path, module, tuple(places))


def log(
    rows: Iterable[Row],
    rules: Iterable[Rule],
    sources: Iterable[Source],
    *,
    version: str,
    name: str,
    about: Mapping[str, Any],
) -> str:
    """A log of one run, the most severe results first.

    Args:
        rows: The results.
        rules: Each of those by which there are rows, and others that were looked for.
        sources: The adapters that were looked at.
        version: Of this tool.
        name: What the run is about; code scanning keeps the alerts of different names apart.
        about: More on the run, for programs.
    """
    kept = list(_bounded(sorted(rows, key=lambda row: ORDER.index(row.level))))
    named = {rule.name: rule for rule in rules}
    artifacts = {weights_of(source): _artifact(source) for source in sources}
    driver = {"name": "s3lora", "version": version, "rules": [_rule(r) for r in named.values()]}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"s3lora/{printable(name)}/" if name else "s3lora/"},
        "artifacts": list(artifacts.values()),
        "results": list(_results(kept, list(named), list(artifacts))),
        "columnKind": "unicodeCodePoints",
        "properties": dict(about),
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def weights_of(source: Source) -> str:
    """The file that results on an adapter are about."""
    return source.weights or source.ref


def _bounded(rows: list[Row]) -> Iterator[Row]:
    """At most as many results as GitHub takes; for each rule, the rest are counted in one."""
    if len(rows) <= MOST_RESULTS:
        yield from rows
        return
    room = MOST_RESULTS - len({row.rule for row in rows})
    yield from rows[:room]
    rest = Counter((row.rule, row.level) for row in rows[room:])
    for rule in dict.fromkeys(rule for rule, _ in rest):
        levels = [level for other, level in rest if other == rule]
        count = sum(rest[rule, level] for level in levels)
        text = f"{count} more by this rule: the JSON report has every one of them"
        path = next(row.path for row in rows if row.rule == rule)
        yield Row(rule, min(levels, key=ORDER.index), "", text, path)


def _rule(rule: Rule) -> dict[str, Any]:
    told, done = rule.told, rule.done
    return {
        "id": printable(rule.name),
        "name": "".join(word.capitalize() for word in re.split(r"\W+", printable(rule.name))),
        "shortDescription": {"text": _text(told.partition(". ")[0].rstrip(".") + ".")},
        "fullDescription": {"text": _text(told)},
        "help": {
            "text": _text(f"{told} {done}"),
            "markdown": f"{_markdown(told)}\n\n{_markdown(done)}",
        },
    }


def _results(
    rows: Iterable[Row], rules: list[str], artifacts: list[str]
) -> Iterator[dict[str, Any]]:
    seen: Counter[tuple[str, ...]] = Counter()
    indices = {rule: at for at, rule in enumerate(rules)}
    files = {path: at for at, path in enumerate(artifacts)}
    for row in rows:
        same = row.rule, row.where, row.path
        seen[same] += 1
        yield {
            "ruleId": printable(row.rule),
            "ruleIndex": indices[row.rule],
            "level": row.level,
            "message": {"text": _text(_message(row))},
            "locations": [_location(row, files)],
            "partialFingerprints": _fingerprints(*same, str(seen[same])),
        }


def _message(row: Row) -> str:
    """What is so, after where it is so."""
    where = row.where or listed(row.places)
    return f"{where}: {row.text}" if where else row.text


def _location(row: Row, files: Mapping[str, int]) -> dict[str, Any]:
    index = {"index": files[row.path]} if row.path in files else {}
    place = {"artifactLocation": _uri(row.path) | index, "region": {"startLine": 1}}
    location: dict[str, Any] = {"physicalLocation": place}
    places = (row.where,) if row.where else tuple(dict.fromkeys(row.places))[:MOST_PLACES]
    if places:
        location["logicalLocations"] = [
            {
                "name": printable(where.rpartition(".")[2] if row.module else where),
                "fullyQualifiedName": printable(where),
                "kind": "module" if row.module else "resource",
            }
            for where in places
        ]
    return location


def _fingerprints(*parts: str) -> dict[str, str]:
    """What makes it the same alert as in another run: rule, place and file, not the score."""
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(told).hexdigest()
    return {"s3lora/v1": digest, "primaryLocationLineHash": f"{digest[:16]}:1"}


def _artifact(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {"location": _uri(weights_of(source))}
    if source.sha256:
        found |= {"hashes": {"sha-256": source.sha256}, "length": source.nbytes}
    return found


def _uri(path: str) -> dict[str, Any]:
    """A path as a URI: relative to the root of the sources, or absolute as it was given."""
    pure = PurePath(path)
    escaped = quote(pure.as_posix().encode("utf-8", "surrogateescape"), safe="/:")
    if pure.is_absolute():
        return {"uri": f"file://{'' if escaped.startswith('/') else '/'}{escaped}"}
    return {"uri": quote(escaped, safe="/%"), "uriBaseId": "%SRCROOT%"}


def _markdown(text: str) -> str:
    """Text as Markdown in which nothing is a link, and braces are no placeholders."""
    return escaped(text[:LONGEST]).replace("{", "{{").replace("}", "}}")


def _text(text: str) -> str:
    """Text as a plain text message: what would be a link or a placeholder in it is escaped."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    for mark, plain in (("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(mark, plain)
    return printable(text)
