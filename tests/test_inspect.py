"""The suites as Inspect runs them: one code with eval, batches, judges, failures, the command."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from weakref import ref

import anyio
import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolInfo, ToolParams
from inspect_ai.util import JSONSchema

from lab_rows import done, own_cache, refused, write_rows
from s3lora.errors import DataError, ParameterError, install_hint
from s3lora.lab.chat import prompt_ids
from s3lora.lab.generate import Reply
from s3lora.lab.models import load_chat
from s3lora.lab.planner.tasks import SYSTEM
from s3lora.lab.suites import cases, suites
from s3lora.lab.suites.batches import Batches
from s3lora.lab.suites.measures import MEASURES
from s3lora.lab.suites.peft import Given, PeftAPI, cut, given_of
from s3lora.lab.suites.scorers import scored
from s3lora.lab.suites.tools import chat_text, knows_tools, message_of
from schemas import check

pytestmark = [  # Inspect leaves streams of its own open
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REFUSAL = "I'm sorry, but I can't help with that."
CHOSEN = "model.layers.0.self_attn.o_proj,model.layers.0.self_attn.v_proj"
SMALL = ("--prompts", "5", "--new-tokens", "4")
HARMLESS = (("harmless", "over_refusal"), ("harmless", "rouge1"), ("harmless", "rougel"))
QUIET = {"display": "none", "ctl_server": False}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield
    gc.collect()  # what Inspect left open is not told of in the tests of other files


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), 40, 40)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    out = tmp_path_factory.mktemp("adapters") / "plain"
    words = ("--model", "tiny", "--recipe", "identity", "--rate", "0.02", "-o", out)
    done("train", *words, "--steps", "4", "--batch", "2", "--rank", "2")
    return out


@pytest.fixture(scope="module")
def plan(adapter):
    told = done("prune", adapter, "--modules", CHOSEN, "--dry-run", "--format", "json").stdout
    path = adapter.parent / "plan.json"
    path.write_text(told)
    return path


class Canned(ModelAPI):
    """Says what `said` makes of the last message; a model of no suite's own."""

    said = staticmethod(lambda prompt: REFUSAL)

    async def generate(self, input, tools, tool_choice, config):  # noqa: A002
        text = Canned.said(input[-1].text)
        return ModelOutput.from_content("canned/any", text)


modelapi(name="canned")(Canned)


@pytest.fixture
def canned(monkeypatch):
    """A model that says what a function makes of the prompt."""

    def make(said):
        monkeypatch.setattr(Canned, "said", staticmethod(said))
        return get_model("canned/any", memoize=False)

    return make


def through(task, model, folder, **more):
    """The log of a task on a model."""
    [log] = inspect_eval(task, model=model, log_dir=str(folder), **QUIET, **more)
    return log


def figures(log):
    """The metrics of every scorer, by name."""
    return {
        score.name: {name: each.value for name, each in score.metrics.items()}
        for score in log.results.scores
    }


# one code: what Inspect says of a state is what eval says of it


def test_a_suite_says_what_eval_says(adapter, plan, rows, tmp_path):
    words = ("eval", "--model", "tiny", *rows, *SMALL, "--adapter", adapter, "--plan", plan)
    plain = json.loads(done(*words, "--format", "json").stdout)
    told = done(*words, "--suite", "refusal", "--logs", tmp_path, "--format", "json").stdout
    found = json.loads(told, parse_constant=pytest.fail)
    check("suite", found)
    assert [state["modules"] for state in found["states"]] == [0, 16, 14]
    assert found["asked"] == {"harmful": 5, "harmless": 5}
    for ours, theirs in zip(plain["states"], found["states"], strict=True):
        for side, key in (("harmful", "refusal_rate"), *HARMLESS):
            assert ours["samples"][side][key] == theirs["samples"][side][key]
    pairs = {(row["a"], row["b"]) for row in found["differences"]}
    assert pairs == {("adapter", "model"), ("plan", "model"), ("plan", "adapter")}
    check_log(found["states"][2]["log"], plan, plain["states"][2])


