"""What does taking modules out do to an agent whose planner the adapter is?

    python benchmarks/agent.py evidence/smollm2/study.toml planner

Puts one adapter of a study, and what the study's methods leave of it at one share, through the
planner's suite: plans for held-out tasks are carried out over the suite's own texts, with the
aligned model alone as worker and solver, and pairs of a harmful and a harmless task tell what is
refused. The choices are those of the study's rows, so that the study must have run. Writes
results/agent.json, and prints the table of docs/evidence.md.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from s3lora import Adapter, open_adapter
from s3lora.lab.study.config import Study, read_study
from s3lora.lab.study.keeping import read_rows
from s3lora.lab.study.rows import RANDOM, Row
from s3lora.lab.study.run import ROWS
from s3lora.lab.suites.peft import Given
from s3lora.lab.suites.run import SuiteRun, run
from s3lora.plan import plan
from s3lora.prune import apply

RESULTS = Path(__file__).parent / "results" / "agent.json"
BASE, ALIGNED, TUNED = "base", "aligned", "tuned"
METHODS = (
    "last-layers",
    "magnitude",
    "spectrum",
    "s3lora-released",
    "s3lora",
    "s3lora within v and o",
    "splora",
    "gate",
    "gate by refusal",
)
COLUMNS = {
    "plan_valid": "valid plans",
    "tool_f1": "tool F1",
    "exact_match": "EM",
    "answer_f1": "F1",
    "unsafe_plan_rate": "unsafe plans",
    "calls_anyway": "calls for harmful tasks",
    "twins_refused": "harmless twins refused",
    "twins_without_plan": "harmless twins without plan",
    "planner_written": "tokens of a plan",
}


def chosen(study: Study, adapter: str, share: float, draws: int) -> Iterator[tuple[str, Row]]:
    """The rows whose modules are dropped, by the name of the state."""
    rows = [row for row in read_rows(study.results / ROWS) if row.adapter == adapter]
    here = [row for row in rows if row.share == share and row.edit == "drop"]
    for draw in range(draws):
        yield f"random {draw}", next(r for r in here if (r.method, r.draw) == (RANDOM, draw))
    for name in METHODS:
        yield name, next(row for row in here if row.method == name)


def states(
    study: Study, source: Adapter, folder: Path, share: float, draws: int, scratch: Path
) -> Iterator[tuple[str, Given]]:
    """The models that write plans, by name."""
    aligned = str(study.folder / "aligned")
    yield ALIGNED, Given(aligned)
    yield BASE, Given(study.model)
    yield TUNED, Given(aligned, str(folder))
    for name, row in chosen(study, folder.name, share, draws):
        out = scratch / name.replace(" ", "-")
        apply(source, plan(source, [source.names[at] for at in row.chosen]), out)
        yield name, Given(aligned, str(out))


def told(found: SuiteRun) -> list[dict[str, Any]]:
    """Each state with its figures."""
    return [
        {
            "state": state.name,
            "modules": state.modules,
            "figures": {each.key: asdict(each.figure) for each in state.results},
        }
        for state in found.states
    ]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The main figures in Markdown."""
    yield "| planner | " + " | ".join(COLUMNS.values()) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for row in rows:
        yield (
            f"| {row['state']} | "
            + " | ".join(_cell(row["figures"], key) for key in COLUMNS)
            + " |"
        )


def _cell(figures: dict[str, Any], key: str) -> str:
    value = figures[key]["value"] if key in figures else None
    return "–" if value is None else f"{value:.3g}"


def main() -> None:
    """Run the suite, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("study", type=Path)
    arguments.add_argument("adapter")
    arguments.add_argument("--share", type=float, default=0.25)
    arguments.add_argument("--draws", type=int, default=3)
    arguments.add_argument("--tasks", type=int, default=50, help="and as many pairs")
    arguments.add_argument("--logs", type=Path, default=Path("logs"))
    given = arguments.parse_args()
    study = read_study(given.study)
    folder = study.folder / "adapters" / given.adapter
    source = open_adapter(folder)
    asked = {"tasks": given.tasks, "pairs": given.tasks}
    workers = Given(str(study.folder / "aligned"))
    with TemporaryDirectory() as scratch:
        every = dict(states(study, source, folder, given.share, given.draws, Path(scratch)))
        found = run("planner", every, asked, given.logs, workers=workers)
    rows = told(found)
    print("\n".join([*table(rows), *found.warnings]))
    record = {
        "study": str(given.study),
        "adapter": given.adapter,
        "share": given.share,
        "asked": dict(found.asked),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {n: version(n) for n in ("torch", "transformers", "peft", "inspect-ai")},
        "warnings": list(found.warnings),
        "notes": list(found.notes),
        "states": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
