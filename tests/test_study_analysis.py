"""Rows, figures, tables and plots of a study, on studies of which the answer is known."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from s3lora.errors import DataError, OutputError, ParameterError
from s3lora.lab.metrics.intervals import wilson
from s3lora.lab.study.analysis import duels, percentile, pooled, standings
from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.culprits import culprits, effects, parts
from s3lora.lab.study.keeping import append_row, read_causal, read_rows
from s3lora.lab.study.lines import main_lines
from s3lora.lab.study.markdown import OVER_ITEMS, interval, markdown, number
from s3lora.lab.study.plots import write_plots
from s3lora.lab.study.rows import CausalRow, Effect, Replies, Row, by_cell
from s3lora.lab.study.tables import write_tables
from s3lora.lab.study.validity import validity
from schemas import check_lines

FEW = Bootstrap(200)
TOKENS = (10, 20, 30)


def row(
    adapter="a", method="s3lora", share=0.25, margins=(1.0, 2.0), losses=(1.0, 1.0, 1.0), **more
):
    given = {"edit": "drop", "draw": None, "tokens": TOKENS, **more}
    k = round(8 * share)
    same = {"log_odds": tuple(margins), "margins": tuple(margins), "losses": tuple(losses)}
    place = {"k": k, "modules": 8, "chosen": tuple(range(k)), "norm_share": 0.3}
    return Row(adapter, method, share=share, **place, **same, **given)


def study(gains, adapters=("a", "b", "c"), draws=20, prompts=60, shift=0.0):
    """Methods whose margin and loss differ by known amounts from the mean of the random draws."""
    random = np.random.default_rng(3)
    spread = np.linspace(-0.1, 0.1, draws)
    rows = []
    for at, adapter in enumerate(adapters):
        base, losses = random.normal(1, 0.5, prompts), random.normal(2, 0.3, 3)
        rows += [
            row(adapter, "random", margins=base + by, losses=losses - by / 10, draw=draw)
            for draw, by in enumerate(spread)
        ]
        for method, gain in gains.items():
            noise = random.normal(0, 0.2, prompts)
            own = base + gain + shift * at + noise - noise.mean()
            rows.append(row(adapter, method, margins=own, losses=losses - gain / 10))
    return rows


GAINS = {"better": 0.2, "equal": 0.0, "worse": -0.2}


def by_method(told):
    return {one.method: one for one in told}


# rows


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    rows = (
        row(replies=Replies((True, None), (False, False), 3.0), benign_log_odds=(0.5,)),
        row(method="random", draw=7),
    )
    for one in rows:
        append_row(path, one)
    assert read_rows(path) == rows
    assert rows[1].key == ("a", "random", "drop", 0.25, 7)
    check_lines("rows", path.read_text())


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "rows.jsonl") == ()


@pytest.mark.parametrize("left", [b'{"adapter": "a", "met', b"{}", b"\xff"])
def test_an_unfinished_line_is_ignored_and_cut_off(tmp_path, left):
    path = tmp_path / "rows.jsonl"
    append_row(path, row(draw=1))
    with path.open("ab") as file:
        file.write(left)
    assert [one.draw for one in read_rows(path)] == [1]
    append_row(path, row(draw=2))
    assert [one.draw for one in read_rows(path)] == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("line", ["{}", "[1]", "3", "not json", '{"adapter": NaN}'])
def test_a_broken_line_within_is_an_error_that_names_it(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    append_row(path, row())
    with path.open("a") as file:
        file.write(line + "\n")
    append_row(path, row(draw=1))
    with pytest.raises(DataError, match="line 2"):
        read_rows(path)


def test_nan_does_not_enter_a_study(tmp_path):
    with pytest.raises(OutputError, match="NaN"):
        append_row(tmp_path / "rows.jsonl", row(margins=(1.0, float("nan"))))
    assert not (tmp_path / "rows.jsonl").exists()


def test_nan_that_is_in_a_file_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, row(margins=(1.25, 2.0)))
    path.write_text(path.read_text().replace("1.25", "NaN"))
    with pytest.raises(DataError, match="line 1"):
        read_rows(path)


def test_the_later_of_two_rows_with_one_key_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, row(margins=(0.0, 0.0)))
    append_row(path, row(margins=(5.0, 5.0)))
    assert [one.margins for one in read_rows(path)] == [(5.0, 5.0)]


@pytest.mark.parametrize(
    "other", [row(margins=(1.0,)), row(tokens=(10, 20, 31)), row(losses=(1.0, 1.0))]
)
def test_rows_of_an_adapter_on_other_prompts_are_refused(other):
    with pytest.raises(DataError, match="same prompts"):
        by_cell([row(method="random", draw=0), other])


def test_another_adapter_may_have_held_out_rows_of_its_own():
    rows = study(GAINS, adapters=("a",))
    other = [dataclasses.replace(one, adapter="b", tokens=(1, 1, 1)) for one in rows]
    told = by_method(pooled([*rows, *other], FEW))["better"]
    assert told.loss.difference.value == pytest.approx(-0.02)


# against random choices


def test_a_method_stands_where_it_was_put():
    told = {(one.adapters, one.method): one for one in standings(study(GAINS), FEW)}
    for method, gain in GAINS.items():
        one = told[("b",), method]
        assert one.draws == 20
        assert one.refusal.difference.value == pytest.approx(gain)
        assert one.loss.difference.value == pytest.approx(-gain / 10)
        assert one.refusal.percentile == one.loss.percentile == {0.2: 100, 0: 50, -0.2: 0}[gain]
        assert one.refusal.difference.low < gain < one.refusal.difference.high
    assert told[("a",), "better"].refusal.difference.low > 0
    assert told[("a",), "worse"].refusal.difference.high < 0


def test_the_interval_is_that_of_paired_differences():
    rows = study({"one": 0.1}, adapters=("a",), prompts=100)
    told = standings(rows, Bootstrap(4000))[0].refusal.difference
    own = np.array(rows[-1].margins) - np.mean([one.margins for one in rows[:-1]], axis=0)
    expected = 2 * 1.96 * own.std() / 10
    assert told.high - told.low == pytest.approx(expected, rel=0.08)
    assert told.n == 100


def test_losses_are_weighted_by_tokens():
    rows = [row(losses=(1.0, 2.0, 3.0)), row(method="random", losses=(0.0, 0.0, 0.0), draw=0)]
    told = standings(rows, FEW)[0].loss
    assert told.mean == told.difference.value == pytest.approx(140 / 60)
    assert told.percentile == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (1, 12.5), (2, 50), (2.5, 75), (3, 87.5), (4, 100)]
)
def test_ties_count_half(value, expected):
    assert percentile(np.array([value]), np.array([1, 2, 2, 3])) == expected


def test_pooled_is_the_mean_over_adapters_with_wins_and_range():
    rows = [one for one in study(GAINS, shift=0.06) if one.method != "equal" or one.adapter != "b"]
    told = by_method(pooled(rows, FEW))
    assert told["better"].adapters == ("a", "b", "c")
    assert told["better"].refusal.difference.value == pytest.approx(0.26)
    assert (told["better"].refusal.wins, told["worse"].refusal.wins) == (3, 0)
    assert told["equal"].adapters == ("a", "c")
    assert told["equal"].refusal.percentiles == (50, 100)
    assert told["equal"].refusal.wins == 1


def test_the_interval_over_adapters_is_students_t():
    told = by_method(pooled(study(GAINS, shift=0.06), FEW))["better"].refusal
    values = np.array([0.2, 0.26, 0.32])
    half = 4.302653 * values.std(ddof=1) / 3**0.5  # t at 97.5 % with two degrees of freedom
    assert told.difference.value == pytest.approx(0.26)
    assert (told.difference.low, told.difference.high) == pytest.approx((0.26 - half, 0.26 + half))
    assert told.difference.n == told.by_data.n == 3


def test_adapters_on_the_same_rows_are_one_unit():
    rows = study(GAINS, shift=0.06)
    told = by_method(pooled(rows, FEW, {"a": "alpaca", "b": "alpaca"}))["better"].refusal
    assert told.difference.value == pytest.approx(0.26)
    assert told.difference.n == 3
    assert told.by_data.value == pytest.approx((0.23 + 0.32) / 2)
    assert told.by_data.n == 2
    (alone,) = [x for x in standings(rows, FEW) if (x.adapters, x.method) == (("a",), "better")]
    assert alone.refusal.by_data is None


def with_harmless(rows, gain):
    """Eight harmless prompts, on which every choice gains as much over the draws."""
    odds = np.linspace(-1, 1, 8)
    return [
        dataclasses.replace(one, benign_log_odds=tuple(odds + (one.method != "random") * gain))
        for one in rows
    ]


def test_a_gain_on_harmless_prompts_is_set_against_that_on_harmful_ones():
    told = by_method(pooled(with_harmless(study(GAINS, shift=0.06), 0.5), FEW))["better"]
    assert told.harmless.figure.value == pytest.approx(0.5)
    assert told.specific.figure.value == pytest.approx(0.26 - 0.5)
    half = 4.302653 * 0.06 / 3**0.5
    assert told.specific.figure.high - told.specific.figure.value == pytest.approx(half)
    assert pooled(study(GAINS), FEW)[0].harmless is None, "not measured"
    (alone,) = standings(with_harmless(study({"own": 0.2}, adapters=("a",)), 0.5), FEW)
    assert (alone.harmless.figure.n, alone.harmless.by_data) == (8, None)


def test_another_edit_is_held_against_its_own_draws_and_else_against_dropping():
    made = row(edit="flatten", margins=[2.0, 2.0])
    dropped = row(method="random", draw=0, margins=[1.0, 1.0])
    (told,) = standings([made, dropped], FEW)
    assert told.refusal.difference.value == pytest.approx(1.0)
    flattened = row(method="random", edit="flatten", draw=0, margins=[1.5, 1.5])
    (told,) = standings([made, dropped, flattened], FEW)
    assert told.refusal.difference.value == pytest.approx(0.5)


@pytest.mark.parametrize("away", [{"share": 0.5}, {"adapter": "z"}])
def test_without_draws_for_the_cell_nothing_is_compared(away):
    rows = [dataclasses.replace(row(), **away), row(method="random", draw=0)]
    (told,) = standings(rows, FEW)
    assert told.refusal.difference.value is None
    assert told.refusal.percentile is None
    assert told.draws == 0
    assert told.refusal.mean == 1.5
    assert pooled(rows, FEW) == ()


def test_the_order_of_the_rows_does_not_matter():
    rows = study(GAINS)
    assert pooled(rows, FEW) == pooled(rows[::-1], FEW)


# ends and duels


def fronted(adapter="a", height=1.0):
    """Tuned at (1, 0) and aligned at (3, 2) in (loss, margin); random halfway, the method above."""
    flat = {
        "tuned": (0.0, 1.0, 0.0),
        "aligned": (1.0, 3.0, 2.0),
        "random": (0.5, 2.0, 1.0),
        "own": (0.5, 2.0, 1.0 + height),
    }
    rows = []
    for method, (share, loss, margin) in flat.items():
        for draw, by in enumerate((-0.1, 0.1)) if method == "random" else ((None, 0.0),):
            margins = (margin + by - 1, margin + by + 1)
            rows.append(row(adapter, method, share, margins, (loss,) * 3, draw=draw))
    return rows


def test_a_duel_is_paired_by_adapter_and_prompt():
    rows = study(GAINS)
    told = {one.method: one for one in duels(rows, "better", FEW)}
    assert set(told) == {"equal", "worse"}, "a method has no duel with itself"
    worse = told["worse"]
    assert worse.refusal.figure.value == pytest.approx(-0.4)
    assert worse.refusal.figure.n == 3
    assert worse.wins == (0, 3)
    assert worse.refusal.figure.low > -0.5
    assert worse.refusal.figure.high < -0.3
    assert {one.wins for one in duels(rows, "worse", FEW)} == {(3, 3)}
    assert duels(rows, "absent", FEW) == ()


# causes


def cause(layer, projection, margin, loss, *, removed=None, alone=None, **scores):
    name = f"model.layers.{layer}.self_attn.{projection}"
    return CausalRow("a", name, Effect(-margin, -margin, -loss), removed, alone, scores)


def caused():
    """Twelve modules; `points` ranks them as their effect does, `away` the other way round."""
    random = np.random.default_rng(5)
    rows = []
    for at, effect in enumerate(random.permutation(12) + 1.0):
        told = {
            "points": effect**3,
            "away": -effect,
            "flat": 1.0,
            "some": effect if at < 6 else None,
        }
        true = {
            "removed": Effect(2 * effect, 2 * effect, 0.2),
            "alone": Effect(-effect, -effect, -0.1),
        }
        rows.append(cause(at // 2, "qo"[at % 2] + "_proj", effect, 0.1, **true, **told))
    return rows


def correlations(rows):
    return {(one.x, one.how, one.target, one.scope): one for one in culprits(rows, FEW)}


def test_a_score_that_points_at_the_culprits_correlates():
    told = correlations(caused())
    for how in ("first order", "true removal"):
        for scope in ("all", "q_proj", "o_proj"):
            assert told["points", how, "refusal", scope].spearman.value == pytest.approx(1)
            assert told["away", how, "refusal", scope].spearman.value == pytest.approx(-1)
    assert told["points", "first order", "refusal", "q_proj"].spearman.n == 6
    assert told["flat", "first order", "refusal", "all"].spearman.value is None
    assert told["some", "first order", "refusal", "all"].spearman.n == 6


def test_the_same_scores_under_two_names_count_once():
    rows = [cause(at, "q_proj", at, 0.1, some=at, same=at, other=-at) for at in range(6)]
    assert {x for x, *_ in correlations(rows)} == {"some", "other", "projection type"}


def test_the_first_order_is_held_against_both_measured_effects():
    told = correlations(caused())
    for how in ("true removal", "kept alone"):
        one = told["first order", how, "refusal", "all"]
        assert (one.spearman.value, one.pearson.value) == pytest.approx((1, 1))


def test_correlations_are_those_of_scipy_and_the_interval_that_of_resampled_modules():
    random = np.random.default_rng(1)
    x, y = np.round(random.normal(size=(2, 60)), 1)  # with ties
    rows = [cause(at, "q_proj", b, 0.1, x=a) for at, (a, b) in enumerate(zip(x, y, strict=True))]
    one = correlations(rows)["x", "first order", "refusal", "all"]
    assert one.spearman.value == pytest.approx(spearmanr(x, y).statistic)
    assert one.pearson.value == pytest.approx(pearsonr(x, y).statistic)
    counts = FEW.counts(60, "modules")[1:].astype(int)
    again = [spearmanr(np.repeat(x, c), np.repeat(y, c)).statistic for c in counts]
    assert (one.spearman.low, one.spearman.high) == pytest.approx(
        tuple(np.quantile(again, (0.025, 0.975)))
    )


def test_culprits_per_loss():
    rows = [cause(0, "q_proj", 4, 2), cause(1, "q_proj", 3, 1), cause(2, "q_proj", 1, -1)]
    told = effects(rows, "first order")
    least = (2 + 1 + 1) / 3 / 10
    assert told["refusal"] == pytest.approx([4, 3, 1])
    assert told["refusal per loss"] == pytest.approx([2, 3, 1 / least])
    assert np.isnan(effects(rows, "true removal")["refusal"]).all()
    some = [*rows, dataclasses.replace(rows[0], module="x.q_proj", removed=Effect(1, 1, -1))]
    told = effects(some, "true removal")["refusal per loss"]
    assert told[-1] == pytest.approx(10)  # the tenth is that of the modules measured


def test_parts_are_shares_of_the_absolute_effect():
    rows = [
        cause(0, "q_proj", 1, 0.0),
        cause(1, "o_proj", -2, 0.0),
        cause(2, "o_proj", 1, 0.0, removed=Effect(1, 1, 1)),
    ]
    told = {(one.how, one.part): one for one in parts(rows)}
    shares = {part: one.refusal for (how, part), one in told.items() if how == "first order"}
    assert shares == {
        "o_proj": 0.75, "q_proj": 0.25, "first third": 0.25, "middle third": 0.5, "last third": 0.25
    }  # fmt: skip
    assert told["first order", "q_proj"].loss is None
    assert told["true removal", "o_proj"].refusal == 1
    assert ("true removal", "q_proj") not in told


def test_causal_rows_come_back(tmp_path):
    rows = tuple(caused())
    for one in rows:
        append_row(tmp_path / "causal.jsonl", one)
    assert read_causal(tmp_path / "causal.jsonl") == rows
    lines = check_lines("causal", (tmp_path / "causal.jsonl").read_text())
    assert None in [line["scores"]["some"] for line in lines]


# main table and pages


def small(name="a"):
    """One adapter; what is not measured is left out."""
    said = Replies((True, False, None, True), (False, False, False, True))
    rows = [
        row(method="tuned", share=0.0, margins=(0.0, 0.0), losses=(1.0, 1.0, 1.0)),
        row(method="random", draw=0, margins=(1.0, 1.0), losses=(1.5, 1.5, 1.5)),
        row(method="random", draw=1, margins=(2.0, 2.0), losses=(1.5, 1.5, 1.5)),
        row(margins=(3.0, 3.0), losses=(1.25, 1.25, 1.25), replies=said),
        row(method="other", share=0.5),
    ]
    return [dataclasses.replace(one, adapter=name) for one in rows]


def test_the_main_lines_have_references_random_and_what_was_chosen_at_the_share():
    lines = {one.method: one for one in main_lines(small(), ("a",), 0.25, FEW)}
    assert list(lines) == ["tuned", "random", "s3lora"]
    assert lines["random"].draws == 2
    assert lines["random"].spread == pytest.approx((0.5**0.5, 0.5**0.5, None, 0.0))
    refused = lines["s3lora"].refused
    assert (refused.value, refused.n) == (pytest.approx(2 / 3), 3)
    assert (refused.low, refused.high) == wilson(2, 3)
    assert lines["s3lora"].over_refused.value == 0.25
    assert lines["s3lora"].benign is None
    assert lines["random"].refused is None


def test_a_mean_over_adapters_has_no_interval():
    rows = [one for name in "ab" for one in small(name)]
    (line,) = [x for x in main_lines(rows, ("a", "b"), 0.25, FEW) if x.method == "s3lora"]
    assert (line.adapters, line.refusal.value, line.refusal.n) == (2, 3.0, 2)
    assert line.refused.value == pytest.approx(2 / 3)
    assert {x.low for x in (line.refusal, line.margin, line.loss, line.refused)} == {None}


MAIN = """\
| method | adapters | draws | refusal log-odds (n=2) | refusal margin (n=2) | benign log-odds | loss (n=3) | refused (n=3) | over-refused (n=4) |
| ------ | -------: | ----: | ---------------------: | -------------------: | --------------: | ---------: | ------------: | -----------------: |
| tuned | 1 | – | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] | – | 1.000 [1.000, 1.000] | – | – |
| random | 1 | 2 | 1.50 ± 0.71 | 1.50 ± 0.71 | – | 1.500 ± 0.000 | – | – |
| s3lora | 1 | – | 3.00 [3.00, 3.00] | 3.00 [3.00, 3.00] | – | 1.250 [1.250, 1.250] | 0.67 [0.21, 0.94] | 0.25 [0.05, 0.70] |
"""  # noqa: E501

RANDOM = """\
| s3lora |  0.25 | 2 |        1 |     2 |   3.00 | +1.50 [+1.50, +1.50] |               100 |  1/1 | 1.250 | −0.250 [−0.250, −0.250] |             100 |  1/1 | – |
| other  |   0.5 | 4 |        1 |     – |   1.50 |                    – |                 – |    – | 1.000 |                       – |               – |    – | – |
"""  # noqa: E501


def cells(text):
    return [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]


def test_the_tables_of_a_tiny_study(tmp_path):
    paths = write_tables(small(), (), tmp_path, bootstrap=FEW)
    assert [path.name for path in paths] == ["main.md", "random.md", "front.md"]
    main = paths[0].read_text().split("## a\n\n")[1].partition("\n\n")[0]
    assert cells(main)[0] == cells(MAIN)[0]
    assert cells(main)[2:] == cells(MAIN)[2:]
    told, _, note = paths[1].read_text().split("## a\n\n")[1].partition("\n\n")
    assert note == f"{OVER_ITEMS}\n"
    assert sorted(cells(told)[2:]) == sorted(cells(RANDOM))
    assert all(len({len(line) for line in block.splitlines()}) == 1 for block in (main, told))


def test_the_same_rows_give_the_same_tables(tmp_path):
    rows, causes = study(GAINS), caused()
    one = write_tables(rows, causes, tmp_path / "one", bootstrap=FEW)
    other = write_tables(rows[::-1], causes[::-1], tmp_path / "other", bootstrap=FEW)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert "nan" not in "".join(path.read_text() for path in one)


def test_a_study_without_rows_has_tables_that_say_so(tmp_path):
    for path in write_tables((), (), tmp_path):
        assert "Nothing measured yet." in path.read_text()


def test_a_table_in_markdown():
    assert markdown(["a", "number"], [["long", "1"], ["–", "22"]]) == (
        "| a    | number |\n| ---- | -----: |\n| long |      1 |\n| –    |     22 |\n"
    )


def test_numbers():
    assert [number(x) for x in (None, -0.001, -1.005, 2)] == ["–", "0.00", "−1.00", "2.00"]
    assert number(0.5, 1, "+") == "+0.5"
    assert interval(None) == "–"


# plots


def test_plots_are_drawn_and_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    rows, causes = [*fronted("a"), *fronted("b")], caused()
    one = write_plots(rows, causes, tmp_path / "one", bootstrap=FEW)
    other = write_plots(rows[::-1], causes[::-1], tmp_path / "other", bootstrap=FEW)
    names = ["front.svg", "percentiles.svg", "effects.svg", "scores.svg", "first-order.svg"]
    assert [path.name for path in one] == names
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    front = one[0].read_text()
    assert all(f">{text}</text>" in front for text in ("own", "tuned", "aligned", "random draws"))
    assert "<dc:date>" not in front


def test_plots_show_the_methods_asked_for_and_nothing_where_nothing_is(tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_plots(fronted(), (), tmp_path, methods=(), bootstrap=FEW)
    assert [path.name for path in paths] == ["front.svg"]
    assert ">own</text>" not in paths[0].read_text()
    assert write_plots((), (), tmp_path, bootstrap=FEW) == ()


def test_plots_without_matplotlib_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ParameterError, match="matplotlib") as told:
        write_plots(fronted(), (), tmp_path)
    assert "install" in told.value.hint


def test_rows_are_lines_of_json(tmp_path):
    append_row(tmp_path / "rows.jsonl", row())
    (line,) = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert json.loads(line)["tokens"] == list(TOKENS)


# validity


def test_figures_are_held_against_replies():
    verdicts = (True, True, False, None, False)
    told = Replies(verdicts, ())
    one = row(margins=(3.0, 2.0, 1.0, 9.0), replies=told)  # the fifth prompt has no figure
    other = dataclasses.replace(one, method="x", log_odds=(1.0, 2.0, 3.0, 9.0))
    odds, margin = validity([one, other, row(method="y")])
    assert (odds.rows, odds.prompts) == (2, 3)
    assert margin.within == margin.pooled == 1
    assert odds.within == pytest.approx(0.5)  # 1 in one row, 0 in the other
    assert odds.pooled == pytest.approx(4 / 8)  # 3 2 1 2 against 1 3, ties half
    assert odds.rates is None
    assert validity([row()]) == ()
