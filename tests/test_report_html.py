"""The page without a browser: that it holds everything, that text stays text, what it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages import HOSTILE, MANY, OUTSIDE, ZERO, made_up, scanned, write_many
from s3lora import compare, open_adapter, scan
from s3lora.findings import Finding
from s3lora.report import PlanFacts, make_comparison, make_ranking
from s3lora.report.html import embedded, render
from s3lora.report.html_command import choice, command, listed, word
from s3lora.report.html_words import SHOWN, short, told
from s3lora.report.places import places_of
from s3lora.scores import ScoreTable
from s3lora.selection import Among, ByLayer, Fraction, Named, Outliers, Threshold, TopK


class Elements(HTMLParser):
    """All elements with their attributes and the text directly in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        self.found.append(("/", {}, []))

    def handle_data(self, data):
        if self.found:
            self.found[-1][2].append(data)

    def of(self, tag):
        return [(attrs, "".join(text)) for name, attrs, text in self.found if name == tag]


def data_of(page: str):
    return json.loads(next(t for a, t in Elements(page).of("script") if a.get("id") == "data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("adapters") / "many")


@pytest.fixture(scope="module")
def pages(folder):
    """A page of each kind."""
    adapter = open_adapter(folder)
    tables = tuple(scan(adapter, name) for name in ("s3lora", "magnitude", "random"))
    return {
        "scan": render(scanned(folder)),
        "rank": render(make_ranking(adapter, tables, 4)),
        "compare": render(make_comparison(adapter, adapter, compare(adapter, adapter))),
    }


@pytest.mark.parametrize("kind", ["scan", "rank", "compare"])
def test_nothing_is_fetched_and_only_what_was_put_there_may_run(pages, kind):
    found = Elements(pages[kind])
    for tag, attrs, _ in found.found:
        assert "src" not in attrs, tag
        assert "style" not in attrs, tag
        assert not [key for key in attrs if key.startswith("on")], tag
        assert (attrs.get("href") or "#").startswith(("#", "data:,")), tag
    (policy,) = (a["content"] for a, _ in found.of("meta") if "http-equiv" in a)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    (style,) = found.of("style")
    script = found.of("script")[1]
    for rule, (_, text) in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_page_of_600_modules_is_below_a_megabyte():
    names = tuple(
        f"base_model.model.model.layers.{layer}.self_attn.{leaf}"
        for layer in range(86)
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    for rank in (16, 256):
        page = render(made_up(names, rank))
        assert len(page.encode()) < 1_000_000
        data = data_of(page)
        assert len(data["names"]) == 602
        assert data["lengths"][0] == rank
        assert len(data["spectra"][0]["update"]) == min(rank, 60_000 // 602)


def test_text_of_a_file_stays_text():
    page = render(made_up())
    found = Elements(page)
    assert [attrs for attrs, _ in found.of("script")] == [
        {"type": "application/json", "id": "data"}, {},
    ]  # fmt: skip
    assert not found.of("img")
    assert "<!--" not in page
    assert "49" not in "".join(text for _, text in found.of("span") if "7*7" in text)
    assert all(c.isprintable() or c == "\n" for c in page), "controls and marks are escaped"
    page.encode()  # no half of a surrogate pair
    assert "\\u202e" in page
    assert "x" * 1000 not in page
    assert "9700 characters" in page


def test_the_names_in_the_data_are_the_names_as_they_are_shown():
    shown = data_of(render(made_up()))["names"]
    assert sorted(shown) == sorted(short(name) for name in HOSTILE)


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_embedded_json_cannot_end_its_element(value):
    text = embedded(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_embedded_json_never_holds_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def test_the_scores_are_written_in_full(folder):
    report = scanned(folder)
    data = data_of(render(report))
    values = {s.module: s.value for s in report.table.scores}
    assert data["names"] == list(report.modules)
    assert data["measures"][0]["values"] == [values.get(name) for name in report.modules]
    at = data["names"].index(ZERO)
    assert data["measures"][0]["why"] == {str(at): "zero update"}
    assert data["norm"][at] == 0


def test_a_figure_for_each_module_does_not_square_the_page():
    data = data_of(render(made_up(tuple(f"m{n}" for n in range(100)))))
    assert len(data["measures"][0]["parts"]) == 40


def test_findings_say_what_and_what_to_do_and_are_counted():
    many = [Finding("unknown-tensor", "low", f"t{n}", f"odd {n}") for n in range(SHOWN + 7)]
    high = Finding("non-finite", "high", "a", "holds NaN")
    groups = told([*many, high, Finding("future-rule", "medium", "b", "new")])
    assert [(g.severity, g.rule) for g in groups] == [
        ("high", "non-finite"), ("medium", "future-rule"), ("low", "unknown-tensor"),
    ]  # fmt: skip
    assert (len(groups[2].places), groups[2].more) == (SHOWN, 7)
    assert all(group.what and group.advice for group in groups)
    page = render(made_up())
    assert page.index("What was found") < page.index("What to do:") < page.index('id="maps"')


def test_every_number_of_a_plan_is_there(folder):
    report = scanned(folder)
    plan = PlanFacts(report.chosen, "zero", {}, "minimal", False, {}, ("a note <b>",))
    report = type(report)(**{f: getattr(report, f) for f in report.__slots__} | {"plan": plan})
    page = render(report)
    assert "a note &lt;b&gt;" in page
    data = data_of(page)
    assert "--edit zero" in data["measures"][0]["command"]["tail"]
    assert data["drops"] is False


TABLE = ScoreTable("s3lora", {"keep": 3, "fit": "dense"}, "high", ())


@pytest.mark.parametrize("ref", ["plain", "with space", "it's", "$(rm)", "a;b", "-x", "ü/模"])
def test_the_command_is_safe_to_paste(ref):
    made = command(ref, TABLE)
    words = shlex.split(f"{made['head']} {made['tail']}")
    assert words == [
        "s3lora", "prune", f"./{ref}" if ref == "-x" else ref,
        "-m", "s3lora", "-p", "keep=3", "-p", "fit=dense", "-o", "pruned",
    ]  # fmt: skip
    assert made["note"] == ""


@pytest.mark.parametrize("ref", ["a\nb", "\x1b[201~", "\u202eabc", ""])
def test_what_cannot_be_pasted_has_no_command(ref):
    assert word(ref) is None
    assert command(ref, TABLE) is None


def test_the_command_names_the_weights_a_method_or_an_edit_needs():
    made = command("a", ScoreTable("safe-lora", {}, "low", ()))
    assert made["tail"].startswith("--base BASE --aligned ALIGNED -m safe-lora")
    assert "BASE and ALIGNED" in made["note"]
    params = {"projection": "subspace", "energy": 0.5}
    plan = PlanFacts((), "project", params, "fused-safe", True, {}, ())
    made = command("a", TABLE, plan)
    assert "--edit project -e projection=subspace -e energy=0.5" in made["tail"]
    assert "--target fused-safe --fold-scale" in made["tail"]
    assert "--base BASE" in made["tail"]
    merged = PlanFacts(
        (), "merge", {"with": "s p", "sha256": "0", "weight": 0.2}, "minimal", False, {}, ()
    )
    assert "--edit merge -e weight=0.2 --with 's p'" in command("a", TABLE, merged)["tail"]


def test_a_list_with_commas_takes_no_part_that_has_one():
    assert listed("v_proj") == "v_proj"
    assert listed("o proj") == "'o proj'"
    assert [listed(text) for text in ("a,b", " a", "a ", "", "a\x00")] == [None] * 5


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (TopK(3), {"kind": "top-k", "value": 3, "among": None}),
        (Threshold(-0.5), {"kind": "threshold", "value": -0.5, "among": None}),
        (Outliers(2), {"kind": "outliers", "value": 2, "among": None}),
        (Among(("a", "b"), TopK(1)), {"kind": "top-k", "value": 1, "among": ["a", "b"]}),
    ],
)
def test_the_control_starts_with_the_policy_that_was_asked_for(policy, expected):
    asked = SimpleNamespace(policy_name=policy.name, policy_params=policy.params)
    assert choice(asked) == expected


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Fraction(0.1), "--fraction=0.1"),
        (ByLayer(TopK(2)), "--top-k=2 --granularity=layer"),
        (Among(("a", "b c"), Fraction(1)), "--fraction=1 --among=a,'b c'"),
        (Named(("x", "y")), "--modules=x,y"),
        (Named(("x,y",)), None),
        (Among(("a,b",), Fraction(1)), None),
    ],
)
def test_a_policy_without_a_control_is_kept_as_it_was_asked_for(policy, words):
    asked = SimpleNamespace(policy_name=policy.name, policy_params=policy.params)
    assert (choice(asked)["kind"], choice(asked)["words"]) == ("asked", words)


