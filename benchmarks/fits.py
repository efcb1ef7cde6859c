"""The projected fit of `s3lora` against SpSVD's dense one.

    python benchmarks/fits.py

How often both pick the same first pair, how alike they rank the modules (Spearman), and how each
ranks them against plain σ₁/Σσ: on trained modules (cut to 192 × 192 so that the dense fit ends in
this life: the top left block of 28 modules of the example adapter), on the same with three rows or
three columns made twenty times as loud, and on random modules with and without loud rows.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np

import s3lora.mas_svd as algorithm
from adapters import environment
from s3lora import open_adapter
from s3lora.agreement import spearman
from s3lora.linalg import thin_svd

RESULTS = Path(__file__).parent / "results" / "fits.json"
KEEP = 5
SIDE = 192

Factors = tuple[np.ndarray, np.ndarray]


def trained() -> list[Factors]:
    """Blocks of the first four layers' modules of the example adapter, one in every seven."""
    adapter = open_adapter(str(files("s3lora") / "example" / "adapter"))
    rows = []
    for name in adapter.names[::7][:28]:
        module = adapter.read(name)
        rows.append((module.B[:SIDE], module.A[:, :SIDE]))
    return rows


def drawn() -> list[Factors]:
    """Random modules whose singular values fall off at different rates."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(28):
        sizes = rng.uniform(0.4, 0.98) ** np.arange(8)
        rows.append((rng.standard_normal((SIDE, 8)) * sizes, rng.standard_normal((8, SIDE))))
    return rows


def loud(rows: list[Factors], side: str) -> list[Factors]:
    """Three rows or columns made twenty times as loud."""
    made = []
    for k, (B, A) in enumerate(rows):
        B, A = B.copy(), A.copy()
        at = np.random.default_rng(k).choice(SIDE, 3, replace=False)
        if side == "rows":
            B[at] *= 20
        else:
            A[:, at] *= 20
        made.append((B, A))
    return made


def first_pairs(B: np.ndarray, A: np.ndarray) -> list[tuple[int, int]]:
    """The first pair (i, j) that the projected and the dense fit pick."""
    svd = thin_svd(B, A)
    R, s = min(KEEP, len(svd.s)), svd.s / svd.s[0]
    W, T = (algorithm._leading(Q * s, R) for Q in (svd.U, svd.V))
    u, v = T.T @ svd.U.T, W.T @ svd.V.T
    X = (svd.U * s) @ svd.V.T
    rows, columns = algorithm.Side(u, (X @ v.T).T.copy()), algorithm.Side(v, (u @ X).copy())
    gains = np.empty((2, R, R))
    for i in range(R):
        for j in range(R):
            d = (rows.fitted(i, j) + columns.fitted(j, i)) / 2
            gains[0, i, j] = columns.lengths[j] * rows.explained(i, j, d)
            gains[0, i, j] += rows.lengths[i] * columns.explained(j, i, d)
            outer = np.outer(u[i], v[j])
            ratio = (X / algorithm._divisor(outer)).ravel()
            d = algorithm.weighted_median(ratio, np.abs(outer).ravel())
            gains[1, i, j] = np.abs(X).sum() - np.abs(X - d * outer).sum()
    return [divmod(int(gain.argmax()), R) for gain in gains]


def compared(rows: list[Factors]) -> dict[str, float]:
    """The figures for one set of modules."""
    scores: dict[str, list[float]] = {"projected": [], "dense": [], "plain": []}
    same = 0
    for B, A in rows:
        svd = thin_svd(B, A)
        for fit in ("projected", "dense"):
            sigma = algorithm.mas_svd(svd, KEEP, fit)
            scores[fit].append(float(sigma[0] / sigma.sum()))
        scores["plain"].append(float(svd.s[0] / svd.s.sum()))
        projected, dense = first_pairs(B, A)
        same += projected == dense
    x = {key: np.array(values) for key, values in scores.items()}
    return {
        "modules": len(rows),
        "same first pair": same / len(rows),
        "Spearman projected, dense": spearman(x["projected"], x["dense"]),
        "Spearman projected, plain": spearman(x["projected"], x["plain"]),
        "Spearman dense, plain": spearman(x["dense"], x["plain"]),
    }


def main() -> None:
    document = {"environment": environment(), "keep": KEEP, "sets": {}}
    for name, rows in {"trained": trained(), "random": drawn()}.items():
        for kind in ("as they are", "loud rows", "loud columns"):
            chosen = rows if kind == "as they are" else loud(rows, kind.split()[1])
            found = document["sets"][f"{name}, {kind}"] = compared(chosen)
            print(f"\n{name}, {kind}")
            for key, value in found.items():
                print(f"  {key:<28}{value:8.2f}")
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
