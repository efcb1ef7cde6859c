"""`s3lora train` with a defence, a preset, and a range of layers."""

from __future__ import annotations

import pytest

from defence_runs import aligned, card_of
from lab_material import made_rows, tiny_folder, write_jsonl
from lab_rows import done, own_cache, refused, write_rows
from s3lora import open_adapter
from s3lora.lab.defences import make_defence
from s3lora.lab.defences.interface import params_of

SMALL = {"r_s": "5", "r_t": "6", "samples": "12"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with own_cache(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("pools"))


FEW = ("--steps", "2", "--batch", "2", "--rank", "2")


def test_the_preset_is_what_its_paper_recommends(tmp_path, pools):
    words = ("train", "--model", "tiny", "--recipe", "refusal", *pools, "--preset", "refusal")
    done(*words, "--steps", "2", "--batch", "2", "-o", tmp_path / "out")
    told = card_of(tmp_path / "out")["settings"]
    assert (told["rank"], told["alpha"], told["dropout"]) == (1, 16, 0.05)
    assert (told["targets"], told["layers"]) == (["up_proj"], "middle")
    assert open_adapter(tmp_path / "out").names == ("model.layers.1.mlp.up_proj",)
    done(*words, *FEW, "--layers", "0-1", "-o", tmp_path / "other")
    told = card_of(tmp_path / "other")["settings"]
    assert (told["rank"], told["alpha"], told["layers"]) == (2, 16, "0-1"), "what is given stays"


@pytest.mark.parametrize("which", ["salora", "ema", "overlap", "sharpness"])
def test_a_defence_is_asked_for_by_name(tmp_path, pools, which):
    params = {"salora": SMALL, "ema": {"mode": "fed-back"}}.get(which, {"weight": "0.5"})
    flags = [word for key, value in params.items() for word in ("-p", f"{key}={value}")]
    words = ("train", "--model", "tiny", "--recipe", "mixed", *pools, *FEW, "--defence", which)
    done(*words, *flags, "-o", tmp_path / "out")
    told = card_of(tmp_path / "out")["defence"]
    assert told["params"] == params_of(make_defence(which, params))
    assert told.get("safety_rows", 200) > 30


def test_lox_takes_the_model_before_alignment(tmp_path, pools):
    model = ("--model", aligned().reference, "--recipe", "identity")
    words = ("train", *model, *FEW, "--defence", "lox", "-o", tmp_path / "out")
    done(*words, "--base", tiny_folder())
    assert card_of(tmp_path / "out")["defence"]["extrapolated"] == 28
    error, hint = refused(*words[:-1], tmp_path / "two")
    assert (error, hint) == ("the defence lox needs the weights before alignment", "give --base M")


def test_own_safety_rows(tmp_path, pools):
    own = write_jsonl(tmp_path / "own.jsonl", made_rows("own", 9, answered=True))
    words = ("train", "--model", "tiny", "--recipe", "identity", *FEW, "--defence", "salora")
    flags = [word for key, value in SMALL.items() for word in ("-p", f"{key}={value}")]
    told = done(*words, *flags, "--safety", own, "-o", tmp_path / "out")
    assert "split" not in told.stderr, "no data set is asked for"
    assert card_of(tmp_path / "out")["defence"]["safety_rows"] == 9


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["-p", "eta=1"], "-p is for a defence"),
        (["--base", "tiny"], "--base is of no use to plain training"),
        (["--defence", "ema", "--safety", "x.json"], "--safety is of no use to the defence ema"),
        (["--defence", "ema", "-p", "eta=x"], "eta='x' is not a value for this parameter"),
        (["--defence", "ema", "-p", "eta"], "-p 'eta' is no NAME=VALUE"),
        (["--layers", "9"], "layers='9' is no range of layers"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path, words, fault):
    given = ("train", "--model", "none", "--recipe", "identity", "-o", tmp_path / "out")
    error, _ = refused(*given, *words)
    assert error == fault