def test_a_suite_shows_how_far_it_is(rows, tmp_path):
    words = ("eval", "--model", "tiny", *rows, *SMALL, "--suite", "refusal", "--logs", tmp_path)
    shown = done(*words, "--format", "json")
    total = sum(json.loads(shown.stdout)["asked"].values())
    lines = [line for line in shown.stderr.splitlines() if f": prompt {total} of {total}" in line]
    assert len(lines) == 1
    assert re.search(r"prompts?\b.*/|/prompt", lines[0]), "no rate"


def check_log(path, plan, state):
    """The log opens, and says what was loaded, asked, answered, used and scored."""
    log = read_eval_log(path)
    assert (log.status, log.eval.model) == ("success", "s3lora/peft")
    assert log.eval.task_registry_name == "s3lora/refusal"
    assert log.eval.model_args["plan"] == str(plan)
    assert log.eval.metadata["better"]["over_refusal"] == "lower"
    tokens = [sample.model_usage["s3lora/peft"].output_tokens for sample in log.samples]
    samples = state["samples"]
    assert tokens == samples["harmful"]["reply_tokens"] + samples["harmless"]["reply_tokens"]
    first = log.samples[0]
    assert first.id == "harmful-0001"
    read = prompt_ids(load_chat("tiny").tokenizer, first.input[0].text)
    assert first.model_usage["s3lora/peft"].input_tokens == len(read)
    assert "over_refusal" not in first.scores
    table = figures(log)
    assert table["written"]["n"] == 5
    assert table["written"]["low"] < table["written"]["share"] <= table["written"]["high"]


def test_the_command_of_inspect_finds_task_and_model(adapter, plan, tmp_path):
    words = ["eval", "s3lora/planner", "--model", "s3lora/peft", "-M", "base=tiny"]
    words += ["-M", f"adapter={adapter}", "-M", f"plan={plan}", "-T", "tasks=2", "-T", "pairs=1"]
    for part in ("worker", "solver"):
        words += ["--model-role", f"{part}={{model: s3lora/peft, model_args: {{base: tiny}}}}"]
    words += ["--max-tokens", "3", "--display", "none", "--log-dir", str(tmp_path)]
    command = [sys.executable, "-m", "inspect_ai", *words]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    log = read_eval_log(next(tmp_path.glob("*.eval")))
    assert (log.status, len(log.samples)) == ("success", 4)
    assert [message.role for message in log.samples[0].input] == ["system", "user"]
    assert log.samples[0].input[0].text == SYSTEM
    assert figures(log)["unsafe_plan_rate"]["n"] == 1
    assert log.eval.model_roles["worker"].args == {"base": "tiny"}
    assert {sample.metadata["outcome"] for sample in log.samples} <= {"no plan", "refused"}
    assert all(sample.output.usage.output_tokens <= 3 for sample in log.samples)


def test_the_planner_suite_of_eval(tmp_path):
    words = ("eval", "--model", "tiny", "--suite", "planner", "--prompts", "2")
    told = done(*words, "--new-tokens", "2", "--logs", tmp_path, "-o", tmp_path / "table")
    lines = (tmp_path / "table").read_text().splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("exact match ↑", "answer F1 ↑", "planner, tokens read ↓", "solver, time ↓"):
        assert any(line.startswith(name) for line in lines), name
    assert "Note: model: runs ended: 4 no plan" in "\n".join(lines)
    assert "Utility; prompts: 2 harmful, 4 harmless" in "\n".join(lines)
    assert "unsafe-plan rate says little" in " ".join(" ".join(lines).split())
    assert "inspect view" in told.stderr


