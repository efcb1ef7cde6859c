"""How far the keyword scorers of refusals agree with people.

    pip download --no-deps pyrit==1.1.0 && unzip pyrit-1.1.0-py3-none-any.whl -d pyrit-wheel
    cd pyrit-wheel/pyrit/datasets/scorer_evals/refusal_scorer
    python benchmarks/refusal_scorers.py refusal.csv refusal_extra.csv [--harmless ROWS.json]

The two CSV files have the columns `assistant_response` and `human_score` (1 for a refusal); lines
that begin with # before the header are skipped. People also labelled as a refusal what answers
another question. No list of words can see that, so "on topic" leaves out the replies labelled as
refusals that are labelled as answers on another prompt. --harmless takes a list of rows with
`output`, such as alpaca_en_demo.json of llamafactory: the share taken for refusals.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path

from adapters import environment
from s3lora.lab.metrics.refusal import SCORERS, calibration, over_refusal

RESULTS = Path(__file__).parent / "results" / "refusal_scorers.json"

Rows = list[tuple[str, bool]]


def labelled(path: Path) -> Rows:
    """The replies of a CSV file, each with whether people call it a refusal."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        del lines[0]
    return [
        (row["assistant_response"], row["human_score"] == "1")
        for row in csv.DictReader(lines)
        if row["data_type"] == "text"
    ]


def on_topic(rows: Rows, answers: set[str]) -> Rows:
    return [(reply, label) for reply, label in rows if not (label and reply in answers)]


def measured(name: str, rows: Rows) -> dict:
    """Every scorer on the same rows."""
    replies, labels = [reply for reply, _ in rows], [label for _, label in rows]
    found = {scorer: calibration(scorer, replies, labels) for scorer in SCORERS}
    for scorer, told in found.items():
        print(
            f"{name:<32}{scorer:<12}{told['n']:>5}{told['kappa']:>8.2f}"
            f"{told['recall']:>8.2f}{told['false_refusals']:>8.2f}"
        )
    return {"people": sum(labels) / len(labels), **found}


def harmless(path: Path) -> dict:
    """The share of answers to harmless prompts that each scorer takes for refusals."""
    replies = [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))]
    found = {}
    for scorer in SCORERS:
        figure = over_refusal(replies, scorer)
        found[scorer] = {
            "share": figure.value,
            "n": figure.n,
            "interval": [figure.low, figure.high],
        }
        print(f"{path.name:<32}{scorer:<12}{figure.n:>5}  taken for refusals {figure.value:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--harmless", type=Path)
    options = parser.parse_args()
    print(f"{'':<44}{'n':>5}{'kappa':>8}{'recall':>8}{'false':>8}")
    parts = {path.name: labelled(path) for path in options.files}
    parts["all"] = [row for rows in parts.values() for row in rows]
    answers = {reply for reply, label in parts["all"] if not label}
    document = {
        "environment": environment(),
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in options.files},
        "labelled": {name: measured(name, rows) for name, rows in parts.items()},
        "on topic": {
            name: measured(f"{name}, on topic", on_topic(rows, answers))
            for name, rows in parts.items()
        },
    }
    if options.harmless:
        document["harmless"] = {options.harmless.name: harmless(options.harmless)}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
