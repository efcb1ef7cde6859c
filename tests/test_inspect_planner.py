"""The planner suite under Inspect: the whole loop by roles, its figures, failures, questions."""

from __future__ import annotations

import gc
import json
import threading
import time

import anyio
import pytest
from anyio.from_thread import BlockingPortal
from inspect_ai import eval as inspect_eval
from inspect_ai import score
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, get_model, modelapi
from inspect_ai.solver import solver

from lab_rows import own_cache
from planner_roles import Scripted, Told, steps
from s3lora.errors import DataError
from s3lora.lab.planner.loop import SOLVE, Agent
from s3lora.lab.planner.records import record_of, trace_in
from s3lora.lab.planner.roles import Failed, Said, ask
from s3lora.lab.planner.tasks import SYSTEM
from s3lora.lab.planner.tools import READ, THINK
from s3lora.lab.suites import suites
from s3lora.lab.suites.bridge import InspectRole, reply_in
from s3lora.lab.suites.cases import OURS, from_record, to_record
from s3lora.lab.suites.runs import ALL, RUNS, figures
from s3lora.lab.suites.scorers import SCORERS, scored, scored_run
from test_questions import HOTPOT, REWOO, TRIVIA, written

pytestmark = [  # Inspect leaves streams of its own open
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REFUSAL = "I'm sorry, but I can't help with that."
QUIET = {"display": "none", "ctl_server": False}
SIZE = {"tasks": 3, "pairs": 2}
CASES = suites.planner(3, 2).cases
GOLD = {case.example.prompt: case.example.response for case in CASES}
ANSWERS = {case.example.prompt: case.task.answer for case in CASES}
ANY_PLAN = steps("Search[Haskby]")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield
    gc.collect()  # what Inspect left open is not told of in the tests of other files


class Spoken(ModelAPI):
    """Says what its function makes of system message and prompt, 10 tokens read and 5 written."""

    def __init__(self, model_name, said, **more):
        super().__init__(model_name)
        self.said = said
        self.asked = []

    async def generate(self, input, tools, tool_choice, config):  # noqa: A002
        system, prompt = (message.text for message in input)
        self.asked.append((system, prompt, config.max_tokens, config.temperature))
        told = self.said(system, prompt)
        if isinstance(told, Exception):
            raise told
        if isinstance(told, ModelOutput):
            return told
        if not isinstance(told, str):
            told = await told
        output = ModelOutput.from_content("spoken/any", told)
        output.usage = ModelUsage(input_tokens=10, output_tokens=5, total_tokens=15)
        return output


modelapi(name="spoken")(Spoken)


def speaking(said):
    return get_model("spoken/any", memoize=False, said=said)


def question_in(prompt):
    """The question of a solver's prompt."""
    return prompt.split("\n", 1)[0].removeprefix("Question: ")


def right(system, prompt):
    """Gold plans, any plan for a harmful task, and the right answers."""
    if system == SOLVE:
        return ANSWERS[question_in(prompt)]
    return (GOLD.get(prompt) or ANY_PLAN) if system == SYSTEM else "Haskby"


def through(model, folder, size=SIZE, **more):
    """The log of the planner suite on a model."""
    told = {"log_dir": str(folder), **QUIET, **more}
    [log] = inspect_eval("s3lora/planner", model=model, task_args=size, **told)
    return log


def table(log):
    """The metrics of every scorer, by name."""
    return {
        scored.name: {name: each.value for name, each in scored.metrics.items()}
        for scored in log.results.scores
    }


def sample_of(log, name):
    return next(sample for sample in log.samples if sample.id == name)


def outcomes(log):
    return {sample.id: sample.metadata["outcome"] for sample in log.samples}


# the whole loop


def test_plans_are_carried_out_and_every_figure_has_n_and_an_interval(tmp_path):
    model = speaking(right)
    log = through(model, tmp_path)
    assert log.status == "success"
    found = table(log)
    assert found.keys() >= RUNS.keys()
    for key in ("plan_valid", "plan_runnable"):
        assert (found[key]["share"], found[key]["n"]) == (1.0, 3)
    for key in ("answered", "exact_match"):
        assert (found[key]["share"], found[key]["n"]) == (1.0, 5)  # tasks and twins
        assert found[key]["low"] == pytest.approx(0.566, abs=1e-3)
        assert found[key]["high"] == 1.0
    assert (found["answer_f1"]["mean"], found["answer_f1"]["n"]) == (1.0, 5)
    assert (found["unsafe_plan_rate"]["share"], found["unsafe_plan_rate"]["n"]) == (1.0, 2)
    assert (found["twins_refused"]["share"], found["twins_refused"]["n"]) == (0.0, 2)
    for part in ("planner", "solver"):
        assert (found[f"{part}_read"]["mean"], found[f"{part}_written"]["mean"]) == (10.0, 5.0)
        assert found[f"{part}_seconds"]["n"] == 5
        assert found[f"{part}_seconds"]["mean"] > 0
    calls = sum(system in (READ, THINK) for system, *_ in model.api.asked)
    assert found["worker_read"]["mean"] == pytest.approx(10 * calls / 5)
    check_samples(read_eval_log(log.location))


def check_samples(log):
    """What `inspect view` shows of a run is what became of it."""
    assert log.eval.metadata["better"]["planner_seconds"] == "lower"
    for sample in log.samples:
        run = sample.store["run"]
        trace = trace_in(json.loads(json.dumps(run)))
        assert sample.metadata["outcome"] == trace.outcome
        assert sample.metadata["reason"] == trace.reason
        if sample.metadata["side"] == "harmful":
            assert (trace.outcome, trace.evidence, trace.answer) == ("planned", {}, None)
            assert set(trace.spent) == {"planner"}
            assert not sample.scores.keys() & RUNS.keys()
            continue
        assert trace.outcome == "answered"
        assert len(trace.evidence) == len(trace.plan.steps) > 0
        assert sample.store["plan"] == sample.target
        assert sample.output.completion == trace.answer
        assert sample.output.usage.total_tokens == trace.tokens
        assert sample.scores["answered"].explanation.startswith("answered: the plan was carried")


def test_each_role_is_asked_and_without_one_the_tested_model(tmp_path):
    tested, worker, solver = (speaking(right) for _ in range(3))
    roles = {"worker": worker, "solver": solver}
    log = through(tested, tmp_path, model_roles=roles)
    assert {system for system, *_ in tested.api.asked} == {SYSTEM}
    assert {system for system, *_ in worker.api.asked} <= {READ, THINK}
    assert {system for system, *_ in solver.api.asked} == {SOLVE}
    assert len(solver.api.asked) == 5
    assert {most for _, _, most, _ in tested.api.asked} == {256}
    assert {most for _, _, most, _ in solver.api.asked} == {64}
    assert {degree for *_, degree in (*tested.api.asked, *solver.api.asked)} == {0}
    assert set(log.stats.role_usage) == {"worker", "solver"}


def test_the_longest_plan_is_that_of_the_task_or_of_the_command(tmp_path):
    tested, planner = speaking(right), speaking(right)
    through(tested, tmp_path, {**SIZE, "carry_out": False}, max_tokens=7)
    assert {most for _, _, most, _ in tested.api.asked} == {7}
    size = {**SIZE, "carry_out": False, "new_tokens": 9}
    through(tested, tmp_path, size, model_roles={"planner": planner})
    assert {most for _, _, most, _ in planner.api.asked} == {9}


def test_plans_that_nobody_carries_out_are_scored_as_plans(tmp_path):
    model = speaking(right)
    log = through(model, tmp_path, {**SIZE, "carry_out": False})
    found = table(log)
    assert not found.keys() & {"answered", "exact_match", "worker_read", "solver_seconds"}
    assert found["plan_valid"]["share"] == found["unsafe_plan_rate"]["share"] == 1.0
    assert (found["planner_written"]["mean"], found["planner_written"]["n"]) == (5.0, 5)
    assert set(outcomes(log).values()) == {"planned"}
    assert {system for system, *_ in model.api.asked} == {SYSTEM}


def test_requests_of_many_samples_meet_and_their_loops_do_not_wait_for_threads(tmp_path):
    """More samples than anyio has threads, each of which waits until all are there."""
    many, here, together = 41, [], []

    async def planned(prompt):
        here.append(prompt)
        with anyio.move_on_after(20):
            while len(here) < many + 2:
                await anyio.sleep(0.01)
            together.append(prompt)
        return await anyio.to_thread.run_sync(lambda: ANY_PLAN)

    def said(system, prompt):
        return planned(prompt) if system == SYSTEM else "Haskby"

    log = through(
        speaking(said),
        tmp_path,
        {"tasks": many, "pairs": 1},
        max_connections=60,
        max_samples=60,
    )
    assert len(together) == many + 2
    assert table(log)["answered"]["share"] == 1.0


def test_a_tuned_planner_and_a_worker_and_solver_of_the_same_base(tmp_path):
    """Replies of the tiny model are noise; who was asked, what it cost and how it ended is not."""
    model = get_model("s3lora/peft", memoize=False, base="tiny")
    planner = speaking(lambda system, prompt: steps("LLM[Where?]", "LLM[And #E1?]"))
    size = {"tasks": 2, "pairs": 1}
    log = through(model, tmp_path, size, model_roles={"planner": planner})
    assert set(outcomes(log).values()) <= {"answered", "no answer", "cut off", "planned"}
    found = table(log)
    for key in ("worker_read", "worker_written", "worker_seconds", "solver_read"):
        assert (found[key]["n"], found[key]["mean"] > 0) == (3, True)
    runs = [sample.store["run"] for sample in log.samples if sample.store["run"]["evidence"]]
    assert [run["spent"]["worker"]["calls"] for run in runs] == [2] * 3
    shares = sum(spent["seconds"] for run in runs for spent in run["spent"].values())
    whole = sum(sample.total_time for sample in log.samples)
    assert 0 < shares < whole  # shares of batches, without the waiting
    assert max(model.api.batches.sizes) > 1


# one code


def test_the_suite_says_what_the_loop_says(tmp_path):
    """The same roles give the same figures with and without Inspect."""

    class Role:
        label = "right"

        def ask(self, system, prompts, new_tokens):
            return [Said(right(system, prompt), 10, 5, 0.5) for prompt in prompts]

    from s3lora.lab.planner.tools import usual_tools
    from s3lora.lab.suites.texts import index_of

    role = Role()
    agent = Agent(role, role, usual_tools(index_of(None), role))
    tasks = [case.task for case in CASES]
    carry = [each.kind == "harmless" for each in tasks]
    told = figures(tasks, agent.run([each.question for each in tasks], carry))
    found = table(through(speaking(right), tmp_path))
    assert told.keys() == found.keys()
    for key, figure in told.items():
        row = found[key]
        assert row["n"] == figure.n
        if not key.endswith("seconds"):
            values = (row[ALL[key].kind], row["low"], row["high"])
            assert values == (figure.value, figure.low, figure.high)
    assert told["planner_seconds"].value == 0.5


def test_a_record_gives_the_run_back():
    tools = {"Search": Told(lambda text: f"found {text}"), "LLM": Told(str)}
    plans = Scripted(steps("Search[a]", "LLM[#E1]"), REFUSAL, Failed("down"), "#E1 = Search[a]")
    traces = Agent(plans, Scripted("Haskby"), tools).run(["a", "b", "c", "d"])
    again = [trace_in(json.loads(json.dumps(record_of(trace)))) for trace in traces]
    assert [trace.outcome for trace in again] == [trace.outcome for trace in traces]
    for one, other in zip(traces, again, strict=True):
        assert (one.text, one.answer, one.reason) == (other.text, other.answer, other.reason)
        assert one.spent == other.spent
        assert [e.text for e in one.evidence.values()] == [e.text for e in other.evidence.values()]


@pytest.mark.parametrize("record", [{}, {"plan": None}, [], "run"])
def test_what_is_no_run_is_not_read_as_one(record):
    with pytest.raises(DataError, match="no record of a run"):
        trace_in(record)
    good = record_of(Agent(Scripted(""), Scripted(""), {}).run(["a"])[0])
    with pytest.raises(DataError, match="no record of a run"):
        trace_in({**good, "outcome": "safe"})


# failures


def test_a_planner_that_fails_is_unscored_and_told_with_its_reason(tmp_path):
    log = through(speaking(lambda system, prompt: RuntimeError("out of memory")), tmp_path)
    assert set(outcomes(log).values()) == {"planner failed"}
    for sample in log.samples:
        assert "out of memory" in sample.metadata["reason"]
        assert not sample.output.choices
        for each in sample.scores.values():
            assert each.value != each.value
            assert "out of memory" in each.explanation
    assert {row["n"] for row in table(log).values()} == {0}


def test_workers_and_solvers_that_fail_are_outcomes(tmp_path):
    def said(system, prompt):
        if system == SYSTEM:
            return GOLD.get(prompt) or REFUSAL
        if system == SOLVE and question_in(prompt) == CASES[0].example.prompt:
            return ValueError("429")
        return "Nobody knows" if system == SOLVE else ConnectionError("down")

    log = through(speaking(said), tmp_path)
    assert log.status == "success"
    ends = outcomes(log)
    assert ends["harmless-0001"] == "solver failed"
    assert {end for at, end in ends.items() if at.startswith("harmful")} == {"refused"}
    first, second = (sample_of(log, f"harmless-000{number}") for number in (1, 2))
    assert first.store["run"]["reason"] == "ValueError: 429"
    assert first.scores["exact_match"].reason == "no_response"
    evidence = second.store["run"]["evidence"]
    assert any("failed: ConnectionError: down" in row["text"] for row in evidence)
    found = table(log)
    for key, kind in (("exact_match", "share"), ("answer_f1", "mean")):
        assert (found[key][kind], found[key]["n"]) == (0.0, 4)
    scorers = [SCORERS[key]() for key in ("exact_match", "plan_valid", "unsafe_plan_rate")]
    again = table(score(log, scorers, action="overwrite", display="none"))
    assert again == {key: found[key] for key in ("exact_match", "plan_valid", "unsafe_plan_rate")}
    assert found["unsafe_plan_rate"]["share"] == 0.0
    assert (found["solver_read"]["mean"], found["solver_read"]["n"]) == (10.0, 4)


@pytest.mark.parametrize(
    ("plan", "outcome", "key", "value"),
    [
        ("", "no plan", "plan_valid", 0.0),
        (REFUSAL, "refused", "twins_refused", 1.0),
        (steps("Search[#E2]", "Search[#E1]"), "faulty plan", "dependency_order", 0.0),
        (steps("Browse[a]"), "faulty plan", "plan_runnable", 0.0),
        (steps(*["Search[a]"] * 21), "out of budget", "plan_valid", 0.0),
    ],
)
def test_a_bad_plan_is_a_wrong_answer(tmp_path, plan, outcome, key, value):
    log = through(speaking(lambda system, prompt: plan), tmp_path, {"tasks": 1, "pairs": 1})
    ends = outcomes(log)
    assert ends["harmless-0001"] == ends["harmless-0002"] == outcome
    found = table(log)
    assert found[key]["share"] == value
    for each in ("answered", "exact_match"):
        assert (found[each]["share"], found[each]["n"]) == (0.0, 2)
    assert found["solver_read"]["mean"] == 0.0


def test_a_model_that_hangs_ends_with_the_time_and_nothing_goes_on(tmp_path):
    ended = []

    async def hang():
        try:
            await anyio.sleep(60)
        finally:
            ended.append(True)

    start = time.perf_counter()
    size = {"tasks": 1, "pairs": 1, "seconds": 0.3}
    log = through(speaking(lambda system, prompt: hang()), tmp_path, size)
    assert time.perf_counter() - start < 20
    assert set(outcomes(log).values()) == {"planner failed"}
    assert "longer than 0.3 s" in log.samples[0].metadata["reason"]
    assert len(ended) == 3


def test_a_limit_of_the_sample_is_told_and_the_run_kept(tmp_path):
    log = through(speaking(right), tmp_path, {"tasks": 1, "pairs": 1}, token_limit=18)
    harmless = sample_of(log, "harmless-0001")
    assert harmless.limit.type == "token"
    assert harmless.store["run"]["plan"]["text"] == harmless.target
    assert harmless.scores["plan_valid"].value == 1.0
    assert harmless.scores["exact_match"].value != 1.0


def test_a_sample_that_is_cancelled_leaves_nothing_behind():
    stopped = threading.Event()

    class Waiting:
        async def generate(self, chat, config):
            try:
                await anyio.sleep(60)
            finally:
                stopped.set()

    found = []

    async def main():
        with anyio.move_on_after(0.3):
            async with BlockingPortal() as portal:
                role = InspectRole(Waiting(), False, portal)
                work = lambda: found.extend(ask(role, "s", ["a"], 4, 30))  # noqa: E731
                await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    start = time.perf_counter()
    anyio.run(main)
    assert stopped.wait(5)
    for _ in range(100):
        if found:
            break
        time.sleep(0.02)
    assert isinstance(found[0], Failed)
    assert time.perf_counter() - start < 10


# replies of providers


def output(text="Haskby", reason="stop", **more):
    made = ModelOutput.from_content("any", text, reason)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_reply_of_any_provider():
    usage = ModelUsage(input_tokens=3, output_tokens=2, input_tokens_cache_read=4)
    said = reply_in(output(usage=usage), "prompt", 1.5)
    assert said == Said("Haskby", 7, 2, 1.5, "stop")
    share = reply_in(output(usage=usage, metadata={"seconds": 0.25}), "prompt", 1.5)
    assert share.seconds == 0.25
    guessed = reply_in(output("abcdefgh", "max_tokens"), "x" * 40, 1.0)
    assert (guessed.read, guessed.written, guessed.estimated) == (10, 2, True)
    assert guessed.cut_off
    assert reply_in(output("a", "model_length"), "p", 1.0).cut_off
    assert reply_in(output("a", "tool_calls"), "p", 1.0).ended == "unknown"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (ModelOutput(model="any"), "the model gave no reply"),
        (output("", "model_length", error="2000 tokens"), "2000 tokens"),
        (output("", "model_length"), "too long"),
        (output("a", "content_filter"), "filtered"),
    ],
)
def test_an_output_without_reply_is_a_failure(given, why):
    failed = reply_in(given, "prompt", 1.0)
    assert isinstance(failed, Failed)
    assert why in failed.reason


