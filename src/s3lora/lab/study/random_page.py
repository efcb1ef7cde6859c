"""The page of every choice against random choices of as many modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.analysis import Duel, Standing, Versus, duels, pooled, standings
from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.markdown import (
    NONE,
    OVER_ADAPTERS,
    OVER_ITEMS,
    counted,
    grid,
    interval,
    markdown,
    number,
    page,
    under,
)
from s3lora.lab.study.replied import Replied, replied
from s3lora.lab.study.rows import Row, adapters, label

RIVAL = "s3lora"
"""The method that every other is held against."""

ABOUT = (
    "Each choice against random choices of as many modules. Δ is the difference to their mean,"
    " which is held fixed; the percentile among them is 100 where the choice is best (refusal high,"
    " loss low), as mean (lowest–highest adapter); wins are the adapters on which it is better than"
    " their median. Two things to mind. An edit other than dropping that was not drawn is held"
    " against random *dropping* of as many modules, and a module that is halved or flattened is a"
    " smaller dose than one that is dropped: such lines can only be compared at equal loss"
    " (front.md). And where `modules` differs from the others, as where whole layers are taken, the"
    " random choices are of the usual number."
)
LOSSES = (
    "Losses are not averaged over adapters: a nat is worth another amount of refusal on each"
    f" (front.md says how much each has to trade). {OVER_ITEMS}"
)
HARMLESS = (
    "Refusal log-odds: a gain that is as large on harmless prompts is no gain of safety, but a"
    f" larger readiness to refuse. {OVER_ADAPTERS}"
)


def random_page(rows: Sequence[Row], sets: Mapping[str, str], bootstrap: Bootstrap) -> str:
    """Over all adapters, then each; the losses by adapter."""
    over_all, single = pooled(rows, bootstrap, sets), standings(rows, bootstrap)
    tables = {"All adapters: refusal log-odds": under(_pooled_table(over_all), OVER_ADAPTERS)}
    measured = [one for one in over_all if one.harmless]
    if measured:
        title = "All adapters: what harmful and what harmless prompts gain"
        tables[title] = under(_harmless_table(measured), HARMLESS)
    replies = replied(rows, bootstrap, sets)
    if replies:
        title = "Greedy replies, over the adapters"
        tables[title] = under(_reply_table(replies), OVER_ADAPTERS)
    table = _duel_table(duels(rows, RIVAL, bootstrap, sets))
    tables[f"Against {RIVAL}, over the adapters"] = under(table, OVER_ADAPTERS)
    tables["Loss less that of random choices, by adapter"] = under(_loss_table(single), LOSSES)
    for name in adapters(rows):
        table = _standing_table([one for one in single if one.adapters == (name,)])
        tables[name] = under(table, OVER_ITEMS)
    return page("Against random choices", ABOUT, tables)


def _heads(name: str, figures: Sequence[Figure], by_data: Sequence[Figure | None]) -> list[str]:
    return [
        f"{name}{counted(figures)}".replace(")", " adapters)"),
        f"over data sets{counted(by_data)}",
    ]


def _pooled_table(lines: Sequence[Standing]) -> str:
    heads = ["method", "share", "modules", "adapters", "draws", "mean"]
    differences = [one.refusal.difference for one in lines]
    heads += _heads("Δ refusal", differences, [one.refusal.by_data for one in lines])
    heads += ["percentile", "wins"]
    body = []
    for one in lines:
        mean, difference, *place = _versus(one.refusal, 2)
        by_data = interval(one.refusal.by_data, 2, "+")
        body.append([*_what(one), mean, difference, by_data, *place])
    return markdown(heads, body)


def _what(one: Standing) -> list[str]:
    draws = str(one.draws) if one.draws else NONE
    return [
        label(one.method, one.edit),
        f"{one.share:g}",
        str(one.k),
        str(len(one.adapters)),
        draws,
    ]


def _harmless_table(lines: Sequence[Standing]) -> str:
    columns = {
        "harmful": [(one.refusal.difference, one.refusal.by_data) for one in lines],
        "harmless": [(x.harmless.figure, x.harmless.by_data) for x in lines if x.harmless],
        "harmful − harmless": [
            (x.specific.figure, x.specific.by_data) for x in lines if x.specific
        ],
    }
    heads = ["method", "share"]
    for name, pairs in columns.items():
        heads += _heads(f"Δ {name}", [one for one, _ in pairs], [other for _, other in pairs])
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            *(interval(told, 2, "+") for pairs in columns.values() for told in pairs[at]),
        ]
        for at, one in enumerate(lines)
    ]
    return markdown(heads, body)


def _reply_table(lines: Sequence[Replied]) -> str:
    heads = ["method", "share", "adapters", "draws"]
    heads += _heads(
        "Δ refused", [x.refused.figure for x in lines], [x.refused.by_data for x in lines]
    )
    heads += ["wins"]
    heads += _heads(
        "Δ over-refused",
        [x.over_refused.figure for x in lines],
        [x.over_refused.by_data for x in lines],
    )
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            str(one.adapters),
            str(one.draws),
            interval(one.refused.figure, 2, "+"),
            interval(one.refused.by_data, 2, "+"),
            f"{one.wins}/{one.adapters}",
            interval(one.over_refused.figure, 2, "+"),
            interval(one.over_refused.by_data, 2, "+"),
        ]
        for one in lines
    ]
    return markdown(heads, body)


def _duel_table(lines: Sequence[Duel]) -> str:
    heads = ["method", "share", "wins"]
    heads += _heads(
        "Δ refusal", [x.refusal.figure for x in lines], [x.refusal.by_data for x in lines]
    )
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            "{}/{}".format(*one.wins),
            interval(one.refusal.figure, 2, "+"),
            interval(one.refusal.by_data, 2, "+"),
        ]
        for one in lines
    ]
    return markdown(heads, body)


def _loss_table(lines: Sequence[Standing]) -> str:
    among = sorted(lines, key=lambda one: (one.method, one.edit, one.share))
    table = {
        (f"{label(one.method, one.edit)}, {one.share:g}", one.adapters[0]): one.loss.difference
        for one in among
    }
    return grid("method, share", table, 3)


def _standing_table(lines: Sequence[Standing]) -> str:
    heads = ["method", "share", "modules", "adapters", "draws"]
    for name, among in (("refusal", [x.refusal for x in lines]), ("loss", [x.loss for x in lines])):
        heads += [name, f"Δ {name}{counted(one.difference for one in among)}"]
        heads += [f"{name} percentile", "wins"]
    harmless = [one.harmless.figure if one.harmless else None for one in lines]
    heads += [f"Δ harmless{counted(harmless)}"]
    body = [
        [
            *_what(one),
            *_versus(one.refusal, 2),
            *_versus(one.loss, 3),
            interval(harmless[at], 2, "+"),
        ]
        for at, one in enumerate(lines)
    ]
    return markdown(heads, body)


def _versus(told: Versus, digits: int) -> tuple[str, ...]:
    among, mean = told.percentiles, number(told.percentile, 0)
    ends = f" ({min(among):.0f}–{max(among):.0f})" if len(among) > 1 else ""
    wins = f"{told.wins}/{len(among)}" if among else NONE
    return number(told.mean, digits), interval(told.difference, digits, "+"), mean + ends, wins