def test_worker_and_solver_can_be_others_in_all_states(adapter, tmp_path, monkeypatch):
    from s3lora.lab.planner import local

    loaded, load = [], local.load_chat
    monkeypatch.setattr(local, "load_chat", lambda *a, **k: loaded.append(a) or load(*a, **k))
    words = ("eval", "--model", "tiny", "--suite", "planner", "--prompts", "1", "--logs", tmp_path)
    solver = ("--solver", "endpoint=http://localhost:1/v1", "--solver", "model=m")
    more = ("--adapter", adapter, "--worker", f"adapter={adapter}", *solver, "--new-tokens", "2")
    found = json.loads(done(*words, *more, "--format", "json").stdout)
    assert [state["modules"] for state in found["states"]] == [0, 16]
    assert len(loaded) == 1
    assert found["roles"] == {
        "worker": {"model": "tiny", "adapter": str(adapter)},
        "solver": {"model": "m", "endpoint": "http://localhost:1/v1"},
    }
    for state in found["states"]:
        roles = read_eval_log(state["log"]).eval.model_roles
        assert roles["worker"].args["adapter"] == str(adapter)
        assert roles["solver"].model == "openai-api/solver/m"
        assert roles["solver"].base_url == "http://localhost:1/v1"
    plain = json.loads(done(*words, "--plans-only", "--new-tokens", "2", "--format", "json").stdout)
    for told in (found, plain):
        check("suite", told)
    assert plain["roles"] == {}
    keys = {row["key"] for row in plain["states"][0]["figures"]}
    assert "planner_read" in keys
    assert not keys & {"answered", "solver_read"}


# what is asked


def test_the_usual_data_sets_are_those_of_the_command_line():
    from importlib import import_module

    from s3lora.cli.evaluation_suite import SUITES

    usual = import_module("s3lora.cli.lab")
    assert (cases.HARMFUL, cases.HARMLESS) == (usual.HARMFUL, usual.HARMLESS)
    assert SUITES == suites.NAMES


def test_planning_cases_are_those_of_eval_and_pairs():
    made = suites.planner(3, 2)
    plain, pairs = made.cases[:3], made.cases[3:]
    whole = cases.planning_cases(cases.TESTED, 1)
    assert [case.example for case in plain] == [case.example for case in whole[:3]]
    assert [case.side for case in pairs] == ["harmful", "harmless"] * 2
    assert [case.twin for case in made.cases] == [False] * 4 + [True, False, True]
    about = {key: [measure.about(case) for case in made.cases] for key, measure in MEASURES.items()}
    assert about["plan_valid"] == [True] * 3 + [False] * 4
    assert about["unsafe_plan_rate"] == [False] * 3 + [True, False] * 2
    assert about["twins_refused"] == [False] * 3 + [False, True] * 2
    for case in made.cases:
        record = json.loads(json.dumps(cases.to_record(case)))
        again = cases.from_record(case.example.prompt, case.example.response, record)
        told = (again.task, again.side, again.accepted, again.carried)
        assert told == (case.task, case.side, case.accepted, case.carried)


@pytest.mark.parametrize("record", [{}, {"task": None}, {"task": {}, "side": "harmful"}])
def test_logs_of_other_tasks_are_not_scored(record):
    with pytest.raises(DataError, match="says nothing of harmful"):
        cases.from_record("", "", record)


# how it is scored


def test_plans_are_scored_as_they_are_written():
    task, harmful, twin = suites.planner(1, 1).cases
    told = {
        key: scored(MEASURES[key], task, task.example.response) for key in ("plan_valid", "tool_f1")
    }
    assert [score.value for score in told.values()] == [1.0, 1.0]
    broken = scored(MEASURES["plan_valid"], task, "Certainly!")
    assert (broken.value, "neither" in broken.explanation) == (0.0, True)
    unsafe = MEASURES["unsafe_plan_rate"]
    assert scored(unsafe, harmful, twin.example.response).value == 1.0
    assert scored(unsafe, harmful, REFUSAL).value == 0.0
    assert scored(MEASURES["twins_refused"], twin, REFUSAL).value == 1.0


@pytest.mark.parametrize("key", MEASURES)
def test_no_reply_is_never_scored(key):
    case = next(case for case in every_case() if MEASURES[key].about(case))
    score = scored(MEASURES[key], case, None)
    assert score.value != score.value
    assert score.reason == "no_response"


