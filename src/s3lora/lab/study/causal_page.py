"""The page about single modules: which take the refusals, and which score finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from s3lora.adapter import natural_key
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.culprits import ALL, HOWS, Correlation, Part, culprits, parts
from s3lora.lab.study.markdown import NONE, grid, markdown, number, page
from s3lora.lab.study.rows import CausalRow, Row
from s3lora.lab.study.strata import Additivity, Source, additivity, sources

PARTS = ("predicted", "between", "within")


def causal_page(rows: Sequence[Row], causal: Sequence[CausalRow], bootstrap: Bootstrap) -> str:
    """Scores against effects of single modules, effects against each other, and their sums."""
    told = culprits(causal, bootstrap)
    scores = [one for one in told if one.x not in HOWS]
    tables = {}
    for how, target in dict.fromkeys((one.how, one.target) for one in scores):
        among = [x for x in scores if (x.how, x.target, x.scope) == (how, target, ALL)]
        title = f"Score and effect on {target} ({how}), all modules"
        tables[title] = grid("score", _with_means({(x.x, x.adapter): x.spearman for x in among}))
    title = "Score and effect on refusal (first order), by projection, mean over adapters"
    tables[title] = _by_projection(scores)
    tables["First order against what was measured, all modules"] = _agreement(told)
    tables["Where the effects are"] = _parts_table(parts(causal))
    told_sources, added = sources(rows, causal), additivity(rows, causal)
    for share in dict.fromkeys(one.share for one in told_sources):
        at_share = [one for one in told_sources if one.share == share]
        title = f"Where the gain of a choice comes from, share {share:g}"
        tables[title] = _sources_table(at_share)
    tables["Do the effects of single modules add up?"] = _additivity_table(added)
    about = (
        "Spearman's correlation over modules: above 0 where a high score goes with a module whose"
        " removal raises the refusal log-odds."
    )
    return page("Causal effects of single modules", about, tables)


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


def _with_means(told: Mapping[tuple[str, str], Figure]) -> dict[tuple[str, str], Figure]:
    """A column more: the mean over adapters, of those that have a value."""
    means = {}
    for line in dict.fromkeys(line for line, _ in told):
        values = [f.value for (x, _), f in told.items() if x == line and f.value is not None]
        if len(values) > 1:
            mean, n = sum(values) / len(values), len(values)
            means[line, "mean of adapters"] = Figure("mean", mean, n, None, None, "", "neither")
    return {**told, **means}


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


def _additivity_table(told: Iterable[Additivity]) -> str:
    heads = ["adapter", "share", "cells", "Pearson", "measured by predicted"]
    body = [
        [x.adapter, f"{x.share:g}", str(x.cells), number(x.pearson), number(x.slope)] for x in told
    ]
    return markdown(heads, body)
