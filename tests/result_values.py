"""Results of every kind, drawn: what a command could have to say, at its worst."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from s3lora.adapter import ModuleName, natural_key
from s3lora.agreement import agreement, label
from s3lora.compare import STATUSES, Difference
from s3lora.findings import RULES, SEVERITIES, Finding
from s3lora.report import (
    Comparison,
    ModuleFacts,
    PlanFacts,
    PlannedEdit,
    Ranking,
    Report,
    Source,
)
from s3lora.scores import Score, ScoreTable, Skipped

TEXT = st.text(max_size=12)
ODD = st.sampled_from(
    [
        "model.layers.0.q_proj",
        "model.layers.10.mlp.up_proj",
        "lm_head",
        "=1+1",
        "`a`|<b>",
        "é\x1b[1m",
    ]
)
NAME = ODD | st.text(min_size=1, max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**12)
SIZE = st.integers(0, 10**6)
PARAMS = st.dictionaries(TEXT, st.integers() | TEXT | st.booleans() | st.lists(TEXT, max_size=2))
OWN = {"k", "fraction", "threshold", "z", "granularity", "among", "names"}
POLICY_PARAMS = PARAMS.filter(OWN.isdisjoint) | st.sampled_from(
    [{"k": 3}, {"z": 2.5, "among": ["q_proj"]}, {"threshold": -1, "granularity": "layer"}]
)
"""Those of s3lora's own policies have their types."""
SERIES = st.dictionaries(
    st.sampled_from(["update", "rebuild"]), st.lists(NUMBER, max_size=4).map(tuple)
)
TOOL = TEXT.map(lambda version: {"name": "s3lora", "version": version})
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
FACTS = st.builds(ModuleFacts, SIZE, st.tuples(SIZE, SIZE))
FINDING = st.builds(
    Finding,
    st.sampled_from([*RULES, "of-another-version"]),
    st.sampled_from(SEVERITIES),
    NAME,
    TEXT,
)
SOURCE = st.builds(Source, TEXT, TEXT, DIGEST, TEXT, COUNT, COUNT)
EDIT = st.one_of(
    st.sampled_from([PlannedEdit("drop"), PlannedEdit("zero")]),
    st.builds(PlannedEdit, st.just("replace"), SIZE, st.floats(0, 2)),
)


def ordered(names: Any) -> list[ModuleName]:
    return [ModuleName(name) for name in sorted(names, key=natural_key)]


@st.composite
def tables(draw: Any, names: list[ModuleName], *, plain: bool = False) -> ScoreTable:
    """A table of some of the modules; the others are skipped."""
    scores, skipped = [], []
    for name in names:
        if draw(st.booleans()):
            parts = {} if plain else draw(st.dictionaries(TEXT, NUMBER, max_size=2))
            scores.append(Score(name, draw(NUMBER), parts, {} if plain else draw(SERIES)))
        else:
            skipped.append(Skipped(name, draw(TEXT), draw(st.booleans())))
    unsafe = draw(st.sampled_from(["high", "low"]))
    method = draw(st.sampled_from(["s3lora", "random", "of a plugin that is not here"]))
    return ScoreTable(method, draw(PARAMS), unsafe, tuple(scores), tuple(skipped))


@st.composite
def reports(draw: Any) -> Report:
    names = ordered(draw(st.sets(NAME, max_size=6)))
    chosen = tuple(name for name in names if draw(st.booleans()))
    plan = None
    if draw(st.booleans()):
        edits = {name: draw(EDIT) for name in chosen if draw(st.booleans())}
        notes = tuple(draw(st.lists(TEXT, max_size=2)))
        plan = PlanFacts(
            chosen, draw(TEXT), draw(PARAMS), draw(TEXT), draw(st.booleans()), edits, notes
        )
    findings = sorted(
        draw(st.lists(FINDING, max_size=4)), key=lambda f: SEVERITIES.index(f.severity)
    )
    return Report(
        tool=draw(TOOL),
        ref=draw(TEXT),
        sha256=draw(DIGEST),
        base_model=draw(TEXT),
        nbytes=draw(COUNT),
        parameters=draw(COUNT),
        modules={name: draw(FACTS) for name in names},
        table=draw(tables(names)),
        findings=tuple(findings),
        policy_name=draw(TEXT),
        policy_params=draw(POLICY_PARAMS),
        chosen=chosen,
        plan=plan,
        weights=draw(TEXT),
    )


@st.composite
def rankings(draw: Any) -> Ranking:
    names = ordered(draw(st.sets(NAME, max_size=5)))
    drawn = draw(st.lists(tables(names, plain=True), max_size=3, unique_by=label))
    k = draw(st.integers(0, 5))
    return Ranking(
        tool=draw(TOOL),
        source=draw(SOURCE),
        modules={name: draw(FACTS) for name in names},
        tables=tuple(drawn),
        labels=tuple(label(table) for table in drawn),
        k=k,
        agreement=agreement(drawn, k),
        series={name: told for name in names if (told := draw(SERIES))},
    )


@st.composite
def comparisons(draw: Any) -> Comparison:
    maybe, series = st.none() | NUMBER, st.dictionaries(st.sampled_from("ab"), st.just((2.0, 1.0)))
    rows = tuple(
        Difference(
            name,
            draw(st.sampled_from(STATUSES)),
            draw(maybe),
            draw(maybe),
            draw(maybe),
            draw(series),
        )
        for name in ordered(draw(st.sets(NAME, max_size=5)))
    )
    return Comparison(draw(TOOL), draw(SOURCE), draw(SOURCE), rows)


RESULTS = reports() | rankings() | comparisons()
