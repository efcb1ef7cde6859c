"""What a question template is, and how its slots are filled from a world."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from s3lora.lab.planner.facts import Call
from s3lora.lab.planner.world import (
    Entity,
    Institution,
    Person,
    Region,
    River,
    Town,
    Work,
    World,
)


@dataclass(frozen=True, slots=True)
class Slots:
    """What a template may name: entities of one world, and numbers."""

    person: Person
    other: Person
    town: Town
    second: Town
    work: Work
    another: Work
    house: Institution
    elder: Institution
    river: River
    stream: River
    region: Region
    year: int
    load: int
    trips: int

    def fill(self, text: str, stand_in: str = "") -> str:
        """The text with every slot filled in, and a stand-in where one is named."""
        slots = {name: getattr(self, name) for name in self.__slots__}
        return text.format(**slots, stand_in=stand_in)

    def entities(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The names along the paths: person.birthplace is a person and a town."""
        found: dict[str, None] = {}
        for path in paths:
            thing: object = self
            for attribute in path.split("."):
                thing = getattr(thing, attribute)
                if isinstance(thing, Entity):
                    found[thing.name] = None
        return tuple(found)


def draw(world: World, rng: random.Random) -> Slots:
    """Random slots from one world; no entity fills two slots.

    Half of the time the person shares a birthplace with the maker of the work, and half of the
    time the two towns share a region, so that questions for yes or no have both answers.
    """
    work, another = rng.sample(world.works, 2)
    people = [each for each in world.people if each is not work.maker and each is not another.maker]
    person = rng.choice(people)
    if rng.random() < 0.5:
        home = work.maker.birthplace
        person = rng.choice([each for each in people if each.birthplace is home] or people)
    other = rng.choice([each for each in people if each is not person])
    town = rng.choice(world.towns)
    towns = [each for each in world.towns if each is not town]
    second = rng.choice(towns)
    if rng.random() < 0.5:
        second = rng.choice([each for each in towns if each.region is town.region] or towns)
    house, elder = rng.sample(world.institutions, 2)
    river, stream = rng.sample(world.rivers, 2)
    return Slots(
        person=person,
        other=other,
        town=town,
        second=second,
        work=work,
        another=another,
        house=house,
        elder=elder,
        river=river,
        stream=stream,
        region=rng.choice(world.regions),
        year=rng.randint(1400, 1590),
        load=rng.randint(12, 95),
        trips=rng.randint(3, 40),
    )


def always(_: Slots) -> bool:
    """The condition of a template that takes any slots."""
    return True


@dataclass(frozen=True, slots=True)
class Template:
    """Ways to word a question, the steps that answer it, and the answer."""

    wordings: tuple[str, ...]
    calls: tuple[Call, ...]
    answer: Callable[[Slots], object]
    paths: tuple[str, ...]
    """Whatever the question and its answer touch, as chains of attributes."""
    when: Callable[[Slots], bool] = always
    """Which slots the question makes sense for."""


def ordinal(number: int) -> str:
    """The number as a rank: 18th, 21st."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number in (11, 12, 13) else endings.get(number % 10, 'th')}"


def century(year: int) -> str:
    """The century of a year, such as 18th century."""
    return f"{ordinal((year - 1) // 100 + 1)} century"


def yes(fact: bool) -> str:
    """The word for a truth value."""
    return "yes" if fact else "no"


PERSON, OTHER, TOWN, SECOND = "{person}", "{other}", "{town}", "{second}"
WORK, ANOTHER = "{work.label}", "{another.label}"
HOUSE, ELDER, RIVERS, STREAM = "{house.label}", "{elder.label}", "{river.label}", "{stream.label}"
THAT_MAKER = "that {work.kind.maker}"
