"""The tables of a study, in Markdown: the main one, against random choices, at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s3lora.io.atomic import write_file
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.analysis import (
    Duel,
    Line,
    Standing,
    Versus,
    duels,
    main_lines,
    pooled,
    standings,
)
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.causal_page import causal_page
from s3lora.lab.study.costs import COSTS, read_costs
from s3lora.lab.study.defence_page import defence_page
from s3lora.lab.study.fronts import fronts
from s3lora.lab.study.markdown import NONE, counted, grid, interval, markdown, number, page
from s3lora.lab.study.replied import Replied, replied
from s3lora.lab.study.rows import CausalRow, Row, adapters, label
from s3lora.lab.study.validity import Validity, validity

SHARE = 0.25
RIVAL = "s3lora"
"""The method that every other is held against."""


def write_tables(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    out_dir: Path,
    *,
    share: float = SHARE,
    bootstrap: Bootstrap = DEFAULT,
) -> tuple[Path, ...]:
    """Write main.md, random.md and front.md; the same rows give the same bytes.

    Where effects of modules were measured, causal.md is written too; where the folder has what
    trainings took, as that of a study about defences has, defences.md.

    Args:
        rows: Of the study.
        causal: The effects of single modules, of any of its adapters.
        out_dir: The folder; files that are there already are replaced.
        share: Share of the modules chosen in the main table.
        bootstrap: For all intervals but those of shares.

    Raises:
        DataError: if what the folder has of trainings cannot be read.
        OutputError: if a file cannot be written.
    """
    costs = read_costs(out_dir / COSTS)
    texts = {
        "main.md": main_page(rows, share, bootstrap),
        "random.md": random_page(rows, bootstrap),
        "front.md": front_page(rows, bootstrap),
    }
    if causal:
        texts["causal.md"] = causal_page(rows, causal, bootstrap)
    if costs:
        texts["defences.md"] = defence_page(rows, costs, share, bootstrap)
    for name, text in texts.items():
        write_file(out_dir / name, text)
    return tuple(out_dir / name for name in texts)


def main_page(rows: Sequence[Row], share: float, bootstrap: Bootstrap) -> str:
    """References, random and methods at one share: mean over adapters, then each."""
    names = adapters(rows)
    groups = {"Mean over adapters": names, **{name: (name,) for name in names}}
    about = (
        f"Share of the modules chosen: {share:g}. Refusal log-odds (higher is safer) in nats;"
        " refusal margin and loss on held-out rows (lower is better) in nats per token; random:"
        " mean ± sd over its draws."
    )
    tables = {
        title: _main_table(main_lines(rows, among, share, bootstrap))
        for title, among in groups.items()
    }
    told = validity(rows)
    if told:
        tables["Which prompts are refused? Figures against replies"] = _validity_table(told)
    return page("Main table", about, tables)


def _validity_table(told: Sequence[Validity]) -> str:
    """Area under the ROC curve of each figure for the keyword verdicts on greedy replies."""
    heads = ["figure", "rows", "prompts", "AUROC within a row", "AUROC pooled", "r of the means"]
    body = [
        [
            {"log_odds": "refusal log-odds", "margins": "refusal margin"}[one.quantity.field],
            str(one.rows),
            str(one.prompts),
            *(number(value) for value in (one.within, one.pooled, one.rates)),
        ]
        for one in told
    ]
    return markdown(heads, body)


def _main_table(lines: Sequence[Line]) -> str:
    columns = {
        "refusal log-odds": [line.refusal for line in lines],
        "refusal margin": [line.margin for line in lines],
        "benign log-odds": [line.benign for line in lines],
        "loss": [line.loss for line in lines],
        "refused": [line.refused for line in lines],
        "over-refused": [line.over_refused for line in lines],
    }
    heads = [f"{name}{counted(figures)}" for name, figures in columns.items()]
    return markdown(["method", "adapters", "draws", *heads], [_main_line(x) for x in lines])


def _main_line(line: Line) -> list[str]:
    figures = zip(
        (line.refusal, line.margin, line.benign, line.loss), line.spread, (2, 2, 2, 3), strict=True
    )
    return [
        label(line.method, line.edit),
        str(line.adapters),
        str(line.draws) if line.draws > 1 else NONE,
        *(_drawn(*figure) for figure in figures),
        interval(line.refused),
        interval(line.over_refused),
    ]


def _drawn(told: Figure | None, spread: float | None, digits: int) -> str:
    if told is None or spread is None:
        return interval(told, digits)
    return f"{number(told.value, digits)} ± {number(spread, digits)}"


def random_page(rows: Sequence[Row], bootstrap: Bootstrap) -> str:
    """Every choice against random choices of as many modules."""
    single = standings(rows, bootstrap)
    tables = {"All adapters": _standing_table(pooled(rows, bootstrap))}
    told = replied(rows, bootstrap)
    if told:
        tables["Greedy replies, over the adapters"] = _reply_table(told)
    tables[f"Against {RIVAL}, over the adapters"] = _duel_table(duels(rows, RIVAL, bootstrap))
    for name in adapters(rows):
        tables[name] = _standing_table([one for one in single if one.adapters == (name,)])
    about = (
        "Each choice against random choices of as many modules: Δ is the difference to their mean,"
        " which is held fixed; the percentile among them is 100 where it is best (refusal high,"
        " loss low), given as mean (lowest–highest adapter); wins are the adapters on which it is"
        " better than their median. An edit that was not drawn is held against random dropping."
    )
    return page("Against random choices", about, tables)


def _reply_table(told: Sequence[Replied]) -> str:
    heads = ["method", "share", "adapters", "draws"]
    heads += [f"Δ refused{counted(x.refused for x in told)}", "wins"]
    heads += [f"Δ over-refused{counted(x.over_refused for x in told)}"]
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            str(one.adapters),
            str(one.draws),
            interval(one.refused, 2, "+"),
            f"{one.wins}/{one.adapters}",
            interval(one.over_refused, 2, "+"),
        ]
        for one in told
    ]
    return markdown(heads, body)


def _duel_table(told: Sequence[Duel]) -> str:
    heads = ["method", "share", "wins"]
    heads += [f"Δ refusal{counted(x.refusal for x in told)}"]
    heads += [f"Δ loss{counted(x.loss for x in told)}"]
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            "{}/{}".format(*one.wins),
            interval(one.refusal, 2, "+"),
            interval(one.loss, 3, "+"),
        ]
        for one in told
    ]
    return markdown(heads, body)


def _standing_table(told: Sequence[Standing]) -> str:
    heads = ["method", "share", "adapters", "draws"]
    for name, among in (("refusal", [x.refusal for x in told]), ("loss", [x.loss for x in told])):
        heads += [name, f"Δ {name}{counted(one.difference for one in among)}"]
        heads += [f"{name} percentile", "wins"]
    body = [
        [
            label(one.method, one.edit),
            f"{one.share:g}",
            str(len(one.adapters)),
            str(one.draws) if one.draws else NONE,
            *_versus(one.refusal, 2),
            *_versus(one.loss, 3),
        ]
        for one in told
    ]
    return markdown(heads, body)


def _versus(told: Versus, digits: int) -> tuple[str, ...]:
    among, mean = told.percentiles, number(told.percentile, 0)
    ends = f" ({min(among):.0f}–{max(among):.0f})" if len(among) > 1 else ""
    wins = f"{told.wins}/{len(among)}" if among else NONE
    return number(told.mean, digits), interval(told.difference, digits, "+"), mean + ends, wins


def front_page(rows: Sequence[Row], bootstrap: Bootstrap) -> str:
    """Every method's front against the random one."""
    told = fronts(rows, bootstrap)
    about = (
        "Refusal log-odds over held-out loss, from tuned to aligned: a method's front against that"
        " of the mean random draw, at the shares both have; above 0 is more refusal at equal loss."
    )
    places = [(label(front.method, front.edit), _among(front.adapters)) for front in told]
    height = {place: x.height for place, x in zip(places, told, strict=True)}
    area = {place: x.area for place, x in zip(places, told, strict=True)}
    tables = {
        "Mean difference of refusal log-odds at equal loss, in nats": grid("method", height, 3),
        "Area between the fronts, in nats²": grid("method", area, 4),
    }
    return page("At equal loss", about, tables)


def _among(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"mean of {len(names)} adapters"
