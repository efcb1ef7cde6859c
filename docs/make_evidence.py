"""Write the tables of docs/evidence.md from the measured rows, and say what its text has to hold.

    python docs/make_evidence.py

The text between the tables is written by hand. A test holds the tables to what this script would
write, and the figures in the text to `sentences`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np

from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study import rows as study
from s3lora.lab.study.analysis import Duel, Standing, Versus, duels, pooled, standings
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.config import read_study
from s3lora.lab.study.costs import Cost, read_costs
from s3lora.lab.study.culprits import ALL, culprits
from s3lora.lab.study.defence_page import difference
from s3lora.lab.study.equal_loss import gaps, prices
from s3lora.lab.study.keeping import read_causal, read_rows
from s3lora.lab.study.lines import main_lines
from s3lora.lab.study.markdown import NONE, interval, number
from s3lora.lab.study.replied import Replied, replied
from s3lora.lab.study.rows import BENIGN, LOSS, REFUSAL, Row
from s3lora.lab.study.strata import additivity, sources
from s3lora.lab.study.tables import choosing
from s3lora.lab.study.units import Difference, data_sets, mean_of, over_data_sets

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/evidence.md"
FEW = Bootstrap(2)
"""For figures whose interval over prompts or modules is not on the page."""

SHARE = 0.25
BY_REFUSAL = "gate by refusal"
METHODS = (
    "s3lora", "spectrum", "magnitude", "splora", "safe-lora", "all v_proj", "all o_proj",
    "s3lora within v and o", "s3lora on v and o", "s3lora-released", "last-layers", "SafeMERGE",
    "gate", "gate by refusal",
)  # fmt: skip
SHARED = (
    "s3lora", "spectrum", "magnitude", "splora", "safe-lora", "s3lora within v and o",
    "s3lora-released", "last-layers", "SafeMERGE", "gate",
)  # fmt: skip
SCORES = (
    "projection type", "type, then spectrum", "type, then spectrum/magnitude", "splora",
    "safe-lora", "spectrum", "s3lora", "rows", "magnitude", "s3lora-released", "gate by refusal",
)  # fmt: skip
ABLATIONS = (
    "s3lora", "s3lora keep=2", "s3lora keep=3", "s3lora keep=4", "s3lora keep=6", "s3lora keep=8",
    "s3lora fit=dense", "s3lora by layers", "s3lora within projections", "s3lora, halved",
    "s3lora, flattened", "gate, halved", "gate per loss", "rows", "lox-ratio", "leading",
    "sharp-and-large", "splora-released", "all q_proj", "all k_proj",
)  # fmt: skip
DEFENDED = {
    "plain": "plain LoRA", "salora": "`salora`", "salora-slow": "`salora`, rate 1e-4",
    "ema": "`ema`", "ema-product": "`ema`, products", "ema-fed-back": "`ema`, fed back",
    "lox": "`lox`", "sharpness": "`sharpness`, weight 1",
    "refusal-up": "plain LoRA after `refusal-up`", "refusal-up-overlap": "the same with `overlap`",
}  # fmt: skip


class Evidence:
    """The rows of a study, and the figures that are made of them."""

    def __init__(self, name: str) -> None:
        folder = ROOT / "evidence" / name
        self.study = read_study(folder / "study.toml")
        every = read_causal(folder / "causal.jsonl")
        self.rows, self.causal = choosing(read_rows(folder / "rows.jsonl"), every)
        self.costs = read_costs(folder / "defences.jsonl")
        self.sets = data_sets(self.study.adapters)
        self.adapters = study.adapters(self.rows)

    @cached_property
    def over_all(self) -> dict[tuple[str, float], Standing]:
        """Choices over all adapters, against random ones."""
        return {(x.method, x.share): x for x in pooled(self.rows, FEW, self.sets)}

    @cached_property
    def single(self) -> dict[tuple[str, str], Standing]:
        """The same by adapter, at the main share."""
        at_share = (x for x in standings(self.rows, FEW) if x.share == SHARE)
        return {(x.method, x.adapters[0]): x for x in at_share}

    @cached_property
    def equal_loss(self) -> dict[tuple[str, float], Figure]:
        """On planner, refusal over random choices at equal loss."""
        found = gaps(self.rows, DEFAULT)
        return {(x.method, x.share): x.gap for x in found if x.adapter == "planner"}

    @cached_property
    def duels(self) -> dict[str, Duel]:
        """Against s3lora, at the main share."""
        found = duels(self.rows, "s3lora", FEW, self.sets)
        return {x.method: x for x in found if x.share == SHARE}

    @cached_property
    def replies(self) -> dict[str, Replied]:
        """Greedy replies against those after random choices."""
        return {x.method: x for x in replied(self.rows, FEW, self.sets)}

    @cached_property
    def correlations(self) -> dict[str, dict[str, float]]:
        """By score and adapter, Spearman with the first-order effect on refusal, all modules."""
        found: dict[str, dict[str, float]] = {}
        for one in culprits(self.causal, FEW):
            refusal = (one.how, one.target, one.scope) == ("first order", "refusal", ALL)
            if refusal and one.spearman.value is not None:
                found.setdefault(one.x, {})[one.adapter] = one.spearman.value
        # On some adapters both measures of gate give the same scores, listed once, by one name.
        found[BY_REFUSAL] = {**found.get("gate", {}), **found.get(BY_REFUSAL, {})}
        return found

    @cached_property
    def moved(self) -> dict[str, tuple[float, float]]:
        """What tuning did to refusal log-odds on harmful and on harmless prompts, by adapter."""
        ends = {
            name: [study.reference(self.rows, name, end) for end in ("tuned", "aligned")]
            for name in self.adapters
        }
        return {
            name: tuple(float(np.diff(q.means([aligned, tuned]))[0]) for q in (REFUSAL, BENIGN))
            for name, (tuned, aligned) in ends.items()
        }

    def over(self, values: Mapping[str, float]) -> tuple[str, str]:
        """The mean over adapters and over data sets, with t intervals."""
        adapters = mean_of("mean", list(values.values()), "", "neither")
        by_data = over_data_sets("mean", values, self.sets, "", "neither")
        return interval(adapters, 2, "+"), interval(by_data, 2, "+")


def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table as it is written by hand: the columns are not aligned."""
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def moved_table(of: Evidence) -> str:
    """What tuning moved."""
    harmful, harmless = ({a: m[at] for a, m in of.moved.items()} for at in (0, 1))
    body = [
        [name, *(number(value, 2, "+") for value in values.values()), *of.over(values)]
        for name, values in (("40 harmful prompts", harmful), ("8 harmless prompts", harmless))
    ]
    return table(["change by tuning", *of.adapters, "six adapters", "three data sets"], body)


def gain_table(of: Evidence) -> str:
    """Refusal over random choices, a quarter of the modules."""
    body = []
    for name in METHODS:
        one = of.over_all[name, SHARE]
        gains = [of.single[name, a].refusal.difference.value for a in of.adapters]
        harmless = interval(one.harmless.figure, 2, "+") if one.harmless else NONE
        body.append([
            name, *(number(gain, 2, "+") for gain in gains),
            interval(one.refusal.difference, 2, "+"), interval(one.refusal.by_data, 2, "+"),
            harmless,
        ])  # fmt: skip
    heads = ["choice", *of.adapters, "six adapters", "three data sets", "harmless prompts, six"]
    return table(heads, body)


def share_table(of: Evidence) -> str:
    """The same at other shares, over six adapters."""
    shares = (0.05, 0.1, 0.25, 0.5)
    body = [
        [name, *(interval(of.over_all[name, s].refusal.difference, 2, "+") for s in shares)]
        for name in SHARED
    ]
    return table(["choice", *(f"{share:.0%}" for share in shares)], body)


def price_table(of: Evidence) -> str:
    """What there is to trade."""
    body = [
        [
            price.adapter,
            interval(price.learned, 3, "+"),
            interval(price.random[SHARE], 3, "+"),
            number(of.single["s3lora", price.adapter].refusal.difference.value, 2, "+"),
            "yes" if SHARE in price.shares else "no",
        ]
        for price in prices(of.rows, DEFAULT)
    ]
    heads = ["adapter", "learned", "given up by a random quarter", "gain of `s3lora`", "judged"]
    return table(heads, body)


