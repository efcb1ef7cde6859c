"""Layouts of adapters that are not PEFT's in safetensors: recognised, named, and not judged.

Where the layouts come from
    kohya's sd-scripts and LyCORIS (`lora_unet_…lora_down.weight`), diffusers'
    `save_lora_weights` (`pytorch_lora_weights.safetensors`, `unet.….lora.down.weight`,
    `transformer.….lora_A.weight`), mlx-lm (`adapters.safetensors`, `….lora_a`), mistral-finetune
    (`lora.safetensors` beside `params.json`), X-LoRA (`xlora_classifier.safetensors`), llama.cpp
    (GGUF), NVIDIA NeMo (`.nemo`), KerasHub's `save_lora_weights` (`.lora.h5`), LitGPT
    (`lit_model.pth.lora`), AdapterHub's `adapters` (`pytorch_adapter.bin`, a nested `config` in
    adapter_config.json), ONNX Runtime (`.onnx_adapter`), and the trainers of Flux and its kin
    (`double_blocks.….lora_A.weight`, `….processor.proj_lora1.down.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from s3lora.errors import AdapterError, S3LoraError, UnsupportedError
from s3lora.io.nemo import is_nemo_model
from s3lora.io.regular_file import LFS, read_head
from s3lora.io.safetensors import TensorFile

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""How files end that are read by unpickling them."""
PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download", ".tmp")
"""How downloads end that are not complete: of the hub's program, browsers, wget and aria2."""
SHARD = re.compile(r"adapter_model-\d+-of-\d+\.safetensors|adapter_model\.safetensors\.index\.json")
MOST_OPENED = 50
"""How many files of other names are opened in a folder to see what they are."""

_FACTOR = re.compile(r"(?:^|\.)lora_(?:embedding_)?[AB](?:\.|$)")
"""In PEFT's name of a factor."""
_ANY_FACTOR = re.compile(r"lora|hada_w|lokr_w|xlora")
"""In a factor's name in any layout."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to lay out an adapter that is recognised and not read."""

    owner: str
    """Whose layout it is, for the message."""
    keys: re.Pattern[str]
    """What the name of a tensor holds in this layout alone."""
    hint: str = "only PEFT's layout is read; convert it to a PEFT adapter first"

    def refusal(self, path: Path) -> UnsupportedError:
        """The error for a file or folder in this layout."""
        return UnsupportedError(f"{path} is an adapter in {self.owner} layout", hint=self.hint)


IMAGES = "adapters of image models are not judged; s3lora reads PEFT's layout for language models"
KOHYA = Layout(
    "kohya's (image model)",
    re.compile(r"^(?:lora|lycoris)_(?:unet|te\d?|transformer|prior)_|\.lora_(?:down|up)\.weight$"),
    IMAGES,
)
DIFFUSERS = Layout(
    "diffusers' (image model)",
    re.compile(
        r"^(?:unet|transformer|text_encoder(?:_\d)?)\..*\.lora_[AB]\.weight$"
        r"|lora(?:_linear_layer)?\d*\.(?:down|up)\.weight$|\.processor\..*lora"
        r"|^(?:model\.)?diffusion_model\..*lora"
        r"|(?:^|\.)(?:(?:double|single|joint|down|up|input|middle|output)_blocks"
        r"|(?:single_)?transformer_blocks|mid_block)\..*lora"
    ),
    IMAGES,
)
MLX = Layout("mlx-lm's", re.compile(r"\.lora_[ab]$"))
MISTRAL = Layout(
    "mistral-finetune's", re.compile(r"^layers\.\d+\.\w+\.w\w+\.lora_[AB](?:\.weight)?$")
)
XLORA = Layout("X-LoRA's", re.compile(r"^xlora|\.xlora_"), "each LoRA adapter below it can be read")
ADAPTERHUB = Layout("AdapterHub's", re.compile(r"\.loras\.[^.]+\.lora_[AB]$"))
LAYOUTS = (KOHYA, DIFFUSERS, MLX, MISTRAL, XLORA, ADAPTERHUB)

