"""The tiny model, chat examples as tokens, and training that can be interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoTokenizer, TrainerCallback

from lab_material import made_rows, tiny, tiny_folder
from s3lora import open_adapter
from s3lora.errors import DataError, OutputError, ParameterError
from s3lora.lab.chat import NO_LABEL, Encoded, encode, padded, prompt_ids, response_ids
from s3lora.lab.data import Example, digest_of
from s3lora.lab.models import Chat, build, load_chat, model_folder
from s3lora.lab.packages import cache_folder
from s3lora.lab.train import Collator, Settings, train
from schemas import check

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


def test_what_is_left_of_other_settings_is_not_continued(tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(Killed):
        trained(out, replace(SHORT, seed=7), callbacks=[Kill(5)])
    trained(out)
    assert farthest(trained(tmp_path / "fresh"), out) == 0


def test_what_is_left_of_other_rows_is_not_continued(tmp_path):
    out, others = tmp_path / "adapter", made_rows("other", 24, answered=True)
    with pytest.raises(Killed):
        trained(out, rows=others, callbacks=[Kill(5)])
    trained(out)
    assert farthest(trained(tmp_path / "fresh"), out) == 0


def test_a_checkpoint_that_was_not_finished_is_not_continued(adapter, tmp_path):
    out = tmp_path / "adapter"
    with pytest.raises(Killed):
        trained(out, callbacks=[Kill(5)])
    broken = tmp_path / ".adapter.training" / "checkpoint-6"
    shutil.copytree(broken.with_name("checkpoint-3"), broken)
    (broken / "trainer_state.json").unlink()  # it is written last
    assert farthest(adapter, trained(out)) <= 1e-6


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
    after = loss(model)
    card = json.loads((out / "training.json").read_text())
    assert before > 5
    assert card["losses"][0] == pytest.approx(before, abs=1e-3)
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
        np.testing.assert_allclose(module.scaling * module.B @ module.A, wanted, atol=1e-6)
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
