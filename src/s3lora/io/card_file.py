"""The model card beside an adapter: the only file whose text a result takes over as it is."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from s3lora.errors import AdapterError
from s3lora.io.regular_file import read_small, stays_with
from s3lora.io.sources import CARD

MAX_CARD = 8 * 2**20
"""Largest model card that is carried over, in bytes."""


WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks of encodings that no section in UTF-8 can be put into; the longer ones first."""


def card_text(raw: bytes) -> str | None:
    """The text of a card, to be written as UTF-8; None if its bytes are no text.

    UTF-16 and UTF-32 are decoded, by their mark or by where their zero bytes are. Bytes that are
    not UTF-8 in a card without zero bytes, as of Latin-1, become U+FFFD: a file of two encodings
    cannot be read, and a guess at the encoding could put words into the author's mouth.
    """
    encoding = next((name for mark, name in WIDE if raw.startswith(mark)), "")
    if not encoding and b"\0" in raw:
        first, second = raw[::2].count(0), raw[1::2].count(0)
        if 4 * (first + second) < len(raw):  # of a text in Latin letters every second byte is
            return None
        encoding = "utf-16-le" if second > first else "utf-16-be"
    if not encoding:
        return raw.decode("utf-8", "replace")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


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
