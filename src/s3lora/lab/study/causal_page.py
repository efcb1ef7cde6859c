"""The page about single modules: which take the refusals, and which score finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from s3lora.adapter import natural_key
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.culprits import ALL, HOWS, Correlation, Part, culprits, parts
from s3lora.lab.study.markdown import (
    NONE,
    OVER_MODULES,
    grid,
    markdown,
    number,
    page,
    under,
)
from s3lora.lab.study.rows import CausalRow, Row
from s3lora.lab.study.strata import Additivity, Source, additivity, sources
from s3lora.lab.study.units import mean_of, over_data_sets

PARTS = ("predicted", "between", "within")


ABOUT = (
    "Spearman's correlation over modules: above 0 where a high score goes with a module whose"
    " removal raises the refusal log-odds. `projection type` is the row that every score has to"
    " beat: what writes by way of values (v, o, down) before gates (gate, up) before q and k, and"
    " nothing else; `type, then …` ranks by a score within each projection, σ₁/Σσ (`spectrum`) or"
    " that over ‖ΔW‖_F (`magnitude`)."
)
FEWEST = 2
"""Adapters whose mean is not given: a t interval over two says nothing."""

MEANS = (
    f"{OVER_MODULES} Means: Student's t over adapters, and over the independent data sets that they"
    " were trained on."
)


def causal_page(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    sets: Mapping[str, str],
    bootstrap: Bootstrap,
) -> str:
    """Scores against effects of single modules, effects against each other, and their sums."""
    correlations = culprits(causal, bootstrap)
    scores = [one for one in correlations if one.x not in HOWS]
    tables = {}
    for how, target in dict.fromkeys((one.how, one.target) for one in scores):
        among = [x for x in scores if (x.how, x.target, x.scope) == (how, target, ALL)]
        title = f"Score and effect on {target} ({how}), all modules"
        table = grid("score", _with_means({(x.x, x.adapter): x.spearman for x in among}, sets))
        tables[title] = under(table, MEANS)
    title = "Score and effect on refusal (first order), by projection, mean over adapters"
    note = "In parentheses the lowest and the highest adapter; these are no intervals."
    tables[title] = under(_by_projection(scores), note)
    title = "First order against what was measured, all modules"
    tables[title] = under(_agreement(correlations), OVER_MODULES)
    tables["Where the effects are"] = _parts_table(parts(causal))
    gains, sums = sources(rows, causal), additivity(rows, causal)
    for share in dict.fromkeys(one.share for one in gains):
        at_share = [one for one in gains if one.share == share]
        title = f"Where the gain of a choice comes from, share {share:g}"
        tables[title] = _sources_table(at_share)
    title = "Do the effects of single modules add up?"
    note = (
        "Pearson's correlation of sums of first-order effects with what was measured, and the slope"
        " of the line through them: both 1 where effects add up."
    )
    tables[title] = under(_additivity_table(sums), note)
    return page("Causal effects of single modules", ABOUT, tables)


def _by_projection(scores: Sequence[Correlation]) -> str:
    """Mean over adapters, and the lowest and highest of them."""
    told: dict[str, dict[str, list[float]]] = {}
    for one in scores:
        if (one.how, one.target) == ("first order", "refusal") and one.spearman.value is not None:
            told.setdefault(one.x, {}).setdefault(one.scope, []).append(one.spearman.value)
    scopes = sorted({scope for by in told.values() for scope in by})  # "all" comes first
    body = [[x, *(_mean_and_ends(by.get(scope, [])) for scope in scopes)] for x, by in told.items()]
    return markdown(["score", *scopes], body)


def _mean_and_ends(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean, low, high = (
        number(v, 2, "+") for v in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def _with_means(
    figures: Mapping[tuple[str, str], Figure], sets: Mapping[str, str]
) -> dict[tuple[str, str], Figure]:
    """Two columns more: the means over adapters and over data sets, of those that have a value."""
    means = {}
    for line in dict.fromkeys(line for line, _ in figures):
        values = {a: f.value for (x, a), f in figures.items() if x == line and f.value is not None}
        if len(values) > FEWEST:
            means[line, "mean of adapters"] = mean_of("mean", [*values.values()], "", "neither")
            by_data = over_data_sets("mean", values, sets, "", "neither")
            means[line, "mean of data sets"] = by_data
    return {**figures, **means}


def _agreement(told: Iterable[Correlation]) -> str:
    found = {}
    for one in told:
        if one.x in HOWS and one.scope == ALL:
            line = f"{one.adapter}: {one.target}, {one.how}"
            found[line, "Spearman"], found[line, "Pearson"] = one.spearman, one.pearson
    return grid("effect", found)


def _parts_table(told: Iterable[Part]) -> str:
    body = [
        [f"{x.adapter}: {x.part}", x.how, str(x.modules), *map(_percent, (x.refusal, x.loss))]
        for x in told
    ]
    return markdown(["part", "effect", "modules", "share of refusal", "share of loss"], body)


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f} %"


def _sources_table(told: Sequence[Source]) -> str:
    """Means over adapters, then each adapter; gains over random in nats."""
    methods = sorted({one.method for one in told}, key=natural_key)
    groups = [(m, "all", [one for one in told if one.method == m]) for m in methods]
    groups += [(one.method, one.adapter, [one]) for one in told]
    heads = ["choice", "adapter", "adapters", "measured", "predicted", "by projections"]
    heads += ["within them", "percentile within"]
    return markdown(heads, [_sources_line(*group) for group in groups])


def _sources_line(method: str, adapter: str, among: Sequence[Source]) -> list[str]:
    measured = [one.measured for one in among if one.measured is not None]
    columns = [measured, *([getattr(one, name) for one in among] for name in PARTS)]
    means = [sum(values) / len(values) if values else None for values in columns]
    percentiles = [one.percentile for one in among]
    mean = number(sum(percentiles) / len(among), 0)
    ends = f" ({min(percentiles):.0f}–{max(percentiles):.0f})" if len(among) > 1 else ""
    gains = [number(value, 2, "+") for value in means]
    return [method, adapter, str(len(among)), *gains, mean + ends]


def _additivity_table(sums: Iterable[Additivity]) -> str:
    heads = ["adapter", "share", "cells", "refusal: Pearson", "measured by predicted"]
    heads += ["loss: Pearson", "measured by predicted"]
    body = [
        [
            x.adapter,
            f"{x.share:g}",
            str(x.cells),
            *(number(v) for one in (x.refusal, x.loss) for v in (one.pearson, one.slope)),
        ]
        for x in sums
    ]
    return markdown(heads, body)
