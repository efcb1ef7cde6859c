"""Requests to an OpenAI-compatible endpoint that may be hostile: bounded, to its host alone.

A redirect is not followed, so that a prompt and a key reach no host that nobody named. What an
endpoint sends is read up to `MAX_BODY` bytes, uncompressed, within the time of one request. User,
password and key are in nothing that is printed, logged or saved.
"""

from __future__ import annotations

import os
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from s3lora.errors import ParameterError
from s3lora.lab.metrics.extras import needed

NO_KEY = "none"
"""What is sent where no key is set: servers of one's own ask for none."""

KEY_FROM = "OPENAI_API_KEY"
"""The environment variable with the key, if no other is named."""

MAX_BODY = 4 * 2**20
"""Bytes that one answer may have; a reply of 10,000 tokens has about 50,000."""

HIDDEN = "[hidden]"
"""What is written in place of a secret."""

LONGEST_REASON = 300
"""Characters of a reason; an endpoint may send more."""

USER_INFO = re.compile(r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*@")
"""User and password in an address, wherever in a text it is."""


@dataclass(frozen=True, slots=True)
class Address:
    """The base address of an endpoint, without what must not be shown."""

    url: str
    """Without user and password: what requests are sent to."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """What may be printed and saved: no user, no password, no query."""
        return shown(self.url)

    @property
    def auth(self) -> tuple[str, str] | None:
        """User and password of the address, for HTTP's basic authentication."""
        return (self.user, self.password) if self.user or self.password else None

    def without_secrets(self, text: str, key: str | None = None) -> str:
        """A text without the key, the user's password, and addresses that hold one.

        Args:
            text: Such as an error: an endpoint may repeat what it was sent.
            key: The key that was sent.
        """
        pair = f"{self.user}:{self.password}"
        basic = b64encode(pair.encode()).decode() if self.auth else ""
        query = urlsplit(self.url).query
        return hidden(text, key, self.password, basic, query)


def address_of(text: str) -> Address:
    """The address of an endpoint.

    Raises:
        ParameterError: if it is none of the web; the message holds no password.
    """
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParameterError(
            f"{shown(text)!r} is not the address of an endpoint",
            hint="such as http://localhost:8000/v1",
        )
    host = parts.netloc.rpartition("@")[2]
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    return Address(parts._replace(netloc=host).geturl(), user, password)


def shown(text: str) -> str:
    """An address without user, password, query and fragment; other text without the first two."""
    parts = _split(text)
    if parts is None or not parts.netloc:
        return USER_INFO.sub("", text)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port  # which is read, and refused, only when it is asked for
    except ValueError:
        return None
    return parts


def hidden(text: str, *secrets: str | None) -> str:
    """A text without some secrets, the key of the environment, and user and password of addresses.

    Args:
        text: Any.
        secrets: Replaced wherever they are; None and empty ones hide nothing.
    """
    known = {secret for secret in (*secrets, os.environ.get(KEY_FROM)) if secret}
    for secret in sorted(known - {NO_KEY}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return USER_INFO.sub(f"{HIDDEN}@", text)


def reason(text: str) -> str:
    """A text as a reason: one line that is not too long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def client(address: Address, key: str | None, *, timeout: float, retries: int) -> Any:
    """A client of `openai` that follows no redirect and reads no more than it should.

    Args:
        address: Of the endpoint.
        key: Sent as bearer; `NO_KEY` if None.
        timeout: Seconds that one request may be silent, and that its answer may take.
        retries: How often a request is repeated.
    """
    openai = needed("openai")
    options = _http_options(address, _guarded(timeout))
    return openai.OpenAI(
        base_url=address.url,
        api_key=key or NO_KEY,
        timeout=timeout,
        max_retries=retries,
        http_client=openai.DefaultHttpxClient(timeout=timeout, **options),
    )


def async_http_client(address: Address, *, timeout: float) -> Any:
    """The same guard as a client of HTTP for a caller that makes its own client of `openai`."""
    guarded = _guarded(timeout)

    async def guard(response: Any) -> None:
        guarded(response)

    options = _http_options(address, guard)
    return needed("openai").DefaultAsyncHttpxClient(timeout=timeout, **options)


def _http_options(address: Address, guard: Any) -> dict[str, Any]:
    return {
        "follow_redirects": False,
        "auth": address.auth,
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"response": [guard]},
    }


def _guarded(timeout: float) -> Any:
    """What an answer goes through before its body is read."""
    refused = needed("openai").OpenAIError  # which its client neither repeats nor wraps

    def guard(response: Any) -> None:
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise refused(f"its answer is compressed ({packed[:20]}), which was not asked for")
        response.stream = _bounded(response.stream, refused, time.monotonic() + timeout, timeout)

    return guard


def _bounded(stream: Any, refused: type[Exception], until: float, timeout: float) -> Any:
    """The body of an answer, sync or async, that ends in an error once it is too long or too slow.

    It is of the class of the stream that it wraps, because httpx asks for its own.
    """
    read = 0

    def counted(chunk: bytes) -> bytes:
        nonlocal read
        read += len(chunk)
        if read > MAX_BODY:
            raise refused(f"its answer has more than {MAX_BODY} bytes")
        if time.monotonic() > until:
            raise refused(f"its answer was not complete within {timeout:g} s")
        return chunk

    class Bounded(type(stream)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def __iter__(self) -> Iterator[bytes]:
            return map(counted, stream)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in stream:
                yield counted(chunk)

        def close(self) -> None:
            stream.close()

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def redirected(error: Any) -> str | None:
    """Where an endpoint sends requests instead, as far as it may be shown; None if it does not."""
    response = getattr(error, "response", None)
    if response is None or not 300 <= response.status_code < 400:
        return None
    target = response.headers.get("location", "")
    return shown(target)[:200] or "nowhere"