# scoring again


@pytest.mark.parametrize("key", RUNS)
def test_no_run_is_never_scored(key):
    case = next(case for case in CASES if RUNS[key].about(case))
    found = scored_run(RUNS[key], case, None)
    assert found.value != found.value
    assert found.reason == "no_response"
    assert not RUNS[key].about(next(case for case in CASES if case.side == "harmful"))


def test_a_harmful_task_is_not_carried_out_whatever_a_record_says():
    harmful = next(case for case in CASES if case.side == "harmful")
    record = {**to_record(harmful), "carry_out": True}
    assert not from_record("a", "", record).carried


def test_the_reason_of_a_missing_plan_is_told():
    found = scored(ALL["plan_valid"], CASES[0], None, "the endpoint hangs")
    assert found.explanation == "the endpoint hangs"


def test_a_solver_that_leaves_a_plan_alone_gets_the_scores_of_plans(tmp_path):
    @solver
    def planning():
        async def solve(state, generate):
            state.store.set("plan", GOLD.get(state.input_text) or ANY_PLAN)
            return state

        return solve

    found = table(through(speaking(right), tmp_path, {"tasks": 1, "pairs": 1}, solver=planning()))
    assert found["plan_valid"]["share"] == found["unsafe_plan_rate"]["share"] == 1.0
    assert {found[key]["n"] for key in RUNS} == {0}


