"""What a server says when it refuses or fails: error bodies of OpenAI, Anthropic and those that imitate them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import responses
from time import time
from typing import Any

import orjson

from cai.texts.wording import one_line, printable

# What servers write, in `error.code`, `error.type` or the message, for failures that share HTTP 400 with all others.
TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ](window|size|limit)|maximum (model|input|allowed) length|(prompt|input) is too long"
    r"|request_?too_large|request too large|string_above_max_length|must have less than \d+ tokens"
    r"|inputs` tokens \+ `max_new_tokens`",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content.?filter|content.?(policy|management|moderation)|usage (policy|policies|guidelines)|invalid_prompt"
    r"|data_inspection_failed|content exists risk|considered high risk|requires moderation|was flagged|has been flagged"
    r"|safety.?(check|system|settings)|prohibited.?content|sensitive.?(content|words)|responsible ai|敏感",
    re.IGNORECASE,
)
# The next three end the run, and messages may quote a prompt: they count in `code` and `type`, or opening a message.
OPENING = r"(\{'error': ['\"])?(error: |/\S+: )?"  # LiteLLM puts both before an upstream's words
NO_CREDIT = re.compile(
    OPENING
    + r"(insufficient_quota|billing_(error|hard_limit|not_active)|spend_limit|(your )?credit balance is too low)",
    re.IGNORECASE,
)
NO_MODEL = re.compile(
    OPENING + r"(model_not_found|invalid_model|invalid model\b|model not exist|unknown model"
    r"|(the )?(model )?\S+ is not a valid model)",
    re.IGNORECASE,
)
# A setting that no call of this run can have; every row would fail alike.
BAD_SETTING = re.compile(
    OPENING + r"(unsupported_(parameter|value)|\S+ is deprecated for this model|\S+ and \S+ cannot both be specified"
    r"|(this model does not support )?assistant message prefill|max_(completion_)?tokens is too large"
    r"|max_tokens: \d+ > \d+, which is the maximum allowed number of output tokens)",
    re.IGNORECASE,
)
SURROGATE = re.compile("[\ud800-\udfff]")
READ = 2000  # characters of a server's words; some echo the whole prompt


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error: what the server said about it."""

    status: int
    kind: str  # the error's code and type
    message: str
    retry_after: float | None  # seconds
    spoken: bool = False  # the body is JSON with an `error`: the API's words, not those of a firewall before it

    def means(self, pattern: re.Pattern[str]) -> bool:
        """Whether the code or type holds the pattern, or the message begins with it."""
        return pattern.search(self.kind) is not None or pattern.match(self.message) is not None


def read_error(status: int, headers: Mapping[str, str], raw: bytes) -> Failure:
    """What an error answer says, in any of the known shapes of its body."""
    wait = retry_after(headers)
    try:
        body = loads(raw)
    except (ValueError, RecursionError):
        text = raw[:READ].decode("utf-8", "replace")
        message = "an HTML page" if text.lstrip().startswith("<") else shown(text)
        return Failure(status, "", message or responses.get(status, ""), wait)
    return error_in(status, body, wait)


def error_in(status: int, body: Any, wait: float | None = None) -> Failure:
    """What the parsed body of an error says."""
    # {"error": {…}} OpenAI, Anthropic · {"error": "…"} Ollama · {"message": …} old vLLM · {"detail": …} FastAPI
    error = body
    spoken = isinstance(body, dict) and "error" in body
    if spoken:
        error = body["error"]
    if not isinstance(error, dict):
        return Failure(status, "", shown(str(error)), wait, spoken)
    kind = " ".join(str(error[key]) for key in ("code", "type") if error.get(key) is not None)
    message = error.get("message") or error.get("detail") or ""
    return Failure(status, kind, shown(str(message)) or kind or responses.get(status, ""), wait, spoken)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
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