def test_places_are_layers_against_projections():
    found = places_of([*MANY, OUTSIDE, "encoder.0.fc", "encoder.1.fc", "5.x"])
    assert [(s.path, s.labels) for s in found.stacks] == [
        ("encoder", ("fc",)),
        ("model.layers", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("", ("x",)),
    ]
    at = found.places[MANY.index("model.layers.11.self_attn.v_proj")]
    assert (at.stack, at.layer, at.projection) == (1, 11, 2)
    assert found.places[len(MANY)] is None


def test_projections_with_one_last_part_are_told_apart():
    (stack,) = places_of(["l.0.a.fc", "l.0.b.fc", "l.0.b.q"]).stacks
    assert stack.labels == ("a.fc", "b.fc", "q")


def test_modules_that_would_make_a_map_of_holes_are_shown_apart():
    found = places_of([f"l.{n}.p{n}" for n in range(400)])
    assert found.stacks == ()
    assert set(found.places) == {None}


def test_the_agreement_is_in_the_page_of_a_ranking(pages):
    cells = [text for attrs, text in Elements(pages["rank"]).of("td") if "data-rho" in attrs]
    assert len(cells) == 6, "three methods, but not with themselves"
    assert all(re.match(r"[+-]\d\.\d\d$", text.strip()) for text in cells)


def test_a_comparison_says_in_words_what_is_equal(pages):
    assert "<b>49</b> same" in pages["compare"]
    assert data_of(pages["compare"])["statuses"] == ["same"] * 49


def test_what_is_odd_alike_in_many_places_is_one_row_with_three_of_them():
    (group,) = told([Finding("unknown-tensor", "low", f"t{n}", "odd") for n in range(448)])
    assert group.places == (("448 places, such as t0, t1, t2", "odd"),)
    assert (group.count, group.more) == (448, 0)
