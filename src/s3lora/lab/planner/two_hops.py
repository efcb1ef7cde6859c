"""Questions that take two steps."""

from __future__ import annotations

from s3lora.lab.planner.facts import (
    BIRTH_YEAR,
    BIRTHPLACE,
    FOUNDER,
    HEIGHT,
    KEEPER,
    LENGTH,
    MAKER,
    MOUNTAIN,
    POPULATION,
    REGION,
    RIVER,
    SEAT,
    YEAR,
    calculate,
    judge,
)
from s3lora.lab.planner.templates import HOUSE, PERSON, THAT_MAKER, TOWN, WORK, Template, century

TWO_HOPS = (
    Template(
        (
            "Which river flows through the town where {person} was born?",
            "Name the river in the birthplace of {person}.",
        ),
        (BIRTHPLACE.of(PERSON), RIVER.of("#E1", "that town")),
        lambda slots: slots.person.birthplace.river,
        ("person.birthplace.river",),
    ),
    Template(
        (
            "How many people live in the town where {person} was born?",
            "What is the population of the birthplace of {person}?",
        ),
        (BIRTHPLACE.of(PERSON), POPULATION.of("#E1", "that town")),
        lambda slots: slots.person.birthplace.population,
        ("person.birthplace",),
    ),
    Template(
        (
            "In which region was {person} born?",
            "To which region does the birthplace of {person} belong?",
        ),
        (BIRTHPLACE.of(PERSON), REGION.of("#E1", "that town")),
        lambda slots: slots.person.birthplace.region,
        ("person.birthplace.region",),
    ),
    Template(
        (
            "When was the {work.kind.maker} of {work.label} born?",
            "Give the birth year of the {work.kind.maker} of {work.label}.",
        ),
        (MAKER.of(WORK), BIRTH_YEAR.of("#E1", THAT_MAKER)),
        lambda slots: slots.work.maker.born,
        ("work.maker",),
    ),
    Template(
        (
            "Where was the {work.kind.maker} of {work.label} born?",
            "Name the birthplace of the person by whom {work.label} was {work.kind.made}.",
        ),
        (MAKER.of(WORK), BIRTHPLACE.of("#E1", THAT_MAKER)),
        lambda slots: slots.work.maker.birthplace,
        ("work.maker.birthplace",),
    ),
    Template(
        (
            "In which town is the original of {work.label} kept?",
            "To which town must one go to see the original of {work.label}?",
        ),
        (KEEPER.of(WORK), SEAT.of("#E1", "that house")),
        lambda slots: slots.work.keeper.town,
        ("work.keeper.town",),
    ),
    Template(
        ("How long is the river that flows through {town}?", "Give the length of {town}'s river."),
        (RIVER.of(TOWN), LENGTH.of("#E1", "that river")),
        lambda slots: slots.town.river.length,
        ("town.river",),
    ),
    Template(
        ("How high is the highest mountain in {region}?", "Give the height of {region}'s summit."),
        (MOUNTAIN.of("{region}"), HEIGHT.of("#E1", "that mountain")),
        lambda slots: slots.region.mountain.height,
        ("region.mountain",),
    ),
    Template(
        (
            "Where was the founder of {house.label} born?",
            "Name the birthplace of the founder of {house.label}.",
        ),
        (FOUNDER.of(HOUSE), BIRTHPLACE.of("#E1", "that founder")),
        lambda slots: slots.house.founder.birthplace,
        ("house.founder.birthplace",),
    ),
    Template(
        (
            "How many years after {year} was {work.label} finished?",
            "Count the years from {year} until {work.label} was finished.",
        ),
        (
            YEAR.of(WORK),
            calculate("#E1 - {year}", "Subtract {year} from it.", "Work out the years since."),
        ),
        lambda slots: slots.work.year - slots.year,
        ("work",),
    ),
    Template(
        (
            "In which century was {person} born?",
            "Name the century of the birth of {person}.",
        ),
        (
            BIRTH_YEAR.of(PERSON),
            judge("In which century is the year #E1?", "Name the century of that year."),
        ),
        lambda slots: century(slots.person.born),
        ("person",),
    ),
    Template(
        (
            "How many people would live in {town} if {load} more moved there each year "
            "for {trips} years?",
            "Each year {load} people move to {town}. How many live there after {trips} years?",
        ),
        (
            POPULATION.of(TOWN),
            calculate(
                "#E1 + ({load} * {trips})",
                "Add those who come in {trips} years.",
                "Work out the number after {trips} years.",
            ),
        ),
        lambda slots: slots.town.population + slots.load * slots.trips,
        ("town",),
    ),
)
