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
READ = 2000  # characters of a server's words; some echo the whole prompt
# Keys of an error body, of which the first that has a value counts: {"error": {…}} OpenAI, Anthropic · {"error": "…"}
# Ollama, xAI · {"message": …} old vLLM · {"detail": …} FastAPI · {"errors": […]} Cloudflare
ERRORS = ("error", "errors", "detail")
MESSAGES = ("message", "msg", "detail", "error_msg", "error_message", "errorMessage", "error_description", "title")
KINDS = ("code", "type", "status", "error_code", "reason", "errorCode")
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
    kind: str  # the error's code, type and the like
    message: str
    retry_after: float | None  # seconds
    spoken: bool = False  # the body is JSON with an `error`: the API's words, not those of a firewall before it
    fields: tuple[str, ...] = ()  # of the request, that the error points to
    inside: bool = False  # it came in an answer whose status is 200, and named no status of its own

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
        return Failure(status, "", message or responses.get(status, ""), wait_in_words(text) if wait is None else wait)
    return error_in(status, body, wait)


def error_in(status: int, body: Any, wait: float | None = None) -> Failure:
    """What the parsed body of an error says; wait: seconds that the headers name."""
    error, kind, spoken = _opened(body), "", False
    while (name := _inner(error)) is not None:
        kind = kind or _kind(error)
        spoken = spoken or name == "error"
        error = _opened(error[name])
    kind = " ".join(filter(None, (_kind(error), kind)))
    message = shown(_message(error))
    if wait is None:
        wait = next(_waits(body), None)
    if wait is None:
        wait = wait_in_words(message)
    fields = tuple(_fields(error))
    return Failure(status, kind, message or kind or responses.get(status, ""), wait, spoken, fields)


STATUSES = (  # of errors that come in an answer whose status is 200, by their code or type
    (r"invalid.?(request|argument|param)|bad.?request|unprocessable", 400),
    (r"authenticat|api.?key|unauthorized", 401),
    (r"permission", 403),
    (r"not.?found", 404),
    (r"rate.?limit|too.?many", 429),
    (r"overload", 529),
)


def error_inside(body: Mapping[str, Any]) -> Failure:
    """The error that the body of an answer with status 200 is: the status that it names, or that its code means.

    A bad gateway's, if it names none.
    """
    found = error_in(502, body)
    named = [int(word) for word in found.kind.split() if word.isdigit() and 400 <= int(word) < 600]
    if named:
        return replace(found, status=named[0])
    meant = next((status for words, status in STATUSES if re.search(words, found.kind, re.IGNORECASE)), 502)
    return replace(found, status=meant, inside=True)


def _opened(value: Any) -> Any:
    """A value out of the list of one or the JSON text that some servers wrap it in."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return _opened(loads(value.encode()))
    return value


def _inner(error: Any) -> str | None:
    """The key of an error body under which the error itself is; None if it is the error."""
    if not isinstance(error, dict):
        return None
    names = ("error",) if isinstance(error.get("message"), str) else ERRORS
    return next((name for name in names if error.get(name) and isinstance(error[name], str | dict | list)), None)


def _kind(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    found = (error.get(name) for name in KINDS)
    return shown(" ".join(str(value) for value in found if isinstance(value, str | int) and value != ""))


def _message(error: Any) -> str:
    """The words of an error, of several one after the other; with those of the server behind a router."""
    if isinstance(error, list):
        return "; ".join(filter(None, map(_message, error)))
    if not isinstance(error, dict):
        return "" if error is None else str(error)
    found = _opened(next((error[name] for name in MESSAGES if error.get(name)), ""))
    if isinstance(found, dict):
        found = found.get("error") or found
    message = _message(found)
    place = error.get("loc")  # of pydantic: ["body", "seed"]
    if isinstance(place, list):
        message = f"{'.'.join(str(part) for part in place if part != 'body')}: {message}"
    metadata = error.get("metadata")
    behind = metadata.get("raw") if isinstance(metadata, dict) else None
    return message if behind is None else f"{message}: {behind}"


def _fields(error: Any) -> Iterator[str]:
    """The fields of the request that an error points to by a key of its own."""
    for each in error if isinstance(error, list) else [error]:
        if not isinstance(each, dict):
            continue
        if isinstance(each.get("param"), str):
            yield each["param"]
        place = each.get("loc")
        if isinstance(place, list):
            yield next((part for part in place if isinstance(part, str) and part != "body"), "")


def _waits(body: Any, depth: int = 6) -> Iterator[float]:
    """The times to wait that a body names under keys of their own, in seconds."""
    if depth == 0:
        return
    if isinstance(body, list):
        for each in body[:20]:
            yield from _waits(each, depth - 1)
    if isinstance(body, dict):
        for key, value in body.items():
            unit = WAITS.get(re.sub("[^a-z]", "", key.lower()))
            seconds = None if unit is None else seconds_of(value, unit)
            if seconds is not None:
                yield seconds
            yield from _waits(value, depth - 1)


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
    try:
        until = parsedate_to_datetime(headers["Retry-After"]).timestamp()
    except (KeyError, ValueError):
        return None
    try:  # by the server's own clock if it says the time
        now = parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        now = time()
    return max(0.0, until - now)


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
