"""The page in a real browser: what is seen, what is chosen, the keyboard, hostile names."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pages import (
    HOSTILE,
    HOSTILE_MAP,
    MANY,
    OUTSIDE,
    ZERO,
    made_up,
    one_of_each,
    scanned,
    write_many,
)
from s3lora import open_adapter
from s3lora.adapter import ModuleName, natural_key, projection_of
from s3lora.cli import cli
from s3lora.report.html import PAGE, render
from s3lora.report.html_words import short
from s3lora.scores import Score, ScoreTable
from s3lora.selection import Among, Fraction, Outliers, Threshold, TopK

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HARMLESS = "file:///", "data:,"


def missing(what: str) -> None:
    """Skip; in continuous integration, which promises a browser, fail."""
    why = f"no {what}: pip install playwright, and apt-get install chromium"
    if os.environ.get("S3LORA_BROWSER") == "required":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    with sync_playwright() as driver:
        # A container has no user namespaces for the sandbox; the pages are our own.
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("an adapter's place") / "many $HOME")


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """A result of each kind."""
    return one_of_each(folder, tmp_path_factory.mktemp("pruned") / "out")


@pytest.fixture
def show(browser, tmp_path):
    """Open a result as a page; what the browser complains of or asks for ends the test."""
    contexts, troubles = [], []

    def opened(result, size=DESKTOP, scheme="light"):
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(render(result), encoding="utf-8")
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on(
            "request",
            lambda asked: asked.url.startswith(HARMLESS) or troubles.append(asked.url),
        )
        requests: list[str] = []
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(file.as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def chosen(page) -> list[str]:
    """The names of the modules that the map marks."""
    cells = page.locator("#maps .cell.chosen")
    labels = cells.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    listed = page.locator("#chosen .name").all_text_contents()
    assert sorted(label.split(", ")[0] for label in labels) == sorted(listed)
    return listed


def set_number(page, value: object) -> None:
    page.locator("#number").fill(str(value))


def run_shown(page) -> list[str]:
    """What the shown command chooses when it runs."""
    words = shlex.split(page.locator("#command").text_content())
    assert words[:2] == ["s3lora", "prune"]
    assert words[-2:] == ["-o", "pruned"]
    told = CliRunner().invoke(cli, [*words[1:-2], "--dry-run", "--format", "json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)["chosen"]


@pytest.mark.parametrize("kind", ["scan", "rank", "compare"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_opens_without_errors_requests_or_overflow(show, results, kind, size):
    page = show(results[kind], size)
    assert page.locator("#maps .cell").count() == 49
    assert page.locator("#table tbody tr").count() == 49
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(page.screenshot()) > 20_000


def test_the_findings_come_first(show):
    page = show(made_up())
    tops = [page.locator(at).bounding_box()["y"] for at in ("#found", "#map", "#choice", "#rows")]
    assert tops == sorted(tops)
    assert page.locator(".finding.high").count() == 1
    assert "What to do:" in page.locator(".finding.high").text_content()


def tables(count: int):
    """Tables with ties, zeros of both signs, huge and tiny numbers, of 0 to 40 modules."""
    rng = random.Random(6)
    pools = ([0.0, -0.0, 1.0], [0.1, 0.2, 0.3, 0.30000000000000004], [-1e300, 1e300, 5e-324, 3.0])
    for number in range(count):
        size = rng.randrange(41)
        pool = pools[number % 4] if number % 4 < 3 else [rng.gauss(0, 1) for _ in range(99)]
        names = {f"l.{rng.randrange(99)}.{rng.choice('qkv')}" for _ in range(size)}
        scores = tuple(
            Score(ModuleName(n), rng.choice(pool)) for n in sorted(names, key=natural_key)
        )
        yield ScoreTable("made-up", {}, rng.choice(("high", "low")), scores)


def cases(table: ScoreTable):
    """Policies for a table, at scores and z values themselves too, with what they choose."""
    rng = random.Random(len(table.scores))
    values = [score.value for score in table.scores] or [0.0]
    policies = [TopK(rng.randrange(len(table.scores) + 1))]
    policies += [Threshold(rng.choice(values)), Threshold(0.2)]
    policies += [Outliers(z) for z in (0.0, 0.6744907594765952, 2.5, -1.0)]
    at = {score.module: number for number, score in enumerate(table.scores)}
    projections = {projection_of(score.module) for score in table.scores}
    for policy in policies:
        (value,) = policy.params.values()
        kept = [[n, score.value] for n, score in enumerate(table.scores)]
        yield policy.name, value, kept, [at[name] for name in policy(table)]
        for leaf in projections:
            some = [[n, v] for n, v in kept if projection_of(table.scores[n].module) == leaf]
            inner = TopK(min(value, len(some))) if isinstance(policy, TopK) else policy
            names = Among((leaf,), inner)(table)
            value = next(iter(inner.params.values()))
            yield policy.name, value, some, [at[name] for name in names]


def test_the_script_chooses_what_the_library_chooses(browser):
    asked, expected = [], []
    with np.errstate(all="ignore"):
        for table in tables(200):
            for kind, value, scores, names in cases(table):
                asked.append([kind, value, scores, 1 if table.unsafe == "high" else -1])
                expected.append(names)
    page = browser.new_page()
    source = (PAGE / "policy.js").read_text(encoding="utf-8")
    got = page.evaluate(
        f"(cases) => {{ {source}\n return cases.map((one) => chosenBy(...one)); }}", asked
    )
    page.close()
    assert len(asked) > 2000
    assert sum(map(len, expected)) > 5000
    wrong = [(case, e, g) for case, e, g in zip(asked, expected, got, strict=True) if e != g]
    assert wrong == []


def test_the_slider_changes_what_is_chosen_and_what_is_said(show, results):
    page = show(results["scan"])
    report = results["scan"]
    assert chosen(page) == list(report.chosen)
    page.locator("#slider").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    k = len(report.chosen) + 3
    assert chosen(page) == list(TopK(k)(report.table))
    assert page.locator("#number").input_value() == str(k)
    assert page.locator("#sum").text_content().startswith(f"{k} of 49 modules")
    assert page.locator("#table tr.chosen").count() == k


def test_the_shares_are_those_of_the_weights(show, results, folder):
    page = show(results["scan"])
    adapter = open_adapter(folder)
    names = chosen(page)
    read = {n: adapter.read(n) for n in adapter.names}
    energy = {n: np.linalg.norm(m.scaling * m.B @ m.A) ** 2 for n, m in read.items()}
    size = {n: m.A.size + m.B.size for n, m in read.items()}
    told = re.findall(r"([\d.]+) %", page.locator("#sum").text_content())
    assert told == [
        f"{100 * sum(part[n] for n in names) / sum(part.values()):.1f}" for part in (size, energy)
    ]


@pytest.mark.parametrize("kind", ["top-k", "threshold", "outliers"])
@pytest.mark.parametrize("projections", [None, ("v_proj", "o_proj")], ids=["all", "some"])
def test_the_command_makes_the_choice_that_is_shown(show, results, kind, projections):
    page = show(results["scan"])
    page.check(f"input[value='{kind}']")
    started = chosen(page)
    if kind != "outliers":
        assert len(started) == len(results["scan"].chosen), "it starts where the last one was"
    if projections:
        for box in page.locator("#among label").all():
            box.locator("input").set_checked(box.text_content().strip() in projections)
    ranked = results["scan"].table.ranked()
    values = [s.value for s in ranked if not projections or projection_of(s.module) in projections]
    limits = values[8], round(values[3] - 1e-6, 6)
    for value in {"top-k": (1, 7), "threshold": limits, "outliers": (0.5, -0.25)}[kind]:
        set_number(page, value)
        shown = chosen(page)
        assert shown
        assert run_shown(page) == shown
        assert not projections or {projection_of(name) for name in shown} <= set(projections)


def test_the_command_of_another_method_is_of_that_method(show, results):
    page = show(results["rank"])
    page.select_option("#measure", label="magnitude")
    assert "-m magnitude" in page.locator("#command").text_content()
    set_number(page, 6)
    assert chosen(page) == list(TopK(6)(results["rank"].tables[1]))
    assert run_shown(page) == chosen(page)


def test_a_policy_without_a_control_is_kept_until_another_is_taken(show, folder):
    report = scanned(folder, Fraction(0.3))
    page = show(report)
    assert chosen(page) == list(report.chosen) == run_shown(page)
    assert page.locator("#amount").is_hidden()
    page.check("input[value='top-k']")
    assert chosen(page) == list(TopK(len(report.chosen))(report.table))


def test_what_cannot_be_done_is_said(show, results):
    page = show(results["scan"])
    for box in page.locator("#among input").all():
        box.uncheck()
    assert chosen(page) == []
    assert "No projection is ticked" in page.locator("#command-note").text_content()
    assert page.locator("#command").is_hidden()
    whole = made_up(tuple(f"l.{n}.q" for n in range(3)), skipped=0)
    page = show(whole)
    set_number(page, 3)
    assert "No module would stay" in page.locator("#command-note").text_content()
    set_number(page, 99)
    page.locator("#number").blur()
    assert page.locator("#number").input_value() == "3"


def test_the_map_is_one_stop_for_tab_and_arrows_move_in_it(show, results):
    page = show(results["scan"])
    assert page.locator("#maps .cell[tabindex='0']").count() == 1
    cell = page.locator(f"#maps .cell[aria-label^='{MANY[0]},']")
    page.locator("#by").focus()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert results["scan"].table.ranked()[0].module in focused.get_attribute("aria-label")
    cell.focus()
    for key, name in (
        ("ArrowRight", "model.layers.1.self_attn.q_proj"),
        ("ArrowDown", "model.layers.1.self_attn.k_proj"),
        ("End", "model.layers.11.self_attn.k_proj"),
        ("ArrowRight", "model.layers.11.self_attn.k_proj"),
        ("ArrowUp", "model.layers.11.self_attn.q_proj"),
        ("Home", "model.layers.0.self_attn.q_proj"),
    ):
        page.keyboard.press(key)
        assert page.locator(":focus").get_attribute("aria-label").startswith(f"{name},"), key
    assert page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#module-name").text_content() == MANY[0]
    assert page.locator("#maps .cell.shown").get_attribute("aria-selected") == "true"


def test_arrows_follow_the_map_as_it_is_turned_on_a_phone(show, results):
    page = show(results["scan"], PHONE)
    page.locator(f"#maps .cell[aria-label^='{MANY[0]},']").focus()
    before = page.locator(":focus").bounding_box()
    page.keyboard.press("ArrowDown")
    after = page.locator(":focus").bounding_box()
    assert after["y"] > before["y"]
    assert after["x"] == before["x"]
    assert "layers.1.self_attn.q_proj" in page.locator(":focus").get_attribute("aria-label")


def test_exact_values_are_told_on_hover_and_on_focus(show, results):
    page = show(results["scan"])
    score = results["scan"].table.ranked()[4]
    cell = page.locator(f"#maps .cell[aria-label^='{score.module},']")
    for point in (cell.hover, cell.focus):
        page.mouse.move(0, 0)
        point()
        told = page.locator("#tip").text_content()
        assert page.locator("#tip").is_visible()
        assert f"{score.module}, s3lora {score.value}, place 5 of 48" in told
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_a_module_shows_its_spectrum_and_its_place(show, results):
    page = show(results["scan"])
    score = results["scan"].table.ranked()[2]
    page.locator(f"#maps .cell[aria-label^='{score.module},']").click()
    panel = page.locator("#module")
    assert f"{score.value}" in panel.text_content()
    assert "3 of 48" in panel.text_content()
    assert panel.locator(".one-mark").count() == len(score.series["update"]) + 1  # and its key
    assert panel.locator(".two-mark").count() == len(score.series["rebuild"]) + 1
    assert panel.locator(".tick").count() == 48
    page.locator(f"#maps .cell[aria-label^='{ZERO},']").click()
    assert "none: zero update" in panel.text_content()
    assert "hatched" not in panel.text_content()
    assert page.locator("#maps .cell.none").count() == 1
    page.locator("#maps .loose .cell").click()
    assert page.locator("#module-name").text_content() == OUTSIDE


def test_the_table_is_sorted_and_searched(show, results):
    page = show(results["scan"])
    names = page.locator("#table tbody button")
    order = [score.module for score in results["scan"].table.ranked()]
    assert names.all_text_contents() == [*order, ZERO], "those without a score come last"
    score = page.locator("#table thead button", has_text="score")
    score.click()
    assert (
        names.all_text_contents()[0]
        == min(results["scan"].table.scores, key=lambda one: one.value).module
    )
    assert page.locator("th[aria-sort='ascending']").text_content().startswith("score")
    score.click()
    assert names.all_text_contents() == [*order, ZERO]
    page.locator("#table thead button", has_text="module").click()
    assert names.all_text_contents() == list(results["scan"].modules)
    page.fill("#search", "LAYERS.7.")
    assert page.locator("#table tbody tr").count() == 4
    assert page.locator("#count").text_content() == "4 of 49 modules"


def test_a_comparison_marks_what_is_in_one_alone(show, results):
    page = show(results["compare"])
    marks = page.locator("#maps .cell.none")
    assert marks.all_text_contents() == ["A"] * 5
    assert "only in A" in page.locator("#module").text_content()
    assert page.locator("#choice").count() == 0
    page.select_option("#measure", label="‖ΔW‖ in A")
    assert page.locator("#maps .cell.none").count() == 0


def test_methods_are_drawn_against_each_other(show, results):
    page = show(results["rank"])
    assert page.locator("#scatter .dot").count() == 48
    page.select_option("#across", label="random")
    assert "by random" in page.locator("#scatter").text_content()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("given", [HOSTILE, HOSTILE_MAP], ids=["apart", "map"])
def test_hostile_names_are_shown_and_nothing_more(show, size, given):
    page = show(made_up(given), size)
    assert page.title().startswith("Scan: ")
    assert page.locator("#maps .grid").count() == (2 if given is HOSTILE_MAP else 0)
    names = [short(name) for name in sorted(given, key=natural_key)]
    assert sorted(page.locator("#table tbody button").all_text_contents()) == sorted(names)
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for at in range(len(names)):
        page.locator(f"#maps .cell[data-at='{at}']").evaluate("one => one.click()")
        assert page.locator("#module-name").text_content() == names[at]
    for box in page.locator("#among input").all():
        box.uncheck()
        text = page.locator("#command").text_content()
        assert text.isprintable()
        assert not text or shlex.split(text)[:2] == ["s3lora", "prune"]


def test_an_adapter_without_any_score_opens(show):
    page = show(only_skipped())
    assert page.locator("#maps .cell.none").count() == 2
    assert page.locator("#command-note").text_content()


def only_skipped():
    report = made_up(("l.0.q", "l.1.q", "l.2.q"), skipped=1)
    table = ScoreTable("s3lora", {}, "high", (), report.table.skipped)
    kept = {field: getattr(report, field) for field in report.__slots__}
    modules = {name: report.modules[name] for name in ("l.1.q", "l.2.q")}
    return type(report)(**kept | {"table": table, "chosen": (), "modules": modules})


def test_light_and_dark_follow_the_system_and_the_switch(show, results):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = show(results["scan"]), show(results["scan"], scheme="dark")
    white, black = paper(light), paper(dark)
    assert white != black
    light.click("#theme")
    dark.click("#theme")
    assert (paper(light), paper(dark)) == (black, white)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(show, results, scheme):
    """4.5 to 1, as WCAG 2.2 asks of text (1.4.3)."""
    page = show(results["scan"], scheme=scheme)
    for at in ("body", ".hint", ".facts dt", "#module dt", "#command", "tbody button", ".layer"):
        colours = page.locator(at).first.evaluate(
            """(one) => {
                let behind = one;
                const clear = (at) => getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)";
                while (clear(behind)) behind = behind.parentElement;
                const style = getComputedStyle;
                return [style(one).color, style(behind).backgroundColor];
            }"""
        )
        assert contrast(*colours) >= 4.5, (at, colours)


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        if colour.startswith("color(srgb"):
            parts = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
        else:
            parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_prints_everything_on_white(show, results, tmp_path):
    page = show(results["scan"], scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#slider").is_hidden()
    assert page.locator("#search").is_hidden()
    assert page.locator("#chosen").is_visible()
    file = Path(tmp_path / "page.pdf")
    page.pdf(path=file)
    assert file.read_bytes().startswith(b"%PDF")