_NOWHERE = re.compile(r"(?!)")
NEMO = Layout("NeMo's", _NOWHERE)
KERAS = Layout("KerasHub's", _NOWHERE)
LITGPT = Layout("LitGPT's", _NOWHERE)
ONNX = Layout("ONNX Runtime's", _NOWHERE, "give the PEFT adapter that it was converted from")
FILES = (
    (re.compile(r".*\.nemo", re.I), NEMO),
    (re.compile(r".*lora.*\.h5", re.I), KERAS),
    (re.compile(r"lit_model\..*(?:lora|adapter).*|.*\.pth\.lora", re.I), LITGPT),
    (re.compile(r".*(?:lora|adapter).*\.npz", re.I), MLX),
    (re.compile(r".*\.onnx_adapter", re.I), ONNX),
)
"""How files are called that are not in safetensors and are an adapter by themselves."""

NAMES = {
    "adapters.safetensors": MLX,
    "adapters.npz": MLX,
    "pytorch_lora_weights.safetensors": DIFFUSERS,
    "pytorch_lora_weights.bin": DIFFUSERS,
    "xlora_classifier.safetensors": XLORA,
    "xlora_config.json": XLORA,
    "pytorch_adapter.bin": ADAPTERHUB,
    "model_adapter.safetensors": ADAPTERHUB,
    "pytorch_model_head.bin": ADAPTERHUB,
}
"""Files that one layout alone has."""


def layout_of(keys: Collection[str], *, configured: bool) -> Layout | None:
    """The layout of a file's tensors; None if it is PEFT's or none that is known.

    Args:
        keys: The names of the tensors.
        configured: Whether a config of PEFT's lies beside the file; the names of its factors are
            then PEFT's, whatever stands before them.
    """
    if configured and any(_FACTOR.search(key) for key in keys):
        return None
    return next((one for one in LAYOUTS if any(one.keys.search(key) for key in keys)), None)


def layout_by_name(name: str) -> Layout | None:
    """The layout of a file that is not in safetensors, by its name; None if it tells none."""
    return next((layout for pattern, layout in FILES if pattern.fullmatch(name)), None)


def refuse_other_file(path: Path) -> None:
    """Refuse a file that is not in safetensors, by what it is.

    Raises:
        UnsupportedError: if it is a pickle, a GGUF file or an adapter of another tool.
        AdapterError: if it is anything else.
    """
    head = read_head(path)
    if path.suffix.lower() == ".gguf" or head.startswith(b"GGUF"):
        raise gguf(path)
    layout = NAMES.get(path.name) or layout_by_name(path.name)
    if layout and not head.startswith(LFS):
        raise layout.refusal(path)
    if path.suffix.lower() in PICKLES and not head.startswith(LFS):
        raise pickle(path)
    if path.suffix.lower() in PARTIAL:
        raise interrupted(path)
    raise AdapterError(
        f"{path} is neither the weights nor the config of an adapter",
        hint=f"give the adapter's folder, its {CONFIG} or its .safetensors file",
    )


