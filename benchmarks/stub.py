"""A model server that is no model: speaks OpenAI's and Anthropic's wire formats, counts, and misbehaves as told.

    python benchmarks/stub.py --latency 0.1 --mode tail

The first line of output is the port. `POST /v1/chat/completions`, `/v1/completions` and `/v1/messages` answer with
words drawn from a hash of the payload, so equal payloads get equal replies in any order; `max_tokens`, stop strings
and logprobs are honoured as far as counting words goes. `POST /v1/decisions` answers typed questions with probabilities
drawn from their whole text; with `--vllm` a judge's letters are, too, and the tokens that are named are listed, as
vLLM 0.33 does. `GET /stats` tells requests, unique payloads, duplicates, the
most requests in flight, and answers by status. A hand-written HTTP/1.1 parser keeps it cheap: a benchmark of a client
must not measure its server. It imports nothing of cai.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson
from stub_batches import Batches

VOCABULARY = """
water stone river light morning garden answer careful honest number simple window letter reason market paper travel
bridge kitchen doctor school winter summer island forest music story friend question harbour engine copper silver wooden
quiet early late gentle steady open closed narrow broad distant nearby common useful plain curious patient brief clear
fresh level round square metal cotton sugar salt bread apple orange pencil
"""
WORDS = VOCABULARY.split()  # 64 of them: six bits of a hash name one
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
MODES = "ok tail 429 400 cut html slow empty filtered length"


SCHEMA = {  # as much of vLLM's as shows what it takes
    "paths": {"/v1/chat/completions": {}, "/v1/decisions": {}},
    "components": {
        "schemas": {"PredicateQuestion": {}, "ChatCompletionRequest": {"properties": {"logprob_token_ids": {}}}}
    },
}


@dataclass
class Stub:
    """What the server was told to be, and what it has seen."""

    latency: float = 0.0
    mode: str = "ok"
    share: float = 1.0  # of the requests that misbehave
    rate: int = 50
    window: str = "fixed"
    marker: str = "POISON"
    words: int = 40
    per_word: float = 0.0
    vllm: bool = False
    log: int | None = None  # file descriptor
    in_flight: int = 0
    most_in_flight: int = 0
    seen: dict[bytes, int] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    second: float = 0.0  # fixed: the start of the window; bucket: the last refill
    allowed: float = 0.0  # requests left in the window or bucket

    def __post_init__(self) -> None:
        self.batches = Batches(self.in_batch, self.forget)

    def forget(self) -> None:
        """Begin counting anew."""
        self.seen.clear()
        self.statuses.clear()

    def in_batch(self, path: str, payload: dict[str, Any]) -> tuple[int, bytes]:
        """The answer to a call of a batch, which is the one that it would get by itself."""
        digest = digest_of(payload)
        self.count(digest)
        self.in_flight -= 1
        status = 400 if self.mode == "400" and self.marker.encode() in orjson.dumps(payload) else 200
        self.statuses[status] += 1
        if status == 400:
            message = "the stub answers 400"
            return 400, orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}})
        text, finish = reply_to(payload, digest, 1 if payload.get("logprobs") else self.words)
        return 200, answer(path, payload, digest, text, finish)

    def admit(self) -> bool:
        """Whether the rate lets one more request in.

        fixed: a window of one second opens with the first request after the last one closed and lets `rate` in.
        bucket: holds at most `rate` tokens, starts full, and gains `rate` a second.
        """
        now = time.monotonic()
        if self.window == "bucket":
            self.allowed = min(self.rate, self.allowed + (now - self.second) * self.rate) if self.second else self.rate
            self.second = now
        elif now - self.second >= 1.0:
            self.second, self.allowed = now, self.rate
        if self.allowed < 1:
            return False
        self.allowed -= 1
        return True

    def count(self, digest: bytes) -> bool:
        """Note a request; True where it is one of the share that misbehaves.

        Which ones are drawn from the payload and how often it came, so that the draw does not depend on order and a
        request sent again has a new chance.
        """
        times = self.seen[digest] = self.seen.get(digest, 0) + 1
        if self.log is not None:
            os.write(self.log, digest.hex().encode() + b"\n")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        draw = hashlib.sha256(digest + b"%d" % times).digest()
        return int.from_bytes(draw[:4], "big") < self.share * 2**32

    def stats(self) -> dict[str, Any]:
        total = sum(self.seen.values())
        return {
            "requests": total,
            "unique": len(self.seen),
            "duplicates": total - len(self.seen),
            "max_in_flight": self.most_in_flight,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


def words_for(digest: bytes, count: int) -> list[str]:
    """`count` words that depend on `digest` alone."""
    return [WORDS[byte & 63] for byte in hashlib.shake_128(digest).digest(count)]


def reply_to(payload: dict[str, Any], digest: bytes, words: int) -> tuple[str, str]:
    """The reply and why it ended: "stop" or "length"."""
    limit = payload.get("max_completion_tokens") or payload.get("max_tokens") or words
    text = " ".join(words_for(digest, min(words, limit))).capitalize()
    stops = payload.get("stop") or payload.get("stop_sequences") or []
    ends = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops)]
    ends = [end for end in ends if end >= 0]
    return (text[: min(ends)], "stop") if ends else (text, "length" if limit < words else "stop")


def letters(digest: bytes) -> dict[str, float]:
    """Log-probabilities of a judge's two letters, drawn from the payload: P(A) between 0.1 and 0.9."""
    p = 0.1 + 0.8 * digest[0] / 255
    return {"A": math.log(p * 0.98), "B": math.log((1 - p) * 0.98)}


