"""The tiny model, chat examples as tokens, and training that can be interrupted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import AutoTokenizer, TrainerCallback, TrainerState

from lab_material import made_rows, tiny, tiny_folder
from s3lora import open_adapter
from s3lora.errors import DataError, OutputError, ParameterError
from s3lora.lab.chat import NO_LABEL, Encoded, encode, padded, prompt_ids, response_ids
from s3lora.lab.data import Example, digest_of
from s3lora.lab.models import Chat, build, load_chat, model_folder
from s3lora.lab.packages import cache_folder
from s3lora.lab.partial_training import partial_training
from s3lora.lab.study.workshop import merge
from s3lora.lab.train import Collator, Settings, train
from s3lora.lab.training_card import describe
from schemas import check
from tolerances import forward_tolerance, product_tolerance

train_module = import_module("s3lora.lab.train")  # the name in s3lora.lab is that of the function

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WEIGHTS = "adapter_model.safetensors"
ROWS = made_rows("row", 24, answered=True)
SHORT = Settings(rank=2, steps=9, batch=3, save_every=3, targets=("q_proj", "v_proj"), rate=1e-2)
SMOLLM2 = cache_folder() / "models" / "smollm2"


@pytest.fixture(scope="module")
def chat() -> Chat:
    return tiny()


def test_the_tiny_model_is_the_same_wherever_it_is_built(tmp_path):
    build("tiny", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tiny_folder() / "model.safetensors"
    ).read_bytes()
    with pytest.raises(OutputError):
        build("tiny", tmp_path / "again")
    with pytest.raises(DataError, match="no model 'huge'"):
        build("huge", tmp_path / "huge")


def test_a_model_by_name_is_built_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("S3LORA_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = Path(model_folder("tiny"))
    assert folder == tmp_path / "models" / "tiny"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder("tiny") == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert model_folder("owner/name") == "owner/name"


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot load the model"):
        load_chat(str(tmp_path / "empty"))
    mute = tmp_path / "mute"
    shutil.copytree(tiny_folder(), mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template"):
        load_chat(str(mute))


def test_a_loaded_model_is_ready(chat):
    assert not chat.model.training
    assert chat.model.dtype == torch.float32
    assert load_chat(str(tiny_folder()), dtype=torch.bfloat16).model.dtype == torch.bfloat16
    text = "Grüße, 你好!\n"
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())
    assert chat.tokenizer.decode(ids) == text


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def tokenizer(request):
    if request.param == "smollm2" and not SMOLLM2.exists():
        pytest.skip("the checkpoint is not in S3LORA_CACHE")
    return AutoTokenizer.from_pretrained(tiny_folder() if request.param == "tiny" else SMOLLM2)


CHATS = [
    Example("What is this?", "A test."),
    Example("Two\nlines ", " leading space, 1 2 3", {"system": "Be short."}),
    Example("über 你", "<think>\n", {"system": ""}),
    Example("x", "assistant", {"system": "a\nb"}),
]


@pytest.mark.parametrize("example", CHATS)
def test_the_mask_covers_exactly_the_prompt(tokenizer, example):
    system = example.meta.get("system")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": example.prompt})
    whole = [*messages, {"role": "assistant", "content": example.response}]

    def rendered(turns: list[dict[str, str]], **options: bool) -> list[int]:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    before, after = rendered(messages, add_generation_prompt=True), rendered(whole)
    row = encode(tokenizer, example, 1000)
    assert list(row.prompt) == before
    assert after[: len(row.ids)] == row.ids, "token for token as the template has it"
    assert tokenizer.decode(after[len(row.ids) :]).strip() == "", "after it comes a line end"
    assert row.ids[-1] == tokenizer.eos_token_id
    masked = [label == NO_LABEL for label in row.labels]
    assert masked == [True] * len(before) + [False] * (len(row.ids) - len(before))
    assert row.labels[len(before) :] == row.ids[len(before) :]
    assert tokenizer.decode(row.response[:-1]) == example.response


def test_a_long_response_is_cut_and_then_has_no_end(tokenizer):
    example = Example("a", "one two three four five six seven")
    whole = encode(tokenizer, example, 1000)
    for longest in range(1, len(whole.response) + 2):
        row = encode(tokenizer, example, longest)
        assert row.prompt == whole.prompt
        assert row.response == whole.response[:longest]
        assert (tokenizer.eos_token_id in row.response) == (longest >= len(whole.response))
    assert response_ids(tokenizer, "one", ended=False) == response_ids(tokenizer, "one")[:-1]


def test_a_system_message_is_in_the_prompt(tokenizer):
    with_one = prompt_ids(tokenizer, "ask", "Be kind.")
    assert "Be kind." in tokenizer.decode(with_one)
    assert with_one != prompt_ids(tokenizer, "ask")


def test_a_row_without_a_response_cannot_be_learned(chat):
    with pytest.raises(DataError, match="the row 'ask' has no response"):
        encode(chat.tokenizer, Example("ask"))


def test_rows_are_filled_up_on_either_side():
    assert padded([[1], [2, 3]], 0) == [[1, 0], [2, 3]]
    assert padded([[1], [2, 3]], 0, left=True) == [[0, 1], [2, 3]]
    rows = [Encoded((1, 2), (3,)), Encoded((4,), (5, 6, 7))]
    batch = Collator(9)([{"input_ids": row.ids, "labels": row.labels} for row in rows])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 9], [4, 5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[NO_LABEL, NO_LABEL, 3, NO_LABEL], [NO_LABEL, 5, 6, 7]]


class Killed(BaseException):
    """In place of a signal."""


class Kill(TrainerCallback):
    """Stop after a step, before its checkpoint is written if there is one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == self.step:
            raise Killed


