"""Keeps the secrets of a connection out of all that its server sends back, in whatever form it writes them.

Servers and gateways echo what they were sent: the path with its query, headers, whole requests, in errors and in
answers. Only what `Secrets` has cleaned is read of an answer or shown of an error, so that none of it reaches rows,
stores, cards, logs or the screen.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, unquote_plus

from yarl import URL

from cai.models.remote.failures import loads

MASK = "***"
MASKED_KEY = re.compile(r"[^\s*]{0,40}\*{3,}\S{0,40}")  # "sk-ab****yz", as OpenAI quotes a wrong key
SHOWN = 6  # characters of a value from which on it is left out of messages
LEAST = 8  # of a secret that is left out of answers wherever it stands; shorter ones may be parts of words
# Left out, too, if it stands alone: 4 to 7 characters with letters and more ("sk-x"), or a key of 8 to 11 small letters
# and hyphens ("sk-secret"), unless people write it because a client wants some key.
ALONE = re.compile(
    r"(?=.*[^\W\d_])(?=.*[\W\d_]).{4,7}|(?!(?:anything|api-key|changeme|dummy-key|fake-key|llama-cpp|lm-studio|no-api-key"
    r"|not-needed|placeholder|test-key|whatever)$)[a-z-]{8,11}"
)
KEYLIKE = 12  # a key of small letters and hyphens that is shorter may be a word
WORDLIKE = 20  # the same of other values: "X-Team: infrastructure"
PREFIX = 8  # characters of a key that are enough to leave the rest of the word out of messages
KEY_HEADERS = ("Authorization", "x-api-key", "api-key", "Bearer ")
# Where a value stands alone: not between letters or digits, of which those of an escape do not count.
BEFORE = r"(?:(?<![^\W_])|(?<=%[0-9a-f]{2})|(?<=\\[nrt])|(?<=\\u[0-9a-f]{4}))"
AFTER = r"(?![^\W_])"
ASSIGNED = r"""(?:(?<=bearer[ +])|(?<=bearer%20)|[\s"'\\]*(?:[:=,]|%3[ad])(?:[\s"'\\+]|%2[02])*)"""
# Headers and parameters that say what they hold, and those that hold no secret.
SECRET = re.compile(r"auth|key|token|secret|pass|cookie|sig|cred|code", re.IGNORECASE)
OPEN = re.compile(
    r"(?:accept.*|content-.*|user-agent|(?:http-)?referer|origin|x-title|(?:anthropic|api)-?(?:version|beta)|version)",
    re.IGNORECASE,
)
PLAIN = re.compile(  # words, dates, versions, addresses
    r"[^\W\d_]+(?:[-_ ][^\W\d_]+)*|[\d.:-]+(?:-[a-z]+)?|https?://\S+"
)
# What a secret may be written with; without it a search for the plain form decides.
ESCAPES = {b"%": rb"%[0-9a-fA-F]{2}", b"\\u00": rb"\\u00[2-7]", b"&": rb"&#|&\w{2,4};"}  # by what they begin with
QUOTED = '"\\/'  # have escapes of their own in JSON, which matter if they are part of a secret
BREAKS = re.compile(rb"\\+[nrt]")
URL_SAFE = bytes.maketrans(b"-_", b"+/")  # of the alphabets of base64 the other one
GAP = r"(?:\s|\\+[nrt])*"  # between the characters of a secret that a line break may cut
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}


class Secrets:
    """What a connection sends and nothing may hold: its key, values of headers and of the query, a proxy's password.

    Of a value its words count, too: a server may echo only the key of "Bearer KEY". Names and short values are left
    out of messages, but not out of answers (LEAST, ALONE): "ollama" as a key must not blot out the word. Right
    after "Bearer" or the name of its header or parameter every value is left out, whatever its length.
    """

    def __init__(self, key: str = "", values: Iterable[tuple[str, str]] = (), proxy: str | None = None) -> None:
        self.found = 0  # answers that held a secret
        named = [(name, part) for name, value in values for part in _parts(value)]
        named += [("password", part) for part in _proxy_parts(proxy)]
        hidden = {part for name, part in named if _is_secret(name, part)}
        if PLAIN.fullmatch(key) is None or key != key.lower() or len(key) >= KEYLIKE:
            hidden.add(key)
        hidden = {part for part in hidden if len(part) >= LEAST}
        sent = {(name, part) for name, part in named if part and SECRET.search(name)}
        sent |= {(name, key) for name in KEY_HEADERS if key}
        alone = {part for _, part in sent if ALONE.fullmatch(part)}
        forms = {form for part in hidden | alone for form in (part, *_encodings(part))}
        needles = forms | {part for _, part in sent}
        self._needles = [_squeezed(form.encode()) for form in needles]
        self._always = not all(map(str.isascii, needles))
        quoted = [f"\\{char}".encode() for char in QUOTED if any(char in form for form in needles)]
        self._signs = [*ESCAPES, *quoted]
        self._escaped = re.compile(b"|".join([*ESCAPES.values(), *map(re.escape, quoted)]))
        bounded = [*_alternatives(alone), *_named(sent)]
        apart = [f"{BEFORE}(?:{'|'.join(bounded)}){AFTER}"] if bounded else []
        answers = [*_alternatives(hidden), *apart]
        self._in_answers = re.compile("|".join(answers), re.IGNORECASE) if answers else None
        shown = {part for _, part in named if len(part) >= SHOWN} | hidden
        more = [MASKED_KEY.pattern]
        if len(key) >= SHOWN:
            more.append(rf"{re.escape(key[:PREFIX])}\S*")
        self._in_messages = re.compile("|".join([*_alternatives(shown), *apart, *more]), re.IGNORECASE)

    def message(self, text: str) -> str:
        """A text for people without secrets, also without what a server has cut or masked."""
        return self._in_messages.sub(MASK, text)

    def clean(self, raw: bytes) -> bytes:
        """The body of an answer without secrets."""
        if self._in_answers is None or not self._may_be_in(raw):
            return raw
        try:
            body = loads(raw)
            cleaned = self._without(body)
            if cleaned == body or repr(cleaned) == repr(body):
                return raw
            text = json.dumps(cleaned)
        except (ValueError, RecursionError):
            text, count = self._in_answers.subn(MASK, raw.decode("utf-8", "replace"))
            if not count:
                return raw
        self.found += 1
        return text.encode()

    def _may_be_in(self, raw: bytes) -> bool:
        if self._always or (any(map(raw.__contains__, self._signs)) and self._escaped.search(raw)):
            return True
        return any(map(_squeezed(raw).__contains__, self._needles))

    def _without(self, value: Any) -> Any:
        assert self._in_answers is not None
        if isinstance(value, str):
            return self._in_answers.sub(MASK, value)
        if isinstance(value, list):
            return [self._without(item) for item in value]
        if isinstance(value, dict):
            return {self._without(name): self._without(item) for name, item in value.items()}
        return value


def secrets_of(key: str, headers: Mapping[str, str], base: URL, proxy: str | None) -> Secrets:
    """The secrets of a connection to `base`; of its query both readings of "+"."""
    query = [part.partition("=") for part in base.raw_query_string.split("&")]
    values = [(unquote(name), read(value)) for name, _, value in query for read in (unquote, unquote_plus)]
    return Secrets(key, [*headers.items(), *values], proxy)


def _parts(value: str) -> Iterator[str]:
    """A value, its words, and what a word holds in base64, as "Basic …" does: name and password."""
    for part in dict.fromkeys((value, *value.split())):
        yield part
        with suppress(ValueError):
            name, colon, password = b64decode(part, validate=True).decode().partition(":")
            if colon and password.isprintable():
                yield from (f"{name}:{password}", password)


def _proxy_parts(proxy: str | None) -> Iterator[str]:
    url = URL(proxy or "")
    if url.password:
        yield from (url.password, f"{url.user or ''}:{url.password}")


def _is_secret(name: str, value: str) -> bool:
    if OPEN.fullmatch(name):
        return False
    return SECRET.search(name) is not None or PLAIN.fullmatch(value) is None or len(value) >= WORDLIKE


def _squeezed(raw: bytes) -> bytes:
    """Small letters in one alphabet of base64, without blanks and line breaks, be they escaped: to be searched fast."""
    small = raw.lower().translate(URL_SAFE, b" \t\r\n")
    if b"\\\\" in small:
        return BREAKS.sub(b"", small)
    return small.replace(b"\\n", b"").replace(b"\\r", b"").replace(b"\\t", b"")  # the same in a third of the time


def _encodings(part: str) -> Iterator[str]:
    """What of a secret in base64 is the same in every text that holds it, such as "user:KEY"."""
    raw = part.encode()
    for offset, start in enumerate((0, 2, 3)):
        yield b64encode(bytes(offset) + raw).decode()[start : (len(raw) + offset) * 8 // 6]


def _alternatives(parts: Iterable[str]) -> list[str]:
    """Patterns of secrets, the longest first: as they are, each character escaped in any of the usual ways; encoded.

    Longer ones may be cut by line breaks or blanks.
    """
    longest = sorted(parts, key=len, reverse=True)
    plain = [(GAP if len(part) >= KEYLIKE else "").join(map(_escapes, part)) for part in longest]
    encoded = [r"\s*".join(form) for part in longest for form in _encodings(part)]
    # In both alphabets; the last character may hold bits of what follows, too.
    return plain + [form.replace("+", "[+-]").replace("/", "[/_]") + r"[\w+/-]?" for form in encoded]


def _named(sent: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Patterns of values behind the name that they were sent under."""
    for name, part in sorted(sent):
        yield f"{''.join(map(_escapes, name))}{ASSIGNED}{''.join(map(_escapes, part))}"


def _escapes(char: str) -> str:
    r"""A pattern of one character: plain, %2F (also twice: %252F), \u002f, \/, &#47;, &amp; or, for a space, "+"."""
    ways = [re.escape(char), "".join(f"%(?:25)*{byte:02x}" for byte in char.encode())]
    ways += [rf"\\+u{ord(char):04x}", rf"&#(?:0*{ord(char)}|x0*{ord(char):x});"]
    if char in QUOTED:
        ways.append(rf"\\+{re.escape(char)}")
    if char in ENTITIES:
        ways.append(ENTITIES[char])
    if char == " ":
        ways.append(r"\+")
    return f"(?:{'|'.join(ways)})"
