"""A model card of an adapter: metadata for a hub, and a section on what was seen and done.

`prune` puts the section into the README.md of what it writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from s3lora.findings import Finding
from s3lora.io.sources import MANIFEST
from s3lora.report import PlanFacts, PlannedEdit, Report, Source
from s3lora.report.advice import NO_PROOF
from s3lora.report.alike import EXAMPLES, Alike, alike, listed
from s3lora.report.markdown import cell, code, escaped, figure, grid
from s3lora.report.verdict import verdict
from s3lora.scores import ScoreTable

MEASURE = "whether this made the model safer has to be measured."


def render(report: Report) -> str:
    """The card of a scan, or of a plan to prune."""
    return document(report.base_model, _section(report))


def document(base_model: str, section: Iterable[str]) -> str:
    """A card: metadata, and the lines of a section.

    With huggingface_hub installed its card classes write the metadata; without, plain text of the
    same content.
    """
    front = _front(metadata(base_model) | {"tags": ["lora"]})
    return front + "\n" + "\n".join(section).rstrip("\n") + "\n"


def metadata(base_model: str) -> dict[str, Any]:
    """What a card's metadata says of any adapter; the base model is empty if it is not named."""
    return ({"base_model": base_model} if base_model else {}) | {"library_name": "peft"}


def _front(fields: Mapping[str, Any]) -> str:
    if not str(fields.get("base_model", "")).isprintable():  # the hub's class would not escape it
        return front_matter(fields)
    try:
        from huggingface_hub import ModelCardData  # slow to import, and not everywhere
    except ImportError:
        return front_matter(fields)
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---\n"


