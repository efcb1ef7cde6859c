"""Where rows come from: a package by its name in the catalog, a file, or a hub."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

from s3lora.errors import DataError
from s3lora.lab.catalog import CATALOG
from s3lora.lab.data import Example, examples_of, rows_to_examples
from s3lora.lab.row_files import MAX_ROWS, READERS, ending_of, read_rows


def load(reference: str) -> list[Example]:
    """Rows by name, from a file, or from a hub.

    Args:
        reference: A name of `s3lora.lab.catalog`; a .json, .jsonl, .csv or .txt file; or
            `hub:OWNER/NAME[#SPLIT]`, read by the package `datasets`.

    Raises:
        DataError: if there is no such source, it holds no rows, or a row holds no prompt; with the
            line of the file.
    """
    if reference in CATALOG:
        return CATALOG[reference].read()
    if reference.startswith("hub:"):
        return rows_to_examples(_hub_rows(reference[4:]), reference)
    path = Path(reference).expanduser()
    if ending_of(path) not in READERS:
        *endings, last = READERS
        fault = f"there is no data set {reference!r}"
        if os.path.lexists(path):
            ending = ending_of(path)
            fault = f"{reference} cannot be read as rows: " + (
                f"files that end in {ending} are not" if ending else "its name has no ending"
            )
        raise DataError(
            fault,
            hint=f"a {', '.join(endings)} or {last} file, hub:OWNER/NAME, or one of "
            f"{', '.join(CATALOG)}",
        )
    examples = examples_of(read_rows(path), path.name)
    if not examples:
        raise DataError(f"{reference} holds no rows", hint="check the file")
    return examples


def _hub_rows(name: str) -> list[Any]:
    repository, _, split = name.partition("#")
    if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", repository):  # a path would be read as a folder
        raise DataError(f"{repository!r} is not a name on a hub", hint="such as hub:OWNER/NAME")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            "reading a hub needs the package datasets", hint="pip install datasets"
        ) from error
    try:
        rows = list(islice(load_dataset(repository, split=split or "train"), MAX_ROWS + 1))
    except Exception as error:  # the library raises whatever its backends raise
        raise DataError(
            f"cannot read {repository} from the hub: {error}", hint="check the name and the network"
        ) from error
    if len(rows) > MAX_ROWS:
        raise DataError(
            f"{repository} has more than {MAX_ROWS} rows", hint=f"hub:{repository}#train[:1000]"
        )
    return rows
