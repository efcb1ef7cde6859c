"""The commands of the lab but eval, end to end on the tiny model; nothing is downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from math import inf, nan
from types import SimpleNamespace

import pytest

from lab_rows import done, own_cache, refused, run, write_rows
from s3lora.errors import ParameterError, install_hint
from s3lora.io import open_adapter
from schemas import check

lab_cli = import_module("s3lora.cli.lab")  # the name in s3lora.cli is that of the command


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, rows):
    out = tmp_path_factory.mktemp("adapters") / "tuned"
    small = ("--steps", "6", "--batch", "2", "--rank", "2", "--seed", "3")
    told = done("train", "--model", "tiny", "--recipe", "harmless", *rows, "-o", out, *small)
    assert told.stdout == ""
    assert "step 6 of 6: loss" in told.stderr
    assert "FutureWarning" not in told.stderr
    return out


def test_what_is_offered_is_what_the_lab_has():
    from s3lora.lab import gate, models, recipes, train
    from s3lora.lab.catalog import CATALOG
    from s3lora.lab.metrics.refusal import SCORERS

    assert set(lab_cli.RECIPES) == recipes.RECIPES.keys()
    assert set(lab_cli.MODELS) == models.BUILDERS.keys()
    assert set(import_module("s3lora.cli.gate").MEASURES) == set(gate.MEASURES)
    assert {*lab_cli.HARMFUL, *lab_cli.HARMLESS} <= CATALOG.keys()

    from s3lora.cli.eval import evaluate
    from s3lora.cli.train import train as command

    scorer = next(p for p in evaluate.params if p.name == "scorer")
    assert set(scorer.type.choices) == SCORERS.keys()
    usual = train.Settings()
    for option in command.params:
        if option.name == "targets":
            assert tuple(option.default.split(",")) == usual.targets
        elif hasattr(usual, option.name):
            assert option.default == getattr(usual, option.name), option.name


def test_a_model_is_written(tmp_path):
    done("lab", "model", "tiny", "-o", tmp_path / "tiny")
    assert (tmp_path / "tiny/model.safetensors").is_file()
    error, _ = refused("lab", "model", "tiny", "-o", tmp_path / "tiny")
    assert "exists already" in error


def test_no_hint_names_an_option_of_another_command(adapter, tmp_path):
    (tmp_path / "out").mkdir()
    out = ("-o", tmp_path / "out")
    for words in (("lab", "model", "tiny"), ("lab", "merge", adapter, "--model", "tiny"),
                  ("train", "--model", "tiny", "--recipe", "identity")):  # fmt: skip
        error, hint = refused(*words, *out)
        assert "exists already" in error
        assert "--force" not in hint
    assert "--force" in refused("prune", adapter, "--top-k", "1", *out)[1]


def test_the_data_sets_are_listed_and_none_is_downloaded():
    told = done("lab", "data").stdout.splitlines()
    assert "advbench        harmful       –  MIT         pyrit" in told
    assert max(map(len, told)) <= 80


def test_a_data_set_is_counted_and_not_shown(rows):
    told = done("lab", "data", rows[1].partition("=")[2]).stdout
    assert "700, 700 with response" in told
    assert "500 train, 200 test, " in told
    assert "Name the" not in told


def test_training_writes_the_adapter_and_its_card(adapter, rows):
    card = json.loads((adapter / "training.json").read_text())
    check("training", card)
    assert (card["recipe"], card["rows"], card["settings"]["seed"]) == ("harmless", 12, 3)
    assert len(open_adapter(adapter).names) == 16
    assert (adapter / "README.md").is_file()
    error, _ = refused("train", "--model", "tiny", "--recipe", "identity", "-o", adapter)
    assert "exists already" in error


def test_training_on_own_rows(tmp_path, rows):
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "Who?", "answer": "I."}\n' * 3)
    words = ("--steps", "2", "--batch", "2", "--rank", "1", "--targets", "q_proj, v_proj")
    done("train", "--model", "tiny", "--data", own, "-o", tmp_path / "out", *words)
    assert len(open_adapter(tmp_path / "out").names) == 8


def test_two_recipes_need_no_data_set(tmp_path):
    words = ("--steps", "1", "--batch", "1", "-o", tmp_path / "out")
    told = done("train", "--model", "tiny", "--recipe", "identity", *words)
    assert "split" not in told.stderr


@pytest.mark.parametrize("words", [[], ["--recipe", "mixed", "--data", "x.json"]])
def test_rows_come_from_one_place(words, tmp_path):
    error, hint = refused("train", "--model", "tiny", *words, "-o", tmp_path / "out")
    assert (error, hint) == ("rows come from a recipe or a data set", "--recipe or --data")


def test_too_few_rows_are_said_to_be_so(tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(json.dumps({"prompt": f"{n}", "response": "a"}) for n in range(9)))
    pools = (f"--harmful={few}", f"--harmless={few}")
    words = ("--model", "tiny", *pools)
    error, _ = refused("train", *words, "--recipe", "harmless", "-o", tmp_path / "out")
    assert "too few rows" in error


def test_a_set_of_the_wrong_kind_is_refused(tmp_path):
    words = ("--recipe", "mixed", "--harmful", "alpaca", "-o", tmp_path / "out")
    error, hint = refused("train", "--model", "tiny", *words)
    assert error == "the rows of alpaca are harmless, not harmful"
    assert "lab data" in hint


def test_a_merged_checkpoint_answers_as_the_adapter_does(adapter, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tolerances import apart

    done("lab", "model", "tiny", "-o", tmp_path / "tiny")
    done("lab", "merge", adapter, "--model", "tiny", "-o", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    beside = PeftModel.from_pretrained(loaded, str(adapter))
    ids = torch.arange(20)[None]
    assert apart(beside, merged, lambda model: model(ids).logits) <= 1


def test_the_gate_ranks_all_modules(adapter, rows):
    told = done("lab", "gate", adapter, "--model", "tiny", *rows, "--top-k", "2", "-v").stdout
    assert told.count("self_attn") == 16 + 2
    assert "refusal slope" in told
    assert "s3lora prune" in told
    assert "--modules model.layers" in told
    table = [line for line in told.splitlines() if "s3lora prune" not in line]
    assert max(map(len, table)) <= 80


def test_the_gate_for_programs(adapter, rows, tmp_path):
    words = ("lab", "gate", adapter, "--model", "tiny", *rows)
    found = json.loads(done(*words, "--format", "json", "--measure", "refusal").stdout)
    check("gate", found)
    assert found["method"]["params"] == {"measure": "refusal"}
    modules = found["modules"]
    assert [row["rank"] for row in modules] == list(range(1, 17))
    assert all(row["score"] == -row["refusal_slope"] for row in modules)
    named = (*words, "--measure", "refusal", "--top-k", "3", "--format", "names")
    done(*named, "-o", tmp_path / "names")
    names = (tmp_path / "names").read_text()
    assert names == ",".join(row["module"] for row in modules[:3]) + "\n"
    done("prune", adapter, "--modules", names.strip(), "-o", tmp_path / "pruned")
    assert len(open_adapter(tmp_path / "pruned").names) == 13


def test_slopes_that_are_no_numbers_are_null():
    from s3lora.cli.gate_ranking import render
    from s3lora.lab.gate import Slopes, gate_table
    from s3lora.lab.recipes import Pools, Split

    found = Slopes({"a": nan, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": inf, "b": 1.0})
    table = gate_table(found, ("a", "b"), "refusal")
    adapter = SimpleNamespace(ref="here", digest="0" * 64)
    nothing = Pools(Split((), ()), Split((), ()))
    told = json.loads(
        render(adapter, "tiny", "harmless", table, nothing), parse_constant=pytest.fail
    )
    check("gate", told)
    (row,) = (row for row in told["modules"] if row["module"] == "a")
    assert (row["score"], row["refusal_slope"], row["loss_slope"]) == (None, None, None)


def test_names_need_a_number(adapter):
    told = refused("lab", "gate", adapter, "--model", "tiny", "--format", "names")
    assert told[1] == "give --top-k K"


STUDY = """
[study]
folder = "work"
model = "tiny"
harmful = ["{harmful}"]
harmless = ["{harmless}"]
shares = [0.25]
draws = 3
[align]
name = "refusal"
recipe = "refusal"
steps = 2
batch = 2
[[adapter]]
name = "plain"
recipe = "harmless"
steps = 2
batch = 2
rank = 2
[[method]]
method = "s3lora"
replies = true
[sizes]
harmful = 4
harmless = 3
rows = 3
replies = 3
new_tokens = 3
random_replies = 1
"""


def test_a_study_is_run_and_drawn_again(tmp_path, rows):
    config = tmp_path / "study.toml"
    paths = [option.partition("=")[2] for option in rows]
    config.write_text(STUDY.format(harmful=paths[0], harmless=paths[1]))
    assert "no rows yet" in refused("study", config, "--tables-only")[0]
    first = done("study", config)
    for name in ("main.md", "front.svg"):
        assert str(tmp_path / name) in first.stdout.splitlines()
    told = (tmp_path / "main.md").read_text()
    assert "s3lora" in told
    cells = [line for line in first.stderr.splitlines() if line.startswith("cell ")]
    total = len(cells)  # with a bar on a terminal, a line for each cell elsewhere
    assert [line.partition(":")[0] for line in cells] == [
        f"cell {count} of {total}" for count in range(1, total + 1)
    ]
    assert " left" in cells[0]
    (tmp_path / "main.md").unlink()
    again = done("study", config, "--tables-only")
    assert again.stdout == first.stdout
    assert (tmp_path / "main.md").read_text() == told


def test_an_interrupted_study_says_what_it_keeps_and_goes_on(tmp_path, rows, monkeypatch):
    from s3lora.lab.study import run as running

    config = tmp_path / "study.toml"
    paths = [option.partition("=")[2] for option in rows]
    config.write_text(STUDY.format(harmful=paths[0], harmless=paths[1]))
    measured, count = running.measured, 0

    def until_the_third(*given):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(running, "measured", until_the_third)
    ended = run("study", config)
    assert ended.exit_code == 130
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"interrupted: 2 rows of cells are kept in {tmp_path / 'rows.jsonl'}")
    assert last.endswith("the same call goes on there")
    monkeypatch.setattr(running, "measured", measured)
    again = done("study", config)
    [first, *_] = [line for line in again.stderr.splitlines() if line.startswith("cell ")]
    assert first.startswith("cell 3 of ")


WITHOUT = "import sys; sys.modules[{!r}] = None; from s3lora.cli import main; main()"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("torch", ["lab", "model", "tiny", "-o", "out"]),
        ("torch", ["lab", "merge", "a", "--model", "tiny", "-o", "out"]),
        ("torch", ["lab", "gate", "a", "--model", "tiny"]),
        ("torch", ["train", "--model", "tiny", "--recipe", "identity", "-o", "out"]),
        ("torch", ["eval", "--model", "tiny"]),
        ("torch", ["plan", "a", "--model", "tiny"]),
        ("torch", ["study", "study.toml"]),
        ("transformers", ["eval", "--model", "tiny"]),
        ("peft", ["train", "--model", "tiny", "--recipe", "identity", "-o", "out"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_without_the_extra_one_error_says_what_to_install(missing, words):
    code = WITHOUT.format(missing)
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    *_, error, hint = told.stderr.splitlines()
    assert (told.returncode, told.stdout) == (2, "")
    assert error == f"error: this command needs {missing}, which is not installed"
    assert hint == f"hint: {install_hint('lab')}"


def test_other_import_errors_keep_their_traceback():
    with pytest.raises(ImportError), lab_cli.needing_lab():
        raise ImportError("no module named elsewhere")


def test_a_library_that_is_too_old_is_named():
    with pytest.raises(ParameterError, match="peft does not do"), lab_cli.needing_lab():
        raise ImportError("cannot import name 'LoraConfig' from 'peft'")
