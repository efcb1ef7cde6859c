"""Questions that take three steps."""

from __future__ import annotations

from s3lora.lab.planner.facts import (
    BIRTH_YEAR,
    BIRTHPLACE,
    FOUNDED,
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
    ANOTHER,
    ELDER,
    HOUSE,
    OTHER,
    PERSON,
    RIVERS,
    SECOND,
    STREAM,
    THAT_MAKER,
    TOWN,
    WORK,
    Template,
    century,
    yes,
)

THREE_HOPS = (
    Template(
        (
            "Which river flows through the birthplace of the {work.kind.maker} of {work.label}?",
            "Name the river in the town where the {work.kind.maker} of {work.label} was born.",
        ),
        (
            MAKER.of(WORK),
            BIRTHPLACE.of("#E1", THAT_MAKER),
            RIVER.of("#E2", "that town"),
        ),
        lambda slots: slots.work.maker.birthplace.river,
        ("work.maker.birthplace.river",),
    ),
    Template(
        (
            "How many people live in the birthplace of the {work.kind.maker} of {work.label}?",
            "What is the population of the town where the {work.kind.maker} of {work.label} "
            "was born?",
        ),
        (
            MAKER.of(WORK),
            BIRTHPLACE.of("#E1", THAT_MAKER),
            POPULATION.of("#E2", "that town"),
        ),
        lambda slots: slots.work.maker.birthplace.population,
        ("work.maker.birthplace",),
    ),
    Template(
        (
            "In which region is the original of {work.label} kept?",
            "Name the region of the town where the original of {work.label} can be seen.",
        ),
        (KEEPER.of(WORK), SEAT.of("#E1", "that house"), REGION.of("#E2", "that town")),
        lambda slots: slots.work.keeper.town.region,
        ("work.keeper.town.region",),
    ),
    Template(
        (
            "What is the highest mountain in the region where {person} was born?",
            "Name the highest mountain of the region that the birthplace of {person} belongs to.",
        ),
        (
            BIRTHPLACE.of(PERSON),
            REGION.of("#E1", "that town"),
            MOUNTAIN.of("#E2", "that region"),
        ),
        lambda slots: slots.person.birthplace.region.mountain,
        ("person.birthplace.region.mountain",),
    ),
    Template(
        (
            "How high is the highest mountain in the region of {town}?",
            "Give the height of the highest mountain in the region that {town} belongs to.",
        ),
        (
            REGION.of(TOWN),
            MOUNTAIN.of("#E1", "that region"),
            HEIGHT.of("#E2", "that mountain"),
        ),
        lambda slots: slots.town.region.mountain.height,
        ("town.region.mountain",),
    ),
    Template(
        ("Who was born first, {person} or {other}?", "Which of {person} and {other} is the elder?"),
        (
            BIRTH_YEAR.of(PERSON),
            BIRTH_YEAR.of(OTHER),
            judge(
                "{person} was born in #E1 and {other} in #E2. Who was born first?",
                "Compare the two years.",
                "Say which of the two years is earlier.",
            ),
        ),
        lambda slots: min(slots.person, slots.other, key=lambda each: each.born),
        ("person", "other"),
        lambda slots: slots.person.born != slots.other.born,
    ),
    Template(
        (
            "Which is the older house, {house.label} or {elder.label}?",
            "Which was founded first, {house.label} or {elder.label}?",
        ),
        (
            FOUNDED.of(HOUSE),
            FOUNDED.of(ELDER),
            judge(
                "{house.label} was founded in #E1 and {elder.label} in #E2. Which is older?",
                "Compare the two years.",
                "Say which of the two was founded first.",
            ),
        ),
        lambda slots: min(slots.house, slots.elder, key=lambda each: each.founded),
        ("house", "elder"),
        lambda slots: slots.house.founded != slots.elder.founded,
    ),
    Template(
        (
            "How many people live in {town} and {second} together?",
            "Add up the populations of {town} and {second}.",
        ),
        (
            POPULATION.of(TOWN),
            POPULATION.of(SECOND),
            calculate("#E1 + #E2", "Add the two numbers.", "Work out the sum."),
        ),
        lambda slots: slots.town.population + slots.second.population,
        ("town", "second"),
    ),
    Template(
        (
            "How many kilometres longer is {river.label} than {stream.label}?",
            "By how many kilometres does {river.label} exceed {stream.label} in length?",
        ),
        (
            LENGTH.of(RIVERS),
            LENGTH.of(STREAM),
            calculate(
                "#E1 - #E2",
                "Subtract the second length from the first.",
                "Work out the difference.",
            ),
        ),
        lambda slots: slots.river.length - slots.stream.length,
        ("river", "stream"),
        lambda slots: slots.river.length > slots.stream.length,
    ),
    Template(
        (
            "How many years after {work.label} was {another.label} finished?",
            "Count the years between the end of work on {work.label} and on {another.label}.",
        ),
        (
            YEAR.of(WORK),
            YEAR.of(ANOTHER),
            calculate(
                "#E2 - #E1", "Subtract the first year from the second.", "Work out the years."
            ),
        ),
        lambda slots: slots.another.year - slots.work.year,
        ("work", "another"),
        lambda slots: slots.another.year > slots.work.year,
    ),
    Template(
        (
            "Do {town} and {second} lie in the same region?",
            "Is the region of {town} also the region of {second}?",
        ),
        (
            REGION.of(TOWN),
            REGION.of(SECOND),
            judge(
                "Are #E1 and #E2 the same region?",
                "Compare the two regions.",
                "Say whether the regions are the same.",
            ),
        ),
        lambda slots: yes(slots.town.region is slots.second.region),
        ("town.region", "second.region"),
    ),
    Template(
        (
            "In which century was the {work.kind.maker} of {work.label} born?",
            "Name the century in which the {work.kind.maker} of {work.label} was born.",
        ),
        (
            MAKER.of(WORK),
            BIRTH_YEAR.of("#E1", THAT_MAKER),
            judge("In which century is the year #E2?", "Name the century of that year."),
        ),
        lambda slots: century(slots.work.maker.born),
        ("work.maker",),
    ),
)
