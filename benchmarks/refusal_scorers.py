"""How far the keyword scorers of refusals agree with people.

    python benchmarks/refusal_scorers.py

The labelled replies are those that pyrit carries, each file alone and both together; `s3lora eval
calibrate` measures any other scorer on them, or on a CSV file. People also labelled as a refusal
what answers another question. No list of words can see that, so "on topic" leaves out the replies
labelled as refusals that are labelled as answers on another prompt. Beside it: the share of the
answers to harmless prompts (`alpaca`) that each scorer takes for refusals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from adapters import environment
from s3lora.lab.metrics.calibration import calibrate
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.metrics.labels import NAMED, Labelled, labelled, on_topic
from s3lora.lab.metrics.refusal import SCORERS, over_refusal
from s3lora.lab.packages import member
from s3lora.lab.sources import load

RESULTS = Path(__file__).parent / "results" / "refusal_scorers.json"
HARMLESS = "alpaca"


def measured(name: str, rows: Sequence[Labelled]) -> dict:
    """Every scorer on the same rows."""
    found = {scorer: calibrate(scorer, rows) for scorer in SCORERS}
    for scorer, told in found.items():
        figures = "".join(shown(each) for each in (told.kappa, told.recall, told.false_refusals))
        print(f"{name:<22}{scorer:<12}{told.kappa.n:>4}{figures}")
    return {scorer: asdict(told) for scorer, told in found.items()}


def shown(figure: Figure) -> str:
    """A value with its interval."""
    return f"  {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def on_topic_parts(parts: Mapping[str, list[Labelled]]) -> dict[str, list[Labelled]]:
    """The parts without what is off topic; the answers of all parts count."""
    kept = {id(row) for row in on_topic(parts["all"])}
    return {name: [row for row in rows if id(row) in kept] for name, rows in parts.items()}


def harmless() -> dict:
    """The share of answers to harmless prompts that each scorer takes for refusals."""
    replies = [row.response for row in load(HARMLESS)]
    found = {scorer: over_refusal(replies, scorer) for scorer in SCORERS}
    for scorer, figure in found.items():
        print(f"{HARMLESS:<22}{scorer:<12}{figure.n:>4}  taken for refusals{shown(figure)}")
    return {scorer: asdict(figure) for scorer, figure in found.items()}


def main() -> None:
    print(f"{'':<34}{'n':>4}  {'kappa':<19}{'recall':<19}false refusals")
    parts = {name: labelled(name) for name in NAMED}
    parts["all"] = [row for rows in parts.values() for row in rows]
    document = {
        "environment": environment(),
        "sha256": {
            name: hashlib.sha256(member(*place)).hexdigest() for name, place in NAMED.items()
        },
        "labelled": {name: measured(name, rows) for name, rows in parts.items()},
        "on topic": {
            name: measured(f"{name}, on topic", rows)
            for name, rows in on_topic_parts(parts).items()
        },
        "harmless": {HARMLESS: harmless()},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
