"""Small planning tasks in the ReWOO form, over an invented world.

A task is a question and a plan that would answer it. The plan is written before any tool is run;
each step is a pair of lines, and a later step names an earlier result by its id:

    Plan: Find the author of Grey Lantern.
    #E1 = Search[author of the novel Grey Lantern]
    Plan: Find the birthplace of that author.
    #E2 = Search[birthplace of #E1]

People, places and works are invented from syllables and word lists, so no task comes from a data
set. The training part and the held-out part draw on separate surnames, towns and titles.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "held-out"]

TOOLS = ("Search", "Calculator", "LLM")

PLAN_LINE = re.compile(r"Plan: \S.*")
CALL_LINE = re.compile(r"#E(?P<id>\d+) = (?P<tool>\w+)\[(?P<input>[^\[\]]+)\]")
EVIDENCE = re.compile(r"#E(\d+)")


@dataclass(frozen=True)
class Task:
    """A question and the plan that answers it."""

    question: str
    plan: str


@dataclass(frozen=True)
class Work:
    """A made thing: its title, its kind and the trade of whoever made it."""

    title: str
    kind: str
    maker: str

    def __str__(self) -> str:
        return f"the {self.kind} {self.title}"


@dataclass(frozen=True)
class World:
    """The names that the questions of one part may use."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    works: tuple[Work, ...]


@dataclass(frozen=True)
class Step:
    """One step of a template: a tool call and the ways to announce it."""

    call: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """Ways to word a question, and the steps of its plan."""

    wordings: tuple[str, ...]
    steps: tuple[Step, ...]


def step(call: str, *sentences: str) -> Step:
    """Return a step with its alternative sentences."""
    return Step(call, sentences)


def template(wordings: tuple[str, ...], *steps: Step) -> Template:
    """Return a template with its steps in order."""
    return Template(wordings, steps)


BORN_AT = step(
    "Search[birthplace of {person}]",
    "Find the town where {person} was born.",
    "Look up the birthplace of {person}.",
)
BORN_IN = step(
    "Search[birth year of {person}]",
    "Find the year in which {person} was born.",
    "Look up the birth year of {person}.",
)
MADE_BY = step(
    "Search[{work.maker} of {work}]",
    "Find the {work.maker} of {work.title}.",
    "Look up who made {work}.",
)
FINISHED_IN = step(
    "Search[year {work} was finished]",
    "Find the year in which {work.title} was finished.",
    "Look up when {work} was finished.",
)
PEOPLE_IN = step(
    "Search[population of {place}]",
    "Find how many people live in {place}.",
    "Look up the population of {place}.",
)

ONE_HOP = (
    template(
        (
            "Where was {person} born?",
            "In which town was {person} born?",
            "Name the birthplace of {person}.",
        ),
        BORN_AT,
    ),
    template(
        (
            "When was {work} finished?",
            "In which year was {work} finished?",
            "Give the year in which {work} was finished.",
        ),
        FINISHED_IN,
    ),
    template(
        (
            "A ferry to {place} carries {load} people. How many can cross in {trips} trips?",
            "How many people reach {place} in {trips} ferry trips of {load} people each?",
        ),
        step(
            "Calculator[{load} * {trips}]",
            "Multiply the people on a trip by the number of trips.",
            "Work out {load} people times {trips} trips.",
        ),
    ),
    template(
        (
            "Write a short rhyme about {place}.",
            "Make up two rhyming lines about the town of {place}.",
        ),
        step(
            "LLM[Write a short rhyme about {place}]",
            "Write the rhyme.",
            "No facts are needed, so write the rhyme at once.",
        ),
    ),
)

TWO_HOPS = (
    template(
        (
            "Which river flows through the town where {person} was born?",
            "Name the river in the birthplace of {person}.",
        ),
        BORN_AT,
        step(
            "Search[river through #E1]",
            "Find the river of that town.",
            "Look up which river flows there.",
        ),
    ),
    template(
        (
            "In which year was the {work.maker} of {work.title} born?",
            "When was the {work.maker} who made {work} born?",
        ),
        MADE_BY,
        step(
            "Search[birth year of #E1]",
            "Find the year in which that {work.maker} was born.",
            "Look up the birth year of that person.",
        ),
    ),
    template(
        (
            "Sum up the life of {person} in one sentence.",
            "Who was {person}? Answer in one sentence.",
        ),
        step(
            "Search[life of {person}]",
            "Find out about the life of {person}.",
            "Look up {person}.",
        ),
        step(
            "LLM[Sum up in one sentence: #E1]",
            "Sum up what was found.",
            "Put the findings in one sentence.",
        ),
    ),
    template(
        (
            "How many years after {year} was {work} finished?",
            "Count the years from {year} until {work} was finished.",
        ),
        FINISHED_IN,
        step(
            "Calculator[#E1 - {year}]",
            "Subtract {year} from that year.",
            "Work out the years since {year}.",
        ),
    ),
)

