"""The text collection about the invented world: one short article for each entity."""

from __future__ import annotations

import random
from dataclasses import dataclass

from s3lora.lab.planner.names import Part, dice
from s3lora.lab.planner.world import (
    Entity,
    Institution,
    Mountain,
    Person,
    Region,
    River,
    Town,
    Work,
    make_world,
)


@dataclass(frozen=True, slots=True)
class Article:
    """What the collection says about one entity."""

    title: str
    """The name of the entity."""
    text: str
    """Plain sentences, one for each fact."""


Wordings = tuple[str, ...]
"""Ways to say one fact; {0} is the entity."""

FACTS: dict[type[Entity], tuple[Wordings, ...]] = {
    Mountain: (
        (
            "{0} is {0.height} metres high.",
            "The height of {0} is {0.height} metres.",
            "{0} rises to {0.height} metres.",
        ),
    ),
    Region: (
        (
            "{0} is a region of {0.area} square kilometres.",
            "The region of {0} has an area of {0.area} square kilometres.",
        ),
        (
            "The highest mountain in {0} is {0.mountain}.",
            "No mountain in the region is higher than {0.mountain}.",
            "{0.mountain} is its highest mountain.",
        ),
    ),
    River: (
        (
            "The {0} is {0.length} kilometres long.",
            "The length of the {0} is {0.length} kilometres.",
            "From its source to its mouth, the {0} measures {0.length} kilometres.",
        ),
    ),
    Town: (
        (
            "{0} is a town in the region of {0.region}.",
            "The town of {0} lies in {0.region}.",
            "{0} is a town that belongs to the region of {0.region}.",
        ),
        (
            "The {0.river} flows through {0}.",
            "It stands on the {0.river}, which flows through the town.",
            "The river of the town is the {0.river}.",
        ),
        (
            "{0.population} people live there.",
            "It has a population of {0.population}.",
            "The population of {0} is {0.population}.",
        ),
        (
            "It was founded in {0.founded}.",
            "The founding year of {0} is {0.founded}.",
        ),
    ),
    Person: (
        (
            "{0} was a person of the trade of {0.trade}.",
            "{0} worked as {0.trade}.",
            "By trade {0} was {0.trade}.",
        ),
        (
            "{0} was born in {0.birthplace} in the year {0.born}.",
            "The birthplace of {0} is {0.birthplace}, the birth year {0.born}.",
            "In {0.born}, {0} was born in the town of {0.birthplace}.",
        ),
    ),
    Institution: (
        (
            "The {0} is a {0.kind} in the town of {0.town}.",
            "The {0} stands in {0.town}.",
            "{0.town} is the town of the {0}.",
        ),
        (
            "It was founded in {0.founded} by {0.founder}.",
            "Its founder is {0.founder}, its founding year {0.founded}.",
            "In {0.founded}, {0.founder} founded the {0}.",
        ),
    ),
    Work: (
        (
            "{0} is a {0.kind} that was {0.kind.made} by {0.maker}.",
            "The {0.kind.maker} of the {0.kind} {0} is {0.maker}.",
            "The {0.kind} {0} was {0.kind.made} by {0.maker}, {0.kind.maker}.",
        ),
        (
            "It was finished in {0.year}.",
            "The {0.kind} was finished in the year {0.year}.",
            "The year {0} was finished is {0.year}.",
        ),
        (
            "The original is kept in the {0.keeper}.",
            "The {0.keeper} keeps the original.",
            "The house where the original of {0} is kept is the {0.keeper}.",
        ),
    ),
}
"""The facts about each type of entity, each in several wordings."""

MADE: Wordings = (
    "The {0.kind} {0} was {0.kind.made} by {0.maker}.",
    "The {0.kind} by {0.maker} is {0}.",
)
FOUNDED: Wordings = ("{0.founder} founded the {0}.", "The founder of the {0} is {0.founder}.")


def collection(part: Part, seed: int) -> list[Article]:
    """An article about every entity of the world of one part and seed, in a fixed order.

    Raises:
        ParameterError: if there is no such part.
    """
    world, rng = make_world(part, seed), dice("articles", part, seed)
    done: dict[str, list[str]] = {person.name: [] for person in world.people}
    for work in world.works:
        done[work.maker.name].append(rng.choice(MADE).format(work))
    for house in world.institutions:
        done[house.founder.name].append(rng.choice(FOUNDED).format(house))
    return [_article(entity, done.get(entity.name, []), rng) for entity in world.entities()]


def _article(entity: Entity, more: list[str], rng: random.Random) -> Article:
    sentences = [rng.choice(wordings).format(entity) for wordings in FACTS[type(entity)]]
    return Article(entity.name, " ".join(sentences + more))
