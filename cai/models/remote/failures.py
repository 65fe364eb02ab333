"""What a server says when it refuses or fails: error bodies of OpenAI, Anthropic and those that imitate them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http.client import responses
from time import time
from typing import Any

import orjson

from cai.texts.wording import one_line, printable

SURROGATE = re.compile("[\ud800-\udfff]")
MOST = 100  # kinds, texts and fields that are read of an error
OPENING = 120  # characters at the beginning of a message that say what it is about
READ = 2000  # characters of a server's words; some echo the whole prompt
# Keys of an error body in small letters without signs. What stands under others is not read: it may quote the request.
TEXTS = {
    "message", "msg", "errormsg", "errormessage", "errordescription", "statusmsg", "defaultmessage", "description",
    "error", "errors", "detail", "details", "title", "raw",
}  # fmt: skip
INNER = {
    "baseresp", "errorchain", "externalmodelerror", "fieldviolations", "innererror", "issues", "metadata", "params",
    "headers", "response", "source", "validation",
}  # fmt: skip
KINDS = {"code", "type", "status", "errorcode", "statuscode", "reason"}
FIELDS = {"additionalproperty", "field", "instancepath", "keys", "loc", "param", "path", "pointer"}
AROUND = {"", "body", "generationconfig", "parameters", "payload", "properties", "request"}  # of a field, in its path
SUCCESS = re.compile(r"(ok|succe(ss|eded)|none|null)?\W*", re.IGNORECASE)
# Keys that hold a time to wait, without case and signs, and the seconds of their unit.
WAITS = {
    "retryafter": 1.0, "retryafterseconds": 1.0, "retrydelay": 1.0, "estimatedtime": 1.0, "retryin": 1.0,
    "retryaftersec": 1.0, "waitseconds": 1.0, "retryafterms": 0.001, "retrydelayms": 0.001,
}  # fmt: skip
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TIME = r"\d+(?:\.\d+)?\s*(?:milliseconds?|ms|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|[smhd])(?![a-z])"
TIMES = re.compile(rf"({TIME}\s*)+", re.IGNORECASE)
WAIT = re.compile(
    r"(?:retry|again|wait|available|resets?|replenished)\b[^.\d]{0,40}?\b"
    rf"((?:{TIME}\s*,?\s*(?:and\s*)?)+)",
    re.IGNORECASE,
)


def pattern_of(*alternatives: str) -> re.Pattern[str]:
    """What finds any of these, in any case."""
    return re.compile("|".join(alternatives), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error: what the server said about it."""

    status: int
    kind: str  # the error's codes, types and the like
    said: tuple[str, ...]  # its messages; a router gives those of the server behind it, too
    retry_after: float | None  # seconds
    fields: tuple[str, ...] = ()  # of the request, that the error points to
    inside: bool = False  # it came in an answer whose status is 200, and named no status of its own

    @property
    def message(self) -> str:
        return "; ".join(self.said)

    @property
    def words(self) -> str:
        """All that was said."""
        return f"{self.kind} {self.message}"


def read_error(status: int, headers: Mapping[str, str], raw: bytes) -> Failure:
    """What an error answer says, in any of the known shapes of its body."""
    wait = retry_after(headers)
    try:
        body = loads(raw)
    except (ValueError, RecursionError):
        text = raw[:READ].decode("utf-8", "replace")
        message = "an HTML page" if text.lstrip().startswith("<") else shown(text)
        wait = wait_in_words(text) if wait is None else wait
        return Failure(status, "", (message or responses.get(status, ""),), wait)
    return error_in(status, body, wait)


def error_in(status: int, body: Any, wait: float | None = None) -> Failure:
    """What the parsed body of an error says; wait: seconds that the headers name."""
    parts = list(dict.fromkeys(_walk(body)))[:MOST]
    kind, texts, fields, waits = ([text for what, text in parts if what == each] for each in WHAT)
    if not texts:
        unknown = body and shown(json.dumps(body, ensure_ascii=False))
        texts = [" ".join(kind) or unknown or responses.get(status, "")]
    if wait is None:
        wait = next(filter(None, (*map(float, waits), *map(wait_in_words, texts))), None)
    return Failure(status, " ".join(kind), tuple(texts), wait, tuple(fields))


WHAT = ("kind", "text", "field", "wait")