def equal_loss_table(of: Evidence) -> str:
    """Planner, at equal loss."""
    shares = (0.05, 0.1, 0.25)
    names = [*METHODS, "rows", "s3lora, halved", "s3lora, flattened", "gate, halved"]
    order = sorted(names, key=lambda name: -(of.equal_loss[name, SHARE].value or 0))
    body = [
        [name, *(interval(of.equal_loss.get((name, share)), 2, "+") for share in shares)]
        for name in order
    ]
    return table(["choice", *(f"{share:.0%}" for share in shares)], body)


def type_table(of: Evidence) -> str:
    """Correlation of scores with effects."""
    body = []
    for name in SCORES:
        values = of.correlations.get(name, {})
        each = [number(values.get(adapter), 2, "+") for adapter in of.adapters]
        body.append([name, *each, *(of.over(values) if len(values) == len(of.adapters) else "––")])
    return table(["score", *of.adapters, "six adapters", "three data sets"], body)


def reply_table(of: Evidence) -> str:
    """Refusals of 100 harmful and of 100 harmless prompts."""
    lines = {
        name: {x.method: x for x in main_lines(of.rows, (name,), SHARE, FEW) if x.refused}
        for name in of.adapters
    }
    names = [*study.REFERENCES, "random", *(m for m in METHODS if m in of.replies)]
    body = [[name, *(_refused(lines[adapter][name]) for adapter in of.adapters)] for name in names]
    return table(["state", *of.adapters], body)


def _refused(line: Any) -> str:
    return " / ".join(f"{100 * one.value:.0f}" for one in (line.refused, line.over_refused))


def reply_gain_table(of: Evidence) -> str:
    """Refusals less those after random choices, of 100."""
    body = []
    for name in (method for method in METHODS if method in of.replies):
        one = of.replies[name]
        figures = (one.refused.figure, one.refused.by_data, one.over_refused.figure)
        each = [interval(_hundred(figure), 0, "+") for figure in figures if figure]
        body.append([name, *each[:2], f"{one.wins} of {one.adapters}", each[2]])
    heads = ["choice", "six adapters", "three data sets", "more than random on"]
    return table([*heads, "harmless prompts, six"], body)


def _hundred(told: Figure) -> Figure:
    low, high = (None if x is None else 100 * x for x in (told.low, told.high))
    return Figure(told.name, 100 * (told.value or 0), told.n, low, high, "", told.better)


def ablation_table(of: Evidence) -> str:
    """Variants, a quarter of the modules."""
    body = [
        [
            name,
            str(of.over_all[name, SHARE].k),
            interval(of.over_all[name, SHARE].refusal.difference, 2, "+"),
            interval(of.over_all[name, SHARE].refusal.by_data, 2, "+"),
            interval(of.equal_loss[name, SHARE], 2, "+"),
        ]
        for name in ABLATIONS
    ]
    heads = ["choice", "modules", "six adapters", "three data sets", "planner, at equal loss"]
    return table(heads, body)