THREE_HOPS = (
    template(
        (
            "Which river flows through the birthplace of the {work.maker} of {work.title}?",
            "Name the river in the town where the {work.maker} of {work} was born.",
        ),
        MADE_BY,
        step(
            "Search[birthplace of #E1]",
            "Find the town where that {work.maker} was born.",
            "Look up the birthplace of that person.",
        ),
        step(
            "Search[river through #E2]",
            "Find the river of that town.",
            "Look up which river flows there.",
        ),
    ),
    template(
        (
            "Who was born first, {person} or {other}?",
            "Which of {person} and {other} is the elder?",
        ),
        BORN_IN,
        step(
            "Search[birth year of {other}]",
            "Find the year in which {other} was born.",
            "Look up the birth year of {other}.",
        ),
        step(
            "LLM[{person} was born in #E1 and {other} in #E2. Who was born first?]",
            "Compare the two years.",
            "Say which of the two years is earlier.",
        ),
    ),
    template(
        (
            "How old was {person} when {work} was finished?",
            "Give the age of {person} in the year {work} was finished.",
        ),
        BORN_IN,
        FINISHED_IN,
        step(
            "Calculator[#E2 - #E1]",
            "Subtract the birth year from the later year.",
            "Work out the age.",
        ),
    ),
    template(
        (
            "How many people live in {place} and {second} together?",
            "Add up the populations of {place} and {second}.",
        ),
        PEOPLE_IN,
        step(
            "Search[population of {second}]",
            "Find how many people live in {second}.",
            "Look up the population of {second}.",
        ),
        step(
            "Calculator[#E1 + #E2]",
            "Add the two numbers.",
            "Work out the sum.",
        ),
    ),
)

FOUR_HOPS = (
    template(
        (
            "How old was the {work.maker} of {work.title} when it was finished?",
            "Give the age of the {work.maker} of {work} in the year it was finished.",
        ),
        MADE_BY,
        step(
            "Search[birth year of #E1]",
            "Find the year in which that {work.maker} was born.",
            "Look up the birth year of that person.",
        ),
        FINISHED_IN,
        step(
            "Calculator[#E3 - #E2]",
            "Subtract the birth year from the later year.",
            "Work out the age.",
        ),
    ),
    template(
        (
            "Was {person} born in the same town as the {work.maker} of {work.title}?",
            "Do {person} and the {work.maker} of {work} share a birthplace?",
        ),
        BORN_AT,
        MADE_BY,
        step(
            "Search[birthplace of #E2]",
            "Find the town where that {work.maker} was born.",
            "Look up the birthplace of that person.",
        ),
        step(
            "LLM[Are #E1 and #E3 the same town?]",
            "Compare the two towns.",
            "Say whether the towns are the same.",
        ),
    ),
    template(
        (
            "How many more people live in the birthplace of {person} than in {place}?",
            "By how many people is the town where {person} was born larger than {place}?",
        ),
        BORN_AT,
        step(
            "Search[population of #E1]",
            "Find how many people live in that town.",
            "Look up the population of that town.",
        ),
        PEOPLE_IN,
        step(
            "Calculator[#E2 - #E3]",
            "Subtract the second number from the first.",
            "Work out the difference.",
        ),
    ),
)

TEMPLATES = ONE_HOP + TWO_HOPS + THREE_HOPS + FOUR_HOPS

GIVEN_NAMES = ("Ada", "Bram", "Cleo", "Dora", "Egon", "Fay", "Hugo", "Ines", "Joss", "Mira")
SURNAME_STARTS = ("Ald", "Ber", "Cor", "Dun", "Fen", "Hal", "Lor", "Mar", "Ost", "Pel")
SURNAME_ENDS = ("ack", "ant", "ell", "ick", "ow", "und", "win", "yer")
PLACE_STARTS = ("Ash", "Brin", "Cold", "Dray", "East", "Fox", "Glen", "Kings", "Mill", "Stone")
PLACE_ENDS = ("by", "dale", "ford", "ham", "mouth", "stead", "ton", "wick")
ADJECTIVES = ("Amber", "Blue", "Broken", "Distant", "Golden", "Grey", "Quiet", "Red", "Silver")
NOUNS = ("Anchor", "Bell", "Crown", "Garden", "Harbour", "Lantern", "Mirror", "Orchard", "Winter")
MAKERS = {
    "novel": "author",
    "opera": "composer",
    "bridge": "engineer",
    "painting": "painter",
    "lighthouse": "architect",
}


