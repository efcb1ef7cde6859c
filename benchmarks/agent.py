"""What does taking modules out do to an agent whose planner the adapter is?

    python benchmarks/agent.py evidence/smollm2/study.toml planner

Puts one adapter of a study, and what the study's methods leave of it at one share, through the
planner's suite: plans for held-out tasks are carried out over the suite's own texts, with the
aligned model alone as worker and solver, and pairs of a harmful and a harmless task tell what is
refused. The choices are those of the study's rows, so that the study must have run. Adds each
state to results/agent.json when it is done, and goes on there when it is started again; prints the
table of docs/evidence.md.
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
from s3lora.lab.suites.run import run
from s3lora.plan import plan
from s3lora.prune import apply

RESULTS = Path(__file__).parent / "results" / "agent.json"
BASE, ALIGNED, TUNED = "base", "aligned", "tuned"
METHODS = ("magnitude", "spectrum", "s3lora", "s3lora within v and o", "gate by refusal")
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


def measured(name: str, given: Given, asked: dict[str, int], workers: Given, logs: Path) -> Any:
    """One state with its figures."""
    found = run("planner", {name: given}, asked, logs, roles={"worker": workers, "solver": workers})
    (state,) = found.states
    return {
        "state": name,
        "modules": state.modules,
        "asked": dict(found.asked),
        "notes": list(found.notes),
        "figures": {each.key: asdict(each.figure) for each in state.results},
    }


def kept(head: dict[str, Any]) -> list[dict[str, Any]]:
    """The states that were measured before, if with the same settings."""
    if not RESULTS.exists():
        return []
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = record.pop("states")
    return rows if record == head else []


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
    arguments.add_argument("--only", nargs="*", metavar="STATE", help="of all states")
    arguments.add_argument("--logs", type=Path, default=Path("logs"))
    given = arguments.parse_args()
    study = read_study(given.study)
    folder = study.folder / "adapters" / given.adapter
    source = open_adapter(folder)
    asked = {"tasks": given.tasks, "pairs": given.tasks}
    workers = Given(str(study.folder / "aligned"))
    head = {
        "study": str(given.study),
        "adapter": given.adapter,
        "share": given.share,
        "tasks": given.tasks,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {n: version(n) for n in ("torch", "transformers", "peft", "inspect-ai")},
    }
    with TemporaryDirectory() as scratch:
        every = dict(states(study, source, folder, given.share, given.draws, Path(scratch)))
        for name in given.only or every:
            if name not in {row["state"] for row in kept(head)}:
                row = measured(name, every[name], asked, workers, given.logs)
                rows = sorted([*kept(head), row], key=lambda row: list(every).index(row["state"]))
                RESULTS.write_text(json.dumps(head | {"states": rows}, indent=1) + "\n")
    print("\n".join(table(kept(head))))


if __name__ == "__main__":
    main()
