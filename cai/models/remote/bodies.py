"""Reads the body of an answer, up to a limit and as UTF-8, and says what one is that is not JSON."""

from __future__ import annotations

import io
import re
from contextlib import suppress

import aiohttp

from cai.errors import CallRejected

MOST = 64 * 2**20  # bytes of an answer that are read, decompressed; a reply has a few thousand
LARGE = 2**20  # bytes of a request; aiohttp wants larger ones as a file object, and warns
BEGINNING = 2**20  # bytes that are kept of a longer one
STREAM = re.compile(rb"(data|event|id|retry)?:|\{.*\}\s*\n\s*\{")  # server-sent events, or JSON in lines


def as_sent(body: bytes) -> bytes | io.BytesIO:
    """The body of a request as aiohttp takes it."""
    return io.BytesIO(body) if len(body) >= LARGE else body


async def read_body(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """The body of an answer, and whether it is whole; of one that is too long only the beginning."""
    content = response.content
    parts: list[bytes] = []
    size = 0
    while not (parts and content.at_eof()):  # most answers come in one part, which an iterator would ask for another
        parts.append(await content.readany())
        size += len(parts[-1])
        if size > MOST:
            return b"".join(parts)[:BEGINNING], False
    return _utf8(b"".join(parts), response), True


def too_large() -> CallRejected:
    """The error of an answer that is not whole."""
    problem = f"the server's answer is over {MOST // 2**20} MB, the most that is read of one"
    return CallRejected("model_error", problem, billed=True)


def form_of(raw: bytes) -> str:
    """What a body that is not JSON looks like, in words for an error."""
    text = raw.strip()
    if STREAM.match(text):
        return "a stream"
    if text.startswith(b"<"):
        return "HTML"
    return "no JSON" if text else "an empty body"


def _utf8(raw: bytes, response: aiohttp.ClientResponse) -> bytes:
    """A body in UTF-8 if it is in the other charset that its header names."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        with suppress(LookupError, UnicodeDecodeError):
            return raw.decode(response.charset or "utf-8").encode()
    return raw