def part_of(names: list[str], part: Part) -> list[str]:
    """Return every fifth name for the held-out part, and the others for training."""
    held_out = part == "held-out"
    return [name for place, name in enumerate(names) if (place % 5 == 0) is held_out]


def joined(starts: tuple[str, ...], ends: tuple[str, ...], rng: random.Random) -> list[str]:
    """Return every start with every end, in shuffled order."""
    names = [start + end for start in starts for end in ends]
    rng.shuffle(names)
    return names


def make_work(title: str, kind: str) -> Work:
    """Return the work of that title and kind, with the trade that makes this kind."""
    return Work(title, kind, MAKERS[kind])


def make_world(part: Part, seed: int) -> World:
    """Return the people, places and works of one part; the parts of one seed share no name."""
    rng = random.Random(seed)
    surnames = part_of(joined(SURNAME_STARTS, SURNAME_ENDS, rng), part)
    places = part_of(joined(PLACE_STARTS, PLACE_ENDS, rng), part)
    titles = part_of(joined(tuple(f"{word} " for word in ADJECTIVES), NOUNS, rng), part)
    people = tuple(f"{rng.choice(GIVEN_NAMES)} {surname}" for surname in surnames)
    works = tuple(make_work(title, rng.choice(list(MAKERS))) for title in titles)
    return World(people, tuple(places), works)


def draw_names(world: World, rng: random.Random) -> dict[str, object]:
    """Return one random value for each name that a template may hold."""
    person, other = rng.sample(world.people, 2)
    place, second = rng.sample(world.places, 2)
    numbers = {"year": rng.randint(1500, 1899), "load": rng.randint(12, 95)}
    names = {"person": person, "other": other, "place": place, "second": second}
    return {**names, **numbers, "work": rng.choice(world.works), "trips": rng.randint(3, 40)}


def make_task(pattern: Template, world: World, rng: random.Random) -> Task:
    """Return the template filled with random names and one random wording of each line."""
    names = draw_names(world, rng)
    question = rng.choice(pattern.wordings).format(**names)
    lines = []
    for number, part in enumerate(pattern.steps, start=1):
        lines.append(f"Plan: {rng.choice(part.sentences).format(**names)}")
        lines.append(f"#E{number} = {part.call.format(**names)}")
    return Task(question, "\n".join(lines))


def make_tasks(count: int, seed: int = 7, part: Part = "train") -> list[Task]:
    """Return that many tasks with distinct questions, evenly spread over the templates."""
    world = make_world(part, seed)
    rng = random.Random(f"{part} {seed}")
    tasks: dict[str, Task] = {}
    for _ in range(20 * count):
        if len(tasks) == count:
            break
        task = make_task(TEMPLATES[len(tasks) % len(TEMPLATES)], world, rng)
        tasks.setdefault(task.question, task)
    if len(tasks) < count:
        raise ValueError(f"the {part} world is too small for {count} distinct questions")
    return rng.sample(list(tasks.values()), count)


def plan_fault(text: str) -> str | None:
    """Return why the text is no valid plan, or None for a valid one."""
    lines = text.strip().split("\n")
    for number, start in enumerate(range(0, len(lines), 2), start=1):
        fault = step_fault(lines[start : start + 2], number)
        if fault:
            return f"step {number}: {fault}"
    return None


def step_fault(pair: list[str], number: int) -> str | None:
    """Return why the pair of lines cannot be the step of that number, or None."""
    if not PLAN_LINE.fullmatch(pair[0]):
        return "expected a line 'Plan: <sentence>'"
    if len(pair) < 2:
        return "the Plan line has no #E line"
    call = CALL_LINE.fullmatch(pair[1])
    if call is None:
        return f"expected a line '#E{number} = Tool[input]'"
    return call_fault(call, number)


def call_fault(call: re.Match[str], number: int) -> str | None:
    """Return why the call does not fit at that number: its id, its tool or its evidence."""
    if call["id"] != str(number):
        return f"the id is #E{call['id']}, expected #E{number}"
    if call["tool"] not in TOOLS:
        return f"unknown tool {call['tool']}"
    if not call["input"].strip():
        return "the input is empty"
    late = [used for used in EVIDENCE.findall(call["input"]) if not 0 < int(used) < number]
    return f"#E{late[0]} is used before it is defined" if late else None


def plan_shape(plan: str) -> list[tuple[str, list[str]]]:
    """Return each call of a plan as its tool and the ids that its input uses."""
    calls = CALL_LINE.finditer(plan)
    return [(call["tool"], EVIDENCE.findall(call["input"])) for call in calls]
