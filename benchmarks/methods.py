"""Seconds per module of every method, and of Safe LoRA's product with and without forming C.

    python benchmarks/methods.py

One module of 4096 × 4096 and one of 14336 × 4096, rank 16, random weights, one BLAS thread, CPU
seconds. A method that takes more than five seconds is run once, the others five times (median).
What a checkpoint takes to read is not in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np

from adapters import environment
from s3lora.adapter import LoraModule, ModuleName, Weights
from s3lora.alignment import reweighted
from s3lora.methods import BUILTIN, make_method
from s3lora.scores import Skipped

RESULTS = Path(__file__).parent / "results" / "methods.json"
SHAPES = ((4096, 4096), (14336, 4096))
RANK = 16
LONG = 5.0


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one run, or the median of five if it is short."""
    taken = []
    while len(taken) < 5:
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
        if taken[0] > LONG:
            break
    return median(taken)


def drawn(m: int, n: int) -> tuple[LoraModule, Weights]:
    """A module, and base and aligned weights that differ by a fast-falling spectrum and noise."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((m, RANK)) * np.exp(0.5 * rng.standard_normal(RANK)) / 100
    A = rng.uniform(-1, 1, (RANK, n)) / np.sqrt(n)
    base = rng.standard_normal((m, n)) / np.sqrt(n)
    change = rng.standard_normal((m, 64)) * 0.9 ** np.arange(64) @ rng.standard_normal((64, n))
    aligned = base + change / 1000 + rng.standard_normal((m, n)) / 10000
    return LoraModule(ModuleName("model.layers.0.q_proj"), A, B, 1.0), Weights(base, aligned)


def timed_methods(module: LoraModule, weights: Weights) -> dict[str, float | str]:
    """Seconds by method; why not, where it gives no score."""
    found: dict[str, float | str] = {}
    for name in BUILTIN:
        method = make_method(name)
        outcome = []
        taken = seconds(lambda m=method, o=outcome: o.append(m.score(module, weights)))
        score = outcome[-1]
        found[name] = score.reason if isinstance(score, Skipped) else taken
        told = found[name] if isinstance(found[name], str) else f"{taken:9.4f} s"
        print(f"  {name:<17}{told}", flush=True)
    return found


def safe_lora_product(module: LoraModule, weights: Weights) -> dict[str, float]:
    """C·B by factors and by forming C (m × m), and how far they are apart."""
    V = weights.aligned - weights.base
    results = {}

    def factored() -> None:
        results["factored"] = reweighted(V, module.B)

    def dense() -> None:
        results["dense"] = (V @ V.T / np.linalg.norm(V)) @ module.B

    times = {"factored": seconds(factored), "dense": seconds(dense)}
    off = np.abs(results["factored"] - results["dense"]).max()
    return times | {"largest difference": float(off / np.abs(results["dense"]).max())}


def main() -> None:
    document = {"environment": environment(), "rank": RANK, "shapes": {}}
    for m, n in SHAPES:
        print(f"\n{m} × {n}, rank {RANK}", flush=True)
        module, weights = drawn(m, n)
        product = safe_lora_product(module, weights)
        print("  C·B " + ", ".join(f"{k} {v:.3g}" for k, v in product.items()), flush=True)
        found = timed_methods(module, weights)
        document["shapes"][f"{m}x{n}"] = {"C·B": product, "methods": found}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
