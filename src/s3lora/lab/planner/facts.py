"""The tool calls that plans are made of: a fact to look up, a sum, a judgement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a plan before the names are filled in."""

    tool: str
    text: str
    """The input, with slots such as {person} and evidence such as #E1."""
    sentences: tuple[str, ...]
    """Ways to announce it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation that can be looked up; @ stands for what it is asked about."""

    query: str
    sentences: tuple[str, ...]

    def of(self, subject: str, spoken: str | None = None) -> Call:
        """The search for this fact about a subject, and what the subject is called in the plan."""
        said = tuple(sentence.replace("@", spoken or subject) for sentence in self.sentences)
        return Call("Search", self.query.replace("@", subject), said)


def calculate(text: str, *sentences: str) -> Call:
    """The sum that the text writes down."""
    return Call("Calculator", text, sentences)


def judge(text: str, *sentences: str) -> Call:
    """The question that the model answers from the evidence in it."""
    return Call("LLM", text, sentences)


BIRTHPLACE = Fact(
    "birthplace of @",
    (
        "Find the town where @ was born.",
        "Look up the birthplace of @.",
        "Search for the place of birth of @.",
    ),
)
BIRTH_YEAR = Fact(
    "birth year of @",
    (
        "Find the year in which @ was born.",
        "Look up the birth year of @.",
        "Search for when @ was born.",
    ),
)
MAKER = Fact(
    "{work.kind.maker} of @",
    (
        "Find the {work.kind.maker} of @.",
        "Look up who made @.",
        "Search for the person by whom @ was {work.kind.made}.",
    ),
)
WORK_OF = Fact(
    "{work.kind} by @",
    (
        "Find the {work.kind} by @.",
        "Look up the {work.kind} that was {work.kind.made} by @.",
    ),
)
YEAR = Fact(
    "year @ was finished",
    (
        "Find the year in which @ was finished.",
        "Look up when @ was finished.",
        "Search for the year of @.",
    ),
)
KEEPER = Fact(
    "where the original of @ is kept",
    (
        "Find the house that keeps the original of @.",
        "Look up where the original of @ is kept.",
    ),
)
POPULATION = Fact(
    "population of @",
    (
        "Find how many people live in @.",
        "Look up the population of @.",
        "Search for the number of people in @.",
    ),
)
REGION = Fact(
    "region of @",
    (
        "Find the region in which @ lies.",
        "Look up the region of @.",
        "Search for the region of @.",
    ),
)
RIVER = Fact(
    "river through @",
    (
        "Find the river that flows through @.",
        "Look up which river flows through @.",
        "Search for the river of @.",
    ),
)
LENGTH = Fact(
    "length of @",
    ("Find the length of @.", "Look up how long @ is.", "Search for the length of @."),
)
MOUNTAIN = Fact(
    "highest mountain in @",
    ("Find the highest mountain in @.", "Look up which mountain is the highest in @."),
)
HEIGHT = Fact(
    "height of @",
    ("Find the height of @.", "Look up how high @ is.", "Search for the height of @."),
)
FOUNDER = Fact(
    "founder of @",
    ("Find the founder of @.", "Look up who founded @.", "Search for the founder of @."),
)
FOUNDED = Fact(
    "founding year of @",
    (
        "Find the year in which @ was founded.",
        "Look up when @ was founded.",
        "Search for the founding year of @.",
    ),
)
SEAT = Fact(
    "town of @",
    ("Find the town where @ stands.", "Look up the town of @.", "Search for the town of @."),
)
