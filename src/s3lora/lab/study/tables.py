"""The tables of a study, in Markdown. What was not measured is "–", never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from s3lora.io.atomic import write_file
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.analysis import Line, Standing, Versus, main_lines, pooled, standings
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.culprits import ALL, HOWS, Correlation, Part, culprits, parts
from s3lora.lab.study.fronts import fronts
from s3lora.lab.study.rows import CausalRow, Row, adapters, label
from s3lora.lab.study.validity import Validity, validity
from s3lora.scores import Unsafe

SHARE = 0.25
NONE = "–"
_EMPTY = "Nothing measured yet.\n"


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table with its pipes aligned: the first column to the left, the others to the right."""
    lines = [list(header), *(list(line) for line in body)]
    if len(lines) == 1:
        return _EMPTY
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    told = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in told)


def number(value: float | None, digits: int = 2, sign: str = "-") -> str:
    """A number with a true minus and no negative zero; `sign` "+" shows that of positive ones."""
    if value is None:
        return NONE
    rounded = round(value, digits) + 0.0
    return f"{rounded:{sign}.{digits}f}".replace("-", "−")


def interval(told: Figure | None, digits: int = 2, sign: str = "-") -> str:
    """`1.24 [1.18, 1.30]`."""
    if told is None or told.value is None:
        return NONE
    ends = f" [{number(told.low, digits, sign)}, {number(told.high, digits, sign)}]"
    return number(told.value, digits, sign) + (ends if told.low is not None else "")


def write_tables(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    out_dir: Path,
    *,
    share: float = SHARE,
    unsafe: Mapping[str, Unsafe] = MappingProxyType({}),
    bootstrap: Bootstrap = DEFAULT,
) -> tuple[Path, ...]:
    """Write main.md, random.md, front.md and causal.md; the same rows give the same bytes.

    Args:
        rows: Of the study.
        causal: The effects of single modules, of any of its adapters.
        out_dir: The folder; files that are there already are replaced.
        share: Share of the modules chosen in the main table.
        unsafe: Which end of a causal row's score to look at; high for those not named.
        bootstrap: For all intervals but those of shares.

    Raises:
        OutputError: if a file cannot be written.
    """
    texts = {
        "main.md": main_page(rows, share, bootstrap),
        "random.md": random_page(rows, bootstrap),
        "front.md": front_page(rows, bootstrap),
        "causal.md": causal_page(causal, unsafe, bootstrap),
    }
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
    return _page("Main table", about, tables)


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
    heads = [f"{name}{_counted(figures)}" for name, figures in columns.items()]
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


def _counted(told: Iterable[Figure | None]) -> str:
    counts = sorted({one.n for one in told if one and one.value is not None})
    ends = dict.fromkeys(str(n) for n in (*counts[:1], *counts[-1:]))
    return f" (n={'–'.join(ends)})" if counts else ""


def _page(title: str, about: str, tables: Mapping[str, str]) -> str:
    text = "".join(f"\n## {name}\n\n{table}" for name, table in tables.items())
    return f"# {title}\n\n{about} Brackets hold 95 % intervals.\n{text}"


def random_page(rows: Sequence[Row], bootstrap: Bootstrap) -> str:
    """Every choice against random choices of as many modules."""
    single = standings(rows, bootstrap)
    tables = {"All adapters": _standing_table(pooled(rows, bootstrap))}
    for name in adapters(rows):
        tables[name] = _standing_table([one for one in single if one.adapters == (name,)])
    about = (
        "Each choice against random choices of as many modules: Δ is the difference to their mean,"
        " which is held fixed; the percentile among them is 100 where it is best (refusal high,"
        " loss low), given as mean (lowest–highest adapter); wins are the adapters on which it is"
        " better than their median. An edit that was not drawn is held against random dropping."
    )
    return _page("Against random choices", about, tables)


def _standing_table(told: Sequence[Standing]) -> str:
    heads = ["method", "share", "adapters", "draws"]
    for name, among in (("refusal", [x.refusal for x in told]), ("loss", [x.loss for x in told])):
        heads += [name, f"Δ {name}{_counted(one.difference for one in among)}"]
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
        "Mean difference of refusal log-odds at equal loss, in nats": _grid("method", height, 3),
        "Area between the fronts, in nats²": _grid("method", area, 4),
    }
    return _page("At equal loss", about, tables)


def _among(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"mean of {len(names)} adapters"


def _grid(corner: str, told: Mapping[tuple[str, str], Figure | None], digits: int = 2) -> str:
    """A table of figures by (line, column), both in the order they come in."""
    lines, columns = (list(dict.fromkeys(key[at] for key in told)) for at in (0, 1))
    heads = [f"{c}{_counted(told.get((x, c)) for x in lines)}" for c in columns]
    body = [[x, *(interval(told.get((x, c)), digits, "+") for c in columns)] for x in lines]
    return markdown([corner, *heads], body)


def causal_page(
    rows: Sequence[CausalRow], unsafe: Mapping[str, Unsafe], bootstrap: Bootstrap
) -> str:
    """Every score against the effects of single modules, and the effects against each other."""
    told = culprits(rows, unsafe, bootstrap)
    scores = [one for one in told if one.x not in HOWS]
    tables = {}
    for how, target in dict.fromkeys((one.how, one.target) for one in scores):
        among = [x for x in scores if (x.how, x.target, x.scope) == (how, target, ALL)]
        title = f"Score and effect on {target} ({how}), all modules"
        tables[title] = _grid("score", _with_means({(x.x, x.adapter): x.spearman for x in among}))
    for adapter, how in dict.fromkeys((one.adapter, one.how) for one in scores):
        of = [x for x in scores if (x.adapter, x.how, x.target) == (adapter, how, "refusal")]
        title = f"{adapter}: score and effect on refusal ({how}), by projection"
        tables[title] = _grid("score", {(x.x, x.scope): x.spearman for x in of})
    tables["First order against what was measured, all modules"] = _agreement(told)
    tables["Where the effects are"] = _parts_table(parts(rows))
    about = (
        "Spearman's correlation over modules: above 0 where a high score goes with a module whose"
        " removal raises the refusal log-odds."
    )
    return _page("Causal effects of single modules", about, tables)


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
    return _grid("effect", found)


def _parts_table(told: Iterable[Part]) -> str:
    body = [
        [f"{x.adapter}: {x.part}", x.how, str(x.modules), *map(_percent, (x.refusal, x.loss))]
        for x in told
    ]
    return markdown(["part", "effect", "modules", "share of refusal", "share of loss"], body)


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f} %"
