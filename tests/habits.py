"""The server of habits: each of its modes answers as some server does, in bytes that a test can state beforehand.

The mode is the first part of the path, whatever the protocol behind it: `http://127.0.0.1:PORT/MODE/v1`. A mode is an
entry in MODES: an `Answer`, or a function of the request, with bytes that its answers must hold. The server compares
them with what it sends, and `serving` fails at its end if they were not in it. Tests may bring further modes.

    python tests/habits.py [PORT]    serves all modes until it is stopped, and prints the address
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import Server, running

REPLY = "Put the bread into a paper bag."
MODEL = "tiny-2026"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    mode: str
    path: str  # behind the mode
    target: str  # the path and its query as they came
    headers: Mapping[str, str]
    raw: bytes
    number: int  # n-th request of its mode, from 1

    @property
    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(self.raw)
        return payload


@dataclass(frozen=True)
class Answer:
    """What is sent: of parts, such as those of a body without end, as many as the client takes."""

    body: bytes | Callable[[], Iterator[bytes]]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    @property
    def head(self) -> bytes:
        """The bytes before the body; parts end with the connection."""
        ends = {"Connection": "close"}
        if isinstance(self.body, bytes):
            ends = {"Content-Length": str(len(self.body))}
        lines = [f"{name}: {value}" for name, value in {**self.headers, **ends}.items()]
        return "\r\n".join([f"HTTP/1.1 {self.status} X", *lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Mode:
    """How a server answers, and bytes that every answer of it holds, in its head or body; parts are not compared."""

    answer: Answer | Callable[[Asked], Answer]
    sends: tuple[bytes, ...] = ()

    def answer_to(self, asked: Asked) -> Answer:
        return self.answer if isinstance(self.answer, Answer) else self.answer(asked)


@dataclass
class Habits:
    """A running server: what was asked and answered in each mode, in order."""

    port: int
    exchanges: list[tuple[Asked, Answer]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # modes that did not send what they should

    def url(self, mode: str, path: str = "/v1") -> str:
        return f"http://127.0.0.1:{self.port}/{mode}{path}"

    def asked(self, mode: str) -> list[Asked]:
        return [asked for asked, _ in self.exchanges if asked.mode == mode]


# Bodies of the three protocols, each field open to change


def chat(text: Any = REPLY, finish: Any = "stop", **changes: Any) -> dict[str, Any]:
    """The body of `/chat/completions`.

    `changes` replace keys of the body; `choice` and `message` hold changes of the choice and of its message.
    """
    message = {"role": "assistant", "content": text, **changes.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **changes.pop("choice", {})}
    usage = {"prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29}
    return {"id": "c-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage, **changes}


def continuation(text: Any = REPLY, finish: Any = "stop", **changes: Any) -> dict[str, Any]:
    """The body of `/completions`; `changes` as for `chat`."""
    choice = {"index": 0, "text": text, "finish_reason": finish, **changes.pop("choice", {})}
    usage = {"prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29}
    return {"id": "t-1", "object": "text_completion", "model": MODEL, "choices": [choice], "usage": usage, **changes}


def message(text: Any = REPLY, stop: Any = "end_turn", **changes: Any) -> dict[str, Any]:
    """The body of `/messages`; `changes` replace its keys."""
    usage = {"input_tokens": 21, "output_tokens": 8}
    body = {"id": "m-1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": stop, "usage": usage}
    return {**body, "content": [{"type": "text", "text": text}], **changes}


def listed(*tokens: tuple[Any, Any], sampled: Any = None) -> dict[str, Any]:
    """The `logprobs` of a chat: one generated token, with its alternatives in order; `sampled`: not the first."""
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in tokens]
    return {"content": [{**(sampled or entries[0]), "top_logprobs": entries}]}


def leaning(word: str, other: str, odds: float) -> Answer:
    """The body of a chat whose model is undecided between two words, with these log odds of the first."""
    words = ((word, -math.log1p(math.exp(-odds))), (other, -math.log1p(math.exp(odds))))
    return answer(chat(word, choice={"logprobs": listed(*words)}))


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    """JSON as Python writes it: with NaN and Infinity, and half surrogate pairs escaped."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps(body).encode(), status, {**JSON, **named})


# Habits that answer both protocols


def says(text: Any = REPLY) -> Callable[[Asked], Answer]:
    """Answers `text` in the protocol in which it is asked."""

    def reply(asked: Asked) -> Answer:
        if asked.path.endswith("/messages"):
            return answer(message(text))
        return answer(chat(text) if asked.path.endswith("/chat/completions") else continuation(text))

    return reply


def in_chain(asked: Asked, first: Callable[[str], str], revised: Callable[[list[str]], str]) -> Answer:
    """What a model says that replies, critiques and revises: what these make of the prompt, and of the turns so far."""
    if not asked.raw:  # what kind of server it is
        return answer({}, 404)
    turns = turns_of(asked)
    if "Write only the new reply" in turns[-1]:
        return says(revised(turns))(asked)
    return says(first(turns[0]) if len(turns) == 1 else "It is wanting.")(asked)


def turns_of(asked: Asked) -> list[str]:
    """The texts of a conversation."""
    return [turn["content"] for turn in asked.payload["messages"]]


def at_first(times: int, first: Answer, then: Callable[[Asked], Answer] | None = None) -> Callable[[Asked], Answer]:
    """Answers `first` so many times, and goes on with `then`."""
    return lambda asked: first if asked.number <= times else (then or says())(asked)


def about(words: str, special: Answer, other: Callable[[Asked], Answer] | None = None) -> Callable[[Asked], Answer]:
    """Answers `special` to a request that holds these words, `other` to the rest."""
    return lambda asked: special if words.encode() in asked.raw else (other or says())(asked)


MODES: dict[str, Mode] = {
    "plain": Mode(says(), sends=(REPLY.encode(),)),
    "words-a": Mode(says("A"), sends=(b'"A"',)),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, mode, *rest = self.path.partition("?")[0].split("/")
        found = self.server.modes.get(mode)
        if found is None:
            self.send_error(404, "no such mode")
            return
        with self.server.lock:
            self.server.counts[mode] += 1
            asked = Asked(mode, "/" + "/".join(rest), self.path, dict(self.headers), raw, self.server.counts[mode])
            reply = found.answer_to(asked)
            self.server.habits.exchanges.append((asked, reply))
        parts = reply.body if callable(reply.body) else lambda: iter([reply.body])
        whole = reply.head if callable(reply.body) else reply.head + reply.body
        lacking = [part for part in found.sends if part not in whole]
        if lacking:
            self.server.habits.faults.append(f"the mode {mode} did not send {lacking}")
        with suppress(ConnectionError):  # a client may have enough of a body without end
            self.wfile.write(reply.head)
            for part in parts():
                self.wfile.write(part)
        self.close_connection = self.close_connection or callable(reply.body)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client left in the middle
            super().handle()

    def log_message(self, *words: Any) -> None:
        """Prints nothing."""


class _Server(Server):
    def __init__(self, port: int, modes: Mapping[str, Mode]) -> None:
        super().__init__(_Handler, port)
        self.modes = modes
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.habits = Habits(self.server_port)


@contextmanager
def serving(more: Mapping[str, Mode] | None = None) -> Iterator[Habits]:
    """A server of MODES and `more`, in threads of this process."""
    server = _Server(0, {**MODES, **(more or {})})
    with running(server):
        yield server.habits
    assert not server.habits.faults, "; ".join(server.habits.faults)


def main() -> None:
    with _Server(int(sys.argv[1]) if len(sys.argv) > 1 else 0, MODES) as server:
        print(f"{server.url}/MODE/v1", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
