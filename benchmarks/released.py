"""What the released codes' scores follow: the size of an update, or its shape, or nothing.

    python benchmarks/released.py

Synthetic modules whose size and concentration are drawn apart from each other, and the example
adapter. For `s3lora-released` and `s3lora`: Spearman's correlation with the Frobenius norm and with
the true concentration σ₁/Σσ; for the released index also with S[0] of the matrix it is taken of.
For `splora-released` and `splora`: with the distance that both are made of.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from adapters import environment
from s3lora import open_adapter, scan
from s3lora.adapter import LoraModule, ModuleName, Weights
from s3lora.agreement import spearman
from s3lora.methods import make_method
from s3lora.scores import Score

RESULTS = Path(__file__).parent / "results" / "released.json"
MODULES = 24


def synthetic(seed: int) -> list[tuple[LoraModule, Weights]]:
    """Modules of 96 × 128, rank 8: σ₁ from 0.05 to 5, each next σ a share of the last."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(MODULES):
        m, n, r = 96, 128, 8
        s = 10 ** rng.uniform(-1.3, 0.7) * rng.uniform(0.3, 0.98) ** np.arange(r)
        B = np.linalg.qr(rng.standard_normal((m, r)))[0] * np.sqrt(s)
        A = (np.linalg.qr(rng.standard_normal((n, r)))[0] * np.sqrt(s)).T
        base = rng.standard_normal((m, n))
        change = rng.standard_normal((m, 12)) @ rng.standard_normal((12, n)) / 50
        name = ModuleName(f"model.layers.{k}.q_proj")
        rows.append((LoraModule(name, A, B, 1.0), Weights(base, base + change)))
    return rows


def correlations(scores: dict[str, list[Score]], against: dict[str, list[float]]) -> dict:
    """Spearman of every method with every figure."""
    return {
        method: {
            key: spearman(np.array([s.value for s in rows]), np.array(values))
            for key, values in against.items()
        }
        for method, rows in scores.items()
    }


def on_synthetic(seed: int) -> dict:
    """Correlations on the synthetic modules of one seed."""
    rows = synthetic(seed)
    names = ["s3lora-released", "s3lora", "splora-released", "splora"]
    scores = {n: [make_method(n).score(*row) for row in rows] for n in names}
    scores["splora"] = list(make_method("splora").conclude(tuple(scores["splora"])))
    plain = [make_method("spectrum").score(*row) for row in rows]
    sharp = {
        "size": [s.parts["frobenius"] for s in plain],
        "concentration": [s.parts["plain_ssi"] for s in plain],
        "s_0": [s.parts["s_0"] for s in scores["s3lora-released"]],
    }
    found = correlations({n: scores[n] for n in names[:2]}, sharp)
    distance = {"distance": [s.parts["distance"] for s in scores["splora-released"]]}
    found |= correlations({"splora-released": scores["splora-released"]}, distance)
    own = {"distance": [s.parts["distance"] for s in scores["splora"]]}
    found |= correlations({"splora": scores["splora"]}, own)
    std = [make_method("splora-released", {"form": "std"}).score(*row).value for row in rows]
    found["splora-released"]["std: largest |score|"] = float(np.abs(std).max())
    values = [score.value for score in scores["splora-released"]]
    found["splora-released"]["iqr: scores from, to"] = [min(values), max(values)]
    return found


def on_example() -> dict:
    """The same on the example adapter, for the modules that the released code can score."""
    adapter = open_adapter(str(files("s3lora") / "example" / "adapter"))
    released = scan(adapter, "s3lora-released")
    plain = {s.module: s for s in scan(adapter, "spectrum").scores}
    ours = {s.module: s for s in scan(adapter, "s3lora").scores}
    names = [score.module for score in released.scores]
    sharp = {
        "size": [plain[name].parts["frobenius"] for name in names],
        "concentration": [plain[name].parts["plain_ssi"] for name in names],
        "s_0": [score.parts["s_0"] for score in released.scores],
    }
    rows = {"s3lora-released": list(released.scores), "s3lora": [ours[name] for name in names]}
    return {"scored by the released code": len(names)} | correlations(rows, sharp)


def main() -> None:
    seeds = {str(seed): on_synthetic(seed) for seed in range(5)}
    document = {
        "environment": environment(),
        "modules": MODULES,
        "synthetic": seeds,
        "example": on_example(),
    }
    for key, found in [*seeds.items(), ("example", document["example"])]:
        print(f"\n{'example adapter' if key == 'example' else 'seed ' + key}")
        for method, figures in found.items():
            if isinstance(figures, dict):
                told = ", ".join(
                    f"{k} {v:+.2f}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in figures.items()
                )
                print(f"  {method:<17}{told}")
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
