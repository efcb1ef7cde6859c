"""Does a method find modules that were given a spike, however the spike is hidden?

    python benchmarks/planted.py

Five of the 128 modules of an adapter in the shape of Llama-2-7B (rank 8, float16) get a leading
direction ten times as strong as it was, in one of several ways; in one adapter none does. For
every method: how many of the five are among its top five, and their robust z, (score −
median)/(1.4826·MAD over all modules), the lowest of the five against the highest of the rest. The
last row of each block is the adapter without a spike, where the top five are just the top five.

A z has no population behind it: on real adapters scores spread far wider than here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adapters import SHAPES, WORK, environment, save
from s3lora import open_adapter, scan
from s3lora.methods import method_names
from s3lora.selection import TopK, robust_z

RESULTS = Path(__file__).parent / "results" / "planted.json"
SHAPE = SHAPES["7b"]
SPIKED = [
    "model.layers.3.self_attn.v_proj",
    "model.layers.9.self_attn.q_proj",
    "model.layers.14.self_attn.o_proj",
    "model.layers.22.self_attn.k_proj",
    "model.layers.30.self_attn.v_proj",
]
TIMES = 10.0

Factors = tuple[np.ndarray, np.ndarray]


def leading(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Leading left (m,) and right (n,) singular vector of B·A, and σ₁."""
    Q, R = np.linalg.qr(B)
    Q2, R2 = np.linalg.qr(A.T)
    U, s, Vh = np.linalg.svd(R @ R2.T)
    return Q @ U[:, 0], Q2 @ Vh[0], float(s[0])


def along(A: np.ndarray, B: np.ndarray) -> Factors:
    """The leading direction itself, made ten times as strong: no new direction, same factors."""
    u, _, _ = leading(A, B)
    return A, B + (TIMES - 1) * np.outer(u, u @ B)


def random_direction(A: np.ndarray, B: np.ndarray) -> Factors:
    """A random dense rank-one term of 10 σ₁, in the place of the last direction of the factors."""
    rng = np.random.default_rng(int(abs(A[0, 0]) * 2**52))  # one draw per module
    u, v = rng.standard_normal(B.shape[0]), rng.standard_normal(A.shape[1])
    _, _, top = leading(A, B)
    A, B = A.copy(), B.copy()
    A[-1] = v / np.linalg.norm(v)
    B[:, -1] = TIMES * top * u / np.linalg.norm(u)
    return A, B


def norm_preserved(A: np.ndarray, B: np.ndarray) -> Factors:
    """As `along`, then shrunk to the Frobenius norm that the update had."""
    before = np.sqrt(np.trace((B.T @ B) @ (A @ A.T)))
    A, B = along(A, B)
    after = np.sqrt(np.trace((B.T @ B) @ (A @ A.T)))
    return A, B * before / after


def gauge(A: np.ndarray, B: np.ndarray) -> Factors:
    """As `along`, behind a random invertible G: (B·G, G⁻¹·A)."""
    A, B = along(A, B)
    rng = np.random.default_rng(1)
    G = rng.standard_normal((len(A), len(A))) + 2 * np.eye(len(A))
    return np.linalg.solve(G, A), B @ G


def rows(A: np.ndarray, B: np.ndarray) -> Factors:
    """Eight rows of the update made ten times as large: a spectrum hardly shows it."""
    B = B.copy()
    B[100:108] *= TIMES
    return A, B


SPIKES: dict[str, Callable[[np.ndarray, np.ndarray], Factors]] = {
    "none": lambda A, B: (A, B),
    "along the leading direction": along,
    "a random direction": random_direction,
    "norm preserved": norm_preserved,
    "behind alpha and rank patterns": along,
    "behind a gauge transformation": gauge,
    "eight loud rows": rows,
}


def planted(kind: str) -> Path:
    """An adapter with that spike in the five modules."""
    factors, config = [], {"r": SHAPE.rank}
    for name, A, B in SHAPE.factors(seed=7):
        if name in SPIKED:
            A, B = SPIKES[kind](A, B)
        factors.append((name, A, B))
    if "patterns" in kind:  # the numbers in the file are small, the scale makes up for it
        config["alpha_pattern"] = dict.fromkeys(SPIKED, 16 * 64.0)
        config["rank_pattern"] = dict.fromkeys(SPIKED, SHAPE.rank * 2)
        factors = [widened(row) if row[0] in SPIKED else row for row in factors]
    return save(WORK / "planted", factors, SHAPE.dtype, **config)


def widened(row: tuple[str, np.ndarray, np.ndarray]) -> tuple[str, np.ndarray, np.ndarray]:
    """The same update at twice the rank and a 32nd of the factors' product."""
    name, A, B = row
    halves = np.vstack([A, A]), np.hstack([B, B]) / 2 / 32
    return name, *halves


def main() -> None:
    document = {"environment": environment(), "spiked": SPIKED, "rows": []}
    print(f"{'spike':<32}{'method':<13}{'in top 5':>9}{'z of the five':>18}{'z of the rest':>15}")
    for kind in SPIKES:
        adapter = open_adapter(planted(kind))
        for method in method_names():
            table = scan(adapter, method)
            top = TopK(5)(table)
            sign = 1 if table.unsafe == "high" else -1
            z = {name: sign * value for name, value in robust_z(table).items()}
            five = sorted(z.get(name, 0.0) for name in SPIKED)
            rest = max((value for name, value in z.items() if name not in SPIKED), default=0.0)
            hits = len(set(top) & set(SPIKED))
            row = {"spike": kind, "method": method, "top_5": list(top), "hits": hits}
            document["rows"].append(row | {"z_five": five, "z_rest_max": rest})
            span = f"{five[0]:.1f} … {five[-1]:.1f}"
            print(f"{kind:<32}{method:<13}{hits:>9}{span:>18}{rest:>15.1f}")
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
