"""What people give as an adapter: paths that stand for one; layouts that are named, not read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapters import CONFIG, PREFIX, WEIGHTS, Q, config_fields, draw, tensor_bytes, write_adapter
from s3lora import open_adapter
from s3lora.cli.options import checkpoint_from
from s3lora.errors import AdapterError, UnsupportedError
from s3lora.io.layouts import refs_in

# --- paths


def hub(root: Path, revision: str = "a1b2c3", main: str | None = "a1b2c3") -> Path:
    """An adapter as the hub's program caches it: links to blobs."""
    source = write_adapter(root / "source")
    folder = root / "models--example--adapter"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    for file in source.iterdir():
        file.rename(folder / "blobs" / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    if main is not None:
        (folder / "refs" / "main").write_text(main)
    return folder


@pytest.mark.parametrize("main", ["a1b2c3", "a1b2c3\n", None])
@pytest.mark.parametrize("below", [".", "snapshots", "snapshots/a1b2c3"])
def test_cache_of_the_hub_stands_for_its_main_revision(below, main, tmp_path):
    adapter = open_adapter(hub(tmp_path, main=main) / below)
    assert len(adapter.slots) == 4
    assert adapter.ref.endswith("snapshots/a1b2c3")
    assert adapter.findings == ()


@pytest.mark.parametrize(
    "main", ["", "other", "../../../etc", "a/b", "\x00", "x" * 300, ".hidden", "\udcff"]
)
def test_reference_of_the_hub_that_names_no_snapshot_is_refused(main, tmp_path):
    folder = hub(tmp_path)
    (folder / "refs" / "main").write_bytes(main.encode("utf-8", "surrogateescape"))
    with pytest.raises(AdapterError, match=r"refs/main (names|has)"):
        open_adapter(folder)


def test_checkpoint_of_the_hub_and_of_the_user_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    snapshot = tmp_path / "models--example--base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").mkdir()
    (snapshot / "model.safetensors").write_bytes(tensor_bytes({"q.weight": draw(4, 4)}))
    checkpoint = checkpoint_from(Path("~/models--example--base"))
    assert checkpoint is not None
    assert checkpoint.folder == snapshot


def test_snapshots_without_a_main_one_are_listed(tmp_path):
    hub(tmp_path)
    folder = hub(tmp_path, "d4e5f6", None)
    (folder / "refs" / "main").unlink()
    with pytest.raises(AdapterError, match=r"2 snapshots.*: a1b2c3, d4e5f6$"):
        open_adapter(folder)


@pytest.mark.parametrize("place", ["blobs/x.incomplete", "snapshots/a1b2c3/.cache/huggingface/"])
def test_interrupted_download_of_the_hub_is_called_so(place, tmp_path):
    folder = hub(tmp_path)
    (folder / "snapshots" / "a1b2c3" / WEIGHTS).unlink()
    if place.endswith("/"):
        place += "download/x.abc.incomplete"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).touch()
    with pytest.raises(AdapterError, match="interrupted download") as caught:
        open_adapter(folder)
    assert "again" in caught.value.hint


@pytest.mark.parametrize(
    "name", [f"{WEIGHTS}.incomplete", f"{WEIGHTS}.part", "x.safetensors.aria2"]
)
def test_half_a_file_beside_a_config_is_called_an_interrupted_download(name, tmp_path):
    write_adapter(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / name)
    with pytest.raises(AdapterError, match="interrupted download"):
        open_adapter(tmp_path)


def test_config_stands_for_its_folder(tmp_path, monkeypatch):
    write_adapter(tmp_path)
    assert open_adapter(tmp_path / CONFIG).ref == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert open_adapter(CONFIG).ref == "."
    assert open_adapter(WEIGHTS).ref == WEIGHTS


def test_tilde_is_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_adapter(tmp_path / "a")
    assert open_adapter("~/a").ref == str(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "~" / "b")
    assert open_adapter("~/b").ref == "~/b"
    with pytest.raises(AdapterError, match="does not exist"):
        open_adapter("~nobody-of-that-name/a")


@pytest.mark.parametrize(
    "names", [["default"], ["train", "ref"], ["checkpoint-500", "checkpoint-1000"]]
)
@pytest.mark.parametrize("config", [True, False])
def test_adapters_below_a_folder_are_named_in_order(names, config, tmp_path):
    for name in names:
        write_adapter(tmp_path / name)
    if config:
        (tmp_path / CONFIG).write_text(json.dumps(config_fields()))
    with pytest.raises(AdapterError, match=f": {', '.join(sorted(names, key=len))}$") as caught:
        open_adapter(tmp_path)
    assert open_adapter(caught.value.hint.split(": ")[1])


