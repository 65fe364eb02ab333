"""The finished calls of a run folder in place of a model: `recorded:RUN` or `recorded:RUN/calls.sqlite`.

Answers a question by its messages (or text), sampling and sample index, whichever provider answered it in the run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.errors import InputError, ModelStopped
from cai.folder.store import read_calls
from cai.records import Abilities, Call, Completion

Answers = dict[str, list[tuple[float | None, int | None, Completion]]]  # with temperature and max_tokens, if stated


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
