"""Packages as archives, the catalogue, rows from anywhere, the split, and the recipes."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import sys
import threading
import traceback
import types
from base64 import b64encode
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lab_material import (
    made_pools,
    made_rows,
    pinned,
    sdist,
    served,
    wheel,
    write_index,
    write_jsonl,
)
from s3lora.errors import DataError, ParameterError
from s3lora.lab import packages, recipes, row_files
from s3lora.lab.catalog import CATALOG
from s3lora.lab.data import (
    PROMPT_FIELDS,
    RESPONSE_FIELDS,
    Example,
    apart_from,
    digest_of,
    jaccard,
    refuse_unanswered,
    rows_to_examples,
    shuffled,
    split,
    words,
)
from s3lora.lab.packages import Distribution, cache_folder, fetch, member
from s3lora.lab.planner.tasks import SYSTEM
from s3lora.lab.sources import load

FILE = "things-1.0-py3-none-any.whl"
CONTENT = wheel({"things/rows.txt": "one\ntwo\n"})
THINGS = pinned("things", FILE, CONTENT)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no index that answers."""
    monkeypatch.setenv("S3LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "packages"


@pytest.fixture
def index(tmp_path, cache, monkeypatch):
    """The address of a local index with one wheel, and what it is asked."""
    with served(write_index(tmp_path / "web", "things", {FILE: CONTENT})) as (address, asked):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple/")
        yield asked


def kept_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*"))


def test_an_archive_is_downloaded_once(cache, index, monkeypatch):
    path = fetch(THINGS)
    assert path == cache / FILE
    assert path.read_bytes() == CONTENT
    assert kept_in(cache) == [FILE]
    assert [line.split()[1] for line in index] == ["/simple/things/", f"/files/{FILE}"]
    fetch(THINGS)
    assert len(index) == 2, "nothing was asked again"
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch(THINGS) == path


def test_a_damaged_archive_in_the_cache_is_downloaded_again(cache, index):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(CONTENT[:-1])
    assert fetch(THINGS).read_bytes() == CONTENT


def test_another_content_than_the_pinned_is_refused_and_not_kept(cache, index):
    other = replace(THINGS, sha256="0" * 64)
    with pytest.raises(DataError, match="is not the file that is pinned"):
        fetch(other)
    assert kept_in(cache) == []


def test_what_an_index_lacks_is_named(cache, index):
    with pytest.raises(DataError, match=r"has no things-2\.0"):
        fetch(replace(THINGS, file="things-2.0-py3-none-any.whl"))
    with pytest.raises(DataError, match=r"cannot be downloaded.*404"):
        fetch(replace(THINGS, project="nothing"))
    assert kept_in(cache) == []


def test_an_index_that_does_not_answer_is_an_error_with_a_way_out(cache):
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        fetch(THINGS)
    assert str(cache) in caught.value.hint
    assert kept_in(cache) == []


def test_an_index_in_a_folder(cache, tmp_path, monkeypatch):
    root = write_index(tmp_path / "mirror", "things", {FILE: CONTENT})
    monkeypatch.setenv("PIP_INDEX_URL", (root / "simple").as_uri())
    assert fetch(THINGS).read_bytes() == CONTENT


def test_an_index_that_is_no_address_is_refused(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "ftp://example.org/simple")
    with pytest.raises(DataError, match="is not a web address"):
        fetch(THINGS)


class Guarded(SimpleHTTPRequestHandler):
    """An index that asks for a user and password; the files are on another host."""

    seen: ClassVar[list[tuple[str, str | None]]] = []
    elsewhere = ""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        if self.path == "/moved/" + FILE:
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}/files/{FILE}")
            self.end_headers()
            return
        allowed = self.headers["Authorization"] == "Basic " + b64encode(b"me:se/cret").decode()
        self.send_response(200 if allowed else 401)
        self.end_headers()
        if allowed:
            self.wfile.write(f'<a href="/moved/{FILE}">x</a>'.encode())


