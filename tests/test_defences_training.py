"""Every defence in the course of a training: interrupted, described, and asked for by name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from defence_runs import SAFETY, Kill, Killed, aligned, card_of, trained, unaligned
from lab_material import made_pools, tiny
from s3lora import open_adapter
from s3lora.errors import OutputError, ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.defences import DEFENCES, make_defence
from s3lora.lab.defences.features import safety_rows
from s3lora.lab.defences.interface import params_of
from s3lora.lab.metrics.refusal import SCORERS
from s3lora.lab.settings import PRESETS, Settings, layers_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SMALL = {"r_s": "5", "r_t": "6", "samples": "12"}
RUNS = {
    "salora": ("salora", SMALL),
    "lox": ("lox", {"k": "2"}),
    "shadow": ("ema", {"every": "2"}),
    "shadow from 4 on": ("ema", {"start": "4"}),
    "shadow of products": ("ema", {"space": "product"}),
    "fed back": ("ema", {"mode": "fed-back", "eta": "0.5", "every": "2"}),
    "fed back products": ("ema", {"mode": "fed-back", "eta": "0.5", "space": "product"}),
    "overlap": ("overlap", {"weight": "0.5"}),
    "sharpness": ("sharpness", {"weight": "0.5", "every": "2"}),
}


def run(out: Path, name: str, params: dict[str, str], **rest) -> Path:
    base = Checkpoint(unaligned().reference) if name == "lox" else None
    chat = aligned() if name == "lox" else tiny()
    return trained(out, make_defence(name, params), chat=chat, base=base, safety=SAFETY, **rest)


@pytest.mark.parametrize("which", RUNS)
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, which):
    whole = run(tmp_path / "whole", *RUNS[which])
    out = tmp_path / "out"
    for step in (4, 8):
        with pytest.raises(Killed):
            run(out, *RUNS[which], callbacks=[Kill(step)])
    run(out, *RUNS[which])
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (whole, out))
    assert a.keys() == b.keys()
    assert max(float(np.abs(a[key] - b[key]).max()) for key in a) <= 1e-6
    assert (whole / "adapter_config.json").read_text() == (out / "adapter_config.json").read_text()
    one, other = card_of(whole), card_of(out)
    assert (one["resumed_from"], other["resumed_from"]) == (None, 6)
    for key in ("losses", "penalties"):
        assert one.get(key) == pytest.approx(other.get(key), abs=1e-5)
    for key, value in one["defence"].items():
        if key == "truncation_error":
            assert value == pytest.approx(other["defence"][key], rel=1e-3, abs=1e-6)
        elif key != "seconds_before":
            assert value == other["defence"][key]
    if which == "sharpness":
        rows = [(f / "sharpness.jsonl").read_text().splitlines() for f in (whole, out)]
        assert len(rows[0]) == 5 * 8
        for row, again in zip(*(map(json.loads, lines) for lines in rows), strict=True):
            assert (row["step"], row["module"]) == (again["step"], again["module"])
            assert row["ssi"] == pytest.approx(again["ssi"], rel=1e-3)
    assert not (tmp_path / ".out.training").exists()


def test_another_defence_does_not_continue_what_is_left(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Killed):
        run(out, "ema", {"eta": "0.5"}, callbacks=[Kill(5)])
    with pytest.raises(OutputError, match=r"another training: params {'eta': 0\.5"):
        run(out, "ema", {"eta": "0.9"})
    run(out, "ema", {"eta": "0.9"}, discard="other")
    assert card_of(out)["resumed_from"] is None
    with pytest.raises(Killed):
        run(tmp_path / "two", "salora", SMALL, callbacks=[Kill(5)])
    others = [replace(row, response="Never.") for row in SAFETY]
    trained(tmp_path / "two", make_defence("salora", SMALL), safety=others, discard="other")
    assert card_of(tmp_path / "two")["resumed_from"] is None


@pytest.mark.parametrize("which", RUNS)
def test_the_card_says_what_guarded_the_training(tmp_path, which):
    name, params = RUNS[which]
    out = run(tmp_path / "out", name, params)
    card, page = card_of(out), (out / "README.md").read_text()
    told = card["defence"]
    assert told["name"] == name
    assert told["params"] == params_of(make_defence(name, params))
    assert told["seconds_before"] >= 0
    assert card["peak_mib"] > 50
    assert f"Defence while training: {name} (" in page
    assert all(f"{key}={value}" in page for key, value in params.items())


def test_a_plain_training_names_no_defence(tmp_path):
    out = trained(tmp_path / "out", None)
    assert "defence" not in card_of(out)
    assert "Defence" not in (out / "README.md").read_text()


def test_defences_go_by_name():
    cli = import_module("s3lora.cli.train")  # the name in s3lora.cli is that of the command
    assert set(cli.DEFENCES) == DEFENCES.keys()
    assert set(cli.PRESETS) == PRESETS.keys()
    for name in DEFENCES:
        made = make_defence(name)
        assert (made.name, params_of(made).keys()) == (name, {f.name for f in fields(made)})
        assert made.needs <= {"safety", "base"}
    with pytest.raises(ParameterError, match="no defence 'vaccine'"):
        make_defence("vaccine")
    with pytest.raises(ParameterError, match="the defence 'ema' has no parameter 'beta'"):
        make_defence("ema", {"beta": "1"})
    for name, key, value in (
        ("ema", "eta", "1.1"), ("ema", "mode", "back"), ("ema", "space", "all"),
        ("ema", "every", "0"), ("ema", "start", "-1"), ("lox", "k", "0"), ("lox", "alpha", "nan"),
        ("salora", "r_s", "0"), ("salora", "samples", "0"), ("salora", "start", "cold"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=rf"cannot take .*{key}={value}"):
            make_defence(name, {key: value})


def test_a_defence_is_for_linear_modules(tmp_path):
    with pytest.raises(ParameterError, match="embed_tokens is no linear module"):
        trained(tmp_path / "out", make_defence("ema"), targets=("embed_tokens", "q_proj"))


def test_safety_rows_are_the_refused_prompts_of_the_aligning_part():
    pools = made_pools()
    rows = safety_rows(pools, 0)
    assert sorted(row.prompt for row in rows) == sorted(row.prompt for row in pools.aligning[0])
    assert all(any(told(row.response) for told in SCORERS.values()) for row in rows)


# Layers and presets


@pytest.mark.parametrize(
    ("told", "depth", "wanted"),
    [
        ("all", 4, None), ("1-2", 4, [1, 2]), ("3-3", 4, [3]), ("middle", 48, [*range(16, 32)]),
        ("middle", 30, [*range(10, 20)]), ("middle", 1, [0]), ("middle", 2, [0]),
    ],
)  # fmt: skip
def test_layers_by_what_they_are_called(told, depth, wanted):
    assert layers_of(told, depth) == wanted


@pytest.mark.parametrize("wrong", ["", "2-1", "1", "-1-2", "a-b", "1-2-3", "1-99999999999"])
def test_layers_that_are_no_range(wrong):
    with pytest.raises(ParameterError, match="is no range of layers"):
        Settings(layers=wrong)


def test_only_the_layers_that_are_named_are_trained(tmp_path):
    out = trained(tmp_path / "out", None, layers="1-2")
    assert {name.split(".")[2] for name in open_adapter(out).names} == {"1", "2"}
    assert json.loads((out / "adapter_config.json").read_text())["layers_to_transform"] == [1, 2]
    assert "q_proj, v_proj in layers 1-2" in (out / "README.md").read_text()
    with pytest.raises(ParameterError, match="no layer 4 in a model of 4"):
        trained(tmp_path / "more", None, layers="2-4")


def test_a_stacked_adapter_names_its_modules_in_these_layers_alone(tmp_path):
    out = trained(
        tmp_path / "out", make_defence("salora", SMALL), safety=SAFETY, layers="1-2"
    )  # fmt: skip
    opened = open_adapter(out)
    assert {name.split(".")[2] for name in opened.names} == {"1", "2"}
    assert not [f for f in opened.findings if f.rule != "unscanned-sibling"]
