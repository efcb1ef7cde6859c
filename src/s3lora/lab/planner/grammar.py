"""The grammar of a plan: pairs of lines `Plan: …` and `#E<n> = Tool[input with #E<m>]`.

The text comes from a model, so what is wrong with it is a value and not an exception: `parse`
reads every line and returns the steps together with the faults. It reads line by line, so no input
can reach into another step. Every question about a plan is answered by what is returned here.

    plan      := (line of a sentence, line of a call) for n = 1, 2, …, at least once
    sentence  := "Plan:" text
    call      := "#E" n "=" tool "[" input "]"          brackets in the input are balanced
    reference := "#E" m anywhere in an input, with m < n

Only inputs are given evidence, so only there is a reference a dependency; the sentences may speak
of any result. Spaces around a line and empty lines do not count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal

TOOLS = ("Search", "Calculator", "LLM")
"""The tools that a planner is told of."""

MAX_STEPS = 20
MAX_CHARS = 20_000

Rule = Literal[
    "no step", "too long", "line", "pairing", "order", "brackets", "smuggling", "tool", "reference",
    "cycle",
]  # fmt: skip
"""What a fault is about."""

REFERENCE_RULES: frozenset[Rule] = frozenset(("reference", "cycle"))
"""The faults of an #E that is not the id of an earlier step."""

DEEPER: frozenset[Rule] = REFERENCE_RULES | {"tool"}
"""The faults of a text that has the form of a plan, and still cannot be run."""

