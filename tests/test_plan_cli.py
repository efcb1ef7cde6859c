"""`s3lora plan`: one question, end to end on the tiny model and on a local endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest

from lab_material import tiny, tiny_folder
from lab_rows import done, own_cache, refused, run
from models import save_adapter
from planner_roles import Scripted, Told, said, steps
from s3lora import open_adapter
from s3lora.lab.planner.loop import Agent
from s3lora.lab.planner.roles import Failed
from s3lora.lab.planner.tasks import SYSTEM
from s3lora.lab.planner.trace import OUTCOMES
from schemas import check
from test_metrics_judge import Server, completion

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUESTION = "In which town was the author of the novel Grey Lantern born?"
SHORT = ("--model", "tiny", "--new-tokens", "8")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    return save_adapter(folder, lambda: tiny().model, r=2, target_modules=["q_proj", "v_proj"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"title": "Grey Lantern", "text": "Grey Lantern is a novel by Mara Teln."},
        {"title": "Mara Teln", "text": "Mara Teln was born in Haskby in 1822."},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


PLAN = steps("Search[author of Grey Lantern]", "Search[birthplace of #E1]", "Calculator[1 / 0]")


def answering(server, *replies):
    """An endpoint that is planner, worker and solver in turn."""
    server.answers = [(200, completion(reply)) for reply in replies]
    return ("--model", "m", "--endpoint", server.address)


def test_a_trace_that_can_be_read(server, texts):
    words = answering(server, PLAN, "Mara Teln", "Haskby", "Haskby")
    told = done("plan", QUESTION, *words, "--collection", texts)
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in told.stdout
    text = " ".join(told.stdout.split())
    for part in (
        f"question {QUESTION}",
        f"planner m at {server.address}",
        "#E1 Do step 1. Search[author of Grey Lantern]",
        "-> Mara Teln (",
        "Search[birthplace of #E1] = Search[birthplace of Mara Teln] -> Haskby (",
        "-> [Calculator failed: it divides by zero]",
        "outcome answered",
        "answer Haskby",
        "calls tokens read tokens written seconds",
    ):
        assert part in text
    asked = [request[2]["messages"] for request in server.requests]
    assert [each["content"] for each in asked[0]] == [SYSTEM, QUESTION]
    assert "Mara Teln: Mara Teln was born in Haskby in 1822." in asked[2][1]["content"]
    assert "[Calculator failed: it divides by zero]" in asked[3][1]["content"]


def test_a_trace_for_programs(server, texts, tmp_path):
    words = (*answering(server, PLAN, "Haskby"), "--collection", texts, "--passages")
    out = tmp_path / "trace.json"
    told = done("plan", QUESTION, *words, "--format", "json", "-o", out, "--steps", "5")
    assert told.stdout == ""
    found = json.loads(out.read_text())
    check("plan", found)
    assert (found["question"], found["outcome"]) == (QUESTION, "answered")
    assert [step["id"] for step in found["plan"]["steps"]] == [1, 2, 3]
    assert found["plan"]["levels"] == [[1, 3], [2]]
    assert found["plan"]["text"] == PLAN
    assert found["evidence"][0]["text"].startswith("Grey Lantern: Grey Lantern is a novel")
    assert [row["failed"] for row in found["evidence"]] == [False, False, True]
    assert found["budget"] == {"steps": 5, "tokens": 8000, "seconds": 300.0}
    assert found["collection"] == str(texts)
    assert found["spent"]["planner"]["estimated"] is True
    assert found["tokens"] > 0
    assert "bm25s" in found["versions"]


@pytest.mark.parametrize("form", ["table", "json"])
def test_roles_of_the_tiny_model_end_in_a_trace(adapter, tmp_path, form):
    pruned = tmp_path / "plan.json"
    some = ",".join(open_adapter(adapter).names[:3])
    pruned.write_text(
        done("prune", adapter, "--modules", some, "--dry-run", "--format", "json").stdout
    )
    roles = ("--adapter", adapter, "--plan", pruned, "--solver", f"adapter={adapter}")
    told = done("plan", QUESTION, *SHORT, *roles, "--format", form)
    if form == "json":
        found = json.loads(told.stdout)
        check("plan", found)
        assert found["roles"]["planner"].endswith(f"{adapter}, 5 of 8 modules")
        assert found["roles"]["worker"] == "tiny"
        assert found["roles"]["solver"].endswith(f"{adapter}, 8 modules")
        assert found["outcome"] in ("no plan", "refused")
    else:
        assert max(map(len, told.stdout.splitlines())) <= 80
        assert "outcome   no plan" in told.stdout


def test_a_local_worker_and_solver_for_a_plan_of_an_endpoint(server, adapter):
    server.answers = [(200, completion(steps("LLM[a]", "LLM[b]")))]
    others = ("--worker", "model=tiny", "--solver", "model=tiny", "--solver", f"adapter={adapter}")
    words = ("--model", "m", "--endpoint", server.address, *others, "--format", "json")
    found = json.loads(done("plan", QUESTION, *words).stdout)
    check("plan", found)
    assert found["roles"]["worker"] == "tiny"
    assert found["spent"]["worker"]["calls"] == 2
    assert found["collection"] == "world"
    assert found["outcome"] in ("answered", "cut off", "no answer")
    assert len(server.requests) == 1


ENDINGS = {
    "answered": (PLAN, "Haskby"),
    "refused": ("I'm sorry, but I can't help with that.", "x"),
    "no plan": ("", "x"),
    "faulty plan": ("Sure!\n" + steps("Browse[#E1]"), "x"),
    "cut off": (PLAN, said("Haskb", ended="length")),
    "out of budget": (steps(*["Search[a]"] * 21), "x"),
    "planner failed": (Failed("it is gone"), "x"),
    "no answer": (PLAN, " "),
    "solver refused": (PLAN, "I cannot help with that."),
    "solver failed": (PLAN, Failed("it is gone", 0.5)),
    "planned": (PLAN, "x"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_ending_fits_the_schema(outcome):
    from s3lora.cli.plan_trace import render

    def fails(text):
        raise ValueError(text)

    planner, solver = map(Scripted, ENDINGS[outcome])
    tools = {"Search": Told(str.upper), "Calculator": Told(fails), "LLM": Told(str.lower)}
    (trace,) = Agent(planner, solver, tools).run([QUESTION], [outcome != "planned"])
    assert trace.outcome == outcome
    head = {
        "roles": dict.fromkeys(("planner", "worker", "solver"), "scripted"),
        "collection": "world",
        "budget": {"steps": 20, "tokens": 8000, "seconds": 300.0},
    }
    check("plan", json.loads(render(trace, head), parse_constant=pytest.fail))


def test_without_a_limit_of_time_there_is_none_in_the_json(server):
    words = (*answering(server, "No."), "--seconds", "inf", "--format", "json")
    found = json.loads(done("plan", QUESTION, *words).stdout, parse_constant=pytest.fail)
    check("plan", found)
    assert found["budget"]["seconds"] is None


def test_a_plan_that_cannot_be_run_is_shown_with_its_faults(server):
    words = answering(server, "Sure!\n" + steps("Browse[#E1]"))
    told = done("plan", QUESTION, *words).stdout
    assert "outcome   faulty plan" in told
    assert "  | #E1 = Browse[#E1]" in told
    assert "  fault line 3: no tool 'Browse'" in told
    assert "  fault line 3: #E1 refers to itself" in told


def test_a_failing_endpoint_is_an_outcome_and_no_error(server):
    server.answers = [(401, "{}")]
    told = done("plan", QUESTION, "--model", "m", "--endpoint", server.address)
    assert "outcome   planner failed" in told.stdout
    assert "OPENAI_API_KEY" in told.stdout


def test_a_model_that_takes_too_long_is_an_outcome_and_the_process_ends_well():
    code = "from s3lora.cli import main; main()"
    words = ("--model", tiny_folder(), "--new-tokens", "600", "--seconds", "0.2")
    told = subprocess.run(
        [sys.executable, "-c", code, "plan", QUESTION, *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "outcome   planner failed" in told.stdout
    assert "longer than 0.2 s" in told.stdout


def test_what_a_model_writes_cannot_reach_the_terminal(server):
    words = answering(server, steps("LLM[a]"), "\x1b[31mred\u202e", "a\x1b]0;title\x07")
    told = done("plan", "\x1b[2JWho?", *words).stdout
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "\x07" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("  ", *SHORT), "no question"),
        (("a", "--model", "tiny", "--new-tokens", "0"), "needs tokens"),
        (("a", *SHORT, "--steps", "0"), "a budget of 0 steps"),
        (("a", *SHORT, "--plan", "p.json"), "about an adapter"),
        (("a", *SHORT, "--worker", "plan=p.json"), "about an adapter"),
        (("a", *SHORT, "--worker", "tool=x"), "--worker has no key 'tool'"),
        (("a", *SHORT, "--worker", "adapter="), "--worker adapter= has no value"),
        (("a", *SHORT, "--worker", "tiny"), "no NAME=VALUE"),
        (("a", *SHORT, "--solver", "endpoint=http://localhost/v1"), "needs the model's name"),
        (("a", *SHORT, "--endpoint", "localhost"), "not the address"),
        (("a", *SHORT, "--endpoint", "http://localhost", "--adapter", "x"), "takes no adapter"),
        (("a", *SHORT, "--collection", "none.jsonl"), "cannot read the collection"),
        (("a", *SHORT, "--adapter", "none"), "none"),
    ],
)
def test_what_does_not_fit_is_an_error(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error, hint = refused("plan", *words)
    assert told in error
    assert hint


def test_a_model_is_loaded_once(monkeypatch, adapter):
    from s3lora.lab import models

    loaded = []
    load = models.load_chat
    monkeypatch.setattr(models, "load_chat", lambda name: loaded.append(name) or load(name))
    done("plan", QUESTION, *SHORT, "--adapter", adapter, "--solver", f"adapter={adapter}")
    assert loaded == ["tiny"]


def test_the_help_names_every_key():
    told = run("plan", "--help").stdout
    for key in import_module("s3lora.cli.roles").KEYS:
        assert key in told
