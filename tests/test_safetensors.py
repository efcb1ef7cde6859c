"""A safetensors file as it is read: what its own library refuses, and what changes meanwhile."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapters import CONFIG, PREFIX, WEIGHTS, Q, V, draw, file_bytes, lora, write_adapter
from s3lora import open_adapter, scan
from s3lora.cli import cli
from s3lora.errors import AdapterError
from s3lora.io import regular_file
from s3lora.io.regular_file import LFS, read_small
from s3lora.io.safetensors import TensorFile

ENTRY = '"a":{"dtype":"F32","shape":[2,6],"data_offsets":[0,48]}'
HALF = '"__metadata__":{%s},' + ENTRY
REFUSED = {
    "minus zero in a shape": ENTRY.replace("[2,6]", "[2,6,-0]").replace("48", "0"),
    "minus zero in an offset": ENTRY.replace("[0,", "[-0,"),
    "half a character in the metadata": HALF % '"x":"\\ud800"',
    "half a character in a name of the metadata": HALF % '"\\udfff":"x"',
    "two halves the wrong way round": HALF % '"x":"\\ude00\\ud83d"',
    "a list in the metadata": HALF % '"x":["y"]',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_of_the_format_refuses_is_refused(name, tmp_path):
    from safetensors import SafetensorError, safe_open

    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(b"{" + REFUSED[name].encode() + b"}", bytes(48)))
    with pytest.raises(SafetensorError):
        safe_open(path, "np")
    with pytest.raises(AdapterError, match=r"-0|half a character|metadata"):
        TensorFile(path)


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "-0", "\\u0000", "é"])
def test_unusual_text_in_the_metadata_is_read(text, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(b"{" + (HALF % f'"x":"{text}"').encode() + b"}", bytes(48)))
    assert TensorFile(path).metadata == {"x": json.loads(f'"{text}"')}


def test_byte_order_mark_before_a_header_is_refused_as_by_the_library(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(b"\xef\xbb\xbf{" + ENTRY.encode() + b"}", bytes(48)))
    with pytest.raises(AdapterError, match="byte order mark"):
        TensorFile(path)


# --- somebody writes to the file meanwhile


def in_place(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def times_restored(path: Path, data: bytes) -> None:
    before = path.stat()
    in_place(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def mapped(path: Path, data: bytes) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[: len(data)] = data


@pytest.mark.parametrize("write", [in_place, times_restored, mapped], ids=lambda f: f.__name__)
@pytest.mark.parametrize("stamps", [True, False], ids=["times", "no times"])
def test_bytes_that_were_scored_are_those_that_are_hashed(write, stamps, tmp_path, monkeypatch):
    path = write_adapter(tmp_path) / WEIGHTS
    if not stamps:  # a mount that keeps no times, or a writer through a map
        monkeypatch.setattr("s3lora.io.safetensors.stamp", lambda fd: 0)
    adapter = open_adapter(tmp_path)
    assert len(scan(adapter).scores) == 4
    start = adapter.tensors.infos[f"{PREFIX}{Q}.lora_B.weight"].start
    data = path.read_bytes()
    write(path, data[:start] + bytes(4) + data[start + 4 :])
    with pytest.raises(AdapterError, match="was changed while it was read"):
        _ = adapter.digest


def test_change_before_the_numbers_are_read_is_in_the_hash_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("s3lora.io.safetensors.stamp", lambda fd: 0)
    path = write_adapter(tmp_path) / WEIGHTS
    adapter = open_adapter(tmp_path)
    data = path.read_bytes()
    in_place(path, data[:-4] + bytes(4))
    scan(adapter)
    assert adapter.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    data = path.read_bytes()
    adapter = open_adapter(tmp_path)
    in_place(path, data.replace(b"F32", b"I32"))
    with pytest.raises(AdapterError, match="was changed while it was read"):
        _ = adapter.digest


def test_bytes_that_are_copied_are_those_that_were_hashed(tmp_path):
    path = write_adapter(tmp_path) / WEIGHTS
    file = TensorFile(path)
    file.sha256()
    in_place(path, path.read_bytes()[:-4] + bytes(4))
    last = max(file.infos, key=lambda key: file.infos[key].start)
    with pytest.raises(AdapterError, match="was changed while it was read"):
        list(file.chunks(last))


def test_file_that_becomes_shorter_is_refused(tmp_path):
    path = write_adapter(tmp_path) / WEIGHTS
    adapter = open_adapter(tmp_path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(AdapterError, match="was changed while it was read"):
        scan(adapter)


def test_hash_of_the_config_is_that_of_the_bytes_that_were_read(tmp_path):
    config = write_adapter(tmp_path) / CONFIG
    raw = config.read_bytes()
    adapter = open_adapter(tmp_path)
    config.write_bytes(raw.replace(b"6", b"7"))
    assert adapter.config_digest == hashlib.sha256(raw).hexdigest()


# --- the system refuses to read


def failing(name: str, at: int) -> Callable[..., int]:
    """A function of `os` that fails with an input error from its call number `at` on."""
    real, calls = getattr(os, name), []

    def call(*words: object) -> int:
        calls.append(words)
        if len(calls) >= at:
            raise OSError(errno.EIO, "Input/output error")
        return real(*words)

    return call


@pytest.mark.parametrize("command", ["scan", "rank", "check", "compare"])
@pytest.mark.parametrize(("name", "at"), [("pread", 1), ("preadv", 1), ("preadv", 3), ("pread", 4)])
def test_input_error_has_status_2(command, name, at, tmp_path, monkeypatch):
    folder = write_adapter(tmp_path)
    monkeypatch.setattr(os, name, failing(name, at))
    words = [command, str(folder), *([str(folder)] if command == "compare" else [])]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2, result.output
    assert "Input/output error" in result.output
    assert "hint: " in result.output


def test_file_of_the_kernel_without_data_is_an_empty_file(tmp_path, monkeypatch):
    read, write = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(regular_file, "open_regular", lambda path: (read, 0))
    assert read_small(tmp_path, 10, "") == b""
    os.close(write)


def test_file_that_holds_more_than_its_size_says_is_refused():
    with pytest.raises(AdapterError, match="has more than 3 bytes"):
        read_small(Path("/proc/self/status"), 3, "")


def test_memory_of_a_process_is_no_result():
    result = CliRunner().invoke(cli, ["report", "/proc/self/mem"])
    assert result.exit_code == 2
    assert result.output.startswith("error: cannot read /proc/self/mem: ")


# --- what stands in the place of a file

STAND_INS = {
    "a pointer of Git LFS": (
        LFS + b"v1\noid sha256:" + b"ab" * 32 + b"\nsize 73911112\n",
        "git lfs pull",
    ),
    "a web page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "download the file"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(90), "run code"),
    "an archive": (b"PK\x03\x04" + bytes(90), "run code"),
    "a GGUF file": (b"GGUF\x03\x00\x00\x00" + bytes(90), "PEFT"),
}


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("name", STAND_INS)
def test_what_stands_in_the_place_of_a_file_is_named(name, file, tmp_path):
    content, hint = STAND_INS[name]
    (write_adapter(tmp_path) / file).write_bytes(content)
    with pytest.raises(AdapterError, match=re.escape(f"{file} is a")) as caught:
        open_adapter(tmp_path)
    assert name.split()[-1] in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("size", [0, 7, 8, 100, 1000])
def test_file_that_is_cut_off_is_called_an_interrupted_download(size, tmp_path):
    path = write_adapter(tmp_path) / WEIGHTS
    os.truncate(path, size)
    with pytest.raises(AdapterError, match="is cut off") as caught:
        open_adapter(tmp_path)
    assert "interrupted" in caught.value.hint


def test_file_that_was_only_laid_out_is_called_an_interrupted_download(tmp_path):
    path = write_adapter(tmp_path) / WEIGHTS
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(AdapterError, match="is cut off") as caught:
        open_adapter(tmp_path)
    assert "interrupted" in caught.value.hint


def test_link_that_leads_to_no_file_is_called_so(tmp_path):
    folder = write_adapter(tmp_path)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../../blobs/abc")
    with pytest.raises(AdapterError, match="leads to no file") as caught:
        open_adapter(folder)
    assert "download" in caught.value.hint


def test_byte_order_mark_before_a_config_is_passed_over(tmp_path):
    config = write_adapter(tmp_path, {V: (draw(2, 6), draw(8, 2))}) / CONFIG
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert open_adapter(tmp_path).names == (V,)


def test_tensors_of_a_file_are_hashed_as_they_lie(tmp_path):
    extra = lora("z", draw(2, 6), draw(8, 2)) | {f"{PREFIX}norm.weight": draw(0)}
    path = write_adapter(tmp_path, extra=extra) / WEIGHTS
    assert TensorFile(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_disk_that_fails_while_a_file_is_closed_is_not_spoken_of(tmp_path, monkeypatch):
    close, complaints = os.close, []

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "Input/output error")

    write_adapter(tmp_path / "a")
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    monkeypatch.setattr(os, "close", failing)
    assert scan(open_adapter(tmp_path / "a")).scores
    gc.collect()
    assert complaints == []
