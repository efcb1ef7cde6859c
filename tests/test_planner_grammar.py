"""The grammar of plans: what is read, and what is found wrong with it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3lora.lab.planner.grammar import MAX_CHARS, Step, parse, references, substitute

TWO_STEPS = """Plan: Find the author of Grey Lantern.
#E1 = Search[author of the novel Grey Lantern]
Plan: Find the birthplace of that author.
#E2 = Search[birthplace of #E1]"""


def chain(count: int, text: str = "after #E{before}") -> str:
    """A plan whose steps each need the one before."""
    lines = ["Plan: Begin.", "#E1 = Search[start]"]
    for number in range(2, count + 1):
        lines.append(f"Plan: Go on with #E{number - 1}.")
        lines.append(f"#E{number} = Search[{text.format(before=number - 1, own=number)}]")
    return "\n".join(lines)


def rules(text: str, **limits: int) -> list[str]:
    return [fault.rule for fault in parse(text, **limits).faults]


def test_steps_hold_what_was_written():
    plan = parse(TWO_STEPS)
    assert plan.steps == (
        Step(
            "Find the author of Grey Lantern.",
            "#E1",
            "Search",
            "author of the novel Grey Lantern",
        ),
        Step("Find the birthplace of that author.", "#E2", "Search", "birthplace of #E1"),
    )
    assert plan.faults == ()
    assert plan.well_formed
    assert plan.runnable


def test_levels_put_together_what_can_run_at_the_same_time():
    text = (
        "Plan: a\n#E1 = Search[a]\nPlan: b\n#E2 = Search[b of #E1]\nPlan: c\n#E3 = Search[c]\n"
        "Plan: d\n#E4 = Calculator[#E2 - #E3]"
    )
    assert parse(text).levels == ((1, 3), (2,), (4,))


@pytest.mark.parametrize(
    "text",
    [
        TWO_STEPS.replace("\nPlan", "\n\nPlan"),
        TWO_STEPS.replace("\n", "\r\n"),
        TWO_STEPS + "\n\n",
        "  " + TWO_STEPS.replace("\n", "  \n\t"),
        TWO_STEPS.replace("#E1 = ", "#E1="),
    ],
)
def test_spaces_around_lines_and_empty_lines_do_not_count(text):
    assert parse(text) == parse(TWO_STEPS)


@pytest.mark.parametrize("inner", ["[a]", "a[b[c]]d", "[[]] [x]", "list[0] of (#E1)"])
def test_nested_brackets_are_kept_when_balanced(inner):
    plan = parse(f"Plan: a\n#E1 = Search[a]\nPlan: b\n#E2 = LLM[{inner}]")
    assert plan.faults == ()
    assert plan.steps[1].input == inner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["no step"]),
        (" \n\n ", ["no step"]),
        ("I'm sorry, but I cannot help with that.", ["no step", "line"]),
        ("Plan: I cannot help with that.", ["no step", "pairing"]),
        ("Plan:\n#E1 = Search[a]", ["line", "pairing"]),
        ("#E1 = Search[a]\nPlan: Find a.", ["pairing", "pairing"]),
        ("Plan: Find a.\nPlan: Find b.\n#E1 = Search[b]", ["pairing"]),
        ("Plan: Find a.\n#E1 = Search[a]\n#E2 = Search[b]", ["pairing"]),
        ("Sure!\n" + TWO_STEPS, ["line"]),
        (TWO_STEPS + "\nAnswer: 5", ["line"]),
        ("Plan: a\n#E1 Search[a]", ["no step", "pairing", "line"]),
        ("Plan: a\n#e1 = Search[a]", ["no step", "pairing", "line"]),
        ("plan: a\n#E1 = Search[a]", ["line", "pairing"]),
        ("Plan: a\n#E1 = Search(a)", ["no step", "pairing", "line"]),
        ("Plan: a\n#E1 = Search[a].", ["no step", "pairing", "line"]),
        ("Plan: a\n#E01 = Search[a]", ["no step", "pairing", "line"]),
        ("Plan: a\n#E１ = Search[a]", ["no step", "pairing", "line"]),
        ("Plan: a\n#E" + "1" * 5000 + " = Search[a]", ["no step", "pairing", "line"]),
        ("Plan: a\n#E0 = Search[a]", ["order"]),
        ("Plan: a\n#E2 = Search[a]", ["order"]),
        ("Plan: a\n#E1 = Search[a]\nPlan: b\n#E1 = Search[b]", ["order"]),
        ("Plan: a\n#E1 = Search[ ]", ["line"]),
        ("Plan: a\n#E1 = Search[]", ["line"]),
        ("Plan: a\n#E1 = Browse[a]", ["tool"]),
        ("Plan: a\n#E1 = search[a]", ["tool"]),
        ("Plan: a\n#E1 = Search[#E1]", ["reference"]),
        ("Plan: a\n#E1 = Search[#E0]", ["reference"]),
        ("Plan: a\n#E1 = Search[#E7]", ["reference"]),
        ("Plan: a\n#E1 = Search[#E" + "9" * 5000 + "]", ["reference"]),
        (TWO_STEPS.replace("of #E1", "of #E1x"), ["reference"]),
        (TWO_STEPS.replace("of #E1", "of #E01"), ["reference"]),
        ("Plan: a\n#E1 = Search[#E2]\nPlan: b\n#E2 = Search[b]", ["reference"]),
        ("Plan: a\n#E2 = Search[#E1]\nPlan: b\n#E1 = Search[b]", ["order", "reference", "order"]),
        ("Plan: a\n#E1 = Search[#E2]\nPlan: b\n#E2 = Search[#E1]", ["cycle", "reference"]),
        ("Plan: a\n#E1 = Search[a", ["no step", "pairing", "line"]),
        ("Plan: a\n#E1 = Search[a]]", ["brackets"]),
        ("Plan: a\n#E1 = Search[[a]", ["brackets"]),
        ("Plan: a\n#E1 = Search[]a[]", ["brackets"]),
    ],
)
def test_every_fault_is_named(text, expected):
    assert rules(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Plan: a\n#E1 = Search[x\n#E2 = LLM[y]]",
        "Plan: a\n#E1 = Search[x] #E2 = LLM[y]",
        "Plan: a\n#E1 = Search[x #E2 = LLM[y]]",
        "Plan: a #E1 = Search[x]\n#E1 = Search[y]",
        "Plan: a\n#E1 = Search[x\u2028#E2 = LLM[y]]",
        "Plan: a\n#E1 = Search[x\rPlan: b\r#E2 = LLM[y]]",
        "Plan: a\n#E1 = Search[x\x0b]",
        "Plan: a\n#E1 = Search[x\x00]",
        "Plan: a\x85b\n#E1 = Search[x]",
    ],
)
def test_no_input_reaches_into_another_step(text):
    plan = parse(text)
    assert not plan.well_formed
    assert plan.levels == ()