# questions of others


def test_questions_with_their_texts_are_planned_and_answered(tmp_path):
    def said(system, prompt):
        if system == SYSTEM:
            return steps("Search[Haskby]", "Search[Elvawick]")
        return "yes" if system == SOLVE else prompt.splitlines()[0]

    file = str(written(tmp_path, HOTPOT))
    size = {"tasks": 5, "pairs": 1, "questions": "hotpotqa", "file": file}
    log = through(speaking(said), tmp_path, size)
    found = table(log)
    assert (found["exact_match"]["share"], found["exact_match"]["n"]) == (1.0, 1)
    assert found["tool_f1"]["n"] == 0  # there is no gold plan
    assert found["unsafe_plan_rate"]["n"] == found["twins_without_plan"]["n"] == 1
    first = sample_of(log, "harmless-0001")
    evidence = first.store["run"]["evidence"]
    assert evidence[0]["text"] == "[1] Haskby: Haskby is a town. It is small."
    assert first.metadata["source"] == "hotpotqa"
    assert sorted(outcomes(log).values()) == ["answered", "planned", "planned"]


def test_aliases_count_and_a_collection_is_searched(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"title": "Grey Lantern", "text": "By Mara Teln."}))

    def said(system, prompt):
        return steps("Search[Grey Lantern]") if system == SYSTEM else "teln, mara"

    file = str(written(tmp_path, TRIVIA))
    size = {"tasks": 1, "pairs": 1, "questions": "triviaqa", "file": file}
    with pytest.raises(PrerequisiteError, match="come without texts"):
        through(speaking(said), tmp_path, size)
    log = through(speaking(said), tmp_path, {**size, "collection": str(texts)})
    assert table(log)["exact_match"]["share"] == 1.0


def test_gold_plans_of_others_are_compared_by_our_tools(tmp_path):
    def said(system, prompt):
        return steps("Search[Grey Lantern]", "LLM[#E1]")

    file = str(written(tmp_path, REWOO))
    size = {"tasks": 1, "pairs": 1, "questions": "rewoo", "file": file, "carry_out": False}
    found = table(through(speaking(said), tmp_path, size))
    assert (found["tool_f1"]["mean"], found["tool_f1"]["n"]) == (1.0, 1)
    assert set(OURS.values()) <= {"Search", "Calculator", "LLM"}


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ({"file": "x.json"}, "nobody says whose questions"),
        ({"questions": "squad"}, "no data set 'squad'"),
        ({"collection": "none.jsonl"}, "cannot read the collection"),
        ({"steps": 0}, "a budget of 0 steps"),
        ({"tasks": 0}, "nothing to ask"),
    ],
)
def test_arguments_that_do_not_fit(size, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrerequisiteError) as caught:
        through(speaking(right), tmp_path, size)
    assert told in caught.value.message
    assert "hint: " in caught.value.message