def refuse_other_folder(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder without `adapter_model.safetensors` by the adapter that it does hold.

    Args:
        folder: The folder.
        names: Of its files and folders.

    Raises:
        UnsupportedError: if it holds a sharded adapter, or one in another layout.
        AdapterError: if a download was interrupted, or the weights have another name.
    """
    if any(SHARD.fullmatch(name) for name in names):
        raise UnsupportedError(
            f"{folder} is a sharded adapter: its weights are in several files",
            hint=f"PEFT does not load shards either: save them in one {WEIGHTS}",
        )
    for name in sorted(names):
        if name.startswith("adapter_model") and name.endswith(PARTIAL):
            raise interrupted(folder / name)
    for name, layout in NAMES.items():
        if name in names:
            raise layout.refusal(folder)
    if {"lora.safetensors", "params.json"} <= set(names):
        raise MISTRAL.refusal(folder)
    for name in sorted(names):
        if name in (f"adapter_model{suffix}" for suffix in PICKLES):
            raise pickle(folder / name)
        if name.lower().endswith(".gguf"):
            raise gguf(folder / name)
    paths = [folder / name for name in sorted(names)]
    _refuse_other_files(paths, model="config.json" in names)
    _refuse_other_weights(paths)


def _refuse_other_files(paths: Iterable[Path], *, model: bool) -> None:
    """Refuse a folder by the files in it that are adapters and not in safetensors."""
    for path in paths:
        if path.suffix != ".safetensors" and _may_be_adapter(path, model):
            refuse_other_file(path)


def _refuse_other_weights(paths: Iterable[Path]) -> None:
    """Refuse a folder by the files in it that hold LoRA tensors under names of their own."""
    for path in [path for path in paths if path.suffix == ".safetensors"][:MOST_OPENED]:
        try:
            keys = TensorFile(path).infos.keys()
        except S3LoraError:
            continue
        layout = layout_of(keys, configured=False)
        if layout:
            raise layout.refusal(path)
        if any(_FACTOR.search(key) for key in keys):
            raise AdapterError(
                f"{path.parent} holds no {WEIGHTS}, but {path.name} holds LoRA tensors",
                hint=f"give that file: {path}",
            )


def pickle(path: Path) -> UnsupportedError:
    """The error for a file that would have to be unpickled."""
    return UnsupportedError(
        f"{path} is not a safetensors file, and reading a pickle can run code that is in it",
        hint="convert it to safetensors where running that code does no harm",
    )


def gguf(path: Path) -> UnsupportedError:
    """The error for a GGUF file."""
    return UnsupportedError(
        f"{path} is a GGUF file, in llama.cpp's layout",
        hint="give the PEFT adapter that it was converted from",
    )


def interrupted(path: Path) -> AdapterError:
    """The error for a download that did not come to its end."""
    return AdapterError(
        f"{path} is what an interrupted download left", hint="download the adapter again"
    )


def refs_in(folder: Path, names: Iterable[str]) -> list[Path]:
    """What is an adapter among the files of a folder, in any layout: the folder, or single files.

    A file that is not understood counts as an adapter, so that opening it says what is wrong.
    """
    present = set(names)
    if any(_is_sign(name) for name in present) or {"lora.safetensors", "params.json"} <= present:
        return [folder]
    model = "config.json" in present
    return [folder / name for name in sorted(present) if _may_be_adapter(folder / name, model)]


def _is_sign(name: str) -> bool:
    """Whether a file of this name makes its folder an adapter."""
    return name == CONFIG or name in NAMES or name.startswith(("adapter_model.", "adapter_model-"))


def _may_be_adapter(path: Path, model: bool) -> bool:
    """Whether a file is an adapter by itself; `model` tells that a model's config is beside it."""
    suffix = path.suffix.lower()
    called_so = any(word in path.name.lower() for word in ("lora", "adapter"))
    layout = layout_by_name(path.name)
    if layout:
        return layout is not NEMO or not is_nemo_model(path)
    if suffix in PICKLES:
        return called_so
    if suffix == ".gguf":
        return not _is_gguf_model(path)
    if suffix != ".safetensors":
        return False
    try:
        if read_head(path).startswith(LFS):
            return called_so
        keys = TensorFile(path).infos.keys()
    except AdapterError:
        return True
    if model and path.name.startswith("model"):
        return False
    return any(_ANY_FACTOR.search(key) for key in keys)


def _is_gguf_model(path: Path) -> bool:
    """Whether a GGUF file says in its first kilobytes that it is a whole model."""
    said = b"general.type" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little") + b"model"
    try:
        return said in read_head(path, 2**14)
    except AdapterError:
        return False
