"""Questions that take one step."""

from __future__ import annotations

from s3lora.lab.planner.facts import (
    BIRTH_YEAR,
    BIRTHPLACE,
    FOUNDED,
    KEEPER,
    MAKER,
    POPULATION,
    RIVER,
    WORK_OF,
    YEAR,
    calculate,
    judge,
)
from s3lora.lab.planner.templates import HOUSE, PERSON, TOWN, WORK, Template

ONE_HOP = (
    Template(
        ("Where was {person} born?", "Name the birthplace of {person}."),
        (BIRTHPLACE.of(PERSON),),
        lambda slots: slots.person.birthplace,
        ("person.birthplace",),
    ),
    Template(
        ("When was {person} born?", "Give the birth year of {person}."),
        (BIRTH_YEAR.of(PERSON),),
        lambda slots: slots.person.born,
        ("person",),
    ),
    Template(
        (
            "Who is the {work.kind.maker} of {work.label}?",
            "By whom was {work.label} {work.kind.made}?",
        ),
        (MAKER.of(WORK),),
        lambda slots: slots.work.maker,
        ("work.maker",),
    ),
    Template(
        (
            "Which {work.kind} was {work.kind.made} by {work.maker}?",
            "Name the {work.kind} by {work.maker}.",
        ),
        (WORK_OF.of("{work.maker}"),),
        lambda slots: slots.work,
        ("work.maker",),
    ),
    Template(
        ("When was {work.label} finished?", "Give the year in which {work.label} was finished."),
        (YEAR.of(WORK),),
        lambda slots: slots.work.year,
        ("work",),
    ),
    Template(
        ("Where is the original of {work.label} kept?", "Which house keeps {work.label}?"),
        (KEEPER.of(WORK),),
        lambda slots: slots.work.keeper,
        ("work.keeper",),
    ),
    Template(
        ("How many people live in {town}?", "What is the population of {town}?"),
        (POPULATION.of(TOWN),),
        lambda slots: slots.town.population,
        ("town",),
    ),
    Template(
        ("Which river flows through {town}?", "Name the river of the town of {town}."),
        (RIVER.of(TOWN),),
        lambda slots: slots.town.river,
        ("town.river",),
    ),
    Template(
        ("When was {house.label} founded?", "Give the founding year of {house.label}."),
        (FOUNDED.of(HOUSE),),
        lambda slots: slots.house.founded,
        ("house",),
    ),
    Template(
        (
            "A ferry to {town} carries {load} people. How many can cross in {trips} trips?",
            "How many people reach {town} in {trips} ferry trips of {load} people each?",
        ),
        (
            calculate(
                "{load} * {trips}",
                "Multiply the people on a trip by the number of trips.",
                "Work out {load} people times {trips} trips.",
            ),
        ),
        lambda slots: slots.load * slots.trips,
        ("town",),
    ),
    Template(
        (
            "{person} owns {year} stamps and buys {load} a month. How many after {trips} months?",
            "Starting from {year} stamps, {person} adds {load} a month. "
            "How many stamps are there after {trips} months?",
        ),
        (
            calculate(
                "{year} + {load} * {trips}",
                "Add what is bought in {trips} months to the stamps at the start.",
                "Work out the stamps at the end.",
            ),
        ),
        lambda slots: slots.year + slots.load * slots.trips,
        ("person",),
    ),
    Template(
        (
            "Which name comes first in the alphabet: {town}, {second} or {region}?",
            "Of the names {town}, {second} and {region}, which is the first in the alphabet?",
        ),
        (
            judge(
                "Which comes first in the alphabet: {town}, {second} or {region}?",
                "Compare the three names.",
                "No facts are needed, so compare the names at once.",
            ),
        ),
        lambda slots: min(slots.town.name, slots.second.name, slots.region.name),
        ("town", "second", "region"),
    ),
)
