"""Tiny adapters for tests, built by hand: well formed ones, and bytes that are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

CODES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
}

ABSENT = object()
"""As the value of a config field: the field is left out."""

Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.0.self_attn.v_proj"
NAMES = (Q, V, "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj")
RANK = 2
ALPHA = 6


def draw(*shape: int, seed: int = 0) -> Array:
    """Normal numbers, in float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def factors(m: int = 8, n: int = 6, r: int = RANK, seed: int = 0) -> tuple[Array, Array]:
    """A (r, n) and B (m, r)."""
    return draw(r, n, seed=2 * seed), draw(m, r, seed=2 * seed + 1)


def lora(module: str, A: Array, B: Array, *, prefix: str = PREFIX) -> dict[str, Array]:
    """The two tensors of a linear module by their keys."""
    return {f"{prefix}{module}.lora_A.weight": A, f"{prefix}{module}.lora_B.weight": B}


def config_fields(**changes: Any) -> dict[str, Any]:
    """A LoRA config of rank 2 and alpha 6 for `q_proj` and `v_proj`, with changes."""
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": "example/base",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj"],
    }
    return {key: value for key, value in (fields | changes).items() if value is not ABSENT}


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> dict[str, Any]:
    """A safetensors header for (dtype code, shape, bytes) by name, back to back."""
    header, start = {}, 0
    for name, (code, shape, nbytes) in tensors.items():
        offsets = [start, start + nbytes]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": offsets}
        start += nbytes
    return header


def file_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file of a header, as JSON or as the very bytes, and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def tensor_bytes(tensors: Mapping[str, Array], metadata: object = None) -> bytes:
    """A safetensors file of arrays, in any dtype of `CODES`."""
    codes = {dtype: code for code, dtype in CODES.items()}
    header = header_of({k: (codes[a.dtype], a.shape, a.nbytes) for k, a in tensors.items()})
    if metadata is not None:
        header = {"__metadata__": metadata, **header}
    return file_bytes(header, b"".join(a.tobytes() for a in tensors.values()))


def write_raw(folder: Path, weights: bytes, config: object) -> Path:
    """An adapter folder of the bytes of its weights and its config, as JSON or as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / CONFIG).write_bytes(raw)
    return folder


def write_tensors(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:
    """An adapter folder of these tensors and the config of `config_fields`."""
    return write_raw(folder, tensor_bytes(tensors), config_fields(**config))


def write_adapter(
    folder: Path,
    modules: Iterable[str] | Mapping[str, tuple[Array, Array]] = NAMES,
    config: Mapping[str, Any] | None = None,
    extra: Mapping[str, Array] | None = None,
    dtype: str = "F32",
) -> Path:
    """An adapter folder as PEFT writes it.

    Args:
        folder: Made if it is missing.
        modules: Names, whose factors are drawn, or (A, B) by name.
        config: Changes to `config_fields`.
        extra: More tensors by their full keys, as they are.
        dtype: What the factors are stored as: a key of `CODES`.
    """
    if not isinstance(modules, Mapping):
        modules = {name: factors(seed=seed) for seed, name in enumerate(modules)}
    tensors: dict[str, Array] = {}
    for name, pair in modules.items():
        A, B = (factor.astype(CODES[dtype]) for factor in pair)
        tensors |= lora(name, A, B)
    return write_tensors(folder, tensors | dict(extra or {}), **(config or {}))