def _walk(value: Any, depth: int = 9) -> Iterator[tuple[str, str]]:
    """What an error body says: its kinds, texts, fields and times to wait, in seconds."""
    if depth == 0:
        return
    if isinstance(value, str):
        body = _opened(value)
        inner = [] if isinstance(body, str) else list(_walk(body, depth - 1))
        text = shown(value)
        if inner:
            yield from inner
        elif not SUCCESS.fullmatch(text):
            yield "text", text
    elif isinstance(value, list):
        for each in value[:20]:
            yield from _walk(each, depth - 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            name = letters(key)
            if name in TEXTS or (name in INNER and not isinstance(each, str)):
                yield from _walk(each, depth - 1)
            elif name in KINDS and isinstance(each, str | int) and each != "":
                yield "kind", shown(str(each))
            elif name in FIELDS and isinstance(each, list if name == "path" else str | list):  # else of the URL
                yield "field", _field(each)
            elif name in WAITS and (seconds := seconds_of(each, WAITS[name])) is not None:
                yield "wait", str(seconds)


STATUSES = (  # of errors that come in an answer whose status is 200, by their code or type, else by their first words
    (r"authenticat|api.?key|unauthorized|token (is )?invalid|login fail|authfail", 401),
    (r"permission", 403),
    (r"not.?found", 404),
    (r"(rate|request|qps|[rt]pm).{0,12}limit|too.?many", 429),
    (r"overload", 529),
    (r"invalid.?(request|argument|param)|bad.?request|unprocessable", 400),
)


def error_inside(body: Mapping[str, Any]) -> Failure:
    """The error that the body of an answer with status 200 is: the status that it names, or that its code means.

    A bad gateway's, if it names none.
    """
    failure = error_in(502, body)
    named = [int(word) for word in failure.kind.split() if word.isdigit() and 400 <= int(word) < 600]
    if named:
        return replace(failure, status=named[0])
    place = f"{failure.kind} {failure.message[:OPENING]}"
    meant = (status for words, status in STATUSES if re.search(words, place, re.IGNORECASE))
    return replace(failure, status=next(meant, 502), inside=True)


def complains(body: Any) -> bool:
    """Whether a body without a reply says in words what is wrong."""
    return any(what == "text" for what, _ in _walk(body))


def _opened(value: str) -> Any:
    """What the JSON text holds that some servers wrap an error in; other text as it is."""
    if value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return loads(value.encode())
    return value


def _field(place: str | list[Any]) -> str:
    """The field of the request to which an error points by its name or a path to it."""
    parts = re.split(r"[^\w-]+", place) if isinstance(place, str) else map(str, place)
    return next((part for part in parts if letters(part) not in AROUND), "")


def letters(text: str) -> str:
    """The letters of ASCII in a text, small ones: one spelling of a key or code, whatever case and signs it has."""
    return re.sub("[^a-z]", "", text.lower())


def wait_in_words(text: str) -> float | None:
    """Seconds after which a message says to come back, such as "try again in 6m0s"; None if it says no time."""
    found = WAIT.search(text)
    return None if found is None else seconds_of(found[1], 1.0)


def seconds_of(value: Any, unit: float) -> float | None:
    """A time as a number of `unit` seconds, or in words with units of their own, such as "1m2.5s"; None: no time."""
    if isinstance(value, str) and TIMES.match(value.strip()):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|milli|[smhd])", value.lower())
        return sum(float(number) * UNITS.get(name, 0.001) for number, name in parts)
    try:
        seconds = float(value) * unit
    except (TypeError, ValueError):
        return None
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < 0:
        return None
    return seconds


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        seconds = seconds_of(headers.get(name), unit)
        if seconds is not None:
            return seconds
    until, now = (_time(headers, name) for name in ("Retry-After", "Date"))  # by the server's own clock if it says it
    return None if until is None else max(0.0, until - (now or time()))


def _time(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return parsedate_to_datetime(headers[name]).timestamp()
    except (KeyError, ValueError):
        return None


def loads(raw: bytes) -> Any:
    """Parse JSON, also with what some servers write and orjson refuses: NaN, Infinity, numbers without measure.

    Half a surrogate pair becomes U+FFFD. Raises ValueError or RecursionError.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        text = json.dumps(json.loads(raw, parse_int=_whole), ensure_ascii=False)
        return json.loads(SURROGATE.sub("\ufffd", text))


def _whole(digits: str) -> float:
    """A whole number; as a float, as orjson reads it too, from 20 digits on, of which Python parses only so many."""
    return float(digits) if len(digits) > 19 else int(digits)


def shown(text: str) -> str:
    """The beginning of a server's words, in one line that is safe to print."""
    return printable(one_line(text[:READ]))