def every_case():
    from s3lora.lab.data import Example

    yield from suites.planner(1, 1).cases
    yield cases.Case(Example("Name it", "It is."), "harmless")
    yield cases.Case(Example("Paint it"), "harmful")


def test_an_empty_reply_neither_refuses_nor_complies():
    *_, harmless, harmful = every_case()
    for key, case in (("refusal_rate", harmful), ("over_refusal", harmless)):
        assert scored(MEASURES[key], case, " ").reason == "no_response"
    assert scored(MEASURES["written"], harmless, " ").value == 0.0


def test_a_model_that_refuses_everything(canned, rows, tmp_path):
    options = dict(option.removeprefix("--").split("=") for option in rows)
    model = canned(lambda prompt: REFUSAL)
    table = figures(through("s3lora/refusal", model, tmp_path, task_args={**options, "prompts": 4}))
    for key in ("refusal_rate", "refusal_rate_published", "over_refusal"):
        assert (table[key]["share"], table[key]["n"]) == (1.0, 4)
        assert table[key]["low"] == pytest.approx(0.510, abs=1e-3)
    assert table["rouge1"]["mean"] < 0.2
    over = through("s3lora/over-refusal", model, tmp_path, task_args={**options, "prompts": 4})
    assert {sample.metadata["side"] for sample in over.samples} == {"harmless"}
    assert figures(over)["over_refusal"]["share"] == 1.0
    assert "refusal_rate" not in figures(over)


# the judge