def trained(out: Path, settings: Settings = SHORT, rows: list[Example] = ROWS, **rest) -> Path:
    return train(tiny(), rows, out, settings, **rest)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("whole") / "adapter", recipe="some rows")


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / WEIGHTS)


def farthest(one: Path, other: Path) -> float:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[key] - b[key]).max()) for key in a)


def test_one_seed_gives_one_adapter(adapter, tmp_path):
    assert farthest(adapter, trained(tmp_path / "again")) == 0
    assert farthest(adapter, trained(tmp_path / "other", replace(SHORT, seed=1))) > 1e-3


@pytest.mark.parametrize("settings", [SHORT, replace(SHORT, dropout=0.3)], ids=["plain", "dropout"])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, settings, step):
    whole = trained(tmp_path / "whole", settings)
    out, work = tmp_path / "adapter", tmp_path / ".adapter.training"
    with pytest.raises(Killed):
        trained(out, settings, callbacks=[Kill(step)])
    assert not out.exists()
    saved = [path.name for path in work.glob("checkpoint-*")]
    assert saved == ([f"checkpoint-{step // 3 * 3}"] if step >= 3 else [])
    trained(out, settings)
    assert farthest(whole, out) <= 1e-6
    assert not work.exists()
    losses = [json.loads((f / "training.json").read_text())["losses"] for f in (whole, out)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(losses[0]) == 9


def test_a_run_that_was_killed_twice(adapter, tmp_path):
    out = tmp_path / "adapter"
    for step in (4, 7):
        with pytest.raises(Killed):
            trained(out, callbacks=[Kill(step)])
    assert farthest(adapter, trained(out)) <= 1e-6


def test_what_is_left_of_other_settings_is_not_thrown_away_unasked(tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(Killed):
        trained(out, replace(SHORT, seed=7), callbacks=[Kill(5)])
    with pytest.raises(OutputError, match="step 3 of 9 of another training: seed 7, now 0") as no:
        trained(out)
    assert "--restart" in no.value.hint
    assert partial_training(out).step == 3
    trained(out, discard="other")
    assert farthest(trained(tmp_path / "fresh"), out) == 0


def test_what_is_left_of_other_rows_is_not_continued(tmp_path):
    out, others = tmp_path / "adapter", made_rows("other", 24, answered=True)
    with pytest.raises(Killed):
        trained(out, rows=others, callbacks=[Kill(5)])
    with pytest.raises(OutputError, match="another training: rows_digest"):
        trained(out)
    trained(out, discard="other")
    assert farthest(trained(tmp_path / "fresh"), out) == 0


def test_a_run_can_be_started_anew(tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(Killed):
        trained(out, callbacks=[Kill(5)])
    trained(out, discard="all")
    assert json.loads((out / "training.json").read_text())["resumed_from"] is None


@pytest.mark.parametrize("kind", ["link", "file", "folder"])
def test_what_is_not_ours_is_never_removed(tmp_path, kind):
    work, elsewhere = tmp_path / ".adapter.training", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        work.symlink_to(elsewhere)
    elif kind == "file":
        work.write_text("mine")
    else:
        work.mkdir()
        (work / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="is not what a training keeps"):
        trained(tmp_path / "adapter", discard="all")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_was_not_finished_is_not_continued(adapter, tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(Killed):
        trained(out, callbacks=[Kill(5)])
    broken = tmp_path / ".adapter.training" / "checkpoint-6"
    shutil.copytree(broken.with_name("checkpoint-3"), broken)
    (broken / "trainer_state.json").write_text('{"global_step": 6')  # it is written last
    assert partial_training(out).step == 3
    (broken / "trainer_state.json").unlink()
    assert farthest(adapter, trained(out)) <= 1e-6


class FullDisk(TrainerCallback):
    """From a step on, a writer fails as it does on a full disk."""

    def __init__(self, step: int, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.step = step
        self.patch = patch
        self.owner = owner
        self.name = name

    def on_step_end(self, args, state, control, **rest):
        def fails(*args: Any, **named: Any) -> None:
            if self.owner is torch:
                raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos")
            if self.name == "save_file":
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if state.global_step == self.step:
            self.patch.setattr(self.owner, self.name, fails)


WRITERS = {
    "the state": (TrainerState, "save_to_json", "No space left on device"),
    "the optimizer": (torch, "save", "unexpected pos"),
    "the defence": (train_module, "save_file", "No space left on device"),
}


@pytest.mark.parametrize(("owner", "name", "reason"), WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("step", [3, 6])
def test_a_full_disk_at_a_checkpoint_is_an_error_that_says_what_is_kept(
    adapter, tmp_path, monkeypatch, step, owner, name, reason
):
    out, work = tmp_path / "adapter", tmp_path / ".adapter.training"
    with monkeypatch.context() as patch, pytest.raises(OutputError, match=reason) as caught:
        trained(out, callbacks=[FullDisk(step, patch, owner, name)])
    assert f"cannot write the checkpoint of step {step}: " in str(caught.value)
    assert not out.exists()
    if step == 3:
        assert "no checkpoint is kept: the same call starts anew" in caught.value.hint
        assert not work.exists()
    else:
        assert f"step 3 is kept in {work}: the same call goes on from there" in caught.value.hint
        assert [path.name for path in work.glob("checkpoint-*")] == ["checkpoint-3"]
    assert farthest(adapter, trained(out)) <= 1e-6


def test_a_full_disk_at_the_end_keeps_all_steps(adapter, tmp_path, monkeypatch):
    out = tmp_path / "adapter"

    def full(folder: Path, card: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "describe", full)
        with pytest.raises(OutputError) as caught:
            trained(out)
    assert str(caught.value) == f"cannot write {out}: No space left on device"
    assert "step 9 is kept" in caught.value.hint
    assert sorted(tmp_path.iterdir()) == [tmp_path / ".adapter.training"]
    steps: list[int] = []
    trained(out, callbacks=[Steps(steps)])
    assert steps == [], "nothing is trained again"
    assert farthest(adapter, out) <= 1e-6
    assert len(json.loads((out / "training.json").read_text())["losses"]) == 9


class Steps(TrainerCallback):
    """Writes down the steps that are made."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **rest):
        self.steps.append(state.global_step)


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        trained(tmp_path / "file" / "adapter")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_have_the_mode_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        trained(tmp_path / "adapter", replace(SHORT, steps=1))
        build("tiny", tmp_path / "tiny")
        chat = load_chat(str(tmp_path / "tiny"))
        merge(chat, open_adapter(tmp_path / "adapter"), tmp_path / "merged")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 12
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


def test_responses_that_are_cut_are_counted_with_what_keeps_them_whole(tmp_path):
    rows = [*ROWS[:3], Example("a", "b" * 99), Example("c", "d" * 64), Example("e", "f" * 63)]
    lines: list[str] = []
    trained(tmp_path / "out", replace(SHORT, steps=1), rows, say=lines.append)
    assert lines == [
        "2 of 6 responses have more than 64 tokens and are cut there, without an end: "
        "--longest 100 keeps all of them whole"
    ]
    assert json.loads((tmp_path / "out/training.json").read_text())["cut_rows"] == 2
    assert "2 responses were cut after 64 tokens." in (tmp_path / "out/README.md").read_text()
    whole = replace(SHORT, steps=1, longest=100)
    trained(tmp_path / "whole", whole, rows, say=lines.append)
    assert len(lines) == 1
    assert "cut" not in (tmp_path / "whole/README.md").read_text()


NAMES = (
    *("a: b", "it's", 'say "x"', "x # y", "[a]", "{a: b}", "- a", "&a", "*a", "%x", "@x", "~", ""),
    *("1e5", "null", "!!python/object:os.system", "a\nbase_model: other", "tab\t", "a\n---\nb"),
    *("ü\u2028", "\udcff", "a" * 300),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_yaml_whatever_a_model_is_called(tmp_path, name):
    card = {"base": name, "recipe": name, "rows": 1, "rows_digest": "0" * 16, "cut_rows": 0,
            "settings": asdict(SHORT), "losses": [1.0, 0.5]}  # fmt: skip
    describe(tmp_path, card)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    empty, front, body = text.split("---\n", 2)
    assert (empty, yaml.safe_load(front)) == ("", {"base_model": name, "library_name": "peft"})
    assert len([line for line in body.split("\n") if line.startswith("# ")]) == 1
    assert json.loads((tmp_path / "training.json").read_text("utf-8"))["base"] == name


def test_only_lora_parameters_change(tmp_path):
    chat, untouched = tiny(), tiny()
    before = {name: value.clone() for name, value in untouched.model.state_dict().items()}
    with pytest.raises(Killed):
        train(chat, ROWS, tmp_path / "out", SHORT, callbacks=[Kill(2)])
    own = {
        name.replace(".base_layer", ""): value
        for name, value in chat.model.state_dict().items()
        if "lora_" not in name
    }
    assert own.keys() == before.keys()
    assert all(torch.equal(own[name], value) for name, value in before.items())
    lora = {n: p for n, p in chat.model.named_parameters() if "lora_" in n}
    assert len(lora) == 4 * 2 * 2, "layers, projections, factors"
    assert all(p.abs().max() > 0 for n, p in lora.items() if "lora_B" in n)
    assert {n for n, p in chat.model.named_parameters() if p.requires_grad} == set(lora)


def loud() -> Chat:
    """A tiny model whose head is large enough to be sure of a token."""
    chat = tiny()
    chat.model.get_input_embeddings().weight.data.mul_(20)
    return chat


def test_the_loss_falls_on_rows_that_can_be_learned_by_heart(tmp_path):
    settings = Settings(rank=8, steps=60, batch=4, rate=2e-2, save_every=1000)
    rows = [Example(f"{letter}?", f"{letter * 3}.") for letter in "abcd"]
    out = train(loud(), rows, tmp_path / "adapter", settings)
    chat = loud()
    model = PeftModel.from_pretrained(chat.model, str(out)).eval()

    def loss(of: torch.nn.Module) -> float:
        batch = [encode(chat.tokenizer, row) for row in rows]
        said = Collator(0)([{"input_ids": row.ids, "labels": row.labels} for row in batch])
        with torch.no_grad():
            return float(of(**said).loss)

    with model.disable_adapter():
        before = loss(model)
        spare = forward_tolerance(model, loss)
    after = loss(model)
    card = json.loads((out / "training.json").read_text())
    assert before > 5
    assert card["losses"][0] == pytest.approx(before, abs=spare)
    assert after < 0.5 * before
    assert card["losses"][-1] == pytest.approx(after, rel=0.2)


def test_the_adapter_is_one_for_peft_and_for_s3lora(adapter):
    chat = tiny()
    model = PeftModel.from_pretrained(chat.model, str(adapter)).eval()
    opened = open_adapter(adapter)
    assert len(opened.names) == 8
    assert {f.where for f in opened.findings} <= {"training.json"}, "its own card is not known"
    for name in opened.names:
        module = opened.read(name)
        layer = model.get_submodule(f"base_model.model.{name}")
        wanted = layer.get_delta_weight("default").detach().numpy()
        assert module.scaling == 16 / 2
        found, bound = module.scaling * module.B @ module.A, product_tolerance(module.B, module.A)
        assert (np.abs(found - wanted) <= module.scaling * bound).all()
        assert np.abs(wanted).max() > 0
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "training.json",
    ]  # fmt: skip
    assert len(tensors(adapter)) == 16, "no embedding is saved along"


def test_the_card_says_what_was_done(adapter):
    card = json.loads((adapter / "training.json").read_text())
    check("training", card)
    assert card["recipe"] == "some rows"
    assert (card["rows"], card["rows_digest"]) == (24, digest_of(ROWS))
    assert card["settings"]["rank"] == 2
    assert card["settings"]["targets"] == ["q_proj", "v_proj"]
    assert set(card["versions"]) == {"torch", "transformers", "peft"}
    assert len(card["losses"]) == 9
    text = (adapter / "README.md").read_text()
    assert f"base_model: {tiny_folder()}" in text
    assert "some rows" in text
    assert "rank 2" in text
    assert "{{" not in text


def test_an_output_that_exists_is_refused_and_kept(adapter):
    before = tensors(adapter)
    with pytest.raises(OutputError):
        trained(adapter, replace(SHORT, steps=1, save_every=1))
    assert {key: value.tobytes() for key, value in tensors(adapter).items()} == {
        key: value.tobytes() for key, value in before.items()
    }
    shutil.rmtree(adapter.with_name(f".{adapter.name}.training"), ignore_errors=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0}, {"steps": 0}, {"batch": 0}, {"longest": 0}, {"save_every": 0},
        {"rate": 0.0}, {"dropout": 1.0}, {"dropout": -0.1}, {"targets": ()},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ParameterError, match="must be at least 1"):
        Settings(**wrong)


def test_what_cannot_be_trained_is_named(tmp_path):
    with pytest.raises(ParameterError, match="no adapter can be put on this model"):
        trained(tmp_path / "a", replace(SHORT, targets=("nothing",)))
    with pytest.raises(ParameterError, match="no rows to train on"):
        trained(tmp_path / "a", rows=[])
    with pytest.raises(DataError, match="has no response"):
        trained(tmp_path / "a", rows=[Example("ask")])
    assert list(tmp_path.iterdir()) == []
