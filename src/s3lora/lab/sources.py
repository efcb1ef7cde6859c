"""Where rows come from: a package by its name in the catalog, a file, or a hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from s3lora.errors import DataError
from s3lora.lab.catalog import CATALOG
from s3lora.lab.data import Example, csv_rows, json_rows, jsonl_rows, rows_to_examples

READERS: dict[str, Callable[[str], list[Any]]] = {
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
}


def load(reference: str) -> list[Example]:
    """Rows by name, from a file, or from a hub.

    Args:
        reference: A name of `s3lora.lab.catalog`; a .json, .jsonl or .csv file; or
            `hub:OWNER/NAME[#SPLIT]`, read by the package `datasets`.

    Raises:
        DataError: if there is no such source, or a row holds no prompt.
    """
    if reference in CATALOG:
        return CATALOG[reference].read()
    if reference.startswith("hub:"):
        return rows_to_examples(_hub_rows(reference[4:]), reference)
    path = Path(reference)
    if path.suffix not in READERS:
        raise DataError(
            f"there is no data set {reference!r}",
            hint=f"a .json, .jsonl or .csv file, hub:OWNER/NAME, or one of {', '.join(CATALOG)}",
        )
    try:
        text = path.read_text(encoding="utf-8")
        return rows_to_examples(READERS[path.suffix](text), path.name)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {reference}: {error}", hint="check the file") from error


def _hub_rows(name: str) -> list[Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            "reading a hub needs the package datasets", hint="pip install datasets"
        ) from error
    repository, _, split = name.partition("#")
    try:
        return list(load_dataset(repository, split=split or "train"))
    except Exception as error:  # the library raises whatever its backends raise
        raise DataError(
            f"cannot read {repository} from the hub: {error}", hint="check the name and the network"
        ) from error
