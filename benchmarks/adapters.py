"""Synthetic adapters in the shapes of well-known models, for the benchmarks.

The factors are random: A as PEFT initialises it, B with columns of different size, so that a
spectrum is neither flat nor of rank one. What they cannot show is how real updates differ; the
speed of reading and scoring does not depend on that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

WORK = Path(__file__).parent / "work"

ATTENTION_7B = {f"self_attn.{p}_proj": (4096, 4096) for p in "qkvo"}
ALL_8B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
ALL_70B = {
    "self_attn.q_proj": (8192, 8192),
    "self_attn.k_proj": (1024, 8192),
    "self_attn.v_proj": (1024, 8192),
    "self_attn.o_proj": (8192, 8192),
    "mlp.gate_proj": (28672, 8192),
    "mlp.up_proj": (28672, 8192),
    "mlp.down_proj": (8192, 28672),
}


@dataclass(frozen=True)
class Shape:
    """What an adapter looks like from outside."""

    layers: int
    modules: dict[str, tuple[int, int]]
    rank: int
    dtype: np.dtype

    def factors(self, seed: int = 0) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, A (r, n) and B (m, r) of every module, float64."""
        rng = np.random.default_rng(seed)
        for layer in range(self.layers):
            for leaf, (m, n) in self.modules.items():
                A = rng.uniform(-1, 1, (self.rank, n)) / np.sqrt(n)
                sizes = np.exp(0.5 * rng.standard_normal(self.rank))
                B = 0.01 * sizes * rng.standard_normal((m, self.rank))
                yield f"model.layers.{layer}.{leaf}", A, B


SHAPES = {
    "7b": Shape(32, ATTENTION_7B, 8, np.dtype(np.float16)),
    "8b": Shape(32, ALL_8B, 16, np.dtype(ml_dtypes.bfloat16)),
    "70b-tenth": Shape(8, ALL_70B, 64, np.dtype(ml_dtypes.bfloat16)),
}


def save(folder: Path, factors, dtype: np.dtype, **config) -> Path:
    """Write factors, (name, A, B) each, as a PEFT adapter; an old folder is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {}
    for name, A, B in factors:
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.astype(dtype)
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.astype(dtype)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    leaves = sorted({name.split(".")[-1] for name, _, _ in factors})
    settings = {"peft_type": "LORA", "lora_alpha": 16, "target_modules": leaves} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    return folder


def made(name: str) -> Path:
    """The folder of a benchmark adapter, made on first use."""
    folder, shape = WORK / name, SHAPES[name]
    if not (folder / "adapter_config.json").exists():
        save(folder, list(shape.factors()), shape.dtype, r=shape.rank)
    return folder


def environment() -> dict[str, str]:
    """Machine and versions, for the record."""
    import os
    import platform
    from importlib.metadata import version

    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    } | {name: version(name) for name in ("s3lora", "numpy", "safetensors", "ml_dtypes")}
