"""The page about defences while training: safety, utility, time and memory beside plain LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.bootstrap import Bootstrap, figure
from s3lora.lab.study.costs import Cost
from s3lora.lab.study.lines import Line, main_lines
from s3lora.lab.study.markdown import (
    NONE,
    OVER_ITEMS,
    counted,
    interval,
    markdown,
    number,
    page,
)
from s3lora.lab.study.rows import LOSS, RANDOM, REFERENCES, REFUSAL, Quantity, Row, by_cell, label

COMBINED = "s3lora"
"""The method whose combination with every defence has a table of its own."""

BUDGET = ("rank", "alpha", "rate", "steps", "batch", "layers", "targets")
"""Settings that are named where they are not those of plain LoRA."""

State = tuple[str, str]
"""What was done to an adapter after training: a method and an edit."""

TUNED: State = ("tuned", "")


@dataclass(frozen=True, slots=True)
class Measured:
    """One adapter with all that was measured of it at the main share."""

    cost: Cost
    lines: Mapping[State, Line]
    rows: Mapping[State, tuple[Row, ...]]

    @property
    def name(self) -> str:
        """That of the adapter."""
        return self.cost.adapter


def defence_page(
    rows: Sequence[Row], costs: Sequence[Cost], share: float, bootstrap: Bootstrap
) -> str:
    """By recipe: as trained, with s3lora, and with every method; then aligned models and costs."""
    tables = {}
    adapters = [_measured(c, rows, share, bootstrap) for c in costs if not c.aligns]
    for recipe in dict.fromkeys(one.cost.recipe for one in adapters):
        group = [one for one in adapters if one.cost.recipe == recipe]
        plain = plain_of(group)
        states = list(dict.fromkeys(state for one in group for state in _states(one)))
        tables[f"{recipe}: as trained"] = _table(group, TUNED, plain, bootstrap)
        if (COMBINED, "drop") in states:
            tables[f"{recipe}: with {COMBINED} as well"] = _table(
                group, (COMBINED, "drop"), plain, bootstrap
            )
        tables[f"{recipe}: refusal log-odds by what was done after training"] = _by_state(
            group, states, lambda line: line.refusal, 2
        )
        tables[f"{recipe}: loss by what was done after training"] = _by_state(
            group, states, lambda line: line.loss, 3
        )
    tables["Aligned models before the attack"] = _aligned_table(adapters, costs)
    tables["What the trainings took"] = _cost_table(costs)
    return page("Defences while training", _about(costs, share), tables)


def _about(costs: Sequence[Cost], share: float) -> str:
    machines = ", ".join(dict.fromkeys(cost.machine for cost in costs if cost.machine))
    return (
        "Refusal log-odds (higher is safer) in nats; loss on held-out rows (lower is better) in"
        f" nats per token. Share of the modules chosen after training: {share:g}. Δ is the"
        " difference to plain LoRA on the same rows, without any method after it, paired by prompt"
        f" or held-out row. Every training was a process of its own ({machines or 'unknown'});"
        " seconds before are those until the first step, memory is its largest resident set."
        f" {OVER_ITEMS}"
    )


def plain_of(group: Sequence[Measured]) -> Measured | None:
    """The first that was trained without a defence on the model that [align] gave."""
    return next((x for x in group if not (x.cost.defence or x.cost.aligned)), None)


def _measured(cost: Cost, rows: Sequence[Row], share: float, bootstrap: Bootstrap) -> Measured:
    lines = main_lines(rows, (cost.adapter,), share, bootstrap)
    found: dict[State, tuple[Row, ...]] = {}
    for cell, group in by_cell(row for row in rows if row.adapter == cost.adapter).items():
        if cell.method in REFERENCES:
            found[cell.method, ""] = group
        elif abs(cell.share - share) < 1e-9:
            found[cell.method, cell.edit] = group
    return Measured(cost, {(x.method, x.edit): x for x in lines}, found)


def _states(one: Measured) -> list[State]:
    """What was done to an adapter: nothing, random choices, then every method."""
    others = [state for state in one.lines if state[0] not in (*REFERENCES, RANDOM)]
    return [state for state in (TUNED, (RANDOM, "drop"), *others) if state in one.lines]


def difference(
    own: Sequence[Row], other: Sequence[Row], quantity: Quantity, bootstrap: Bootstrap
) -> Figure | None:
    """The mean of own less other, paired; None for itself, or on other items."""
    if not (own and other) or own == other or own[0].tokens != other[0].tokens:
        return None
    values = quantity.items(own).mean(0), quantity.items(other).mean(0)
    if not len(values[0]) or len(values[0]) != len(values[1]):
        return None
    samples = bootstrap.means(quantity, [values[0] - values[1]], [own[0]])[:, 0]
    name = f"difference of {quantity.field}"
    return figure(name, samples, len(values[0]), quantity.unit, quantity.better)


def _table(
    group: Sequence[Measured], state: State, plain: Measured | None, bootstrap: Bootstrap
) -> str:
    """One line a defence; after a method also the difference to the adapter without it."""
    lines = [one.lines.get(state) for one in group]

    def against(other: Callable[[Measured], Measured | None], of: Quantity) -> list[Figure | None]:
        pairs = [(one.rows.get(state, ()), other(one)) for one in group]
        return [
            difference(own, to.rows.get(TUNED, ()) if to else (), of, bootstrap)
            for own, to in pairs
        ]

    columns: dict[str, tuple[list[Figure | None], int, str]] = {
        "refusal log-odds": ([x.refusal if x else None for x in lines], 2, "-"),
        "Δ to plain": (against(lambda _: plain, REFUSAL), 2, "+"),
    }
    if state != TUNED:
        columns["Δ to itself as trained"] = (against(lambda one: one, REFUSAL), 2, "+")
    columns |= {
        "refused": ([x.refused if x else None for x in lines], 2, "-"),
        "over-refused": ([x.over_refused if x else None for x in lines], 2, "-"),
        "benign log-odds": ([x.benign if x else None for x in lines], 2, "-"),
        "loss": ([x.loss if x else None for x in lines], 3, "-"),
        "Δ loss to plain": (against(lambda _: plain, LOSS), 3, "+"),
    }
    heads = ["adapter", "defence", *(f"{n}{counted(told)}" for n, (told, *_) in columns.items())]
    body = [
        [
            one.name,
            described(one.cost, plain.cost if plain else None),
            *(interval(told[at], digits, sign) for told, digits, sign in columns.values()),
        ]
        for at, one in enumerate(group)
    ]
    return markdown(heads, body)


def described(cost: Cost, plain: Cost | None) -> str:
    """A defence, its parameters as the study sets them, and settings unlike plain LoRA's."""
    given = [f"{key}={value}" for key, value in cost.given.items()]
    if plain:
        given += [
            f"{key}={cost.settings[key]}"
            for key in BUDGET
            if key in cost.settings and cost.settings[key] != plain.settings.get(key)
        ]
    told = [cost.defence] if cost.defence else []
    told += [f"after {cost.aligned}"] if cost.aligned else []
    words = ", ".join([*told, *given])
    return words or "plain LoRA"