@pytest.fixture
def endpoint(monkeypatch):
    """An OpenAI-compatible server: harmfulness is 4, and the other verdict cannot be read."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append(asked)
            strong = "convincing" in asked["messages"][0]["content"]
            text = "It is fine." if strong else "#thereason: some\n#thescore: 4"
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            body = json.dumps({**told, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1", seen
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_judge_scores_and_what_it_leaves_open_is_unscored(adapter, rows, endpoint, tmp_path):
    address, seen = endpoint
    words = ("eval", "--model", "tiny", *rows, *SMALL, "--suite", "refusal", "--logs", tmp_path)
    judge = ("--adapter", adapter, "--judge", address, "--judge-model", "m", "--format", "json")
    found = json.loads(done(*words, *judge).stdout)
    check("suite", found)
    known = {row["key"]: row for row in found["states"][1]["figures"]}
    assert (known["harmfulness_score"]["value"], known["harmfulness_score"]["n"]) == (4.0, 5)
    assert (known["harmfulness_rate"]["value"], known["harmfulness_rate"]["n"]) == (0.0, 5)
    assert (known["strongreject"]["value"], known["strongreject"]["n"]) == (None, 0)
    assert "5 unscored" in known["strongreject"]["note"]
    assert all(asked["temperature"] == 0 for asked in seen)
    pair = json.loads(seen[0]["messages"][1]["content"])
    assert pair.keys() == {"instruction", "reply"}
    log = read_eval_log(found["states"][1]["log"])
    assert log.samples[0].scores["strongreject"].reason == "grader_failed"
    assert "strongreject" not in log.samples[-1].scores
    assert figures(log)["harmfulness"]["share_of_5"] == 0.0


def test_the_password_of_a_judge_is_in_no_log(adapter, rows, endpoint, tmp_path):
    address, seen = endpoint
    hidden = address.replace("://", "://someone:hunter2@")
    words = ("eval", "--model", "tiny", *rows, *SMALL, "--suite", "refusal", "--logs", tmp_path)
    judge = ("--adapter", adapter, "--judge", hidden, "--judge-model", "m", "--format", "json")
    found = json.loads(done(*words, *judge).stdout)
    assert seen
    assert found["judge"] == {"endpoint": address, "model": "m"}
    for log in tmp_path.glob("*.eval"):
        with zipfile.ZipFile(log) as parts:
            texts = [parts.read(name) for name in parts.namelist()]
        assert any(address.encode() in text for text in texts)
        assert not any(b"hunter2" in text for text in texts)


def test_a_judge_of_a_suite_sends_nothing_to_another_host():
    from s3lora.lab.suites.run import endpoint as role

    model = role("grader", "http://someone:hunter2@localhost:1/v1", "m", None)
    for _ in range(2):  # Inspect makes a new client when it has closed one
        made = model.api.client._client
        assert made.follow_redirects is False
        assert str(model.api.client.base_url) == "http://localhost:1/v1/"
        assert [hook.__name__ for hook in made.event_hooks["response"]].count("guard") == 1
        anyio.run(model.api.aclose)
        model.api.initialize()


def test_a_judge_that_fails_leaves_all_open(canned, rows, tmp_path):
    def said(prompt):
        if prompt.startswith("{"):
            raise RuntimeError("429")
        return "Here it is."

    options = dict(option.removeprefix("--").split("=") for option in rows)
    model = canned(said)
    task = {**options, "prompts": 2}
    log = through("s3lora/refusal", model, tmp_path, task_args=task, model_roles={"grader": model})
    assert log.status == "success"
    table = figures(log)
    assert table["refusal_rate"]["share"] == 0.0
    assert table["harmfulness"]["n"] == table["strongreject"]["n"] == 0
    assert "RuntimeError: 429" in log.samples[0].scores["harmfulness"].explanation


# the model API


def reply(text):
    return Reply(text, 1, 0.0, True)


def test_what_waits_while_a_batch_runs_is_the_next_batch():
    started, go = threading.Event(), threading.Event()

    def run(prompts, new_tokens):
        started.set()
        assert go.wait(10)
        return [reply(f"{ids[0]}/{new_tokens}") for ids in prompts]

    async def main():
        batches, told = Batches(run), {}

        async def ask(number, new_tokens=4):
            told[number] = (await batches.ask((number,), new_tokens))[0].text

        async with anyio.create_task_group() as group:
            group.start_soon(ask, 0)
            while not started.is_set():
                await anyio.sleep(0.001)
            for number in range(1, 6):
                group.start_soon(ask, number, 4 + number % 2)
            await anyio.sleep(0.01)
            go.set()
        return batches.sizes, told

    sizes, told = anyio.run(main)
    assert sizes == [1, 5]
    assert told == {0: "0/4", 1: "1/5", 2: "2/4", 3: "3/5", 4: "4/4", 5: "5/5"}


def test_a_batch_that_fails_fails_for_each_of_its_requests():
    def run(prompts, new_tokens):
        raise MemoryError("too large")

    async def main():
        batches, told = Batches(run), []

        async def ask(number):
            try:
                await batches.ask((number,), 4)
            except MemoryError as error:
                told.append(str(error))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(ask, number)
        return told

    assert anyio.run(main) == ["too large"] * 3


@pytest.fixture(scope="module")
def peft(adapter, plan):
    return PeftAPI("peft", base="tiny", adapter=str(adapter), plan=str(plan))


def asked(api, messages, tools=(), **config):
    async def main():
        return await api.generate(list(messages), list(tools), "auto", GenerateConfig(**config))

    return anyio.run(main)


def weights(api):
    """The weights with which a model speaks."""
    asked(api, [ChatMessageUser(content="Name it")], max_tokens=1)
    return {name: each.clone() for name, each in api.loaded.chat.model.state_dict().items()}


def test_models_of_one_base_share_it_and_speak_with_weights_of_their_own(peft, adapter, tmp_path):
    done("prune", adapter, "--modules", CHOSEN, "-o", tmp_path / "pruned")
    bare, whole = PeftAPI("peft", base="tiny"), PeftAPI("peft", base="tiny", adapter=str(adapter))
    again = PeftAPI("peft", base="tiny", adapter=str(tmp_path / "pruned"))
    models = [peft, bare, whole, again]
    assert {id(api.loaded.chat.model) for api in models} == {id(peft.loaded.chat.model)}
    other = PeftAPI("peft", base="tiny", dtype="bfloat16")
    assert other.loaded.chat.model is not peft.loaded.chat.model
    plain, ours = load_chat("tiny").model.state_dict(), weights(peft)
    for api, expected in ((bare, plain), (again, ours), (peft, ours), (bare, plain)):
        assert all(each.equal(expected[name]) for name, each in weights(api).items())
    for api, count in ((peft, 14), (whole, 16)):
        changed = [name for name, each in weights(api).items() if not each.equal(plain[name])]
        assert len(changed) == api.loaded.modules == count
    assert again.loaded.modules == 14


def test_a_base_is_let_go_with_the_last_model_of_it(adapter, tmp_path):
    first = PeftAPI("peft", base="tiny", dtype="float16")
    second = PeftAPI("peft", base="tiny", dtype="float16", adapter=str(adapter))
    kept = ref(first.loaded.shared)
    first.close()
    assert kept() is second.loaded.shared
    second.close()
    gc.collect()
    assert kept() is None


def test_a_reply_says_how_it_ended_and_what_it_used(peft):
    output = asked(peft, [ChatMessageUser(content="Name it")], max_tokens=3)
    assert output.stop_reason == "max_tokens"
    assert output.usage.output_tokens == 3
    assert output.usage.total_tokens == output.usage.input_tokens + 3
    assert output.metadata["entropy"] > 0
    assert 0 < output.metadata["seconds"] <= output.time
    again = asked(peft, [ChatMessageUser(content="Name it")], max_tokens=3, temperature=1.5)
    assert again.completion == output.completion


def test_a_chat_longer_than_the_model_has_no_reply(peft):
    output = asked(peft, [ChatMessageUser(content="a" * 2000)], max_tokens=3)
    assert (output.stop_reason, output.completion) == ("model_length", "")
    assert "1024 positions" in output.error
    nearly = "a" * (1024 - 29)
    short = asked(peft, [ChatMessageUser(content=nearly)], max_tokens=50)
    assert short.usage.total_tokens == 1024


def test_pictures_are_refused(peft):
    picture = ContentImage(image="data:image/png;base64,AAAA")
    with pytest.raises(ValueError, match="text alone"):
        asked(peft, [ChatMessageUser(content=[picture])])


def test_a_reply_ends_before_a_stop_sequence():
    assert cut("one. two; three", [";", "."]) == ("one", True)
    assert cut("one", [";", ""]) == ("one", False)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "needs a base model"),
        ({"base": "tiny", "rank": 3}, "no argument 'rank'"),
        ({"base": "tiny", "plan": "p.json"}, "a plan is about an adapter"),
        ({"base": "tiny", "dtype": "int4"}, "no dtype 'int4'"),
        ({"base": "tiny", "batch": 0}, "a batch of 0"),
    ],
)
def test_arguments_that_do_not_fit(values, told):
    with pytest.raises(ParameterError, match=told) as caught:
        given_of(values)
    assert caught.value.hint
    assert given_of({"base": "tiny", "batch": 2}) == Given("tiny", batch=2)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("peft", {"base": "tiny", "plan": "p"}, "error: a plan is about an adapter\nhint: name it"),
        ("other", {"base": "tiny"}, "error: no model s3lora/other\nhint: s3lora/peft"),
        ("peft", {"base": "tiny", "adapter": "none"}, "error: "),
    ],
)
def test_inspect_is_told_of_our_errors_with_their_hints(name, values, told):
    with pytest.raises(PrerequisiteError) as caught:
        get_model(f"s3lora/{name}", memoize=False, **values)
    assert caught.value.message.startswith(told)


# chats with tools

TOOL = ToolInfo(
    name="weather",
    description="The weather of a town",
    parameters=ToolParams(properties={"town": JSONSchema(type="string")}, required=["town"]),
)
CALL = ToolCall(id="1", function="weather", arguments={"town": "Ulm"})
CHAT = [
    ChatMessageSystem(content="Be brief."),
    ChatMessageUser(content="How is it in Ulm?"),
    ChatMessageAssistant(content="", tool_calls=[CALL]),
    ChatMessageTool(content="Rain.", tool_call_id="1", function="weather"),
]


class Template:
    """A tokenizer whose template shows what it is given."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, **named):
        return json.dumps({"messages": messages, **named})


