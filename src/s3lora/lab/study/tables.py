"""The tables of a study, in Markdown: the main one, against random choices, at equal loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from s3lora.io.atomic import write_file
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.analysis import OWN_ROWS
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.causal_page import causal_page
from s3lora.lab.study.costs import COSTS, read_costs
from s3lora.lab.study.culprits import constant_scores
from s3lora.lab.study.defence_page import defence_page
from s3lora.lab.study.equal_loss_page import equal_loss_page
from s3lora.lab.study.lines import Line, main_lines
from s3lora.lab.study.markdown import (
    NONE,
    OVER_ITEMS,
    counted,
    interval,
    markdown,
    number,
    page,
    under,
)
from s3lora.lab.study.random_page import random_page
from s3lora.lab.study.rows import CausalRow, Row, adapters, label
from s3lora.lab.study.validity import Validity, validity

SHARE = 0.25


def write_tables(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    out_dir: Path,
    *,
    share: float = SHARE,
    sets: Mapping[str, str] = OWN_ROWS,
    bootstrap: Bootstrap = DEFAULT,
) -> tuple[Path, ...]:
    """Write main.md, random.md and front.md; the same rows give the same bytes.

    Where effects of modules were measured, causal.md is written too; where the folder has what
    trainings took, as that of a study about defences has, defences.md. Choices whose score is the
    same for all modules are left out, and named.

    Args:
        rows: Of the study.
        causal: The effects of single modules, of any of its adapters.
        out_dir: The folder; files that are there already are replaced.
        share: Share of the modules chosen in the main table.
        sets: The rows that each adapter was trained on, as in `units.data_sets`.
        bootstrap: For the intervals over the prompts, rows and modules of one adapter.

    Raises:
        DataError: if what the folder has of trainings cannot be read.
        OutputError: if a file cannot be written.
    """
    costs, empty = read_costs(out_dir / COSTS), constant_scores(causal)
    rows, causal = choosing(rows, causal)
    texts = {
        "main.md": main_page(rows, share, bootstrap, empty),
        "random.md": random_page(rows, sets, bootstrap),
        "front.md": equal_loss_page(rows, bootstrap),
    }
    if causal:
        texts["causal.md"] = causal_page(rows, causal, sets, bootstrap)
    if costs:
        texts["defences.md"] = defence_page(rows, costs, share, bootstrap)
    for name, text in texts.items():
        write_file(out_dir / name, text)
    return tuple(out_dir / name for name in texts)


def choosing(
    rows: Sequence[Row], causal: Sequence[CausalRow]
) -> tuple[tuple[Row, ...], tuple[CausalRow, ...]]:
    """The rows without the choices whose score is the same for all modules: order chose there."""
    empty = constant_scores(causal)
    return tuple(row for row in rows if row.method not in empty), tuple(
        replace(row, scores={k: v for k, v in row.scores.items() if k not in empty})
        for row in causal
    )


def main_page(
    rows: Sequence[Row], share: float, bootstrap: Bootstrap, empty: Sequence[str] = ()
) -> str:
    """References, random and methods at one share: mean over adapters, then each.

    Args:
        rows: Of the study.
        share: Share of the modules chosen.
        bootstrap: For the intervals of each adapter.
        empty: Choices that were left out, since their score is the same for all modules.
    """
    names = adapters(rows)
    about = (
        f"Share of the modules chosen: {share:g}. Refusal log-odds (higher is safer) in nats;"
        " refusal margin and loss on held-out rows (lower is better) in nats per token; random:"
        " mean ± sd over its draws."
    )
    if empty:
        about += (
            f" Left out: {', '.join(empty)}. The score is the same for every module, so that the"
            " order of the modules would have chosen."
        )
    lines = main_lines(rows, names, share, bootstrap)
    note = (
        "Means over adapters, without intervals: adapters differ by more than methods do. Paired"
        " differences with intervals are in random.md."
    )
    tables = {"Mean over adapters": under(_main_table(lines), note)}
    for name in names:
        table = _main_table(main_lines(rows, (name,), share, bootstrap))
        tables[name] = under(table, f"{OVER_ITEMS} Shares refused: Wilson's.")
    verdicts = validity(rows)
    if verdicts:
        tables["Which prompts are refused? Figures against replies"] = _validity_table(verdicts)
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
