"""An invented world: who made what, where they were born, what flows through it, and when.

Everything refers straight to what it is related to, so a question of four hops is a chain of four
attributes: `work.maker.birthplace.river.length`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from s3lora.lab.planner import names
from s3lora.lab.planner.names import Part, check_part, dice, pool

PEOPLE, TOWNS, INSTITUTIONS, RIVERS, REGIONS = 240, 120, 50, 36, 24
"""How many there are in a world; as many works as people, as many mountains as regions."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Something with a name that no other entity of either part has."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """The name as it stands in a sentence."""
        return self.name


@dataclass(frozen=True, slots=True)
class Mountain(Entity):
    """A mountain."""

    height: int
    """In metres."""


@dataclass(frozen=True, slots=True)
class Region(Entity):
    """A region."""

    area: int
    """In square kilometres."""
    mountain: Mountain
    """Its highest."""


@dataclass(frozen=True, slots=True)
class River(Entity):
    """A river; it may flow through several towns."""

    length: int
    """In kilometres."""

    @property
    def label(self) -> str:
        """The name with its article."""
        return f"the {self.name}"


@dataclass(frozen=True, slots=True)
class Town(Entity):
    """A town."""

    region: Region
    river: River
    population: int
    founded: int
    """A year."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a work can be."""

    name: str
    maker: str
    """The trade of those who make it."""
    made: str
    """The participle: written, painted."""

    def __str__(self) -> str:
        return self.name


KINDS = (
    Kind("novel", "author", "written"),
    Kind("film", "director", "directed"),
    Kind("song", "songwriter", "written"),
    Kind("painting", "painter", "painted"),
    Kind("opera", "composer", "composed"),
    Kind("play", "playwright", "written"),
    Kind("statue", "sculptor", "carved"),
    Kind("poem", "poet", "written"),
)
INSTITUTION_KINDS = ("museum", "library", "archive", "gallery", "academy")


@dataclass(frozen=True, slots=True)
class Person(Entity):
    """A person; everyone has made exactly one work."""

    trade: str
    born: int
    """A year."""
    birthplace: Town


@dataclass(frozen=True, slots=True)
class Institution(Entity):
    """A house that keeps works; nobody has founded two."""

    kind: str
    town: Town
    founder: Person
    founded: int
    """A year."""

    @property
    def label(self) -> str:
        """The name with its article."""
        return f"the {self.name}"


@dataclass(frozen=True, slots=True)
class Work(Entity):
    """A made thing; its name is its title."""

    kind: Kind
    maker: Person
    year: int
    """When it was finished."""
    keeper: Institution
    """Where the original is kept."""

    @property
    def label(self) -> str:
        """The title with its kind, such as the novel Grey Lantern."""
        return f"the {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class World:
    """Everything there is in one part."""

    part: Part
    seed: int
    regions: tuple[Region, ...]
    rivers: tuple[River, ...]
    towns: tuple[Town, ...]
    people: tuple[Person, ...]
    institutions: tuple[Institution, ...]
    works: tuple[Work, ...]

    @property
    def mountains(self) -> tuple[Mountain, ...]:
        """The highest of each region."""
        return tuple(region.mountain for region in self.regions)

    def entities(self) -> Iterator[Entity]:
        """Everything that has a name."""
        places = chain(self.regions, self.mountains, self.rivers, self.towns)
        return chain(places, self.people, self.institutions, self.works)


@lru_cache(maxsize=8)
def make_world(part: Part, seed: int) -> World:
    """The world of one part and seed; the two parts share no name, whatever their seeds.

    Raises:
        ParameterError: if there is no such part.
    """
    check_part(part)
    rng = dice("world", part, seed)
    regions = _regions(part, rng)
    lengths = rng.sample(range(40, 1400), RIVERS)
    rivers = tuple(
        River(f"River {name}", length)
        for name, length in zip(rng.sample(pool(names.RIVER, part), RIVERS), lengths, strict=True)
    )
    towns = _towns(part, rng, regions, rivers)
    kinds = [KINDS[at % len(KINDS)] for at in range(PEOPLE)]
    people = _people(part, rng, towns, kinds)
    institutions = _institutions(part, rng, towns, people)
    works = _works(part, rng, people, kinds, institutions)
    return World(part, seed, regions, rivers, towns, people, institutions, works)


def _regions(part: Part, rng: random.Random) -> tuple[Region, ...]:
    called = rng.sample(pool(names.REGION, part), REGIONS)
    areas = rng.sample(range(900, 30000), REGIONS)
    peaks = rng.sample(pool(names.MOUNTAIN, part), REGIONS)
    heights = rng.sample(range(600, 4200), REGIONS)
    return tuple(
        Region(name, area, Mountain(f"Mount {peak}", height))
        for name, area, peak, height in zip(called, areas, peaks, heights, strict=True)
    )


def _towns(
    part: Part, rng: random.Random, regions: tuple[Region, ...], rivers: tuple[River, ...]
) -> tuple[Town, ...]:
    called = rng.sample(pool(names.TOWN, part), TOWNS)
    populations = rng.sample(range(800, 98000), TOWNS)
    return tuple(
        Town(name, rng.choice(regions), rng.choice(rivers), population, rng.randint(900, 1550))
        for name, population in zip(called, populations, strict=True)
    )


def _people(
    part: Part, rng: random.Random, towns: tuple[Town, ...], kinds: list[Kind]
) -> tuple[Person, ...]:
    given = pool(names.GIVEN, part)
    surnames = rng.sample(pool(names.SURNAME, part), PEOPLE)
    return tuple(
        Person(
            f"{rng.choice(given)} {surname}", kind.maker, rng.randint(1600, 1920), rng.choice(towns)
        )
        for surname, kind in zip(surnames, kinds, strict=True)
    )


def _institutions(
    part: Part, rng: random.Random, towns: tuple[Town, ...], people: tuple[Person, ...]
) -> tuple[Institution, ...]:
    called = rng.sample(pool(names.HOUSE, part), INSTITUTIONS)
    founders = rng.sample(people, INSTITUTIONS)
    kinds = [rng.choice(INSTITUTION_KINDS) for _ in called]
    return tuple(
        Institution(
            f"{name} {kind.title()}",
            kind,
            rng.choice(towns),
            founder,
            founder.born + rng.randint(25, 65),
        )
        for name, kind, founder in zip(called, kinds, founders, strict=True)
    )


def _works(
    part: Part,
    rng: random.Random,
    people: tuple[Person, ...],
    kinds: list[Kind],
    institutions: tuple[Institution, ...],
) -> tuple[Work, ...]:
    titles = rng.sample(pool(names.TITLE, part, " "), PEOPLE)
    return tuple(
        Work(title, kind, maker, maker.born + rng.randint(20, 60), rng.choice(institutions))
        for title, kind, maker in zip(titles, kinds, people, strict=True)
    )
