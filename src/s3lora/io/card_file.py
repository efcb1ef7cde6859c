"""The model card beside an adapter: the only file whose text a result takes over as it is."""

from __future__ import annotations

import os
from pathlib import Path

from s3lora.errors import AdapterError
from s3lora.io.regular_file import read_small, stays_with
from s3lora.io.sources import CARD

MAX_CARD = 8 * 2**20
"""Largest model card that is carried over, in bytes."""


def read_card(folder: Path) -> bytes | None:
    """The README.md of a folder; None if there is none.

    Its text goes into a result that is made to be published. A link in a folder from a stranger
    must not bring a file of this machine there, so a link is followed only where it stays in the
    folder, or in the `blobs/` of the hub's cache that the folder belongs to.

    Raises:
        AdapterError: if it is a link that leads elsewhere, no regular file, or too large.
    """
    card = folder / CARD
    if not os.path.lexists(card):
        return None
    target = Path(os.path.realpath(card))
    if not stays_with(folder, card):
        raise AdapterError(
            f"{card} is a link to {target}, outside the adapter's folder: its text would be copied",
            hint="remove the link, or put a copy of the file there if it may be published",
        )
    return read_small(
        target, MAX_CARD, f"a model card of at most {MAX_CARD} bytes is carried over: shorten it"
    )
