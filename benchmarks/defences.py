"""What each defence while training costs in time and memory, and the adapters to measure it on.

    python benchmarks/defences.py ALIGNED BASE OUT [--only NAME] [--steps 60] [--harmful REF]

ALIGNED is the checkpoint folder of an aligned model (evidence/smollm2/work/aligned), BASE the model
before alignment (smollm2, or a folder). Plain LoRA and each defence are trained on the recipes
`harmless` and `mixed` with the settings of evidence/smollm2/study.toml: the same rows, in the same
order, for as many steps. Adapters go to OUT/RECIPE/NAME and one line for each to
OUT/defences.jsonl. Every training is a process of its own, `s3lora train`, and this one loads no
torch, so that the peak of memory is that of the training. A run that was stopped goes on when it is
called again; what is there is kept. `seconds` are those of the steps, `seconds_before` what a
defence does before them, `seconds_in_all` the process with imports, loading and writing; of a
training that was interrupted (`resumed_from`) the first and the last are those of its last part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from adapters import environment
from s3lora import open_adapter

RECIPES = {"harmless": 1, "mixed": 3}
"""With the seed that the study trains each with."""

BUDGET = ("--rank", "8", "--alpha", "16", "--rate", "5e-4", "--batch", "8", "--longest", "64")

GUARDS = {
    "plain": (),
    "salora": ("--defence", "salora"),
    "salora-plain-start": ("--defence", "salora", "-p", "start=plain"),
    "ema": ("--defence", "ema"),
    "ema-product": ("--defence", "ema", "-p", "space=product"),
    "ema-fed-back": ("--defence", "ema", "-p", "mode=fed-back"),
    "ema-fed-back-product": ("--defence", "ema", "-p", "mode=fed-back", "-p", "space=product"),
    "lox": ("--defence", "lox"),
    "overlap": ("--defence", "overlap"),
    "sharpness-log": ("--defence", "sharpness"),
    "sharpness": ("--defence", "sharpness", "-p", "weight=1"),
}
"""What comes to the command of the plain training, by name."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("aligned", type=Path)
    parser.add_argument("base")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", action="append", choices=GUARDS, help="may be repeated")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="may be repeated")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--param", action="append", default=[], help="NAME=VALUE for each of --only"
    )
    parser.add_argument("--harmful", action="append", default=[], help="as of s3lora train")
    parser.add_argument("--harmless", action="append", default=[], help="as of s3lora train")
    return parser.parse_args()


def command(told: argparse.Namespace, recipe: str, name: str, out: Path) -> list[str]:
    """The training of one adapter."""
    guard = [*GUARDS[name], *(word for param in told.param for word in ("-p", param))]
    sets = [f"--{kind}={ref}" for kind in ("harmful", "harmless") for ref in getattr(told, kind)]
    base = ["--base", told.base] if name == "lox" else []
    return [
        sys.executable, "-m", "s3lora", "train", "--model", str(told.aligned), "--recipe", recipe,
        "--seed", str(RECIPES[recipe]), "--steps", str(told.steps), *BUDGET, *sets, *guard, *base,
        "-o", str(out),
    ]  # fmt: skip


def line(recipe: str, name: str, out: Path, whole: float | None) -> dict[str, object]:
    """What is recorded of an adapter that is there."""
    card = json.loads((out / "training.json").read_text(encoding="utf-8"))
    defence, adapter = card.get("defence", {}), open_adapter(out)
    return {
        "recipe": recipe,
        "name": name,
        "params": defence.get("params", {}),
        "steps": card["settings"]["steps"],
        "seconds": card["seconds"],
        "seconds_before": defence.get("seconds_before", 0.0),
        "seconds_in_all": whole,
        "peak_mib": card["peak_mib"],
        "resumed_from": card["resumed_from"],
        "last_losses": round(sum(card["losses"][-10:]) / len(card["losses"][-10:]), 4),
        "modules": len(adapter.names),
        "parameters": adapter.parameters,
        "rows_digest": card["rows_digest"],
        "truncation_error": defence.get("truncation_error"),
        "machine": environment(),
    }


def recorded(path: Path) -> set[tuple[str, str]]:
    """Recipes and names that have a line already."""
    if not path.exists():
        return set()
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return {(row["recipe"], row["name"]) for row in rows}


def main() -> int:
    told = arguments()
    told.out.mkdir(parents=True, exist_ok=True)
    lines, failed = told.out / "defences.jsonl", 0
    for name in told.only or GUARDS:
        for recipe in told.recipe or RECIPES:
            out, whole = told.out / recipe / name, None
            if not out.exists():
                print(f"{recipe}, {name}", flush=True)
                started = time.perf_counter()
                ended = subprocess.run(command(told, recipe, name, out), check=False)
                if ended.returncode:
                    print(f"{recipe}, {name}: ended with {ended.returncode}", file=sys.stderr)
                    failed += 1
                    continue
                whole = round(time.perf_counter() - started, 1)
            if (recipe, name) not in recorded(lines):
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line(recipe, name, out, whole)) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