def _by_state(
    group: Sequence[Measured],
    states: Sequence[State],
    told: Callable[[Line], Figure | None],
    digits: int,
) -> str:
    """Lines are adapters, columns what was done to them after training."""
    figures = {
        (one.name, state): told(one.lines[state]) if state in one.lines else None
        for one in group
        for state in states
    }
    heads = ["as trained" if state == TUNED else label(*state) for state in states]
    heads = [
        f"{head}{counted(figures[one.name, state] for one in group)}"
        for head, state in zip(heads, states, strict=True)
    ]
    body = [[x.name, *(interval(figures[x.name, s], digits) for s in states)] for x in group]
    return markdown(["adapter", *heads], body)


def _aligned_table(adapters: Sequence[Measured], costs: Sequence[Cost]) -> str:
    """The model before alignment, and each way of aligning it, as its first adapter found it."""
    first: dict[str, Measured] = {}
    for one in adapters:
        first.setdefault(one.cost.aligned, one)
    ways = [cost for cost in costs if cost.aligns]
    named = {"" if at == 0 else cost.adapter: cost for at, cost in enumerate(ways)}
    found: list[tuple[str, str, Line | None]] = []
    for key, one in first.items():
        if not found:
            found.append(("before alignment", NONE, one.lines.get(("base", ""))))
        if key in named:
            told = described(named[key], named.get("") if key else None)
            found.append((named[key].adapter, told, one.lines.get(("aligned", ""))))
    columns = {
        "refusal log-odds": [x.refusal if x else None for *_, x in found],
        "refused": [x.refused if x else None for *_, x in found],
        "over-refused": [x.over_refused if x else None for *_, x in found],
        "benign log-odds": [x.benign if x else None for *_, x in found],
        "loss": [x.loss if x else None for *_, x in found],
    }
    heads = ["model", "aligned by", *(f"{n}{counted(told)}" for n, told in columns.items())]
    body = [
        [
            *found[at][:2],
            *(interval(told[at], 3 if n == "loss" else 2) for n, told in columns.items()),
        ]
        for at in range(len(found))
    ]
    return markdown(heads, body)


def _cost_table(costs: Sequence[Cost]) -> str:
    """Seconds, memory and size; memory less plain LoRA's on the same recipe."""
    heads = ["adapter", "steps", "seconds before", "seconds", "seconds a step", "peak MiB"]
    heads += ["Δ to plain", "modules", "parameters", "‖ΔW‖", "last loss", "truncation error"]
    return markdown(heads, [_cost_line(cost, costs) for cost in costs])


def _cost_line(cost: Cost, costs: Sequence[Cost]) -> list[str]:
    alike = (c for c in costs if (c.recipe, c.aligns) == (cost.recipe, cost.aligns))
    plain = next((c for c in alike if not (c.defence or c.aligned)), None)
    more = None
    if plain and plain is not cost and cost.peak_mib is not None and plain.peak_mib is not None:
        more = cost.peak_mib - plain.peak_mib
    steps = cost.settings["steps"]
    return [
        cost.adapter,
        str(steps),
        number(cost.seconds_before, 1),
        number(cost.seconds, 1),
        number(cost.seconds / steps, 2),
        number(cost.peak_mib, 0),
        number(more, 0, "+"),
        str(cost.modules),
        str(cost.parameters),
        number(cost.norm, 2),
        number(cost.last_loss, 3),
        number(cost.truncation_error, 4),
    ]
