"""The plots of a study, as SVG: the same rows give the same bytes.

A plot without anything to show is not written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from s3lora.io.atomic import write_file
from s3lora.lab.drawing import COLUMNS, add_legend, looks_of, panels_of, svg_of, with_axes
from s3lora.lab.metrics.extras import needed
from s3lora.lab.study import rows as study
from s3lora.lab.study.analysis import Standing, Versus, pooled
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.culprits import ALL, Correlation, by_adapter, culprits
from s3lora.lab.study.projection_type import TYPE
from s3lora.lab.study.rows import LOSS, RANDOM, REFUSAL, CausalRow, How, Row, adapters, label
from s3lora.linalg import Array
from s3lora.report.plot_style import COLOURS, DARK, GREY, STYLE

_T = TypeVar("_T")


def write_plots(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    out_dir: Path,
    *,
    methods: Sequence[str] | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> tuple[Path, ...]:
    """Write front.svg, percentiles.svg, effects.svg, scores.svg and first-order.svg.

    Args:
        rows: Of the study.
        causal: The effects of single modules, of any of its adapters.
        out_dir: The folder; files that are there already are replaced.
        methods: Those to show against the random draws, in this order; None shows all.
        bootstrap: For the intervals.

    Raises:
        ParameterError: if matplotlib is not installed.
        OutputError: if a file cannot be written.
    """
    matplotlib = needed("matplotlib")
    with matplotlib.rc_context(STYLE):
        made = dict(drawn(rows, causal, methods, bootstrap))
        for name, figure in made.items():
            write_file(out_dir / f"{name}.svg", svg_of(figure))
    return tuple(out_dir / f"{name}.svg" for name in made)


def drawn(
    rows: Sequence[Row],
    causal: Sequence[CausalRow],
    methods: Sequence[str] | None,
    bootstrap: Bootstrap,
) -> Iterator[tuple[str, Any]]:
    """The matplotlib figures by name."""
    shown = [row for row in rows if methods is None or row.method in methods]
    always = [row for row in rows if row.method in (RANDOM, *study.REFERENCES)]
    kept = list({row.key: row for row in (*always, *shown)}.values())
    standings = [one for one in pooled(kept, bootstrap) if one.draws]
    if any(row.method not in ("base", "aligned") for row in rows):
        yield "front", front_plot(kept, methods)
    if standings:
        yield "percentiles", percentile_plot(standings)
    if causal:
        yield "effects", effect_plot(causal)
        yield "scores", score_plot(culprits(causal, bootstrap))
    if any(row.removed for row in causal):
        yield "first-order", first_order_plot([row for row in causal if row.removed])


def front_plot(rows: Sequence[Row], methods: Sequence[str] | None = None) -> Any:
    """Refusal log-odds over loss for each adapter: the methods over K, random draws as a cloud."""
    names, cells = adapters(rows), study.by_cell(rows)
    shown = {c[1:3] for c in cells if c.method not in (RANDOM, *study.REFERENCES)}
    order = sorted(shown, key=lambda what: (methods.index(what[0]) if methods else 0, what))
    looks = looks_of(order)
    figure, panels = panels_of(len(names), 3.6, 3.1)
    for name, panel in zip(names, panels, strict=True):
        draws = [r for c, group in cells.items() if c[:2] == (name, RANDOM) for r in group]
        cloud = np.array([_point([row]) for row in draws]).reshape(-1, 2)
        panel.scatter(*cloud.T, s=14, color=GREY, linewidths=0, label="random draws", zorder=1)
        for what, look in looks.items():
            groups = [group for cell, group in cells.items() if cell[:3] == (name, *what)]
            _curve(panel, label(*what), look, study.reference(rows, name, "tuned"), groups)
        for end, place in (("tuned", (7, -3)), ("aligned", (-7, 5))):
            _end(panel, end, study.reference(rows, name, end), place)
        panel.set_title(name)
        panel.margins(0.08)
        panel.locator_params(axis="x", nbins=4)
    add_legend(figure, panels)
    return with_axes(figure, "held-out loss (nats per token)", "refusal log-odds (nats)")


def _point(group: Sequence[Row]) -> tuple[float, float]:
    return float(LOSS.means(group).mean()), float(REFUSAL.means(group).mean())


def _curve(
    panel: Any, name: str, look: Mapping[str, Any], tuned: Row | None, groups: Sequence[Any]
) -> None:
    """A line from tuned over the shares, which are marked."""
    if groups:
        points = [_point(group) for group in ([tuned] if tuned else [], *groups) if group]
        marked = list(range(len(points) - len(groups), len(points)))
        style = {**look, "markevery": marked, "markersize": 4, "alpha": 0.85, "label": name}
        panel.plot(*zip(*points, strict=True), **style)


def _end(panel: Any, name: str, row: Row | None, place: tuple[int, int]) -> None:
    if row:
        at, side = _point([row]), "left" if place[0] > 0 else "right"
        panel.scatter(*at, s=34, marker="D", facecolor="white", edgecolor=DARK, zorder=5)
        panel.annotate(name, at, place, textcoords="offset points", ha=side, color=DARK)


def percentile_plot(standings: Sequence[Standing]) -> Any:
    """Where each method stands among the random draws, by share; a dot is an adapter."""
    shares = sorted({one.share for one in standings})
    order = _by_percentile(standings)
    figure, panels = panels_of(2 * len(shares), 2.3, 0.7 + 0.2 * len(order), len(shares))
    for at, panel in enumerate(panels):
        share, what = shares[at % len(shares)], "refusal" if at < len(shares) else "loss"
        told = {label(x.method, x.edit): getattr(x, what) for x in standings if x.share == share}
        panel.axvline(50, color=GREY, linewidth=1)
        for y, name in enumerate(order):
            if name in told:
                _dots(panel, y, told[name])
        panel.set(xlim=(-4, 104), ylim=(-0.7, len(order) - 0.3), title=f"{what}, {share:.0%}")
        panel.set_yticks(range(len(order)), order if at % len(shares) == 0 else [""] * len(order))
        panel.tick_params(length=0)
    text = "percentile among random draws of as many modules, 100 is best; dot: adapter, bar: mean"
    figure.supxlabel(text, fontsize=9)
    return figure


def _dots(panel: Any, y: int, told: Versus) -> None:
    among, mean = told.percentiles, told.percentile
    panel.scatter(among, [y] * len(among), s=16, color=COLOURS[0], alpha=0.6, linewidths=0)
    panel.plot([mean, mean], [y - 0.3, y + 0.3], color=COLOURS[1], linewidth=2)


def _by_percentile(standings: Sequence[Standing]) -> list[str]:
    """The labels, the one with the highest mean percentile of the refusal last."""
    found: dict[str, list[float]] = {}
    for one in standings:
        found.setdefault(label(one.method, one.edit), []).append(one.refusal.percentile or 0.0)
    return sorted(found, key=lambda name: (float(np.mean(found[name])), name))


def effect_plot(rows: Sequence[CausalRow]) -> Any:
    """What taking each module out does to the refusal, by layer and projection."""
    groups = by_adapter(rows)
    hows: dict[str, How] = {
        name: "true removal" if all(row.removed for row in group) else "first order"
        for name, group in groups.items()
    }
    maps = {name: _map(group, hows[name]) for name, group in groups.items()}
    most = max(float(np.nanmax(np.abs(values))) for values, _ in maps.values()) or 1.0
    figure, panels = panels_of(len(maps), 3.9, 1.7, 2)
    for panel, (name, (values, projections)) in zip(panels, maps.items(), strict=True):
        image = panel.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
        panel.set_yticks(range(len(projections)), projections)
        panel.set(title=f"{name} ({hows[name]})", xlabel="layer", facecolor="#EEEEEE")
        panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("change of refusal log-odds\nwhen taken out (nats)")
    return figure


def _map(rows: Sequence[CausalRow], how: How) -> tuple[Array, list[str]]:
    """Effects on the refusal, shape (projections, layers), NaN where there is no module."""
    projections = list(dict.fromkeys(row.projection for row in rows if row.layer is not None))
    layers = 1 + max((row.layer for row in rows if row.layer is not None), default=0)
    values = np.full((max(len(projections), 1), layers), np.nan)
    for row in rows:
        effect = row.effect(how)
        if row.layer is not None and effect:
            values[projections.index(row.projection), row.layer] = effect.log_odds
    return values, projections


def score_plot(told: Sequence[Correlation]) -> Any:
    """Spearman of each score with the first-order effect on the refusal, over all modules."""
    among = [x for x in told if (x.how, x.target, x.scope) == ("first order", "refusal", ALL)]
    names = list(dict.fromkeys(x.adapter for x in among))
    scores = list(dict.fromkeys(x.x for x in among))[::-1]
    figure, panels = panels_of(len(names), 3.0, 0.8 + 0.22 * len(scores))
    for at, (name, panel) in enumerate(zip(names, panels, strict=True)):
        for one in (x for x in among if x.adapter == name and x.spearman.value is not None):
            y, rho = scores.index(one.x), one.spearman
            colour = COLOURS[1] if one.x == TYPE else COLOURS[5]
            panel.barh(y, rho.value, height=0.6, color=colour)
            panel.plot([rho.low, rho.high], [y, y], color=DARK, linewidth=1)
        panel.axvline(0, color=DARK, linewidth=0.8)
        panel.set(xlim=(-1, 1), ylim=(-0.6, len(scores) - 0.4), title=name)
        panel.set_yticks(range(len(scores)), scores if at % COLUMNS == 0 else [""] * len(scores))
        panel.tick_params(axis="y", length=0)
    text = (
        "Spearman of score and effect of removal on the refusal (first order);"
        " projection type is what every score has to beat"
    )
    figure.supxlabel(text, fontsize=9)
    return figure


def first_order_plot(rows: Sequence[CausalRow]) -> Any:
    """The change of refusal when a module is taken out, against what its derivative says."""
    groups = by_adapter(rows)
    looks = looks_of(sorted({row.projection for row in rows}))
    figure, panels = panels_of(len(groups), 3.4, 3.2)
    for panel, (name, group) in zip(panels, groups.items(), strict=True):
        panel.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
        for projection, look in looks.items():
            told = [
                (r.effect("first order"), r.removed) for r in group if r.projection == projection
            ]
            points = np.array([(a.log_odds, b.log_odds) for a, b in told if a and b]).reshape(-1, 2)
            marker = {"color": look["color"], "marker": look["marker"]}
            panel.scatter(*points.T, s=16, **marker, alpha=0.7, linewidths=0, label=projection)
        panel.set_title(name)
    add_legend(figure, panels)
    return with_axes(figure, "first order (nats)", "true removal (nats)")
