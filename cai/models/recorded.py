"""Answers from a file instead of a model: the fake of all tests and docs, and the way to play an old run again.

A `.jsonl` or `.jsonl.gz` file holds one answer a line (`id, role, index, reply`, and what `Answer` lists besides),
found by row, role and order. `recorded:RUN` or `recorded:RUN/calls.sqlite` answers with the finished calls of a run
folder, found by messages (or text), sampling and sample index, whichever provider answered. A question without an
answer ends the run.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError

from cai.errors import InputError, ModelStopped
from cai.folder.store import read_calls
from cai.records import Abilities, Call, Completion, Finish, Record, Role, Usage

Key = tuple[str, str, int]  # row id, role, index
Answers = dict[str, list[tuple[float | None, int | None, Completion]]]  # with temperature and max_tokens, if stated


class Answer(Record):
    """A line of a recorded file."""

    id: str
    role: Role
    index: int = Field(ge=0)  # n-th request of this role in the row's flow, from 0
    reply: str
    finish_reason: Finish = "stop"
    logprobs: tuple[dict[str, float], ...] | None = None  # per token of the reply: token → natural log probability
    scores: tuple[float, ...] | None = None  # one for each continuation that is asked to be scored
    reasoning: str | None = None
    usage: Usage = Usage()
    model: str | None = None  # as the server named it; None: this file's name

    def completion(self, name: str) -> Completion:
        """The answer as the model `name` gives it."""
        return Completion(
            text=self.reply,
            finish=self.finish_reason,
            model=self.model or name,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            cached_tokens=self.usage.cached_tokens,
            cache_write_tokens=self.usage.cache_write_tokens,
            reasoning=self.reasoning,
            logprobs=self.logprobs,
            scores=self.scores,
        )


class RecordedModel:
    """A model whose every answer is in a file, which is hashed when named and read at the first use.

    Raises InputError for a file that is missing, damaged, or answers one question twice.
    """

    provider = "recorded"
    concurrency = 64
    context: int | None = None

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        try:
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"cannot read the recorded answers: {error.strerror}", path) from error
        self.name = f"{self._path.name.removesuffix('.gz').removesuffix('.jsonl')}@{digest[:12]}"
        self.endpoint = f"recorded:{path}"
        self.can = Abilities(chat=True, completion=True, logprobs=20, scoring=True, prefill=True)
        self._answers: dict[Key, Completion] | None = None

    def payload(self, call: Call) -> dict[str, Any]:
        """Where the answer is looked up, and what was asked.

        Without sampling and seed, which decide nothing here; so a run with another seed finds the same answers.
        """
        request = call.request
        payload: dict[str, Any] = {
            "id": call.row,
            "role": request.role,
            "index": call.index,
            "prefill": request.prefill,
            "stop": list(request.stop),
            "top_logprobs": request.top_logprobs,
            "score": list(request.score),
        }
        if request.text is None:
            payload["messages"] = list(request.messages)
        else:
            payload["text"] = request.text
        return payload

    async def start(self) -> None:
        """Read the file, in a thread."""
        if self._answers is None:
            self._answers = await asyncio.to_thread(read_answers, self._path, self.name)

    async def send(self, payload: dict[str, Any]) -> Completion:
        """The recorded answer; raises ModelStopped, with what was asked, if the file has none that fits."""
        await self.start()
        assert self._answers is not None
        answer = self._answers.get((payload["id"], payload["role"], payload["index"]))
        if answer is None:
            raise ModelStopped(f"{self._path} has no answer for {_asked(payload)}")
        if payload["top_logprobs"] and answer.logprobs is None:
            raise ModelStopped(
                f"{self._path} has an answer without `logprobs`, which were asked for: {_asked(payload)}"
            )
        wanted = len(payload["score"])
        count = len(answer.scores or ())
        if count != wanted:
            raise ModelStopped(f"{self._path} has {count} `scores` and {wanted} were asked for: {_asked(payload)}")
        return answer

    async def close(self) -> None:
        """Let go of the answers."""
        self._answers = None


def read_answers(path: Path, name: str) -> dict[Key, Completion]:
    """Every answer of a JSONL file by (row id, role, index); raises InputError at the first bad or repeated line."""
    answers: dict[Key, Completion] = {}
    for number, line in _lines(path):
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            parts = [".".join(map(str, problem["loc"])), problem["msg"]]
            raise InputError(": ".join(filter(None, parts)), path, number) from error
        key = (answer.id, answer.role, answer.index)
        if key in answers:
            raise InputError(
                f"a second answer for id {key[0]!r}, role {key[1]}, index {key[2]}; keep one", path, number
            )
        answers[key] = answer.completion(name)
    return answers


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read the recorded answers: {error}", path, number + 1) from error


def _asked(payload: dict[str, Any]) -> str:
    excerpt = payload["text"][-200:] if "text" in payload else payload["messages"][-1]["content"][:200]
    asked = json.dumps(excerpt, ensure_ascii=False)
    return f"id {payload['id']!r}, role {payload['role']}, index {payload['index']}; asked: {asked}"


class ReplayedModel:
    """Raises InputError if `path` is neither a run folder nor its calls.sqlite."""

    provider = "recorded"
    concurrency = 64
    context: int | None = None

    def __init__(self, path: str) -> None:
        self._folder = Path(path)
        if self._folder.name == "calls.sqlite":
            self._folder = self._folder.parent
        if not (self._folder / "calls.sqlite").is_file():
            raise InputError("has no calls.sqlite: it is not a run folder", path)
        digest = hashlib.sha256()
        for call in read_calls(self._folder):
            digest.update(bytes.fromhex(call.key))
        self.name = f"{self._folder.resolve().name}@{digest.hexdigest()[:12]}"
        self.endpoint = f"recorded:{path}"
        self.can = Abilities(chat=True, completion=True, logprobs=20, scoring=True, prefill=True)
        self._answers: Answers | None = None

    def payload(self, call: Call) -> dict[str, Any]:
        """What the answer is looked up by."""
        request = call.request
        asked = {
            "messages": request.messages, "text": request.text, "prefill": request.prefill, "score": request.score,
        }  # fmt: skip
        return {
            "question": _question(asked),
            "temperature": call.temperature,
            "max_tokens": call.max_tokens,
            "sample": call.sample,
        }

    async def start(self) -> None:
        """Read the calls, in a thread."""
        if self._answers is None:
            self._answers = await asyncio.to_thread(_read, self._folder)

    async def send(self, payload: dict[str, Any]) -> Completion:
        """The stored answer; raises ModelStopped, with what was asked, if there is none."""
        await self.start()
        assert self._answers is not None
        number: int = payload["sample"]
        answers = [
            completion
            for temperature, max_tokens, completion in self._answers.get(payload["question"], [])
            if temperature in (None, payload["temperature"]) and max_tokens in (None, payload["max_tokens"])
        ]
        if len(answers) <= number:
            raise ModelStopped(
                f"{self._folder / 'calls.sqlite'} has {len(answers)} answers, and number {number + 1} was "
                f"asked for, at temperature {payload['temperature']:g} and {payload['max_tokens']} tokens: "
                f"…{payload['question'][-200:]}"
            )
        return answers[number]

    async def close(self) -> None:
        """Let go of the answers."""
        self._answers = None


def _read(folder: Path) -> Answers:
    answers: Answers = {}
    for call in read_calls(folder):
        payload = call.request["payload"]
        question = payload.get("question")  # of a replay of a replay
        if question is None:
            question = _question(payload)
        most = payload.get("max_tokens", payload.get("max_completion_tokens"))
        answers.setdefault(question, []).append((payload.get("temperature"), most, call.completion))
    return answers


def _question(payload: Mapping[str, Any]) -> str:
    """What a payload of any provider asks, in one form."""
    messages = list(payload.get("messages", ()))
    if payload.get("system"):
        messages.insert(0, {"role": "system", "content": payload["system"]})
    prefill = payload.get("prefill")
    if prefill and messages and messages[-1]["role"] != "assistant":  # some servers take it as a last message
        messages.append({"role": "assistant", "content": prefill})
    parts = {
        "messages": messages,
        "text": payload.get("text", payload.get("prompt")),
        "score": list(payload.get("score", ())),
    }
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS).decode()