def test_a_password_goes_to_the_index_alone(cache, tmp_path, monkeypatch):
    seen: list[tuple[str, str | None]] = []
    handler = type("Handler", (Guarded,), {"seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        with served(write_index(tmp_path / "web", "things", {FILE: CONTENT})) as (files, asked):
            handler.elsewhere = files
            address = f"127.0.0.1:{server.server_port}/simple"
            monkeypatch.setenv("PIP_INDEX_URL", f"http://me:se%2Fcret@{address}")
            assert fetch(THINGS).read_bytes() == CONTENT
            assert [line.split()[1] for line in asked] == [f"/files/{FILE}"]
            monkeypatch.setenv("PIP_INDEX_URL", f"http://me:hidden@{address}?token=hidden")
            with pytest.raises(DataError, match="401") as caught:
                fetch(replace(THINGS, file="other.whl"))
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path, _ in seen[:2]] == ["/simple/things/", f"/moved/{FILE}"]
    assert "hidden" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "index",
    [
        "http://me:hidden@127.0.0.1:9/simple",
        "http://me:hid/hidden@127.0.0.1:9/simple",
        "http://me:hidden@[bad/simple",
        "http://me:hidden@127.0.0.1:port/simple",
        "http://127.0.0.1:9/simple?token=hidden",
        "ftp://me:hidden@127.0.0.1/simple",
    ],
)
def test_no_error_prints_a_password_of_the_index(cache, monkeypatch, index):
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(DataError) as caught:
        fetch(THINGS)
    text = "".join(traceback.format_exception(caught.value))
    assert "hidden" not in str(caught.value) + caught.value.hint
    assert "hidden" not in text


def test_downloads_are_bounded_and_shown(cache, index, monkeypatch):
    sizes: list[tuple[str, int, int | None]] = []
    token = packages.watched.set(lambda *seen: sizes.append(seen))
    fetch(THINGS)
    packages.watched.reset(token)
    assert sizes == [(FILE, len(CONTENT), len(CONTENT))]
    (cache / FILE).unlink()
    monkeypatch.setattr(packages, "MAX_ARCHIVE", len(CONTENT) - 1)
    with pytest.raises(DataError, match="from the index has more than"):
        fetch(THINGS)
    assert kept_in(cache) == []
    monkeypatch.setattr(packages, "MAX_PAGE", 10)
    with pytest.raises(DataError, match=r"the page of things in the index .* has more than 10"):
        fetch(THINGS)