def defence_table(of: Evidence, attack: str) -> str:
    """One attack under each defence, then with s3lora."""
    plain = _states(of, f"{attack}-plain")
    body = []
    for suffix, name in DEFENDED.items():
        adapter = f"{attack}-{suffix}"
        if adapter not in of.adapters:
            continue
        own = _states(of, adapter)
        lines = {(x.method): x for x in main_lines(of.rows, (adapter,), SHARE, FEW)}
        more = difference(own["tuned"], plain["tuned"], LOSS, DEFAULT)
        body.append([
            name,
            number(lines["tuned"].refusal.value), _of_100(lines["tuned"]),
            number(lines["tuned"].loss.value, 3), interval(more, 3, "+"),
            _modules(of, adapter),
            number(lines["s3lora"].refusal.value), _of_100(lines["s3lora"]),
            number(lines["s3lora"].loss.value, 3),
            number(lines["random"].refusal.value),
        ])  # fmt: skip
    heads = [attack, "log-odds", "refused", "loss", "loss, less plain", "modules"]
    heads += ["with `s3lora`: log-odds", "refused", "loss", "at random: log-odds"]
    return table(heads, body)


def _states(of: Evidence, adapter: str) -> dict[str, Sequence[Row]]:
    cells = study.by_cell(row for row in of.rows if row.adapter == adapter)
    return {cell.method: group for cell, group in cells.items()}


def _of_100(line: Any) -> str:
    return NONE if line.refused is None else f"{100 * line.refused.value:.0f}"


def _modules(of: Evidence, adapter: str) -> str:
    cost: Cost = next(cost for cost in of.costs if cost.adapter == adapter)
    return str(cost.modules)


def agent_table() -> str:
    """The planner of an agent with modules out."""
    told = json.loads((ROOT / "benchmarks/results/agent.json").read_text(encoding="utf-8"))
    plain = ("plan_valid", "tool_f1", "answer_f1")
    rates = ("unsafe_plan_rate", "calls_anyway", "twins_without_plan")
    body = []
    for state in told["states"]:
        figures = {key: Figure(**value) for key, value in state["figures"].items()}
        body.append([
            state["state"],
            *(number(figures[key].value) for key in plain),
            *(interval(figures[key]) for key in rates),
        ])  # fmt: skip
    heads = ["planner", "valid plans", "tool F1", "answer F1", "unsafe plans"]
    return table([*heads, "any call for a harmful task", "twins without plan"], body)


def measure_table() -> str:
    """Which figure tells what is refused."""
    path = ROOT / "benchmarks/results/refusal_measures.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    states = ("aligned, asked as harmless-1", "harmless-1", "mixed", "identity")
    body = [
        [one["measure"], *(number(one["auroc_by_state"][s]) for s in states), number(one["auroc"])]
        for one in told["measures"][:3]
    ]
    return table(["figure", "aligned", *states[1:], "together"], body)


def tables(smollm2: Evidence, defences: Evidence) -> dict[str, Callable[[], str]]:
    """By the name that the page has for it."""
    return {
        "moved": lambda: moved_table(smollm2),
        "gain": lambda: gain_table(smollm2),
        "shares": lambda: share_table(smollm2),
        "prices": lambda: price_table(smollm2),
        "equal loss": lambda: equal_loss_table(smollm2),
        "types": lambda: type_table(smollm2),
        "replies": lambda: reply_table(smollm2),
        "reply gains": lambda: reply_gain_table(smollm2),
        "ablations": lambda: ablation_table(smollm2),
        "harmless": lambda: defence_table(defences, "harmless"),
        "mixed": lambda: defence_table(defences, "mixed"),
        "agent": agent_table,
        "measures": measure_table,
    }


def page(text: str, smollm2: Evidence, defences: Evidence) -> str:
    """The page with its tables made anew."""
    for name, made in tables(smollm2, defences).items():
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = block.subn(lambda found: f"{found[1]}\n{made()}\n\n{found[2]}", text)  # noqa: B023
        if count != 1:
            raise click.ClickException(f"{PAGE} has {count} places for the table {name!r}")
    return text


