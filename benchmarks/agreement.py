"""How far the methods agree, on the example adapter and on benchmark adapters.

    python benchmarks/agreement.py [--base DIR]

Spearman's correlation and the overlap of the top K (10 of 128) for every pair of methods that need
nothing but the adapter; with --base, a checkpoint of SmolLM2-135M-Instruct, also `intruder` on the
example adapter.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from adapters import environment, made
from planted import planted
from s3lora import open_adapter, scan
from s3lora.agreement import agreement
from s3lora.io.checkpoint import Checkpoint
from s3lora.selection import paper_k

RESULTS = Path(__file__).parent / "results" / "agreement.json"
FREE = ("s3lora", "spectrum", "magnitude", "rows", "fingerprint", "random", "last-layers")


def measured(folder: str | Path, methods: tuple[str, ...], base: Checkpoint | None) -> dict:
    """All pairs of methods on one adapter."""
    adapter = open_adapter(folder)
    k = paper_k(len(adapter.names))
    tables = [scan(adapter, method, base=base) for method in methods]
    pairs = agreement(tables, k)
    for pair in pairs:
        told = "–" if pair.spearman is None else f"{pair.spearman:+.2f}"
        print(f"  {pair.a:<16}{pair.b:<16}{told:>6}{pair.overlap:8.0%}", flush=True)
    return {"modules": len(adapter.names), "k": k, "pairs": [asdict(pair) for pair in pairs]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path)
    base = parser.parse_args().base
    example = str(files("s3lora") / "example" / "adapter")
    own = (*FREE, "s3lora-released", *(("intruder",) if base else ()))
    document = {"environment": environment(), "adapters": {}}
    print("example adapter", flush=True)
    checkpoint = Checkpoint(base) if base else None
    document["adapters"]["example"] = measured(example, own, checkpoint)
    for name, folder in {
        "7b": made("7b"),
        "7b, five spiked": planted("along the leading direction"),
    }.items():
        print(f"\n{name}", flush=True)
        document["adapters"][name] = measured(folder, FREE, None)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
