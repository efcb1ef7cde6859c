"""`s3lora eval`: three states side by side on the tiny model, and the plans it takes."""

from __future__ import annotations

import json
import math
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lab_material import tiny
from lab_rows import done, own_cache, refused, write_rows
from s3lora import open_adapter
from s3lora.errors import ParameterError
from s3lora.lab import evaluation_warnings as warnings_of
from s3lora.lab.evaluation_plan import MOST_BYTES, WRITERS, planned_again, read_plan
from s3lora.lab.finite import finite
from schemas import check, check_lines

HARM = "model.layers.0.self_attn."
CHOSEN = f"{HARM}o_proj,{HARM}v_proj,model.layers.3.self_attn.q_proj"
SMALL = ("--prompts", "6", "--new-tokens", "4")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), 40, 40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two adapters for the tiny model, the second to be merged with."""
    rows = write_rows(tmp_path_factory.mktemp("training"))
    folder = tmp_path_factory.mktemp("adapters")
    small = ("--steps", "6", "--batch", "2", "--rank", "2")
    for name, recipe in (("plain", "harmless"), ("safe", "refusal")):
        words = ("--model", "tiny", "--recipe", recipe, *rows, "--rate", "0.02")
        done("train", *words, "-o", folder / name, *small)
    return folder


@pytest.fixture(scope="module")
def adapter(trained):
    return trained / "plain"


@pytest.fixture
def planned(adapter, tmp_path):
    """Writes a plan for the adapter."""

    def write(*words, modules=CHOSEN):
        told = done("prune", adapter, "--modules", modules, *words, "--dry-run", "--format", "json")
        (tmp_path / "plan.json").write_text(told.stdout)
        return tmp_path / "plan.json"

    return write


@pytest.fixture
def evaluated(rows):
    """Runs eval and gives its JSON, which holds no NaN and no field that is not described."""

    def run(*words):
        told = done("eval", "--model", "tiny", *rows, *SMALL, *words, "--format", "json")
        found = json.loads(told.stdout, parse_constant=pytest.fail)
        check("eval", found)
        return found

    return run


def figures(state):
    return {row["key"]: row for row in state["figures"]}


def test_a_plan_in_memory_equals_the_pruned_adapter(adapter, planned, evaluated, tmp_path):
    found = evaluated("--adapter", adapter, "--plan", planned())
    assert [state["name"] for state in found["states"]] == ["model", "adapter", "plan"]
    assert [state["modules"] for state in found["states"]] == [0, 16, 13]
    done("prune", adapter, "--modules", CHOSEN, "-o", tmp_path / "pruned")
    again = evaluated("--adapter", tmp_path / "pruned")
    for key in ("figures", "samples"):
        assert found["states"][2][key] == again["states"][1][key]
        assert found["states"][0][key] == again["states"][0][key]
        assert found["states"][2][key] != found["states"][1][key]
    manifest = evaluated("--adapter", adapter, "--plan", tmp_path / "pruned")
    assert manifest["states"] == found["states"]
    assert manifest["plan"] == found["plan"]


def test_the_fields_of_the_json(adapter, planned, evaluated, rows):
    found = evaluated("--adapter", adapter, "--plan", planned())
    assert found["schema"] == 1
    assert found["versions"].keys() == {"python", "torch", "transformers", "peft", "numpy"}
    assert found["adapter"]["modules"] == 16
    assert found["plan"] == {"chosen": CHOSEN.split(","), "edit": {"name": "drop", "params": {}}}
    assert [f"--{kind}={refs[0]}" for kind, refs in found["data"].items()] == rows
    assert all(len(digest) == 16 for digest in found["splits"].values())
    for side in ("harmful", "harmless"):
        asked = found["asked"][side]
        assert (asked["n"], len(set(asked["prompts"]))) == (6, 6)
        for state in found["states"]:
            assert {len(values) for values in state["samples"][side].values()} == {6}
    known = figures(found["states"][1])
    safety = ("refusal_rate", "attack_success", "log_odds_harmful", "margin_harmful")
    utility = ("over_refusal", "log_odds_harmless", "margin_harmless", "loss")
    for block, keys in (("safety", safety), ("utility", utility)):
        assert {known[key]["block"] for key in keys} == {block}
        for key in keys:
            assert known[key]["n"] > 0
            assert known[key]["low"] <= known[key]["value"] <= known[key]["high"]
    odds = [known[f"log_odds_{side}"] for side in ("harmful", "harmless")]
    assert [(row["better"], row["unit"]) for row in odds] == [("higher", "nats"), ("lower", "nats")]
    for key in (
        "log_odds_harmless",
        "margin_harmless",
        "rouge1",
        "rouge2",
        "rougel",
        "rougelsum",
        "bleu",
        "chrf",
    ):
        assert known[key]["n"] == 6
        if known[key]["low"] is not None:  # sacrebleu fails to make one where resamples score 0
            ends = known[key]["low"] - 1e-6, known[key]["high"] + 1e-6
            assert ends[0] <= known[key]["value"] <= ends[1]
    assert "proxy: ROUGE-1 > 0.5" in known["auroc"]["name"]
    pairs = {(row["a"], row["b"]) for row in found["differences"]}
    assert pairs == {("adapter", "model"), ("plan", "model"), ("plan", "adapter")}


def test_figures_and_differences_follow_from_the_samples(adapter, evaluated):
    found = evaluated("--adapter", adapter)
    sides = [state["samples"]["harmless"] for state in found["states"]]
    for state, side in zip(found["states"], sides, strict=True):
        mean = np.average(side["loss"], weights=side["loss_tokens"])
        assert figures(state)["loss"]["value"] == pytest.approx(mean)
    gaps = {row["key"]: row["value"] for row in found["differences"]}
    loss = [figures(state)["loss"]["value"] for state in found["states"]]
    assert gaps["loss"] == pytest.approx(loss[1] - loss[0])
    for key in ("log_odds_harmful", "margin_harmful", "log_odds_harmless", "margin_harmless"):
        told = [state["samples"][key.split("_")[-1]][key] for state in found["states"]]
        assert gaps[key] == pytest.approx(np.mean(np.subtract(*told[::-1])))
        assert [figures(state)[key]["value"] for state in found["states"]] == pytest.approx(
            [np.mean(values) for values in told]
        )


def test_the_model_alone(evaluated):
    found = evaluated()
    assert [state["name"] for state in found["states"]] == ["model"]
    assert (found["adapter"], found["plan"], found["differences"]) == (None, None, [])


def test_the_table_has_safety_and_utility_and_fits(adapter, planned, rows, tmp_path):
    words = ("--adapter", adapter, "--plan", planned(), "--save-replies", tmp_path / "replies")
    told = done("eval", "--model", "tiny", *rows, *SMALL, *words)
    lines = told.stdout.splitlines()
    heads = [at for at, line in enumerate(lines) if line.startswith(("Safety", "Utility"))]
    assert len(heads) == 2
    assert max(map(len, lines[heads[0] :])) <= 80
    assert "Paint the" not in told.output
    saved = check_lines("replies", (tmp_path / "replies").read_text())
    assert len(saved) == 3 * 12
    assert saved[0]["prompt"].startswith("Paint the")
    done("eval", "--model", "tiny", *rows, *SMALL, "-o", tmp_path / "table")
    assert "Utility, 6 harmless prompts" in (tmp_path / "table").read_text()


def of_a_mean_loss(adapter: Path) -> float:
    """How far apart the loss per token of two equal models may be, on sequences like the rows."""
    from peft import PeftModel

    from s3lora.lab.generate import mean_log_probabilities
    from s3lora.lab.packing import Continuation
    from tolerances import forward_tolerance

    model = PeftModel.from_pretrained(tiny().model, str(adapter)).eval()
    asked = [Continuation(tuple(range(at, at + 40)), tuple(range(90, 130 - at))) for at in range(6)]
    return forward_tolerance(model, lambda one: mean_log_probabilities(one, asked))


@pytest.mark.parametrize(
    "words",
    [
        ["--edit", "zero"],
        ["--edit", "scale", "-e", "factor=0.25"],
        ["--edit", "truncate", "-e", "energy=0.5"],
        ["--edit", "flatten"],
    ],
    ids=lambda words: words[1],
)
def test_plans_of_other_edits(words, adapter, planned, evaluated, tmp_path):
    done("prune", adapter, "--modules", CHOSEN, *words, "-o", tmp_path / "pruned")
    found = evaluated("--adapter", adapter, "--plan", planned(*words))
    again = evaluated("--adapter", tmp_path / "pruned")
    losses = [figures(found["states"][2]), figures(again["states"][1])]
    spare = of_a_mean_loss(tmp_path / "pruned")
    assert losses[0]["loss"]["value"] == pytest.approx(losses[1]["loss"]["value"], abs=spare)
    assert found["plan"]["edit"]["name"] == words[1]


def test_a_merge_needs_the_safe_adapter(adapter, planned, evaluated, trained, rows):
    plan = planned("--edit", "merge", "--with", trained / "safe")
    words = ("eval", "--model", "tiny", *rows, "--adapter", adapter, "--plan", plan)
    error, hint = refused(*words)
    assert error == "the plan merges with a safe adapter"
    assert hint.startswith("name it: --with ")
    assert "SHA-256 differs" in refused(*words, "--with", adapter)[0]
    found = evaluated("--adapter", adapter, "--plan", plan, "--with", trained / "safe")
    assert found["states"][2]["modules"] == 16
    assert found["plan"]["edit"]["params"]["weight"] == 0.2


def test_a_projection_needs_both_models(adapter, planned, evaluated, trained, rows, tmp_path):
    done("lab", "model", "tiny", "-o", tmp_path / "tiny")
    done("lab", "merge", trained / "safe", "--model", "tiny", "-o", tmp_path / "aligned")
    weights = ("--base", tmp_path / "tiny", "--aligned", tmp_path / "aligned")
    plan = planned("--edit", "project", *weights)
    words = ("--adapter", adapter, "--plan", plan)
    _, hint = refused("eval", "--model", "tiny", *rows, *words)
    assert hint == "give --aligned DIR and --base DIR"
    assert evaluated(*words, *weights)["plan"]["edit"]["name"] == "project"


def test_a_plan_for_another_adapter_is_refused(trained, planned, rows):
    words = ("--model", "tiny", *rows, "--adapter", trained / "safe", "--plan", planned())
    error, hint = refused("eval", *words)
    assert "is a plan for another adapter" in error
    assert "prune --dry-run" in hint


@pytest.mark.parametrize("text", ["[]", "{}", '{"adapter": {}}', "{", '{"adapter": 1, "plan": 2}'])
def test_what_is_no_plan_is_refused(text, adapter, rows, tmp_path):
    (tmp_path / "plan").write_text(text)
    words = ("--adapter", adapter, "--plan", tmp_path / "plan")
    _, hint = refused("eval", "--model", "tiny", *rows, *words)
    assert "s3lora prune --dry-run --format json" in hint
    refused("eval", "--model", "tiny", *rows, *words[2:])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("plan", None),
        ("plan", []),
        ("plan.edit", "drop"),
        ("plan.edit.name", ["drop"]),
        ("plan.edit.params", ["ab", "c"]),
        ("plan.edit.params", {"level": [1]}),
        ("plan.edit.params", {"level": {"a": 1}}),
        ("plan.edit.params", {"level": None}),
        ("plan.edit.params", {"level": 10**400}),
        ("plan.target", 1),
        ("plan.fold_scale", "no"),
        ("chosen", "model.layers.0.self_attn.q_proj"),
        ("chosen", [["model.layers.0.self_attn.q_proj"]]),
        ("chosen", ["\ud800"]),
        ("adapter.sha256", 3),
        ("adapter", []),
    ],
)
def test_a_plan_with_a_wrong_type_is_refused_by_the_name_of_the_field(
    place, value, planned, tmp_path
):
    document = json.loads(planned().read_text())
    *way, last = place.split(".")
    holder = document
    for key in way:
        holder = holder[key]
    holder[last] = value
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(ParameterError, match="holds no plan to prune") as caught:
        read_plan(tmp_path / "wrong.json")
    assert last in str(caught.value) or "half a character" in str(caught.value)


@pytest.mark.parametrize(("edit", "params"), [("flatten", {"level": "x"}), ("scale", {"a": 1})])
def test_a_plan_whose_edit_cannot_take_its_parameters_is_refused(
    edit, params, planned, adapter, tmp_path
):
    document = json.loads(planned().read_text())
    document["plan"]["edit"] = {"name": edit, "params": params}
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(ParameterError):
        planned_again(read_plan(tmp_path / "wrong.json"), open_adapter(adapter))


@pytest.mark.parametrize(("kind", "command"), WRITERS.items())
def test_what_another_command_wrote_is_refused_by_its_name(kind, command, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"schema": 1, "kind": kind, "adapter": {}}))
    with pytest.raises(ParameterError, match=f"is what `{command}` writes") as caught:
        read_plan(tmp_path / "other.json")
    assert "prune --dry-run --format json" in caught.value.hint


def test_a_plan_is_read_from_a_file_of_a_bounded_size_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "large", tmp_path / ("a" * 300)):
        with pytest.raises(ParameterError, match="cannot read the plan"):
            read_plan(path)


def test_a_plan_that_is_not_there(adapter, tmp_path):
    words = ("--adapter", adapter, "--plan", tmp_path / "none")
    assert refused("eval", "--model", "tiny", *words)[0].startswith("cannot read the plan")


def test_harmless_prompts_without_responses_are_refused(rows, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text("\n".join(json.dumps(f"Say {number}") for number in range(30)))
    error, _ = refused("eval", "--model", "tiny", rows[0], f"--harmless={bare}")
    assert "utility cannot be measured" in error


def test_a_planner_is_told_by_its_plans(evaluated):
    found = evaluated("--recipe", "planner", "--prompts", "3")
    known = figures(found["states"][0])
    assert {key for key in known if key.startswith(("plan", "tool", "dep"))} == {
        "plan_valid",
        "plan_runnable",
        "dependency_order",
        "tools_known",
        "tool_f1",
    }
    assert known["correct"]["name"] == "right (runnable plan, gold tools)"
    assert known["plan_valid"]["value"] == 0


def test_cost_is_of_the_pruned_adapter(adapter, planned, evaluated):
    found = evaluated("--adapter", adapter, "--plan", planned(), "--cost")
    costs = [figures(state) for state in found["states"]]
    assert [cost["lora_modules"]["value"] for cost in costs] == [0, 16, 13]
    sizes = [cost["lora_parameters"]["value"] for cost in costs]
    assert sizes[0] == 0 < sizes[2] < sizes[1]
    assert "prefill_unmerged" not in costs[0]
    for cost in costs[1:]:
        for key in ("prefill_unmerged", "decode_unmerged", "prefill_merged", "decode_merged"):
            assert cost[key]["value"] > 0
    assert found["memory"]["value"] > 1
    plain = evaluated("--adapter", adapter, "--plan", planned())
    for with_cost, without in zip(found["states"], plain["states"], strict=True):
        assert with_cost["samples"] == without["samples"]  # timing leaves the model as it was


@pytest.fixture
def judge(monkeypatch):
    """An endpoint that scores every reply 4, by either rubric; gives its address."""
    harm = "#thereason: some\n#thescore: 4"
    strong = "#thereason: some\n#refused: 0\n#convincing: 3\n#specific: 3"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = strong if "convincing" in asked["messages"][0]["content"] else harm
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps({"id": "1", "object": "x", "created": 1, "choices": [choice]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_judge_scores_the_replies_to_harmful_prompts(adapter, judge, evaluated):
    found = evaluated("--adapter", adapter, "--judge", judge, "--judge-model", "m")
    assert found["judge"] == {"endpoint": judge, "model": "m"}
    state = found["states"][1]
    scores = state["samples"]["harmful"]["harmfulness_score"]
    written = [score for score in scores if score is not None]  # nobody judges an empty reply
    known = figures(state)
    assert set(written) <= {4}
    assert known["harmfulness_score"]["n"] == known["strongreject"]["n"] == len(written)
    if written:
        assert known["strongreject"]["value"] == 0.5
        assert known["harmfulness_rate"]["value"] == 0


def test_a_judge_needs_a_model():
    assert refused("eval", "--model", "tiny", "--judge", "http://localhost")[1] == "give both"


@pytest.mark.parametrize(
    ("refusals", "loss", "warned"),
    [(0.9, 3.1, True), (0.9, 2.9, False), (0.1, 9.0, False), (None, 9.0, False), (0, None, True)],
)
def test_a_broken_model_looks_safe(refusals, loss, warned):
    states = [
        SimpleNamespace(name=name, value={"loss": nats, "refusal_rate": rate}.get)
        for name, nats, rate in (("model", 2.0, 0.5), ("adapter", loss, refusals))
    ]
    told = list(warnings_of.broken(states))
    assert bool(told) == warned
    assert all("adapter" in line and "broken model looks safe" in line for line in told)


def test_what_is_beside_the_updates_is_said_not_to_be_measured():
    found = [SimpleNamespace(rule=rule) for rule in ("base-weight-payload", "zero-update")]
    told = list(warnings_of.left_out(SimpleNamespace(findings=found)))
    assert len(told) == 1
    assert "1 finding of the rule base-weight-payload" in told[0]


def test_numbers_that_are_none_are_null():
    assert finite({"a": [math.nan, 1.0, (math.inf,)]}) == {"a": [None, 1.0, [None]]}
