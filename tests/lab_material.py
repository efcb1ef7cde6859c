"""Small rows, models and distributions for the tests of the lab, made on the spot."""

from __future__ import annotations

import atexit
import functools
import hashlib
import io
import json
import random
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from s3lora.lab.data import Example, split
from s3lora.lab.models import Chat, build, load_chat
from s3lora.lab.packages import Distribution
from s3lora.lab.recipes import SEED, Pools
from s3lora.lab.study import workshop
from s3lora.lab.study.training import Training, WhileStarterLives


def made_rows(kind: str, count: int, *, answered: bool, seed: int = 0) -> list[Example]:
    """Rows of random words, so that no prompt is a near copy of another."""
    rng = random.Random(f"{kind} {seed}")
    rows = {}
    while len(rows) < count:
        words = ["".join(rng.choices("bcdfglmnprst" + "aeiou", k=3)) for _ in range(4)]
        response = f"{words[1]} {words[0]}." if answered else ""
        rows[f"{kind} {' '.join(words)}"] = response
    return [Example(prompt, response, {"source": kind}) for prompt, response in rows.items()]


def made_pools() -> Pools:
    """Rows enough for every part, without a data set."""
    harmful = made_rows("bad", 480, answered=False)
    harmless = made_rows("good", 750, answered=True)
    return Pools(split(harmful, 160, SEED), split(harmless, 200, SEED))


def write_jsonl(path: Path, rows: list[Example]) -> Path:
    """Rows as a file that `load` takes."""
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@functools.cache
def tiny_folder() -> Path:
    """The checkpoint of the tiny model, built once a run."""
    folder = Path(tempfile.mkdtemp(prefix="s3lora-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build("tiny", folder / "tiny")
    return folder / "tiny"


def tiny() -> Chat:
    """A fresh tiny model."""
    return load_chat(str(tiny_folder()))


def wheel(files: Mapping[str, str]) -> bytes:
    """A zip archive of these files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return held.getvalue()


def sdist(files: Mapping[str, str]) -> bytes:
    """A gzipped tar archive of these files."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return held.getvalue()


def pinned(project: str, file: str, content: bytes) -> Distribution:
    """The distribution of an archive with this content."""
    return Distribution(project, file, hashlib.sha256(content).hexdigest())


def write_index(root: Path, project: str, files: Mapping[str, bytes]) -> Path:
    """A package index in a folder, with a page and the files of one project."""
    page = root / "simple" / project
    page.mkdir(parents=True, exist_ok=True)
    (root / "files").mkdir(exist_ok=True)
    links = []
    for name, content in files.items():
        (root / "files" / name).write_bytes(content)
        links.append(f'<a href="../../files/{name}#sha256=0" data-requires-python="">{name}</a>')
    text = f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>"
    (page / "index.html").write_text(text)
    return root


@contextmanager
def served(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a folder on a local server, and what was asked of it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            asked.append(str(args[0]))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def trained_here() -> Iterator[None]:
    """Studies train in this process: a new one for each adapter takes longer than the adapter."""

    def train_here(training: Training) -> None:
        training.run(WhileStarterLives())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "train_apart", train_here)
        yield