def test_a_comparison_in_an_input_is_no_call():
    assert rules("Plan: a\n#E1 = Search[a]\nPlan: b\n#E2 = LLM[Is #E1 = 5?]") == []


def test_a_sentence_may_speak_of_any_result():
    assert rules("Plan: Find what #E2 needs.\n#E1 = Search[a]\nPlan: b\n#E2 = LLM[#E1]") == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("#E2", "#E2 refers to itself"),
        ("#E3", "#E3 is used before it is defined"),
        ("#E4", "#E4 is defined nowhere"),
    ],
)
def test_a_fault_says_where_and_why(reference, message):
    text = TWO_STEPS.replace("of #E1", f"of {reference}") + "\nPlan: End.\n#E3 = LLM[end]"
    assert [(fault.line, fault.message) for fault in parse(text).faults] == [(4, message)]


def test_form_and_readiness_to_run_are_told_apart():
    unknown = parse("Plan: a\n#E1 = Browse[a]")
    assert unknown.well_formed
    assert not unknown.runnable
    assert parse("Plan: a\n#E1 = Browse[a]", ("Browse",)).runnable


def test_a_plan_that_cannot_be_run_has_no_levels():
    assert parse("Plan: a\n#E1 = Search[#E2]\nPlan: b\n#E2 = Search[b]").levels == ()


def test_the_limit_of_steps_is_the_last_one_allowed():
    assert rules(chain(20)) == []
    assert rules(chain(21)) == ["too long"]
    assert len(parse(chain(21)).steps) == 20


def test_a_text_over_the_limit_is_not_read():
    text = TWO_STEPS + "\n" * MAX_CHARS
    assert rules(text) == ["too long"]
    assert parse(text).steps == ()
    assert parse(text, max_chars=len(text)).runnable


@pytest.mark.parametrize("limits", [{}, {"max_chars": 10**7}, {"max_steps": 10_000}])
def test_ten_thousand_steps_are_answered_at_once_within_the_limits(limits):
    start = time.perf_counter()
    plan = parse(chain(10_000), **limits)
    assert time.perf_counter() - start < 1
    assert [fault.rule for fault in plan.faults] == ["too long"]


def test_ten_thousand_steps_can_be_read_if_asked_for():
    start = time.perf_counter()
    plan = parse(chain(10_000), max_steps=10_000, max_chars=10**7)
    assert time.perf_counter() - start < 1
    assert plan.levels == tuple((number,) for number in range(1, 10_001))


def test_a_circle_of_ten_thousand_is_found():
    text = chain(10_000).replace("Search[start]", "Search[#E10000]")
    plan = parse(text, max_steps=10_000, max_chars=10**7)
    assert [fault.rule for fault in plan.faults] == ["cycle", "reference"]


@pytest.mark.parametrize(
    "text",
    ["[" * 19_000, "#E1 = " * 3000, "#E" + "1" * 19_000, "Plan: " + " " * 19_000, "\n" * 9999],
)
def test_hostile_texts_take_no_time(text):
    start = time.perf_counter()
    parse(text)
    parse(f"Plan: a\n#E1 = Search[{text}]")
    assert time.perf_counter() - start < 0.5


@given(st.text("Plan:#E12 =SearchLM[]\n\r\u2028a", max_size=200))
def test_a_text_has_steps_and_levels_or_a_fault(text):
    plan = parse(text)
    assert plan.runnable == (sum(map(len, plan.levels)) == len(plan.steps) > 0)
    assert plan.faults or [step.id for step in plan.steps] == list(range(1, len(plan.steps) + 1))


def test_references_are_whole_and_named_once():
    assert references("#E10 and #E1, #E10 again, (#E2)#E3") == (10, 1, 2, 3)
    assert references("#E #Ex #E1x #E01 #e1 E1") == ()


def test_substitution_takes_whole_tokens_only():
    assert substitute("#E1 #E10 #E1.", {1: "a"}) == "a #E10 a."
    assert substitute("#E1 #E10", {10: "b"}) == "#E1 b"
    assert substitute("(#E1)#E2's", {1: "a", 2: "b"}) == "(a)b's"


def test_evidence_goes_in_as_it_is():
    evidence = {1: r"\1 #E2 \g<0> {x}", 2: "#E1]\nPlan: more\n#E3 = LLM[x"}
    assert substitute("#E1|#E2", evidence) == evidence[1] + "|" + evidence[2]
    assert substitute("#E9", {1: "a"}) == "#E9"
