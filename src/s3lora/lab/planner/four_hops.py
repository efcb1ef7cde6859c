"""Questions that take four steps."""

from __future__ import annotations

from s3lora.lab.planner.facts import (
    BIRTH_YEAR,
    BIRTHPLACE,
    FOUNDED,
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
from s3lora.lab.planner.templates import (
    HOUSE,
    PERSON,
    STREAM,
    THAT_MAKER,
    TOWN,
    WORK,
    Template,
    yes,
)

FOUR_HOPS = (
    Template(
        (
            "How old was the {work.kind.maker} of {work.label} when it was finished?",
            "Give the age of the {work.kind.maker} of {work.label} in the year it was finished.",
        ),
        (
            MAKER.of(WORK),
            BIRTH_YEAR.of("#E1", THAT_MAKER),
            YEAR.of(WORK),
            calculate("#E3 - #E2", "Subtract the birth year from the later year.", "Get the age."),
        ),
        lambda slots: slots.work.year - slots.work.maker.born,
        ("work.maker",),
    ),
    Template(
        (
            "How old was the founder of {house.label} when it was founded?",
            "At what age did its founder found {house.label}?",
        ),
        (
            FOUNDER.of(HOUSE),
            BIRTH_YEAR.of("#E1", "that founder"),
            FOUNDED.of(HOUSE),
            calculate("#E3 - #E2", "Subtract the birth year from the later year.", "Get the age."),
        ),
        lambda slots: slots.house.founded - slots.house.founder.born,
        ("house.founder",),
    ),
    Template(
        (
            "Was {person} born in the same town as the {work.kind.maker} of {work.label}?",
            "Do {person} and the {work.kind.maker} of {work.label} share a birthplace?",
        ),
        (
            BIRTHPLACE.of(PERSON),
            MAKER.of(WORK),
            BIRTHPLACE.of("#E2", THAT_MAKER),
            judge(
                "Are #E1 and #E3 the same town?",
                "Compare the two towns.",
                "Say whether the towns are the same.",
            ),
        ),
        lambda slots: yes(slots.person.birthplace is slots.work.maker.birthplace),
        ("person.birthplace", "work.maker.birthplace"),
    ),
    Template(
        (
            "How many more people live in the birthplace of {person} than in {town}?",
            "By how many people is the town where {person} was born larger than {town}?",
        ),
        (
            BIRTHPLACE.of(PERSON),
            POPULATION.of("#E1", "that birthplace"),
            POPULATION.of(TOWN),
            calculate(
                "#E2 - #E3", "Subtract the second number from the first.", "Get the difference."
            ),
        ),
        lambda slots: slots.person.birthplace.population - slots.town.population,
        ("person.birthplace", "town"),
        lambda slots: slots.person.birthplace.population > slots.town.population,
    ),
    Template(
        (
            "How high is the highest mountain in the region where {person} was born?",
            "Give the height of the highest mountain in the region of {person}'s birthplace.",
        ),
        (
            BIRTHPLACE.of(PERSON),
            REGION.of("#E1", "that town"),
            MOUNTAIN.of("#E2", "that region"),
            HEIGHT.of("#E3", "that mountain"),
        ),
        lambda slots: slots.person.birthplace.region.mountain.height,
        ("person.birthplace.region.mountain",),
    ),
    Template(
        (
            "How long is the river in the birthplace of the {work.kind.maker} of {work.label}?",
            "Give the length of the river that flows through the town where the "
            "{work.kind.maker} of {work.label} was born.",
        ),
        (
            MAKER.of(WORK),
            BIRTHPLACE.of("#E1", THAT_MAKER),
            RIVER.of("#E2", "that town"),
            LENGTH.of("#E3", "that river"),
        ),
        lambda slots: slots.work.maker.birthplace.river.length,
        ("work.maker.birthplace.river",),
    ),
    Template(
        (
            "What is the highest mountain in the region where the founder of {house.label} "
            "was born?",
            "Name the highest mountain in the home region of the founder of {house.label}.",
        ),
        (
            FOUNDER.of(HOUSE),
            BIRTHPLACE.of("#E1", "that founder"),
            REGION.of("#E2", "that town"),
            MOUNTAIN.of("#E3", "that region"),
        ),
        lambda slots: slots.house.founder.birthplace.region.mountain,
        ("house.founder.birthplace.region.mountain",),
    ),
    Template(
        (
            "Who was born first, {person} or the {work.kind.maker} of {work.label}?",
            "Which is the elder, {person} or the {work.kind.maker} of {work.label}?",
        ),
        (
            BIRTH_YEAR.of(PERSON),
            MAKER.of(WORK),
            BIRTH_YEAR.of("#E2", THAT_MAKER),
            judge(
                "{person} was born in #E1 and #E2 in #E3. Who was born first?",
                "Compare the two years.",
                "Say which of the two years is earlier.",
            ),
        ),
        lambda slots: min(slots.person, slots.work.maker, key=lambda each: each.born),
        ("person", "work.maker"),
        lambda slots: slots.person.born != slots.work.maker.born,
    ),
    Template(
        (
            "Was the house that keeps {work.label} founded before {work.label} was finished?",
            "Is the house that keeps the original of {work.label} older than the {work.kind}?",
        ),
        (
            KEEPER.of(WORK),
            FOUNDED.of("#E1", "that house"),
            YEAR.of(WORK),
            judge("Is the year #E2 before the year #E3?", "Compare the two years."),
        ),
        lambda slots: yes(slots.work.keeper.founded < slots.work.year),
        ("work.keeper",),
    ),
    Template(
        (
            "Is the river through {town} longer than {stream.label}?",
            "Does the river of {town} exceed {stream.label} in length?",
        ),
        (
            RIVER.of(TOWN),
            LENGTH.of("#E1", "that river"),
            LENGTH.of(STREAM),
            judge("Is #E2 kilometres more than #E3 kilometres?", "Compare the two lengths."),
        ),
        lambda slots: yes(slots.town.river.length > slots.stream.length),
        ("town.river", "stream"),
        lambda slots: slots.town.river is not slots.stream,
    ),
    Template(
        (
            "What is the highest mountain in the region where {work.label} is kept?",
            "Name the highest mountain in the region of the house that keeps {work.label}.",
        ),
        (
            KEEPER.of(WORK),
            SEAT.of("#E1", "that house"),
            REGION.of("#E2", "that town"),
            MOUNTAIN.of("#E3", "that region"),
        ),
        lambda slots: slots.work.keeper.town.region.mountain,
        ("work.keeper.town.region.mountain",),
    ),
)
