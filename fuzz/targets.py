"""What is fuzzed: each target gives bytes to the part of s3lora that reads such bytes.

A target returns where the bytes were read or refused with an error of s3lora's own, and raises
where a promise of SECURITY.md is broken. `run.py` drives them with atheris, `tests/test_fuzz.py`
runs them over the corpus.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors import SafetensorError, safe_open

from s3lora import open_adapter, scan
from s3lora.adapter import Adapter
from s3lora.errors import S3LoraError
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.safetensors import TensorFile
from s3lora.lab.evaluation_plan import planned_again, read_plan
from s3lora.prune import prune
from s3lora.report import reading
from s3lora.report.formats import FORMS, RENDERERS, render, show

Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.0.self_attn.v_proj"
PREFIX = "base_model.model."
CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
}
MOST_KEYS = 60
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class BrokenPromiseError(AssertionError):
    """Something that SECURITY.md rules out has happened."""


def header(data: bytes) -> None:
    """The weights file: what the format's own library refuses is refused here too."""
    folder = workplace()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(data)
    write_config(folder, CONFIG)
    with refusals():
        TensorFile(weights)
        try:
            with safe_open(weights, "np"):
                pass
        except SafetensorError as error:
            raise BrokenPromiseError(f"safetensors refuses it: {error}") from error
        look_at(folder)


def config(data: bytes) -> None:
    """adapter_config.json beside sound weights."""
    folder = workplace()
    write_weights(folder, {**factors(Q), **factors(V), f"{PREFIX}lm_head.weight": (4,)})
    (folder / "adapter_config.json").write_bytes(data)
    with refusals():
        look_at(folder)


def keys(data: bytes) -> None:
    """Names of tensors, one a line: every tensor is classified."""
    lines = dict.fromkeys(data.decode("utf-8", "replace").split("\n")[:MOST_KEYS])
    folder = workplace()
    write_weights(folder, {line: shape_for(line) for line in lines if line != "__metadata__"})
    write_config(folder, CONFIG)
    with refusals():
        adapter = look_at(folder)
        factors_read = {key for slot in adapter.slots.values() for key in slot.keys}
        named = {finding.where for finding in adapter.findings}
        unclassified = adapter.tensors.infos.keys() - factors_read - named  # type: ignore[attr-defined]
        if unclassified:
            raise BrokenPromiseError(f"not classified: {sorted(unclassified)[:3]}")


def index(data: bytes) -> None:
    """A base checkpoint's model.safetensors.index.json."""
    folder = workplace()
    write_weights(folder, {f"{Q}.weight": (8, 6)}, "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(data)
    with refusals():
        checkpoint = Checkpoint(folder)
        adapter = sound_adapter()
        for name, slot in adapter.slots.items():
            checkpoint.matrix(name, slot)


def card(data: bytes) -> None:
    """An adapter's README.md: what prune adds to it is there, and a reader sees it."""
    folder, out = workplace(), workplace("out")
    out.rmdir()
    write_weights(folder, {**factors(Q), **factors(V)})
    write_config(folder, CONFIG)
    (folder / "README.md").write_bytes(data)
    with refusals():
        prune(open_adapter(folder), [Q], out)
        text = (out / "README.md").read_bytes().decode("utf-8", "replace")
        if not section_is_shown(text):
            raise BrokenPromiseError("the section on what was done is not shown")


def result(data: bytes) -> None:
    """A saved result, rendered in every format."""
    with refusals():
        value = reading.read(data)
        for form in FORMS:
            if form == "table":
                console = Console(file=io.StringIO(), width=80, color_system=None)
                show(value, console, verbose=True)
                text = console.file.getvalue()  # type: ignore[attr-defined]
            elif type(value) in RENDERERS[form]:
                with refusals():
                    text = render(value, form)
                    text.encode()
            else:
                continue
            if form == "table" and _CONTROL.search(text):
                raise BrokenPromiseError("a control character reaches the terminal")


def plan(data: bytes) -> None:
    """A plan to prune, read back and carried out on the adapter it names."""
    path = workplace() / "plan.json"
    path.write_bytes(data)
    with refusals():
        adapter = sound_adapter()
        planned_again(read_plan(path), adapter)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (header, config, keys, index, card, result, plan)
}


@contextmanager
def refusals() -> Iterator[None]:
    """Let the errors pass that s3lora itself raises; they must have a message and a hint."""
    try:
        yield
    except S3LoraError as error:
        if not str(error) or not error.hint:
            raise BrokenPromiseError(f"an error without words: {error!r}") from error


def look_at(folder: Path) -> Adapter:
    """Open and scan an adapter; nothing but numbers may come out as scores."""
    adapter = open_adapter(folder)
    table = scan(adapter)
    if table.names != set(adapter.names):
        raise BrokenPromiseError("a module is neither scored nor skipped")
    if not np.isfinite([score.value for score in table.scores]).all():
        raise BrokenPromiseError("a score is no number")
    return adapter


@cache
def _root() -> Path:
    # in memory where there is such a place: thousands of files a second are written
    memory = Path("/dev/shm")  # noqa: S108  only the place for a new folder of random name
    return Path(tempfile.mkdtemp(prefix="s3lora-fuzz-", dir=memory if memory.is_dir() else None))


def workplace(name: str = "in") -> Path:
    """An empty folder, the same for every call of this process."""
    folder = _root() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@cache
def sound_adapter() -> Adapter:
    """An adapter of two modules in which nothing is odd."""
    folder = _root() / "sound"
    folder.mkdir()
    write_weights(folder, {**factors(Q), **factors(V)})
    write_config(folder, CONFIG)
    return open_adapter(folder)


def factors(module: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's two factors by their keys."""
    return {
        f"{PREFIX}{module}.lora_A.weight": (2, 6),
        f"{PREFIX}{module}.lora_B.weight": (8, 2),
    }


def shape_for(key: str) -> tuple[int, ...]:
    """A shape that fits what a key says it is."""
    if "embedding_A" in key:
        return (2, 8)
    if "embedding_B" in key:
        return (6, 2)
    return (2, 6) if "lora_A" in key else (8, 2) if "lora_B" in key else (4,)


def write_config(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write adapter_config.json."""
    (folder / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")


def write_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], name: str = "adapter_model.safetensors"
) -> None:
    """Write a safetensors file of float32 tensors with whatever names."""
    entries: dict[str, Any] = {}
    stop = 0
    for key, shape in shapes.items():
        start, stop = stop, stop + 4 * int(np.prod(shape))
        entries[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
    raw = json.dumps(entries).encode()
    numbers = np.random.default_rng(0).standard_normal(stop // 4).astype("<f4")
    (folder / name).write_bytes(len(raw).to_bytes(8, "little") + raw + numbers.tobytes())


def section_is_shown(text: str) -> bool:
    """Whether the heading of the section on what was done is a heading where Markdown is rendered.

    By markdown-it, which follows CommonMark as GitHub does: in a fence, a comment or another HTML
    block there are no headings.
    """
    from markdown_it import MarkdownIt

    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    tokens = MarkdownIt("commonmark").parse(body)
    return any(
        first.type == "heading_open" and second.content.startswith("Pruned with s3lora")
        for first, second in pairwise(tokens)
    )