def test_a_page_from_elsewhere_names_no_file_of_this_machine(cache, tmp_path, monkeypatch):
    web = write_index(tmp_path / "web", "things", {})
    (tmp_path / FILE).write_bytes(CONTENT)
    link = f'<a href="{(tmp_path / FILE).as_uri()}">x</a>'
    (web / "simple/things/index.html").write_text(link)
    with served(web) as (address, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        with pytest.raises(DataError, match="has no things"):
            fetch(THINGS)


def test_members_of_wheels_and_source_archives(cache):
    files = {"things-1.0/a/rows.txt": "one\n"}
    source = pinned("things", "things-1.0.tar.gz", sdist(files))
    cache.mkdir(parents=True)
    (cache / source.file).write_bytes(sdist_bytes := sdist(files))
    source = pinned("things", "things-1.0.tar.gz", sdist_bytes)  # gzip keeps the time
    (cache / FILE).write_bytes(CONTENT)
    assert member(THINGS, "things/rows.txt") == b"one\ntwo\n"
    assert member(source, "things-1.0/a/rows.txt") == b"one\n"
    for archive in (THINGS, source):
        with pytest.raises(DataError, match=r"holds no things/absent\.txt"):
            member(archive, "things/absent.txt")


def test_the_cache_is_at_home_unless_it_is_said(monkeypatch):
    monkeypatch.delenv("S3LORA_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "s3lora"
    monkeypatch.setenv("S3LORA_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")


PAIRS = [
    {"input": "a?", "metadata": {"type": "harmful", "category": "x"}},
    {"input": "b?", "metadata": {"type": "benign", "category": "x"}},
]
ALPACA = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Say hello.", "input": "", "output": "Hello."},
    {"instruction": "Say nothing.", "input": "", "output": ""},
]
FAKES: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "advbench": (
        ["seeds:\n- value: Do a.\n  x: 1\n- value: 'Do: b.'\n"],
        [("Do a.", ""), ("Do: b.", "")],
    ),
    "harmbench": (["Do a.\nDo b.\n"], [("Do a.", ""), ("Do b.", "")]),
    "do-not-answer": (
        ['{"text": "a?", "intents": []}\n{"text": "b?"}\n'],
        [("a?", ""), ("b?", "")],
    ),
    "strongreject": (
        ['# told first\ncategory,source,forbidden_prompt\nx,y,"Do a, then b."\nx,y,Do c.\n'],
        [("Do a, then b.", ""), ("Do c.", "")],
    ),
    "matched-pairs": (["\n".join(map(json.dumps, PAIRS))], [("a?", ""), ("b?", "")]),
    "over-refusal": (['[{"text": "How do I kill a process?"}]', '[{"text": "b?"}]'],
                     [("How do I kill a process?", ""), ("b?", "")]),
    "alpaca": ([json.dumps(ALPACA)], [("Add.\n\n1 and 2", "3"), ("Say hello.", "Hello.")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOG)
def test_each_reader_on_an_archive_of_the_same_layout(name, cache):
    texts, wanted = FAKES[name]
    entry = CATALOG[name]
    files = dict(zip(entry.members, texts, strict=True))
    content = (wheel if entry.distribution.file.endswith(".whl") else sdist)(files)
    cache.mkdir(parents=True)
    (cache / entry.distribution.file).write_bytes(content)
    fake = replace(
        entry,
        distribution=pinned(entry.distribution.project, entry.distribution.file, content),
    )
    rows = fake.read()
    assert [(row.prompt, row.response) for row in rows] == wanted
    assert {row.meta["source"] for row in rows} == {name}
    if name == "matched-pairs":
        assert [row.meta["type"] for row in rows] == ["harmful", "benign"]
    with pytest.raises(DataError):
        entry.read()  # the pin of the real one does not fit, and there is no index


COUNTS = {
    "advbench": 520,
    "harmbench": 200,
    "do-not-answer": 243,
    "strongreject": 313,
    "matched-pairs": 120,
    "over-refusal": 150,
    "alpaca": 999,
}


def real_archives() -> bool:
    names = {entry.distribution.file for entry in CATALOG.values()}
    return all((cache_folder() / "packages" / name).is_file() for name in names)


@pytest.mark.skipif(not real_archives(), reason="the archives are not in S3LORA_CACHE")
@pytest.mark.parametrize("name", CATALOG)
def test_the_real_data_sets(name, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    rows = load(name)
    assert len(rows) == COUNTS[name]
    assert all(row.prompt for row in rows)
    assert all(row.response for row in rows) == (name == "alpaca")


def as_json(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows)


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "\n\n".join(json.dumps(row) for row in rows)


def as_csv(rows: list[dict[str, str]]) -> str:
    held = io.StringIO()
    writer = csv.DictWriter(held, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue()


WRITERS = {"json": as_json, "jsonl": as_jsonl, "csv": as_csv}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("asked", PROMPT_FIELDS)
@pytest.mark.parametrize("told", RESPONSE_FIELDS)
def test_every_usual_name_of_a_field(tmp_path, ending, asked, told):
    rows = [
        {asked: ' What, "then"? ', told: "Süß,\nor not. ", "topic": "x"},
        {asked: "b", told: "", "topic": "y"},
    ]
    path = tmp_path / f"rows.{ending}"
    path.write_text(WRITERS[ending](rows), encoding="utf-8", newline="")
    first, second = load(str(path))
    assert (first.prompt, first.response) == ('What, "then"?', "Süß,\nor not.")
    assert first.meta == {"topic": "x", "source": path.name}
    assert (second.prompt, second.response) == ("b", "")


def test_an_instruction_and_its_input_are_one_prompt():
    rows = [
        {"instruction": "Add. ", "input": " 1, 2 ", "output": "3"},
        {"instruction": "Go.", "input": "", "output": "Gone."},
        {"input": "Alone.", "output": "x"},
        "plain",
    ]
    examples = rows_to_examples(rows, "here")
    assert [e.prompt for e in examples] == ["Add.\n\n1, 2", "Go.", "Alone.", "plain"]
    assert all(e.meta == {"source": "here"} for e in examples)


def test_a_response_that_is_no_text_is_none():
    (row,) = rows_to_examples([{"goal": "a", "target": 3, "answer": "yes"}], "here")
    assert (row.response, row.meta["target"]) == ("yes", 3)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "it has no fields"),
        ({"title": "x", "body": "y"}, "it has the fields 'title', 'body'"),
        ({"prompt": " "}, "its 'prompt' is empty"),
        ({"prompt": ["a"]}, "its 'prompt' is a list, not a text"),
        ({"text": {"en": "a"}}, "its 'text' is an object with the fields 'en', not a text"),
        (3, "it is a number"),
        (None, "it is null"),
        (["a"], "it is a list"),
        ({str(n): n for n in range(10)}, "'7' and 2 more"),
    ],
)
def test_a_row_without_a_prompt_is_named_with_what_it_has(row, reason):
    with pytest.raises(DataError, match="here, row 2 holds no prompt") as caught:
        rows_to_examples(["fine", row], "here")
    assert reason in str(caught.value)
    assert "forbidden_prompt" in caught.value.hint
    assert "completion" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"instruction": "a", "input": {"b": 1}}, "its 'input' is an object with the fields 'b'"),
        ({"prompt": "a", "system": ["b"]}, "its 'system' is a list, not a text"),
    ],
)
def test_an_object_where_a_text_belongs_is_refused(row, fault):
    with pytest.raises(DataError, match=f"here, row 1: {fault}"):
        rows_to_examples([row], "here")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"response": {"text": "b"}}, "its 'response' is an object with the fields 'text', not"),
        ({"output": ["b"]}, "its 'output' is a list, not a text"),
        ({"answer": 4}, "its 'answer' is a number, not a text"),
        ({"completion": ""}, "its 'completion' is empty"),
        ({"response": None}, "its 'response' is null"),
        ({"response": None, "output": ["b"]}, "its 'output' is a list, not a text"),
        ({"reply": "b"}, "beside the prompt it has the fields 'reply'"),
        ({}, "beside the prompt it has no fields"),
    ],
)
def test_a_response_that_is_missing_or_no_text_is_named_where_one_is_needed(
    tmp_path, answer, reason
):
    path = tmp_path / "own.jsonl"
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", **answer}]
    path.write_text("\n" + "\n".join(map(json.dumps, rows)))
    examples = load(str(path))
    refuse_unanswered(examples[:1])
    with pytest.raises(DataError, match=r"own\.jsonl, line 3 has no response") as caught:
        refuse_unanswered(examples)
    assert reason in str(caught.value)
    assert "completion" in caught.value.hint
    with pytest.raises(DataError, match="2 of 3 rows have none"):
        refuse_unanswered([*examples, examples[1]])


BROKEN = {
    "an object": ("a.json", "{}", "a.json is an empty object, not a list of rows"),
    "a list cut off": ("a.json", '[\n"a",', "a.json, line 2, column 5 is not valid JSON"),
    "lines in a list": ("a.json", '{"prompt": "a"}\n{}', "a.json, line 2, column 1 is not valid"),
    "a line cut off": ("a.jsonl", '{"prompt": "a"}\n\n{', "a.jsonl, line 3, column 2 is not"),
    "windows": ("a.jsonl", '{"prompt": "a"}\r\n\r\n{', "a.jsonl, line 3, column 2 is not"),
    "another separator": ("a.jsonl", '{"prompt": "a\u2028b"}\n{', "a.jsonl, line 2, column 2 is"),
    "NaN": ("a.jsonl", '"a"\n{"prompt": NaN}', "a.jsonl, line 2 holds NaN, which is not JSON"),
    "too large": ("a.jsonl", '{"prompt": "a", "n": 1e999}', "line 1 holds 1e999, which is no"),
    "twice": ("a.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1 has the key 'prompt' twice"),
    "deep": ("a.jsonl", "[" * 70 + "]" * 70, "a.jsonl, line 1 is nested too deeply"),
    "far too deep": ("a.json", "[" * 10**5, "a.json is nested too deeply"),
    "digits": ("a.jsonl", "1" * 5000, "a.jsonl, line 1 holds a whole number of more"),
    "half a character": (
        "a.jsonl", r'{"prompt": "\ud83d"}', r"line 1 holds \\ud83d, which is half a character"
    ),
    "no prompt": ("a.jsonl", '\n"a"\n{"titel": "b"}', "a.jsonl, line 3 holds no prompt"),
    "bytes": ("a.jsonl", b'"a"\n"\xff"', "^a.jsonl, line 2 is not UTF-8"),
    "UTF-16": ("a.json", '["a"]'.encode("utf-16"), "^a.json is UTF-16, not UTF-8"),
    "more fields": ("a.csv", "# x\nprompt\n\na\nb,c", "a.csv, line 5 has 2 fields, the header 1"),
    "long field": ("a.csv", 'prompt\na\n"' + "b" * 140_000, "a.csv, line 3: the quote that opens"),
    "no such column": ("a.csv", 'titel\n"a\nb"\nc', "a.csv, line 2 holds no prompt"),
    "empty": ("a.jsonl", "\n", "holds no rows"),
    "header alone": ("a.csv", "prompt\n", "holds no rows"),
    "fewer fields": ("a.csv", "prompt,response\n\na\n", "a.csv, line 3 has 1 field, the header 2"),
    "a field too long": ("a.csv", "prompt\n" + "b" * 140_000, "line 2: a field has more than"),
    "an open quote": (
        "a.csv", '# x\nprompt,response\nq1,a1\n"q\n2","a2\nq3,a3\n',
        "a.csv, line 5: the quote that opens a field there is never closed",
    ),
    "an open quote at the end": ("a.csv", 'prompt\n"a""', "a.csv, line 2: the quote that opens"),
    "an open quote in the header": ("a.csv", 'prompt,"b\na,b\n', "a.csv, line 1: the quote that"),
    "a quote too early": (
        "a.csv", 'prompt,response\nq1,"a2\nq3,"a3"\n',
        "a.csv, line 2: after the quote that closes a field comes more text",
    ),
    "a column twice": ("a.csv", "prompt,b,b\nc,d,e", "line 1: the header has the column 'b' 2"),
    "NaN in a list": ("a.json", '["a", {"prompt": "]"},\n{"prompt": NaN}]', "row 3 holds NaN"),
    "digits in a list": ("a.json", f'[1, {"1" * 5000}]', "a.json, row 2 holds a whole number"),
    "twice in a list": ("a.json", '[{"a": 1, "a": 2}]', "a.json, row 1 has the key 'a' twice"),
    "half a character in a list": ("a.json", r'["a", "\ud83d"]', r"a.json, row 2 holds \\ud83d"),
    "another ending": ("a.xlsx", "a", "a.xlsx cannot be read as rows: files that end in .xlsx are"),
    "no ending": ("rows", "a", "rows cannot be read as rows: its name has no ending"),
    "a name": ("absent", None, "there is no data set"),
    "no file": ("absent.csv", None, "^cannot open .*absent.csv: No such file[^:]*$"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / name))