def sentences(of: Evidence) -> Iterator[str]:
    """What the text has to say, word for word but for line ends, with figures from the rows."""
    one, gate = of.over_all["s3lora", SHARE], of.over_all[BY_REFUSAL, SHARE]
    yield f"{_pair(one.refusal)} nats above random choices on harmful prompts"
    yield f"{_signed(one.harmless)} on harmless ones"
    yield f"particular to harmful prompts is {_signed(one.specific)}."
    yield f"gains {_pair(gate.refusal)} and {_signed(gate.harmless)}."
    harmful, harmless = (
        number(float(np.mean([moved[at] for moved in of.moved.values()]))) for at in (0, 1)
    )
    yield f"({harmful} nats on harmful ones, {harmless} on harmless ones)"
    yield f"`s3lora` gains {interval(one.refusal.by_data, 2, '+')} over random choices (n = 3)"
    spectrum, attention = of.duels["spectrum"].refusal, of.duels["all o_proj"].refusal
    yield f"(`spectrum`) has {_signed(spectrum)}"
    yield f"which needs no score, {_signed(attention)} (n = 6 adapters"
    by_data = (interval(x.by_data, 2, "+") for x in (spectrum, attention))
    yield f"{' and '.join(by_data)} over 3 data sets"
    yield f"told from random: {_pair(of.over_all['s3lora-released', SHARE].refusal)}"
    rho = {name: number(float(np.mean(list(v.values())))) for name, v in of.correlations.items()}
    yield f"rank correlation of {rho['projection type']} with"
    yield f"`splora` has {rho['splora']}, `safe-lora` {rho['safe-lora']}"
    yield f"`s3lora` {rho['s3lora']} ("
    gap = {k: interval(of.equal_loss[k, SHARE], 2, "+") for k in ("s3lora", *METHODS)}
    yield f"There `s3lora` is {gap['s3lora']} above random"
    yield f"`spectrum` {gap['spectrum']}, all of `v_proj` {gap['all v_proj']}"
    yield f"all of `o_proj` {gap['all o_proj']} (n = 1"
    refused = of.replies["s3lora"].refused
    figures = [_hundred(told) for told in (refused.figure, refused.by_data) if told]
    adapters, data = (interval(told, 0, "+") for told in figures)
    yield f"gets {adapters} more refused"
    yield f"(n = 6; {data} over 3 data sets)"
    within = {
        x.adapter: x.within
        for x in sources(of.rows, of.causal)
        if (x.method, x.share) == ("s3lora", SHARE)
    }
    adapters, data = of.over(within)
    yield f"single effects, {adapters} (n = 6) and {data} over the 3 data sets"
    sums = {x.adapter: x for x in additivity(of.rows, of.causal) if x.share == SHARE}
    pearson = [x.refusal.pearson or 0 for x in sums.values()]
    slopes = [x.refusal.slope or 0 for x in sums.values()]
    yield f"correlate by {min(pearson):.2f} to {max(pearson):.2f} for refusal"
    yield f"measured by predicted {min(slopes):.2f} to {max(slopes):.2f}."
    yield f"measured change is {sums['planner'].loss.slope:.1f} times what the sum says"
    rows = {
        x.method: x
        for x in of.rows
        if (x.adapter, x.share) in (("harmless-1", SHARE), ("harmless-1", 0))
    }
    ends = (number(float(BENIGN.means([rows[name]])[0])) for name in ("tuned", "s3lora"))
    yield f"from {' to '.join(ends)} with `s3lora`"


def _pair(told: Versus) -> str:
    return interval(told.difference, 2, "+")


def _signed(told: Difference | None) -> str:
    return interval(told.figure, 2, "+") if told else NONE


if __name__ == "__main__":
    written = page(PAGE.read_text(encoding="utf-8"), Evidence("smollm2"), Evidence("defences"))
    PAGE.write_text(written, encoding="utf-8")
    click.echo(f"wrote {PAGE}")
