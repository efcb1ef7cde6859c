"""Whether an adapter was made for the model that it is measured on, by names and configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from s3lora.adapter import Adapter
from s3lora.errors import S3LoraError
from s3lora.io.safetensors import read_small
from s3lora.io.strict_json import parse

KNOWN = {"smollm2-135m-instruct": "smollm2"}
"""Names of models on a hub, and those that the lab has for them."""

COMPARED = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
"""Fields of a model's config that say which it is not."""

MAX_CONFIG = 16 * 2**20


def other_base(adapter: Adapter, reference: str, config: Mapping[str, Any] | None = None) -> str:
    """A warning where an adapter names another base than the model; empty if it names none.

    Names are compared by their last part, so that a folder `…/Qwen2-0.5B` is the same as
    `Qwen/Qwen2-0.5B` on a hub. Where the folder that the adapter names is at hand, what differs in
    the configs is told.

    Args:
        adapter: Whose config names a base.
        reference: The model as it was asked for.
        config: The model's, if it is loaded.
    """
    named = adapter.config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        return ""
    differing = _differing(named, config)
    if _same(named, reference) and not differing:
        return ""
    text = f"the adapter names the base {named}, and it is measured on {reference}"
    if differing:
        text += f" ({', '.join(differing)})"
    return f"{text}: figures of another base say little of the adapter"


def _same(one: str, other: str) -> bool:
    try:
        if Path(one).samefile(other):
            return True
    except (OSError, ValueError):
        pass  # one of them is a name on a hub
    return _ending(one) == _ending(other)


def _ending(name: str) -> str:
    """The last part of a name or path; of a snapshot in a hub's cache, that of its model."""
    parts = [part for part in PurePath(name.replace("\\", "/")).parts if part not in ("/", ".")]
    cached = [part for part in parts if part.startswith("models--")]
    last = cached[-1].rpartition("--")[2] if cached else parts[-1] if parts else ""
    return KNOWN.get(last.casefold(), last.casefold())


def _differing(named: str, config: Mapping[str, Any] | None) -> list[str]:
    """Such as `hidden_size 576 there and 64 here`; empty where one config is not at hand."""
    if config is None:
        return []
    try:
        path = Path(named) / "config.json"
        if not path.is_file():
            return []
        there = parse(read_small(path, MAX_CONFIG, ""), str(path), marks=1_000_000, hint="")
    except (S3LoraError, OSError, ValueError):
        return []
    return [
        f"{field} {there[field]} there and {config[field]} here"
        for field in COMPARED
        if field in there and field in config and there[field] != config[field]
    ]
