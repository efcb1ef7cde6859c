"""Figures for papers: vectors that hold what the result says, the same bytes every time."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pages import HOSTILE, HOSTILE_MAP, MANY, ZERO, made_up, one_of_each, write_many
from s3lora.cli import cli
from s3lora.errors import ParameterError
from s3lora.report.json import render as render_json
from s3lora.report.plot import FIGURES, render
from s3lora.report.plot_values import agreements, spectra_of, values_of

pytestmark = pytest.mark.needs("matplotlib")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A result of each kind."""
    folder = write_many(tmp_path_factory.mktemp("a") / "many")
    return one_of_each(folder, tmp_path_factory.mktemp("b") / "out")


def run(*words: object):
    return CliRunner().invoke(cli, ["plot", *map(str, words)])


def saved(result, folder: Path) -> Path:
    file = folder / "result.json"
    file.write_text(render_json(result), encoding="utf-8")
    return file


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())


@pytest.mark.parametrize("kind", ["scan", "rank", "compare"])
@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_a_saved_result_becomes_a_vector_and_always_the_same(results, tmp_path, kind, form):
    file, out = saved(results[kind], tmp_path), tmp_path / "new" / f"fig.{form}"
    told = run(file, "-o", out)
    assert told.exit_code == 0, told.output
    raw = out.read_bytes()
    assert raw.startswith({"pdf": b"%PDF", "svg": b"<?xml"}[form])
    assert b"<image" not in raw
    assert b"/Subtype /Image" not in raw
    assert run(file, "-o", out).exit_code == 0
    assert out.read_bytes() == raw
    assert [path.name for path in out.parent.iterdir()] == [f"fig.{form}"]


def test_the_map_has_the_layers_the_projections_and_the_marks(results):
    svg = render(results["scan"], "heat", "svg")
    shown = texts(svg)
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "0", "11", "s3lora"} <= set(shown)
    assert "layer of model.layers" in shown
    values = values_of(results["scan"], "")
    assert values.of[ZERO] is None
    assert sum(value is not None for value in values.of.values()) == 48
    assert values.chosen == set(results["scan"].chosen)
    bare = render(replace(results["scan"], chosen=()), "heat", "svg")
    assert svg.count(b"<use") - bare.count(b"<use") == len(
        set(results["scan"].chosen) - {"lm_head"}
    )


def test_spectra_are_those_of_the_modules_to_look_at_first(results):
    ranked = results["scan"].table.ranked()
    found = spectra_of(results["scan"], "")
    assert [name for name, _ in found] == [score.module for score in ranked]
    shown = texts(render(results["scan"], "spectra", "svg", top=4))
    titles = [text for text in shown if text.startswith("model")]
    assert titles == [score.module for score in ranked[:4]]
    assert {"update", "robust rebuild"} <= set(shown)
    first, *_ = spectra_of(results["compare"], "")
    assert first[1].keys() == {"a"}, "what is in one alone comes first"


def test_the_agreement_has_both_figures_of_every_pair(results):
    grid = agreements(results["rank"])
    for pair in results["rank"].agreement:
        a, b = (results["rank"].labels.index(label) for label in (pair.a, pair.b))
        assert (grid[a][b], grid[b][a]) == (pair.spearman, pair.overlap)
    shown = texts(render(results["rank"], "agreement", "svg"))
    for pair in results["rank"].agreement:
        assert f"{pair.spearman:+.2f}" in shown
        assert f"{pair.overlap:.0%}" in shown


def test_a_method_of_a_ranking_is_drawn_by_its_label(results):
    shown = texts(render(results["rank"], "heat", "svg", method="magnitude"))
    assert "magnitude" in shown
    with pytest.raises(ParameterError, match="no method 'magnitud'"):
        render(results["rank"], "heat", "svg", method="magnitud")


def test_hostile_names_are_text(tmp_path):
    for figure, names in (("heat", HOSTILE_MAP), ("spectra", HOSTILE_MAP), ("spectra", HOSTILE)):
        svg = render(made_up(names), figure, "svg", top=20).decode()
        assert "<script" not in svg
        assert "\x00" not in svg
        assert "\u202e" not in svg
        assert ("$\\frac{1}{$" in svg) == (names is HOSTILE_MAP)
        assert render(made_up(names), figure, "pdf").startswith(b"%PDF")


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("scan", ["--figure", "agreement"], "agreement is between methods"),
        ("scan", ["-m", "rows"], "no method 'rows'"),
        ("compare", ["-m", "s3lora"], "no method 's3lora'"),
        ("scan", ["--top", "0"], "Invalid value for '--top'"),
    ],
)
def test_what_a_result_does_not_have_is_refused(results, tmp_path, kind, words, message):
    told = run(saved(results[kind], tmp_path), "-o", tmp_path / "f.svg", *words)
    assert told.exit_code == 2
    assert message in told.output
    assert not (tmp_path / "f.svg").exists()


def test_a_result_without_spectra_or_layers_says_so(results):
    bare = replace(results["rank"], series={})
    with pytest.raises(ParameterError, match="holds no spectra"):
        render(bare, "spectra", "svg")
    with pytest.raises(ParameterError, match="in a layer"):
        render(made_up(("a", "b")), "heat", "svg")


def test_only_vectors_are_written(results, tmp_path):
    file = saved(results["scan"], tmp_path)
    told = run(file, "-o", tmp_path / "fig.png")
    assert (told.exit_code, "does not end in .pdf or .svg" in told.output) == (2, True)
    told = run(file, "-o", tmp_path)
    assert told.exit_code == 2
    (tmp_path / "folder.svg").mkdir()
    told = run(file, "-o", tmp_path / "folder.svg")
    assert (told.exit_code, "is a folder" in told.output) == (2, True)


def test_without_matplotlib_the_extra_is_named(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ParameterError, match="plots need matplotlib") as caught:
        render(results["scan"], "heat", "svg")
    assert "[plot]" in caught.value.hint


def test_the_command_offers_what_there_is():
    figure = next(p for p in cli.commands["plot"].params if p.name == "figure")
    assert list(figure.type.choices) == list(FIGURES)
    assert len(MANY) == 48


def test_scores_that_no_axis_can_show_are_an_error_of_ours():
    names = ("model.layers.0.q_proj", "model.layers.1.q_proj")
    report = made_up(names, skipped=0)
    scores = tuple(
        replace(score, value=sign * 1.79e308)
        for score, sign in zip(report.table.scores, (1, -1), strict=True)
    )
    report = replace(report, table=replace(report.table, scores=scores))
    with pytest.raises(ParameterError, match="beyond what an axis can show"):
        render(report, "heat", "svg")
