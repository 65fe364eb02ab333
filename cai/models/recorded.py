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
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError

from cai.calls.model import Call
from cai.disk.hashes import sha256_of
from cai.errors import InputError, ModelStopped
from cai.folder.journal.store import read_calls
from cai.records import Abilities, Completion, Finish, Object, Record, Role, Usage, Values
from cai.sources.yamlfile import first_fault
from cai.texts.thoughts import split_thoughts

Key = tuple[str, str, int]  # row id, role, index
Stored = tuple[float | None, int | None, Completion]  # temperature and max_tokens, if stated


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
            reasoning=self.reasoning,
            logprobs=self.logprobs,
            scores=self.scores,
            **dict(self.usage),
        )


class _Replay(ABC):
    """A model whose every answer is on disk."""

    provider = "recorded"
    concurrency = 64
    context: int | None = None
    can = Abilities(chat=True, completion=True, logprobs=20, scoring=True, prefill=True, decisions=1_000)
    name: str

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.endpoint = f"recorded:{path}"
        self._answers: dict[Any, Any] = {}

    @abstractmethod
    def _read(self) -> dict[Any, Any]:
        """All answers, by what they are looked up by."""

    async def start(self) -> None:
        """Read the answers, in a thread; `send` does it too if nobody has."""
        if not self._answers:
            self._answers = await asyncio.to_thread(self._read)

    async def close(self) -> None:
        """Let go of the answers."""
        self._answers = {}


class RecordedModel(_Replay):
    """A model whose every answer is in a file, which is hashed when named.

    Raises InputError for a file that is missing, damaged, or answers one question twice.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            digest = sha256_of(self._path)
        except OSError as error:
            raise InputError(f"cannot read the recorded answers: {error.strerror}", path) from error
        self.name = f"{self._path.name.removesuffix('.gz').removesuffix('.jsonl')}@{digest[:12]}"

    def payload(self, call: Call) -> Values:
        """Where the answer is looked up, and what was asked.

        Sampling and seed are left out, as they decide nothing here: a run with another seed finds the same answers.
        """
        request = call.request
        payload: Values = {
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
        if request.decisions:
            payload["questions"] = [asdict(decision) for decision in request.decisions]
        return payload

    def _read(self) -> dict[Key, Completion]:
        return read_answers(self._path, self.name)

    async def send(self, payload: Values) -> Completion:
        """The recorded answer; raises ModelStopped, with what was asked, if the file has none that fits.

        A file without any answer of the role gate answers it with nothing: every reply is revised.
        """
        await self.start()
        role = payload["role"]
        answer: Completion | None = self._answers.get((payload["id"], role, payload["index"]))
        if answer is None and role == "gate" and not any(key[1] == "gate" for key in self._answers):
            return Completion("", "stop", self.name)  # recorded for a run without the gate: it cannot be read
        if answer is None:
            raise ModelStopped(f"{self._path} has no answer for {_asked(payload)}")
        in_a_word = role in ("gate", "screen")  # may be answered
        if payload["top_logprobs"] and answer.logprobs is None and not in_a_word:
            raise ModelStopped(
                f"{self._path} has an answer without `logprobs`, which were asked for: {_asked(payload)}"
            )
        wanted = len(payload["score"])
        count = len(answer.scores or ())
        if count != wanted:
            raise ModelStopped(f"{self._path} has {count} `scores` and {wanted} were asked for: {_asked(payload)}")
        if "text" in payload:
            return answer
        reply, reasoning = split_thoughts(answer.text, thoughts=answer.reasoning)
        return replace(answer, text=reply, reasoning=reasoning)


def read_answers(path: Path, name: str) -> dict[Key, Completion]:
    """Every answer of a JSONL file by (row id, role, index); raises InputError at the first bad or repeated line."""
    answers: dict[Key, Completion] = {}
    for number, line in _lines(path):
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            raise InputError(first_fault(error), path, number) from error
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
        opened: Any = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read the recorded answers: {error}", path, number + 1) from error


def _asked(payload: Values) -> str:
    if "text" in payload:
        excerpt = payload["text"][-200:]
    else:
        excerpt = payload["messages"][-1]["content"][:200]
    question = json.dumps(excerpt, ensure_ascii=False)
    return f"id {payload['id']!r}, role {payload['role']}, index {payload['index']}; asked: {question}"


class ReplayedModel(_Replay):
    """The calls of a run, which show what the model can do.

    Raises InputError if `path` is neither a run folder nor its calls.sqlite.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if self._path.name == "calls.sqlite":
            self._path = self._path.parent
        if not (self._path / "calls.sqlite").is_file():
            raise InputError("has no calls.sqlite: it is not a run folder", path)
        digest = hashlib.sha256()
        scored = listed = begun = False
        for call in read_calls(self._path):
            digest.update(bytes.fromhex(call.key))
            scored |= call.completion.scores is not None
            listed |= call.completion.logprobs is not None
            begun |= _is_begun(call.request["payload"])
        self.can = replace(self.can, scoring=scored, logprobs=20 if listed else 0, prefill=begun)
        self.name = f"{self._path.resolve().name}@{digest.hexdigest()[:12]}"

    def payload(self, call: Call) -> Values:
        """What the answer is looked up by."""
        return {
            "question": _question(asdict(call.request)),
            "temperature": call.temperature,
            "max_tokens": call.max_tokens,
            "sample": call.sample,
        }

    async def send(self, payload: Values) -> Completion:
        """The stored answer; raises ModelStopped, with what was asked, if there is none."""
        await self.start()
        number: int = payload["sample"]
        stored: list[Stored] = self._answers.get(payload["question"], [])
        answers = [
            completion
            for temperature, max_tokens, completion in stored
            if temperature in (None, payload["temperature"]) and max_tokens in (None, payload["max_tokens"])
        ]
        if len(answers) <= number:
            raise ModelStopped(
                f"{self._path / 'calls.sqlite'} has {len(answers)} answers, and number {number + 1} was "
                f"asked for, at temperature {payload['temperature']:g} and {payload['max_tokens']} tokens: "
                f"…{payload['question'][-200:]}"
            )
        return answers[number]

    def _read(self) -> dict[str, list[Stored]]:
        answers: dict[str, list[Stored]] = {}
        for call in read_calls(self._path):
            payload = call.request["payload"]
            question = payload.get("question")  # of a replay of a replay
            if question is None:
                question = _question(payload)
            most = payload.get("max_tokens", payload.get("max_completion_tokens"))
            answers.setdefault(question, []).append((payload.get("temperature"), most, call.completion))
        return answers


def _decisions(payload: Object) -> list[Any]:
    """The typed questions of a payload or a request, in one form."""
    typed = []
    for each in payload.get("decisions") or payload.get("questions") or ():
        choices = [choice["value"] if isinstance(choice, dict) else choice for choice in each.get("choices", ())]
        typed.append([each["name"], each["instructions"], choices])
    return typed


def _is_begun(payload: Object) -> bool:
    """Whether a payload asks to continue an answer."""
    if "question" in payload:
        payload = orjson.loads(payload["question"])
    messages = payload.get("messages") or ()
    return bool(payload.get("prefill")) or any(turn["role"] == "assistant" for turn in messages[-1:])


def _question(payload: Object) -> str:
    """What a payload of any provider asks, in one form."""
    messages = list(payload.get("messages", payload.get("input", ())))
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
    typed = _decisions(payload)
    if typed:
        parts["decisions"] = typed
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS).decode()