def test_config_above_the_weights_is_pointed_at(tmp_path):
    write_adapter(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / CONFIG).rename(tmp_path / CONFIG)
    with pytest.raises(AdapterError, match="is missing, so the scale") as caught:
        open_adapter(tmp_path / "checkpoint-5")
    assert str(tmp_path / CONFIG) in caught.value.hint


def test_weights_of_another_name_are_pointed_at(tmp_path):
    (write_adapter(tmp_path) / WEIGHTS).rename(tmp_path / "mine.safetensors")
    with pytest.raises(AdapterError, match=r"mine\.safetensors holds LoRA tensors"):
        open_adapter(tmp_path)


def test_whole_model_is_called_one(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(tensor_bytes({"model.norm.weight": draw(4)}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="a whole model, not an adapter"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "training.log"])
def test_any_other_file_is_neither_weights_nor_config(name, tmp_path):
    (tmp_path / name).write_text("text")
    with pytest.raises(AdapterError, match="neither the weights nor the config"):
        open_adapter(tmp_path / name)


@pytest.mark.parametrize("ref", ["a\0b", "x" * 5000, "loop/x"])
def test_path_that_cannot_be_is_an_error(ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(AdapterError):
        open_adapter(ref)


# --- layouts


def saved(path: Path, *keys: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tensor_bytes(dict.fromkeys(keys, np.ones((2, 2), np.float32))))
    return path


def kohya(folder: Path) -> Path:
    stem = "lora_unet_down_blocks_0_proj_in"
    return saved(folder / "detail.safetensors", f"{stem}.lora_down.weight", f"{stem}.alpha")


def lycoris(folder: Path) -> Path:
    return saved(folder / "style.safetensors", "lora_te1_text_model_q.hada_w1_a")


def diffusers(folder: Path) -> Path:
    key = "transformer.blocks.0.attn.to_q.lora_A.weight"
    return saved(folder / "pytorch_lora_weights.safetensors", key)


def diffusers_old(folder: Path) -> Path:
    key = "unet.down_blocks.0.to_q.lora.down.weight"
    return saved(folder / "pytorch_lora_weights.safetensors", key)


def diffusers_renamed(folder: Path) -> Path:
    return saved(folder / WEIGHTS, "unet.down_blocks.0.to_q.lora_A.weight")


def mistral(folder: Path) -> Path:
    (folder / "params.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text("{}")
    return saved(folder / "lora.safetensors", "layers.0.attention.wq.lora_A.weight")


def mlx(folder: Path) -> Path:
    path = saved(folder / "adapters.safetensors", "model.layers.0.q_proj.lora_a")
    (folder / CONFIG).write_text(json.dumps({"fine_tune_type": "lora", "num_layers": 4}))
    return path


def mlx_renamed(folder: Path) -> Path:
    return mlx(folder).rename(folder / WEIGHTS)


def xlora(folder: Path) -> Path:
    path = saved(folder / "xlora_classifier.safetensors", "xlora.weight")
    (folder / CONFIG).write_text(json.dumps({"peft_type": "XLORA"}))
    return path


def gguf(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lora.gguf").write_bytes(b"GGUF\x03" + bytes(59))
    return folder / "lora.gguf"


def sharded(folder: Path) -> Path:
    path = saved(folder / "adapter_model-00001-of-00002.safetensors", f"{PREFIX}{Q}.lora_A.weight")
    (folder / CONFIG).write_text(json.dumps(config_fields()))
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    return path


def pickled(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.bin").write_bytes(b"PK")
    return folder / "adapter_model.bin"


def empty_file(name: str) -> Callable[[Path], Path]:
    """A maker of a folder that holds one file of this name, which nobody can read."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x93ODD")
        return folder / name

    make.__name__ = name
    return make


def of_keys(*keys: str) -> Callable[[Path], Path]:
    """A maker of a folder that holds one file of tensors with these names."""

    def make(folder: Path) -> Path:
        return saved(folder / "some_style.safetensors", *keys)

    make.__name__ = keys[0]
    return make


def adapterhub(folder: Path) -> Path:
    path = saved(folder / "adapter.safetensors", "bert.layer.0.query.loras.demo.lora_A")
    fields = {"config": {"architecture": "lora", "r": 8}, "model_type": "bert", "version": "1.0"}
    (folder / CONFIG).write_text(json.dumps(fields))
    return path


def adapterhub_pickled(folder: Path) -> Path:
    adapterhub(folder).unlink()
    (folder / "pytorch_adapter.bin").write_bytes(b"PK")
    return folder / "pytorch_adapter.bin"


def adapterhub_untyped(folder: Path) -> Path:
    path = adapterhub_pickled(folder)
    (folder / CONFIG).write_text("{}")
    return path


def adapterhub_bare(folder: Path) -> Path:
    path = adapterhub(folder)
    (folder / CONFIG).unlink()
    return path


FLUX = "double_blocks.0.img_attn.qkv.lora_A.weight"
OTHER_FILES = {
    "tuned.nemo": "NeMo's",
    "bible.lora.h5": "KerasHub's",
    "lit_model.pth.lora": "LitGPT's",
    "lit_model.lora.pth": "LitGPT's",
    "lora_weights.npz": "mlx-lm's",
    "adapters.npz": "mlx-lm's",
    "model.onnx_adapter": "ONNX Runtime's",
    "pytorch_model_head.bin": "AdapterHub's",
    "model_adapter.pt": "a pickle",
    "My-LoRA.ckpt": "a pickle",
}
IMAGE_KEYS = (
    FLUX,
    f"diffusion_model.{FLUX}",
    "double_blocks.0.processor.proj_lora1.down.weight",
    "single_blocks.3.processor.qkv_lora.up.weight",
    "down_blocks.0.attn1.processor.to_q_lora.down.weight",
    "transformer_blocks.1.attn.to_q.lora_B.weight",
    "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
)
OTHERS: dict[Callable[[Path], Path], str] = {
    **{empty_file(name): owner for name, owner in OTHER_FILES.items()},
    **{of_keys(key): "image model" for key in IMAGE_KEYS},
    adapterhub: "AdapterHub's",
    adapterhub_pickled: "AdapterHub's",
    adapterhub_untyped: "AdapterHub's",
    adapterhub_bare: "AdapterHub's",
    kohya: "kohya's",
    lycoris: "kohya's",
    diffusers: "diffusers'",
    diffusers_old: "diffusers'",
    diffusers_renamed: "diffusers'",
    mistral: "mistral-finetune's",
    mlx: "mlx-lm's",
    mlx_renamed: "mlx-lm's",
    xlora: "X-LoRA",
    gguf: "a GGUF file",
    sharded: "a sharded adapter",
    pickled: "a pickle",
}


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.__name__)
def test_adapter_in_another_layout_cannot_be_judged_and_is_named(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UnsupportedError, match=OTHERS[make]):
        open_adapter(tmp_path)
    if make is not sharded:
        with pytest.raises(UnsupportedError, match=OTHERS[make]):
            open_adapter(path)


@pytest.mark.parametrize("make", [kohya, gguf, pickled], ids=lambda make: make.__name__)
def test_adapter_in_another_layout_beside_a_config_is_named_too(make, tmp_path):
    make(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config_fields()))
    with pytest.raises(UnsupportedError, match=OTHERS[make]):
        open_adapter(tmp_path / CONFIG)


def test_factors_of_peft_are_read_whatever_lies_among_them(tmp_path):
    extra = {"lora_unet_a.lora_down.weight": draw(2, 2), "m.lora_a": draw(2, 2)}
    adapter = open_adapter(write_adapter(tmp_path, extra=extra))
    assert len([slot for slot in adapter.slots.values() if slot.rank]) == 4
    assert {finding.severity for finding in adapter.findings} & {"high", "medium"}


MAKERS: list[Callable[[Path], Path]] = [*OTHERS, write_adapter]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_adapter_is_recognised_in_a_folder(make, tmp_path):
    make(tmp_path)
    (ref,) = refs_in(tmp_path, [path.name for path in tmp_path.iterdir()])
    assert ref in (tmp_path, *tmp_path.iterdir())


def archive(path: Path, config: str) -> Path:
    """An archive of NeMo's: weights, then the config."""
    with tarfile.open(path, "w") as tar:
        for name, data in (("./w.ckpt", bytes(700)), ("./model_config.yaml", config.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("config", ["peft:\n  peft_scheme: lora\n", 'peft:\n  peft_scheme: "lora"'])
def test_archive_of_nemo_that_names_a_method_of_adapters_is_one(config, tmp_path):
    path = archive(tmp_path / "tuned.nemo", config)
    assert refs_in(tmp_path, [path.name]) == [path]


def test_what_is_no_adapter_is_not_taken_for_one(tmp_path):
    saved(tmp_path / "model.safetensors", "model.norm.weight")
    saved(tmp_path / "model-00001-of-00002.safetensors", "model.q.lora_A.speech.weight")
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\n"
    )
    text = b"general.type" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little") + b"model"
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03" + bytes(20) + text)
    archive(tmp_path / "llama.nemo", "model: gpt\npeft:\n  peft_scheme: null\n")
    (tmp_path / "conformer.nemo").write_bytes(b"\x1f\x8b" + bytes(30))
    for name in ("config.json", "weights.bin", "notes.txt", "lit_model.pth", "model.weights.h5"):
        (tmp_path / name).touch()
    assert refs_in(tmp_path, [path.name for path in tmp_path.iterdir()]) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "lora.bin", "My-Adapter.pt", "x.gguf"])
def test_file_that_is_not_understood_counts_as_an_adapter(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(3))
    assert refs_in(tmp_path, [name]) == [tmp_path / name]


# --- files beside the adapter

SIBLINGS = {
    "zz.safetensors": ("medium", "SGLang loads every"),
    "ZZ.SAFETENSORS": ("medium", "SGLang loads every"),
    "adapter_model.bin": ("medium", "a pickle"),
    "consolidated.00.pth": ("medium", "a pickle"),
    "sampler.pt": ("medium", "a pickle"),
    "head.pkl": ("medium", "a pickle"),
    "lora.gguf": ("medium", "llama.cpp"),
    "model.safetensors.index.json": ("medium", "an index of weights"),
    "pytorch_model.bin.index.json": ("medium", "an index of weights"),
    "training_args.bin": ("low", "written by a trainer"),
    "optimizer.pt": ("low", "written by a trainer"),
    "scheduler.pt": ("low", "written by a trainer"),
    "rng_state_0.pth": ("low", "written by a trainer"),
    "handler.py": ("low", "Python code"),
    "tokenizer.json": ("low", "a part of a tokenizer"),
    "special_tokens_map.json": ("low", "a part of a tokenizer"),
    "chat_template.jinja": ("low", "a chat template"),
    "trainer_state.json": ("low", "was not scanned"),
}


@pytest.mark.parametrize("name", SIBLINGS)
def test_files_beside_the_adapter_weigh_what_loaders_do_with_them(name, tmp_path):
    severity, words = SIBLINGS[name]
    (write_adapter(tmp_path) / name).write_bytes(b"x")
    (finding,) = open_adapter(tmp_path).findings
    assert (finding.rule, finding.severity, finding.where) == ("unscanned-sibling", severity, name)
    assert words in finding.message


@pytest.mark.parametrize("name", ["README.md", "s3lora.json", "training.json", ".gitattributes"])
def test_files_that_are_known_by_name_are_looked_at_all_the_same(name, tmp_path):
    folder = write_adapter(tmp_path / "a")
    path = folder / name
    path.write_text("text")
    assert open_adapter(folder).findings == ()
    path.write_bytes(b"#!/bin/sh\n")
    assert "a program" in open_adapter(folder).findings[0].message
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert "link" in open_adapter(folder).findings[0].message
    path.unlink()
    path.symlink_to("nothing")
    assert "not a regular file" in open_adapter(folder).findings[0].message
    path.unlink()
    path.mkdir()
    (path / "evil.py").touch()
    (finding,) = open_adapter(folder).findings
    assert (finding.where, finding.severity) == (name, "low")
    assert "a folder" in finding.message


@pytest.mark.parametrize(
    ("auto_map", "names"),
    [
        ({"AutoTokenizer": ["tokenization_x.Fast", None]}, {"tokenization_x.py"}),
        (
            {"AutoConfig": "evil.C", "AutoModel": "me/repo--tokenization_x.M"},
            {"evil.py", "tokenization_x.py"},
        ),
        ({}, set()),
        ([1], set()),
    ],
)
def test_python_code_that_a_loader_would_import_is_medium(auto_map, names, tmp_path):
    folder = write_adapter(tmp_path)
    for name in ("tokenization_x.py", "evil.py", "train.py"):
        (folder / name).touch()
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    medium = {f.where for f in open_adapter(folder).findings if f.severity == "medium"}
    assert medium == names
    (folder / "tokenizer_config.json").write_text("{")
    assert {f.where for f in open_adapter(folder).findings if f.severity == "medium"} == {
        "tokenization_x.py",
        "evil.py",
        "train.py",
    }


def test_weights_beside_the_adapter_are_not_hidden_behind_many_files(tmp_path):
    folder = write_adapter(tmp_path)
    for at in range(1500):
        (folder / f"a{at}.txt").touch()
    (folder / "zz.safetensors").touch()
    findings = open_adapter(folder).findings
    assert (findings[0].where, findings[0].severity) == ("zz.safetensors", "medium")
    assert len(findings) == 1002
    assert findings[-1].message == "500 more files were not scanned"


def test_source_is_never_changed_by_opening(tmp_path):
    folder = write_adapter(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    open_adapter(folder / CONFIG)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }
