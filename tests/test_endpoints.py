"""Endpoints that mean harm: what they send is bounded, and no secret is said or passed on."""

from __future__ import annotations

import gzip
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from s3lora.cli import cli
from s3lora.errors import ParameterError
from s3lora.lab import endpoints
from s3lora.lab.endpoints import HIDDEN, MAX_BODY, address_of, hidden, shown
from s3lora.lab.metrics.judge import Judge
from s3lora.lab.planner.endpoint import Endpoint
from test_metrics_judge import FIVE, completion

KEY = "sk-very-secret-key"
USER, PASSWORD = "someone", "hunter2"
BOMB = gzip.compress(b" " * 2**25)


@contextmanager
def serving(reply):
    """An endpoint whose answers `reply(handler)` writes; gives its port and what it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.headers.get("authorization"), body))
            with suppress(OSError):
                reply(self)

        def do_GET(self):
            seen.append((self.headers.get("authorization"), b""))
            with suppress(OSError):
                reply(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield http.server_port, seen
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def send(handler, status, body=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def endless(handler):
    send(handler, 200, content_type="application/json")
    for _ in range(10_000):
        handler.wfile.write(b" " * 2**16)


def endless_error(handler):
    send(handler, 400, content_type="application/json")
    for _ in range(10_000):
        handler.wfile.write(b" " * 2**16)


def bomb(handler):
    send(handler, 200, BOMB, content_type="application/json", content_encoding="gzip")


def drip(handler):
    send(handler, 200, content_type="application/json")
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def echo(handler):
    """What a careless server says of a key that it does not know."""
    told = f"not known: {handler.headers.get('authorization')} at {handler.path}"
    body = json.dumps({"error": {"message": told}}).encode()
    send(handler, 401, body, content_type="application/json", content_length=str(len(body)))


REFUSED = {
    endless: f"more than {MAX_BODY} bytes",
    endless_error: f"more than {MAX_BODY} bytes",
    bomb: "compressed (gzip)",
    drip: "not complete within 0.5 s",
    drip_headers: "it took longer than",
}


def role(address, **more):
    settings = {"key": KEY, "timeout": 0.5, "retries": 0, "pause": 0.1} | more
    return Endpoint(address, "m", **settings)


@pytest.mark.parametrize("reply", REFUSED, ids=lambda reply: reply.__name__)
def test_what_an_endpoint_sends_is_bounded(reply):
    with serving(reply) as (port, seen):
        asked = role(
            f"http://127.0.0.1:{port}/v1", timeout=0.5 if reply in (drip, drip_headers) else 5
        )
        assert asked._client.chat.completions  # which takes a while the first time
        start = time.perf_counter()
        [failed] = asked.ask("s", ["p"], 9)
        assert time.perf_counter() - start < 4
        assert REFUSED[reply] in failed.reason
        assert len(seen) == 1
        asked._client.close()


@pytest.mark.parametrize("reply", [endless, bomb, drip, drip_headers], ids=lambda r: r.__name__)
def test_a_judge_that_sends_too_much_or_too_slowly_leaves_it_unscored(reply, caplog, monkeypatch):
    monkeypatch.setattr("s3lora.lab.metrics.judge.PAUSE", 0.1)
    with serving(reply) as (port, _):
        timeout = 0.5 if reply in (drip, drip_headers) else 5
        judge = Judge(f"http://127.0.0.1:{port}/v1", "m", key=KEY, timeout=timeout, retries=0)
        assert judge._client.chat.completions
        start = time.perf_counter()
        assert judge.harmfulness("a", "b") is None
        assert time.perf_counter() - start < 4
        assert REFUSED[reply] in caplog.text
        judge._client.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_prompt_is_sent_where_an_endpoint_redirects_to(status, host):
    def right(handler):
        send(handler, 200, completion(FIVE).encode(), content_type="application/json")

    with serving(right) as (other, reached):

        def elsewhere(handler):
            send(handler, status, location=f"http://{host}:{other}/v1?token=a", content_length="0")

        with serving(elsewhere) as (port, _):
            address = f"http://127.0.0.1:{port}/v1"
            asked = role(address, timeout=5)
            [failed] = asked.ask("s", ["a secret plan"], 9)
            assert failed.reason == (
                f"it redirects to http://{host}:{other}/v1, and nothing was sent there"
            )
            judge = Judge(address, "m", key=KEY, timeout=5, retries=0)
            with pytest.raises(ParameterError, match="redirects to"):
                judge.harmfulness("a secret plan", "b")
            asked._client.close()
            judge._client.close()
        assert reached == []


def test_a_password_of_the_address_is_used_and_never_said(caplog):
    with serving(echo) as (port, seen):
        address = f"http://{USER}:{PASSWORD}@127.0.0.1:{port}/v1"
        asked = role(address, key=None, timeout=5)
        [failed] = asked.ask("s", ["p"], 9)
        judge = Judge(address, "m", timeout=5, retries=0)
        with pytest.raises(ParameterError) as caught:
            judge.harmfulness("a", "b")
        assert seen[0][0] == "Basic c29tZW9uZTpodW50ZXIy"
        told = (
            failed.reason,
            asked.label,
            repr(asked),
            repr(judge),
            str(caught.value),
            caplog.text,
        )
        for text in told:
            assert not any(word in text for word in (USER, PASSWORD, "c29tZW9uZTpodW50ZXIy"))
        assert caught.value.__cause__ is None
        assert asked.label == f"m at http://127.0.0.1:{port}/v1"
        asked._client.close()
        judge._client.close()


@pytest.mark.parametrize("given", ["field", "environment"])
def test_the_key_is_in_no_error(given, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if given == "environment":
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    key = KEY if given == "field" else None
    with serving(echo) as (port, seen):
        address = f"http://127.0.0.1:{port}/v1"
        asked = role(address, key=key, timeout=5)
        [failed] = asked.ask("s", ["p"], 9)
        judge = Judge(address, "m", key=key, timeout=5, retries=0)
        with pytest.raises(ParameterError) as caught:
            judge.harmfulness("a", "b")
        assert seen[0][0] == f"Bearer {KEY}"
        for text in (failed.reason, str(caught.value), caught.value.hint):
            assert KEY not in text
        assert HIDDEN in failed.reason
        asked._client.close()
        judge._client.close()


def test_a_key_is_not_cut_in_two_where_a_reason_is_shortened():
    def long(handler):
        told = "x" * (endpoints.LONGEST_REASON - 40) + handler.headers["authorization"]
        body = json.dumps({"error": {"message": told}}).encode()
        send(handler, 400, body, content_type="application/json", content_length=str(len(body)))

    with serving(long) as (port, _):
        asked = role(f"http://127.0.0.1:{port}/v1", timeout=5)
        [failed] = asked.ask("s", ["p"], 9)
        assert KEY[:8] not in failed.reason
        assert len(failed.reason) <= endpoints.LONGEST_REASON + 1
        asked._client.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://u:p@h:1/v1", "http://h:1/v1"),
        ("https://u@h/v1?api_key=x#y", "https://h/v1"),
        ("http://u:a@b@h/v1", "http://h/v1"),
        ("ftp://u:p@h/", "ftp://h/"),
        ("http://u:p@h:port/", "http://h:port/"),
        ("http://u:p@[::1/", "http://[::1/"),
        ("localhost:8000", "localhost:8000"),
    ],
)
def test_what_is_shown_of_an_address(text, told):
    assert shown(text) == told


@pytest.mark.parametrize(
    "text", ["localhost:8000", "ftp://u:hunter2@h/", "http://u:hunter2@h:x/", ""]
)
def test_what_is_no_address_is_refused_without_its_password(text):
    for kind in (address_of, lambda url: Judge(url, "m"), lambda url: Endpoint(url, "m")):
        with pytest.raises(ParameterError, match="not the address") as caught:
            kind(text)
        assert PASSWORD not in str(caught.value)


def test_what_is_hidden(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert hidden(f"no {KEY} at http://u:p@h/v1", "other") == f"no {HIDDEN} at http://{HIDDEN}@h/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert hidden("there is none") == "there is none"


@pytest.mark.needs("torch")
def test_what_a_run_saves_holds_no_password(tmp_path):
    def plan(handler):
        body = completion("Plan: find it\n#E1 = Calculator[1 + 1]").encode()
        send(handler, 200, body, content_type="application/json", content_length=str(len(body)))

    with serving(plan) as (port, _):
        address = f"http://{USER}:{PASSWORD}@127.0.0.1:{port}/v1"
        for form in ("json", "table"):
            words = ["plan", "How much is it?", "--model", "m", "--endpoint", address]
            told = CliRunner().invoke(cli, [*words, "--format", form])
            assert told.exit_code == 0, told.output
            assert f"http://127.0.0.1:{port}/v1" in told.stdout
            assert PASSWORD not in told.output