def front_matter(fields: Mapping[str, Any]) -> str:
    """The metadata of a card as YAML, one field a line; values are text, or lists of it."""
    lines = [f"{key}: {_yaml(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _yaml(value: str | list[str]) -> str:
    """A value as YAML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    quoted = json.dumps(value, ensure_ascii=False)
    return "peft" if value == "peft" else "".join(map(_yaml_character, quoted))


def _yaml_character(c: str) -> str:
    if c.isprintable():
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 2**16 else f"\\U{ord(c):08x}"


def _section(report: Report) -> list[str]:
    """What was scanned, with what, what was found, and what a plan would do."""
    lines = [
        "## Scanned with s3lora",
        "",
        escaped(verdict(report)),
        "",
        *identity("Adapter", report, len(report.modules)),
        made_by(report.tool),
        f"- Method: {method_of(report.table)}",
        f"- Policy: {_named(report.policy_name, report.policy_params)}",
        "",
        f"{NO_PROOF} No finding does not mean that the adapter is safe.",
        *_findings(report),
        *_chosen(report),
    ]
    if report.plan is not None:
        policy = report.policy_name, report.policy_params
        source = len(report.modules), report.sha256, report.tool
        lines += ["", *pruned(report.plan, *source, report.table, policy)]
    return lines


def identity(role: str, source: Source | Report, modules: int) -> Iterator[str]:
    """An adapter in one or two lines: what it is called, how large it is, and which bytes it has.

    Args:
        role: What it is in this card.
        source: Of an early version of this tool it may lack the parameters and the hash.
        modules: How many LoRA modules it has.
    """
    size = f", {source.parameters:,} parameters" if source.parameters else ""
    yield f"- {role}: {code(source.ref)}, {modules} LoRA modules{size}"
    if source.sha256:
        yield f"- SHA-256 of the weights: {code(source.sha256)}"


def made_by(tool: Mapping[str, str]) -> str:
    """The line on the tool and its version."""
    return f"- Tool: {_tool(tool)}"


def _tool(tool: Mapping[str, str]) -> str:
    return escaped(f"{tool['name']} {tool['version']}")


def _findings(report: Report) -> Iterator[str]:
    if report.findings:
        yield from ("", "### Findings", "")
    yield from map(_finding, alike(report.findings))
    unjudged: dict[str, list[str]] = {}
    for skipped in report.table.skipped:
        if not skipped.judged:
            unjudged.setdefault(skipped.reason, []).append(skipped.module)
    if unjudged:
        yield from ("", "### Not judged", "")
    yield from (f"- {_places(names)}: {escaped(reason)}" for reason, names in unjudged.items())


def _places(places: Sequence[str]) -> str:
    """Places as code spans: all of up to three, else how many they are and three of them."""
    return listed([code(place) for place in places[: EXAMPLES + 1]], len(places))


def _finding(row: Alike) -> str:
    """Findings that say the same, in a line."""
    return f"- {row.severity}: {_places(row.places)}: {escaped(row.message)} {code(row.rule)}"


def _chosen(report: Report) -> Iterator[str]:
    """The chosen modules and their scores; a plan lists them itself."""
    if report.plan is not None or not report.chosen:
        return
    places = {score.module: (at, score) for at, score in enumerate(report.table.ranked(), 1)}
    rows = []
    for name in sorted(report.chosen, key=lambda n: places[n][0] if n in places else len(places)):
        at, score = places.get(name, ("–", None))
        rows.append((str(at), cell(name), figure(None if score is None else score.value)))
    yield from ("", "### Chosen", "", *grid("rlr", ("place", "module", "score"), rows))


def pruned(
    plan: PlanFacts,
    modules: int,
    sha256: str,
    tool: Mapping[str, str],
    table: ScoreTable | None = None,
    policy: tuple[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """The lines of the section on what was taken out: in words what the manifest says in full.

    Args:
        plan: What was done.
        modules: How many the source has.
        sha256: Of the source's weights file.
        tool: Name and version of what did it.
        table: The scores that led to it.
        policy: Name and parameters of what chose.
    """
    how = f" by {method_of(table)}" if table else ""
    how += f", policy {_named(*policy)}" if table and policy else ""
    taken = plan.edit in ("drop", "zero")
    done = "taken out" if taken else f"edited by {_named(plan.edit, plan.edit_params)}"
    rows = [f"- {code(name)}: {_what(plan.edits.get(name))}" for name in plan.chosen]
    return [
        "## Pruned with s3lora",
        "",
        f"{len(plan.chosen)} of {modules} LoRA modules were chosen{how} and {done}, for the target "
        f"{code(plan.target)}" + (", with scales folded." if plan.fold_scale else "."),
        f"{NO_PROOF[:-1]}; {MEASURE}",
        "",
        *rows,
        *(f"\nNote: {escaped(note)}." for note in plan.notes),
        "",
        f"Done with {_tool(tool)} on weights with the SHA-256 {code(sha256)}.",
        f"Scores, versions and the SHA-256 of every file are in {code(MANIFEST)}.",
        "",
    ]


def _what(edit: PlannedEdit | None) -> str:
    """What became of a module, for people."""
    if edit is None:
        return "as it was: the edit has nothing to change there"
    if edit.name != "replace":
        return "left out" if edit.name == "drop" else "kept with B = 0"
    off = f", {edit.error:.2%} off" if edit.error else ""
    return f"given other factors{f' of rank {edit.rank}' if edit.rank else ''}{off}"


def kept_from_source(findings: Sequence[Finding]) -> list[str]:
    """The lines on what is odd about the source and about the result as well; none without."""
    if not findings:
        return []
    return [
        "### Kept from the source",
        "",
        "LoRA modules were taken out or edited, and nothing else was changed. What was found in "
        "the source and is not about those modules holds for this result too:",
        "",
        *map(_finding, alike(findings)),
        "",
    ]


OF_THE_SOURCE = (
    "What follows is the card of the source, as it was. Its figures were measured on the source "
    "and say nothing of this result.",
    "",
)
FRONT_MATTER = re.compile(
    r"\ufeff?---[ \t]*\r?\n(?:(?!---[ \t]*\r?$).*\n)*---[ \t]*\r?(?:\n|$)", re.MULTILINE
)
OPENING = re.compile(r"^ {0,3}(```|~~~|<[!?]|</?[a-z])", re.M | re.I)
"""What begins a block in Markdown or HTML that may hide the lines after it."""


def with_section(text: str, section: Iterable[str]) -> str:
    """A card with a section right after its front matter: no open block of it hides the section.

    What looks like front matter and holds the beginning of such a block is taken for text, as some
    renderers do: the section comes before it.
    """
    front = FRONT_MATTER.match(text)
    end = front.end() if front and not OPENING.search(front.group()) else 0
    head, rest = text[:end], text[end:]
    if head and not head.endswith("\n"):
        head += "\n"
    lines = [*section, *(OF_THE_SOURCE if rest.strip() else ())]
    return (head + "\n" if head else "") + "\n".join(lines) + ("\n" + rest if rest.strip() else "")


def method_of(table: ScoreTable) -> str:
    """A method with its parameters."""
    return _named(table.method, table.params)


def _named(name: str, params: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key} = {value}" for key, value in params.items())
    return f"{code(name)} ({escaped(shown)})" if shown else code(name)