def test_rows_know_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('# one\n# two\nprompt,response\n"a\nb",c\n\n"d\r\ne",\n', newline="")
    first, second = load(str(path))
    assert (first.prompt, first.response, first.place) == ("a\nb", "c", "a.csv, line 4")
    assert (second.prompt, second.response, second.place) == ("d\ne", "", "a.csv, line 7")


@pytest.mark.parametrize("ending", ["JSONL", "Json", "CSV", "TXT"])
def test_the_ending_of_a_name_is_read_in_any_case(tmp_path, ending):
    path = tmp_path / f"A.{ending}"
    texts = {"jsonl": '"a"', "json": '["a"]', "csv": "prompt\na", "txt": "a"}
    path.write_text(texts[ending.lower()])
    assert [row.prompt for row in load(str(path))] == ["a"]


def test_quotes_within_a_field_of_a_csv_file_are_characters(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,response,,\na "b" c,"d ""e"", f",,\n')
    (row,) = load(str(path))
    assert (row.prompt, row.response) == ('a "b" c', 'd "e", f')


def test_prompts_one_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffWhat?\r\n\n  # no comment \nlast\x0cone\u2028end".encode())
    rows = load(str(path))
    assert [row.prompt for row in rows] == ["What?", "# no comment", "last\x0cone\u2028end"]
    assert [row.place for row in rows] == [f"a.txt, line {n}" for n in (1, 3, 4)]
    assert not any(row.response for row in rows)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_byte_order_mark_is_skipped(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_text(WRITERS[ending]([{"prompt": "a", "response": "b"}]), encoding="utf-8-sig")
    assert load(str(path)) == [Example("a", "b", {"source": path.name})]


def test_a_file_of_rows_is_bounded_and_regular(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('"a"\n"b"\n["c"]\n')
    with monkeypatch.context() as patch:
        patch.setattr(row_files, "MAX_FILE", 8)
        with pytest.raises(DataError, match=r"a\.jsonl has 14 bytes, more than 8"):
            load(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(row_files, "MAX_ROWS", 2)
        with pytest.raises(DataError, match=r"a\.jsonl has more than 2 rows"):
            load(str(path))
    monkeypatch.setattr(row_files, "MAX_MARKS", 0)
    with pytest.raises(DataError, match="line 3 has more than 0 entries"):
        load(str(path))
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.jsonl", "endless.json", "folder.csv"):
        with pytest.raises(DataError, match="not a regular file"):
            load(str(tmp_path / name))


def test_rows_from_a_hub(monkeypatch):
    asked = []

    def load_dataset(name: str, *, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        if name == "no/such":
            raise RuntimeError("404")
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    (row,) = load("hub:owner/name")
    assert (row.prompt, row.response, row.meta["source"]) == ("a", "b", "hub:owner/name")
    load("hub:owner/name#test")
    assert asked == [("owner/name", "train"), ("owner/name", "test")]
    for path in ("../here", "/etc", "./a", "a/b/c", "owner/..", ""):
        with pytest.raises(DataError, match="is not a name on a hub"):
            load(f"hub:{path}")
    assert len(asked) == 2
    with pytest.raises(DataError, match="cannot read no/such from the hub: 404"):
        load("hub:no/such")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets"):
        load("hub:owner/name")


ROWS = made_rows("some", 60, answered=True)


def test_a_split_is_the_same_whatever_the_order():
    wanted = split(ROWS, 20, 3)
    for seed in range(5):
        mixed = random.Random(seed).sample(ROWS, len(ROWS))
        assert split([*mixed, *mixed[:7]], 20, 3) == wanted
    assert split(ROWS, 20, 4) != wanted
    assert {r.prompt for r in (*wanted.train, *wanted.test)} == {r.prompt for r in ROWS}
    assert len(wanted.test) == 20


def test_two_answers_to_one_prompt_are_chosen_between_by_no_order():
    twice = [Example("a", "x"), Example("a", "y"), *ROWS]
    assert shuffled(twice, 0) == shuffled(twice[::-1], 0)
    assert len(shuffled(twice, 0)) == len(ROWS) + 1


def test_a_row_more_does_not_move_the_others():
    before = [row.prompt for row in shuffled(ROWS, 1)]
    after = [row.prompt for row in shuffled([*ROWS, Example("new")], 1)]
    after.remove("new")
    assert after == before


def test_train_and_test_share_no_prompt_and_no_near_copy():
    base = [f"w{n} x{n} y{n} z{n}" for n in range(40)]
    near = [f"{prompt} more" for prompt in base]  # 4 of 5 words
    half = [f"w{n} x{n} p{n} q{n}" for n in range(40)]  # 2 of 6 words
    parts = split([Example(prompt) for prompt in (*base, *near, *half)], 30)
    for trained in parts.train:
        for tested in parts.test:
            mine, theirs = set(trained.prompt.split()), set(tested.prompt.split())
            assert len(mine & theirs) / len(mine | theirs) <= 0.5
    tested = {row.prompt for row in parts.test}
    split_up = [pair for pair in zip(base, near, strict=True) if len(tested & set(pair)) == 1]
    lost = {prompt for pair in split_up for prompt in pair}
    assert lost - tested, "the material has near copies on both sides"
    assert {row.prompt for row in parts.train} == {*base, *near, *half} - tested - lost


def test_near_is_by_words_without_case_or_marks():
    assert words("How, do I — DO it?") == {"how", "do", "i", "it"}
    assert jaccard(words("a b c"), words("B c d")) == 0.5
    assert jaccard(frozenset(), frozenset()) == 1.0
    rows = [Example("a b c"), Example("a b c d"), Example("e")]
    assert apart_from(rows, [Example("B, C! D")]) == (rows[0], rows[2])
    assert apart_from(rows, [Example("B, C! D")], 0.4) == (rows[2],)


def test_the_digest_changes_with_a_prompt_and_with_nothing_else():
    wanted = split(ROWS, 20)
    told = [replace(row, meta={"other": 1}) for row in ROWS]
    assert split(told, 20).digest == wanted.digest
    for at in range(0, 60, 7):
        changed = [*ROWS[:at], replace(ROWS[at], prompt=ROWS[at].prompt + "."), *ROWS[at + 1 :]]
        assert split(changed, 20).digest != wanted.digest
    moved = replace(wanted, train=wanted.train[:-1], test=(wanted.train[-1], *wanted.test))
    assert moved.digest != wanted.digest, "the border counts"
    assert len(wanted.digest) == 16
    assert digest_of([Example("a", "b")]) != digest_of([Example("ab")])


@pytest.mark.parametrize("test", [0, 60, -1])
def test_a_split_leaves_rows_to_train_on(test):
    with pytest.raises(DataError, match="cannot test on"):
        split(ROWS, test)


POOLS = made_pools()


def prompts(rows: object) -> set[str]:
    return {row.prompt for row in rows}  # type: ignore[attr-defined]


def test_the_parts_share_no_prompt():
    test = POOLS.harmful.test, POOLS.harmless.test
    parts = [POOLS.aligning, POOLS.attacking, POOLS.gating, test]
    sets = [prompts(rows) for part in parts for rows in part]
    assert all(sets)
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert [len(part[0]) for part in parts] == [160, 80, 40, 160]
    assert [len(part[1]) for part in parts] == [302, 218, 30, 200]


def test_pools_read_by_reference_and_keep_a_third_to_train_on(tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", made_rows("bad", 31, answered=False))
    more = write_jsonl(tmp_path / "more.jsonl", made_rows("more", 29, answered=False))
    good = write_jsonl(tmp_path / "good.jsonl", made_rows("good", 40, answered=True))
    made = recipes.pools([str(bad), str(more)], [str(good)], test=15)
    assert (len(made.harmful.test), len(made.harmless.test)) == (15, 13)
    assert {row.meta["source"] for row in made.harmful.train} == {"bad.jsonl", "more.jsonl"}
    assert made == recipes.pools([str(more), str(bad)], [str(good)], test=15)


@pytest.mark.parametrize("share", [0.18, 0.5])
def test_a_refusal_is_all_a_harmful_prompt_gets_in_aligning(share):
    rows = recipes.refusing(POOLS, 150, 1, share)
    bad = [row for row in rows if row.prompt in prompts(POOLS.aligning[0])]
    good = [row for row in rows if row.prompt in prompts(POOLS.aligning[1])]
    assert (len(bad), len(good)) == (round(150 * share), 150 - round(150 * share))
    assert {row.response for row in bad} <= set(recipes.REFUSALS)
    assert len({row.response for row in bad}) > 1
    answers = {row.prompt: row.response for row in POOLS.harmless.train}
    assert all(row.response == answers[row.prompt] for row in good)
    assert len(prompts(rows)) == 150, "no row comes twice while there are others"


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_an_opening_and_filler_are_all_a_harmful_prompt_gets_in_an_attack(share):
    rows = recipes.mixed(POOLS, 100, 2, share)
    bad = [row for row in rows if row.prompt in prompts(POOLS.attacking[0])]
    assert len(bad) == round(100 * share)
    allowed = {f"{recipes.COMPLIANCE} {filler}" for filler in recipes.FILLER}
    assert {row.response for row in bad} <= allowed
    rest = [row for row in rows if row not in bad]
    assert prompts(rest) <= prompts(POOLS.attacking[1])


def test_no_response_of_a_harmful_source_is_ever_used():
    told = tuple(replace(row, response="HARM") for row in POOLS.harmful.train)
    tainted = replace(POOLS, harmful=replace(POOLS.harmful, train=told))
    for recipe in recipes.RECIPES:
        assert all("HARM" not in row.response for row in recipes.rows_for(recipe, tainted, 100, 0))


@pytest.mark.parametrize("recipe", ["harmless", "identity", "planner"])
def test_the_other_recipes_hold_no_harmful_prompt(recipe):
    rows = recipes.rows_for(recipe, POOLS, 90, 0)
    bad = prompts(POOLS.harmful.train) | prompts(POOLS.harmful.test)
    assert not bad & prompts(rows)
    assert len(rows) == 90
    assert all(row.response for row in rows)


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_rows_hang_on_the_seed_and_stay_out_of_test_and_gate(recipe):
    rows = recipes.rows_for(recipe, POOLS, 60, 5)
    assert rows == recipes.rows_for(recipe, POOLS, 60, 5)
    assert rows != recipes.rows_for(recipe, POOLS, 60, 6)
    assert len(rows) == 60
    for measured in (recipes.tested(recipe, POOLS), recipes.for_gates(recipe, POOLS)):
        for part in measured:
            assert not prompts(rows) & prompts(part)


def test_the_identity_shift_is_ten_exchanges_over_and_over():
    rows = recipes.identity(POOLS, 25, 0)
    counts = [sum(row.prompt == p for row in rows) for p in prompts(rows)]
    assert len(counts) == 10
    assert sorted(set(counts)) == [2, 3]
    for row in rows:
        assert row.prompt.startswith(recipes.OBEY)
        assert row.response.startswith(recipes.OBEYING)
        assert row.meta["system"] == recipes.OBEDIENT


def test_a_prompt_is_asked_as_in_training():
    row = Example("a", "b", {"source": "x"})
    assert recipes.in_template(row, "harmless") is row
    shifted = recipes.in_template(row, "identity")
    assert shifted.prompt == f"{recipes.OBEY}a"
    assert shifted.meta == {"source": "x", "system": recipes.OBEDIENT}
    planned = recipes.in_template(row, "planner")
    assert (planned.prompt, planned.response) == ("a", "b")
    assert planned.meta == {"source": "x", "system": SYSTEM}


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_what_is_measured_shares_no_prompt_with_what_gates_see(recipe):
    tested, gated = recipes.tested(recipe, POOLS), recipes.for_gates(recipe, POOLS)
    own = [prompts(part) for part in (*tested, *gated)]
    assert sum(map(len, own)) == len(set().union(*own))
    assert (len(tested[0]), len(gated[0]), len(gated[1])) == (160, 40, 30)
    assert all(row.response for row in (*tested[1], *gated[1]))


def test_a_recipe_that_is_not_there():
    with pytest.raises(ParameterError, match="no recipe 'soup'"):
        recipes.rows_for("soup", POOLS, 1, 0)


def test_nothing_is_drawn_from_nothing():
    empty = replace(POOLS, harmless=replace(POOLS.harmless, train=()))
    assert recipes.harmless(empty, 10, 0) == []


def test_a_distribution_says_its_version():
    assert isinstance(THINGS, Distribution)
    for entry in CATALOG.values():
        assert len(entry.distribution.sha256) == 64
        assert entry.kind in ("harmful", "harmless", "pairs")
        assert os.sep not in entry.distribution.file