def question_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:12]


def decisions(payload: dict[str, Any]) -> dict[str, Any]:
    """Answers to typed questions: of two choices or a predicate, the first as likely as a judge's letter A."""
    state = payload["input"]
    if not isinstance(state, str):
        state = "\n\n".join(turn["content"] for turn in state)
    answers = []
    for question in payload["questions"]:
        top = letters(question_digest(f"{state}\n\n{question['instructions']}"))
        p = 1 / (1 + math.exp(top["B"] - top["A"]))
        made = {"type": question["type"], "name": question.get("name")}
        if question["type"] == "choice":
            values = [choice["value"] for choice in question["choices"]]
            listed = [{"value": value, "probability": each} for value, each in zip(values, (p, 1 - p), strict=True)]
            answers.append({**made, "choice": values[p < 0.5], "probabilities": listed, "confidence": max(p, 1 - p)})
        else:
            answers.append({**made, "probability": p})
    return {"answers": answers}


def named(ids: list[int], top: dict[str, float]) -> dict[str, float]:
    """The tokens of these ids, which are code points."""
    return {chr(token): top.get(chr(token), -12.0) for token in ids}


def chat(payload: dict[str, Any], digest: bytes, text: str, finish: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if payload.get("logprobs"):
        top = letters(digest)
        if "logprob_token_ids" in payload:
            top = named(payload["logprob_token_ids"], top)
        choice["message"]["content"] = best = max(top, key=top.__getitem__)
        listed = [{"token": token, "logprob": value} for token, value in top.items()]
        choice["logprobs"] = {"content": [{"token": best, "logprob": top[best], "top_logprobs": listed}]}
    return {"object": "chat.completion", "choices": [choice]}


def completion(payload: dict[str, Any], digest: bytes, text: str, finish: str) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish}
    if payload.get("logprobs"):
        top = letters(digest)
        choice["text"] = best = max(top, key=top.__getitem__)
        choice["logprobs"] = {"tokens": [best], "token_logprobs": [top[best]], "top_logprobs": [top]}
    return {"object": "text_completion", "choices": [choice]}


def answer(path: str, payload: dict[str, Any], digest: bytes, text: str, finish: str) -> bytes:
    """The 200 body of one of the four wire formats."""
    asked, said = len(orjson.dumps(payload)) // 4, len(text.split())
    if path.endswith("/decisions"):
        body: dict[str, Any] = decisions(payload)
        body["usage"] = {"input_tokens": asked, "output_tokens": 0, "total_tokens": asked}
    elif path.endswith("/messages"):
        reason = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}[finish]
        body = {
            "type": "message", "role": "assistant", "stop_reason": reason, "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": asked, "output_tokens": said},
        }  # fmt: skip
    else:
        make = chat if path.endswith("/chat/completions") else completion
        body = make(payload, digest, text, finish)
        body["usage"] = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    body |= {"id": "stub-" + digest.hex(), "model": payload.get("model", "stub")}
    return orjson.dumps(body)


def digest_of(payload: dict[str, Any]) -> bytes:
    return hashlib.sha256(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)).digest()[:12]


