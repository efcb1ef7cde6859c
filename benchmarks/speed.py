"""How long a scan takes and what memory it needs, beside two yardsticks from the same run.

    python benchmarks/speed.py [--runs 5] [--only 7b]

Yardsticks, in process: reading the file and summing every byte with numpy (`bytes`), and opening
the adapter and taking a thin QR of both factors and the SVD of the small product for every module
(`plain`). Beside them the library's scan in process, and the command as a whole process with
imports, hashing and JSON. CPU seconds, one BLAS thread, median of the runs; the kinds of run take
turns, so that a change of the machine's speed meets them all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np

from adapters import SHAPES, environment, made
from s3lora import open_adapter, scan

RESULTS = Path(__file__).parent / "results" / "speed.json"
METHODS = ("spectrum", "s3lora")


def sum_bytes(folder: Path) -> None:
    """The least that any reader does."""
    data = np.fromfile(folder / "adapter_model.safetensors", np.uint8)
    assert data.sum(dtype=np.uint64) > 0


def plain_svd(folder: Path) -> None:
    """The textbook way to the singular values of every update."""
    adapter = open_adapter(folder)
    for name in adapter.names:
        module = adapter.read(name)
        _, left = np.linalg.qr(module.B)
        _, right = np.linalg.qr(module.A.T)
        np.linalg.svd(left @ right.T)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


LAUNCHER = """
import json, os, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
wall = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, wall, used.ru_maxrss]))
"""


def whole_process(folder: Path, method: str) -> dict[str, float]:
    """CPU and wall seconds and peak memory of the command.

    It is started by a small process: a child's peak memory includes what its parent had.
    """
    command = [sys.executable, "-m", "s3lora", "scan", str(folder), "-m", method]
    told = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command, "--format", "json"],
        capture_output=True,
        check=True,
    )
    code, cpu, wall, peak = json.loads(told.stdout)
    assert code == 0
    return {"cpu": cpu, "wall": wall, "mib": peak / (2**20 if sys.platform == "darwin" else 2**10)}


def measure(folder: Path, runs: int) -> dict[str, float]:
    """The medians of all figures for one adapter."""
    work: dict[str, Callable[[], object]] = {
        "bytes": lambda: sum_bytes(folder),
        "plain": lambda: plain_svd(folder),
        **{m: (lambda m=m: scan(open_adapter(folder), m)) for m in METHODS},
    }
    seen: dict[str, list[float]] = {}
    for run in range(runs + 1):
        for key, task in work.items():
            seconds = cpu_seconds(task)
            if run:  # the first turn warms up
                seen.setdefault(f"{key} cpu s", []).append(seconds)
        for method in METHODS:
            for key, value in whole_process(folder, method).items():
                if run:
                    unit = "" if key == "mib" else " s"
                    seen.setdefault(f"{method} process {key}{unit}", []).append(value)
    figures = {key: median(values) for key, values in seen.items()}
    for method in METHODS:
        ratios = [m / p for m, p in zip(seen[f"{method} cpu s"], seen["plain cpu s"], strict=True)]
        figures[f"{method} / plain"] = median(ratios)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=SHAPES)
    args = parser.parse_args()
    document = {"environment": environment(), "runs": args.runs, "adapters": {}}
    for name in [args.only] if args.only else SHAPES:
        folder = made(name)
        size = (folder / "adapter_model.safetensors").stat().st_size
        figures = measure(folder, args.runs)
        modules = len(open_adapter(folder).names)
        document["adapters"][name] = {"modules": modules, "bytes": size} | figures
        print(f"\n{name}: {modules} modules, {size / 1e6:.0f} MB")
        for key, value in figures.items():
            print(f"  {key:<24}{value:8.3f}")
    if not args.only:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
        print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