SENTENCE = re.compile(r"Plan: *(\S.*)")
CALL = re.compile(r"#E(0|[1-9][0-9]{0,8}) *= *([A-Za-z]\w*) *\[(.*)\]", re.ASCII)
REFERENCE = re.compile(r"#E(0|[1-9][0-9]{0,8})(?!\w)", re.ASCII)
MALFORMED = re.compile(r"#E(?=[0-9])(?!(?:0|[1-9][0-9]{0,8})(?!\w))", re.ASCII)
INNER_CALL = re.compile(r"#E[0-9]+ *= *\w+ *\[", re.ASCII)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what is to be done and the call that does it."""

    plan: str
    """The sentence; empty where the call has none of its own, which is a fault."""
    placeholder: str
    """What its result is called, such as #E1."""
    tool: str
    input: str
    """As written, with its references."""

    @property
    def id(self) -> int:
        """The number in the placeholder."""
        return int(self.placeholder[2:])


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a plan."""

    rule: Rule
    line: int
    """Counted from 1; 0 if it is about the whole text."""
    message: str


@dataclass(frozen=True, slots=True)
class ParsedPlan:
    """What a text says as a plan, and everything that is wrong with it."""

    steps: tuple[Step, ...]
    """All calls that could be read, in the order of the text, faulty or not."""
    faults: tuple[Fault, ...]
    levels: tuple[tuple[int, ...], ...]
    """Ids whose inputs need only earlier levels; empty unless the plan can be run."""

    @property
    def well_formed(self) -> bool:
        """Whether it has the form of a plan: ids 1..n, one call per sentence, no other line."""
        return all(fault.rule in DEEPER for fault in self.faults)

    @property
    def runnable(self) -> bool:
        """Whether nothing is wrong: the form, the tools and the order of the references."""
        return not self.faults


def parse(
    text: str,
    tools: Collection[str] = TOOLS,
    *,
    max_steps: int = MAX_STEPS,
    max_chars: int = MAX_CHARS,
) -> ParsedPlan:
    """The steps of a plan and its faults; never raises, whatever the text.

    Args:
        text: What a planner wrote.
        tools: The names of the known tools.
        max_steps: Longer plans are read up to here and have a fault.
        max_chars: A longer text is not read at all.

    Returns:
        Steps, faults in order of their lines, and levels.

    Cost
        Linear in the length of the text.
    """
    if len(text) > max_chars:
        message = f"{len(text)} characters, more than {max_chars}"
        return ParsedPlan((), (Fault("too long", 0, message),), ())
    reader = _Reader(frozenset(tools), max_steps)
    for number, line in enumerate(text.split("\n"), start=1):
        if not reader.read(line.strip(" \t\r"), number):
            break
    return reader.finish()


def references(text: str) -> tuple[int, ...]:
    """The ids that a text refers to, each once, in order of appearance."""
    return tuple(dict.fromkeys(int(found[1]) for found in REFERENCE.finditer(text)))


def substitute(text: str, evidence: Mapping[int, str]) -> str:
    """The text with each reference replaced by its evidence.

    Whole tokens only: #E1 is not part of #E10. Evidence goes in as it is and is not read again, so
    a reference within it stays as text. References without evidence stay too.

    Args:
        text: An input with references.
        evidence: Id to result.
    """
    return REFERENCE.sub(lambda found: evidence.get(int(found[1]), found[0]), text)


def balanced(text: str) -> bool:
    """Whether every bracket that opens is closed later, and none closes that did not open."""
    depth = 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            return False
    return depth == 0


class _Reader:
    """Takes the lines of one text and collects its steps and faults."""

    def __init__(self, tools: frozenset[str], max_steps: int) -> None:
        self.tools = tools
        self.max_steps = max_steps
        self.steps: list[Step] = []
        self.lines: list[int] = []
        self.faults: list[Fault] = []
        self.sentence: str | None = None
        self.sentence_line = 0

    def read(self, line: str, number: int) -> bool:
        """Take one line; False once the limit of steps is passed."""
        if not line:
            return True
        if CONTROL.search(line):
            self._fault("smuggling", number, "a control character or a hidden line break")
        if sentence := SENTENCE.fullmatch(line):
            self._take_sentence(sentence[1], number)
        elif call := CALL.fullmatch(line):
            if len(self.steps) == self.max_steps:
                self._fault(
                    "too long",
                    number,
                    f"more than {self.max_steps} step{'s' * (self.max_steps != 1)}",
                )
                self.sentence = None
                return False
            self._take_call(call, number)
        else:
            self._fault("line", number, "neither 'Plan: ...' nor '#E1 = Tool[input]'")
        return True

    def finish(self) -> ParsedPlan:
        """The plan, once all lines are read."""
        self._close_sentence()
        if not self.steps:
            self.faults.insert(0, Fault("no step", 0, "there is no step in it"))
        needs = [references(step.input) for step in self.steps]
        self._check_references(needs)
        levels: tuple[tuple[int, ...], ...] = ()
        try:
            levels = _levels(self.steps, needs)
        except CycleError as error:
            circle = ", ".join(f"#E{each}" for each in error.args[1])
            self._fault("cycle", 0, f"the steps wait for each other: {circle}")
        faults = tuple(sorted(self.faults, key=lambda fault: fault.line))
        return ParsedPlan(tuple(self.steps), faults, () if faults else levels)

    def _fault(self, rule: Rule, line: int, message: str) -> None:
        self.faults.append(Fault(rule, line, message))

    def _close_sentence(self) -> None:
        if self.sentence is not None:
            self._fault("pairing", self.sentence_line, "a Plan line without its #E line")
        self.sentence = None

    def _take_sentence(self, sentence: str, number: int) -> None:
        self._close_sentence()
        self.sentence, self.sentence_line = sentence, number
        if INNER_CALL.search(sentence):
            self._fault("smuggling", number, "a call within a Plan line")

    def _take_call(self, call: re.Match[str], number: int) -> None:
        written, tool, text = call[1], call[2], call[3]
        expected = len(self.steps) + 1
        if self.sentence is None:
            self._fault("pairing", number, f"#E{written} has no Plan line of its own")
        if written != str(expected):
            self._fault("order", number, f"the id is #E{written}, expected #E{expected}")
        if tool not in self.tools:
            self._fault("tool", number, f"no tool {tool!r}")
        self._check_input(text, number)
        self.steps.append(Step(self.sentence or "", f"#E{written}", tool, text))
        self.lines.append(number)
        self.sentence = None

    def _check_input(self, text: str, number: int) -> None:
        if not text.strip():
            self._fault("line", number, "the input is empty")
        if not balanced(text):
            self._fault("brackets", number, "the brackets of the input do not match")
        if INNER_CALL.search(text):
            self._fault("smuggling", number, "a call within an input")
        if MALFORMED.search(text):
            self._fault("reference", number, "an #E with a number that is no id")

    def _check_references(self, needs: Iterable[tuple[int, ...]]) -> None:
        ids, earlier = {step.id for step in self.steps}, set[int]()
        for step, line, used in zip(self.steps, self.lines, needs, strict=True):
            for each in used:
                if each == step.id:
                    self._fault("reference", line, f"#E{each} refers to itself")
                elif each not in ids:
                    self._fault("reference", line, f"#E{each} is defined nowhere")
                elif each not in earlier:
                    self._fault("reference", line, f"#E{each} is used before it is defined")
            earlier.add(step.id)


def _levels(steps: Iterable[Step], needs: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for step, used in zip(steps, needs, strict=True):
        sorter.add(step.id, *(each for each in used if each != step.id))
    sorter.prepare()
    levels: list[tuple[int, ...]] = []
    while ready := sorter.get_ready():
        levels.append(tuple(sorted(ready)))
        sorter.done(*ready)
    return tuple(levels)