class Connection(asyncio.Protocol):
    """One client's keep-alive connection; answers requests in the order they come."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.buffer = bytearray()
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end])
            _, found, rest = head.lower().partition(b"\r\ncontent-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if found else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            method, target, _ = head.split(b" ", 2)
            place, _, query = target.decode().partition("?")
            if self.stub.batches.knows(place):
                self.stub.batches.handle(self, method.decode(), place, dict(parse_qsl(query)), head, body)
            else:
                self.handle(method, place, head, body)

    def handle(self, method: bytes, path: str, head: bytes, body: bytes) -> None:
        if method == b"GET" and path == "/stats":
            return self.write(200, orjson.dumps(self.stub.stats()))
        if self.stub.vllm and path == "/openapi.json":
            return self.write(200, orjson.dumps(SCHEMA))
        if self.stub.vllm and path == "/tokenize":
            return self.write(200, orjson.dumps({"tokens": list(map(ord, orjson.loads(body)["prompt"]))}))
        if method != b"POST" or not path.endswith(("/completions", "/messages", "/decisions")):
            return self.write(404, orjson.dumps({"detail": "Not Found"}))
        stub, payload = self.stub, orjson.loads(body)
        digest = digest_of(payload)
        chosen = stub.count(digest)
        mode = stub.mode if chosen or stub.mode in ("429", "400") else "ok"
        if mode == "429":
            mode = "ok" if stub.admit() else "429"
        if mode == "400":
            mode = "400" if stub.marker.encode() in body else "ok"
        status = int(mode) if mode.isdigit() else 200
        delay = 0.0 if status == 429 else stub.latency * (10 if mode == "tail" else 1)
        if status != 200:
            sent = self.error(status, head)
        else:
            text, finish = reply_to(payload, digest, 1 if payload.get("logprobs") else stub.words)
            text = "" if path.endswith("/decisions") else text  # it writes nothing, and takes no time for that
            delay += stub.per_word * len(text.split())
            text = "" if mode in ("empty", "filtered") else text
            if stub.vllm and path.endswith("/chat/completions"):
                digest = question_digest(
                    [turn for turn in payload["messages"] if turn["role"] == "user"][-1]["content"]
                )
            finish = {"filtered": "content_filter", "length": "length"}.get(mode, finish)
            sent = answer(path, payload, digest, text, finish)
        if delay > 0:
            self.loop.call_later(delay, self.finish, mode, status, sent)
        else:
            self.finish(mode, status, sent)

    def error(self, status: int, head: bytes) -> bytes:
        """An error body; 401 and 403 echo the key, as careless servers do."""
        message = f"the stub answers {status}"
        if status in (401, 403):
            keys = [line for line in head.split(b"\r\n") if line.lower().startswith((b"authorization:", b"x-api-key:"))]
            message = f"Incorrect API key provided: {b''.join(keys).decode()}"
        return orjson.dumps({"type": "error", "error": {"message": message, "type": "stub_error", "code": None}})

    def finish(self, mode: str, status: int, body: bytes) -> None:
        self.stub.in_flight -= 1
        self.stub.statuses[status] += 1
        if mode == "html":
            self.write(status, b"<!DOCTYPE html><html><body>Welcome</body></html>", "text/html")
        elif mode in ("cut", "slow"):
            self.write(status, body, upto=len(body) // 2)
            if mode == "cut":
                self.transport.close()
            else:  # the second half never comes
                self.transport.pause_reading()
        else:
            self.write(status, body)

    def write(self, status: int, body: bytes, kind: str = "application/json", upto: int | None = None) -> None:
        extra = "Retry-After: 1\r\n" if status == 429 else ""
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'Other')}\r\nContent-Type: {kind}\r\n{extra}"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:upto])


async def serve(stub: Stub, host: str, port: int) -> None:
    """Listen, print the port, and answer until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), host, port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the system picks one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds from request to answer; 429 comes at once")
    parser.add_argument("--mode", default="ok", help=f"{MODES.replace(' ', '|')}, or any HTTP error status such as 500")
    parser.add_argument("--share", type=float, help="of requests that misbehave; default 0.05 for tail, else 1")
    parser.add_argument("--rate", type=int, default=50, help="mode 429: requests let in per second")
    parser.add_argument("--window", choices=("fixed", "bucket"), default="fixed", help="mode 429: see Stub.admit")
    parser.add_argument("--marker", default="POISON", help="mode 400: requests that contain it are refused")
    parser.add_argument("--words", type=int, default=40, help="length of a reply")
    parser.add_argument("--per-word", type=float, default=0.0, help="further seconds for every word of a reply")
    parser.add_argument("--vllm", action="store_true", help="answer a judge like vLLM 0.33")
    parser.add_argument("--log", help="file that gets a line with the payload's hash when a request arrives")
    args = parser.parse_args()
    if args.mode not in MODES.split() and not (args.mode.isdigit() and 400 <= int(args.mode) < 600):
        parser.error(f"unknown mode {args.mode!r}; known: {MODES}, 400 to 599")
    share = args.share if args.share is not None else 0.05 if args.mode == "tail" else 1.0
    log = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if args.log else None
    stub = Stub(
        args.latency, args.mode, share, args.rate, args.window, args.marker, args.words, args.per_word, args.vllm, log
    )
    asyncio.run(serve(stub, args.host, args.port))


if __name__ == "__main__":
    main()