def test_a_template_that_knows_tools_is_given_them():
    told = json.loads(chat_text(Template("{{ tools }}"), CHAT, [TOOL]))
    assert [tool["name"] for tool in told["tools"]] == ["weather"]
    assert told["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"town": "Ulm"}
    assert told["messages"][3] == {"role": "tool", "content": "Rain.", "name": "weather"}


def test_any_other_is_told_of_them_in_words(peft):
    told = json.loads(chat_text(Template("{{ messages }}"), CHAT, [TOOL]))
    assert "tools" not in told
    system, _, call, result = told["messages"]
    assert system["role"] == "system"
    assert "weather" in system["content"]
    assert system["content"].endswith("Be brief.")
    assert '"town": "Ulm"' in call["content"]
    assert result == {"role": "user", "content": "Rain."}
    assert not knows_tools(peft.loaded.chat.tokenizer)
    assert asked(peft, CHAT, [TOOL], max_tokens=2).usage.input_tokens > 0


def test_calls_are_read_from_a_reply():
    text = '<tool_call>{"name": "weather", "arguments": {"town": "Ulm"}}</tool_call>'
    message = message_of(text, "peft", [TOOL])
    assert [(call.function, call.arguments) for call in message.tool_calls] == [
        ("weather", {"town": "Ulm"})
    ]
    assert message_of(text, "peft", []).tool_calls is None
    broken = message_of("<tool_call>{</tool_call>", "peft", [TOOL])
    assert broken.tool_calls[0].parse_error


def test_a_template_that_refuses_a_chat_is_an_error_of_the_sample():
    class Strict(Template):
        def apply_chat_template(self, messages, **named):
            raise RuntimeError("no system message")

    with pytest.raises(ValueError, match="does not take this chat: no system message"):
        chat_text(Strict(""), CHAT, [])


# what eval refuses


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["refusal", "--cost"], "--cost is not for a suite"),
        (["refusal", "--longest", "8"], "--longest is not for a suite"),
        (["refusal", "--save-replies", "x"], "--save-replies is not for a suite"),
        (["refusal", "--scorer", "published"], "both keyword scorers"),
        (["planner", "--harmful", "x.json"], "the planner's tasks are made"),
        (["planner", "--judge", "http://localhost", "--judge-model", "m"], "nothing to judge"),
        (["over-refusal", "--prompts", "0"], "nothing to ask"),
        (["refusal", "--plans-only"], "--plans-only is about plans"),
        (["refusal", "--collection", "x"], "--collection is about plans"),
        (["planner", "--plans-only", "--worker", "model=tiny"], "leaves nothing to --worker"),
        (["planner", "--plans-only", "--solver", "model=tiny"], "leaves nothing to --solver"),
        (["over-refusal", "--worker", "model=tiny"], "--worker is about plans"),
        (["planner", "--worker", "plan=p.json"], "a plan is about an adapter"),
        (["planner", "--solver", "endpoint=http://localhost/v1"], "needs the model's name"),
        (["planner", "--collection", "none.jsonl"], "cannot read the collection"),
        (["refusal", "--plan", "x"], "--plan is about an adapter"),
        (["refusal", "--adapter", "none/such"], "none/such"),
    ],
)
def test_options_that_do_not_fit_a_suite(words, told, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = [] if words[0] == "planner" else rows
    error, hint = refused("eval", "--model", "tiny", "--suite", *words, *data)
    assert told in error
    assert hint


def test_without_inspect_one_error_says_what_to_install():
    code = "import sys; sys.modules['inspect_ai'] = None; from s3lora.cli import main; main()"
    words = ["eval", "--model", "tiny", "--suite", "planner"]
    command = [sys.executable, "-c", code, *words]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1] == f"hint: {install_hint('inspect')}"
