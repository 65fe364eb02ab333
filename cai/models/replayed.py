"""The finished calls of a run folder in place of a model: `recorded:RUN` or `recorded:RUN/calls.sqlite`.

Answers a question by its messages (or text), sampling and sample index, whichever provider answered it then. Knows the
payloads of the other adapters by the few keys that say what was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import orjson

from cai.errors import InputError, ModelStopped
from cai.folder.store import read_calls
from cai.records import Abilities, Call, Completion

Answers = dict[bytes, list[tuple[float | None, int | None, Completion]]]  # with temperature and max_tokens, if stated


class ReplayedModel:
    """Raises InputError where `path` is neither a run folder nor its calls.sqlite."""

    provider = "recorded"
    concurrency = 64
    context: int | None = None

    def __init__(self, path: str) -> None:
        self._folder = Path(path).parent if Path(path).name == "calls.sqlite" else Path(path)
        if not (self._folder / "calls.sqlite").is_file():
            raise InputError("has no calls.sqlite: it is no run folder", path)
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
        return {
            "question": _question(list(request.messages), request.text, request.prefill, request.score).decode(),
            "temperature": call.sampling.temperature if request.temperature is None else request.temperature,
            "max_tokens": request.max_tokens or call.sampling.max_tokens,
            "sample": call.sample,
        }

    async def start(self) -> None:
        """Read the calls, in a thread."""
        if self._answers is None:
            self._answers = await asyncio.to_thread(_read, self._folder)

    async def send(self, payload: dict[str, Any]) -> Completion:
        """The stored answer; raises ModelStopped, with what was asked, where there is none."""
        await self.start()
        assert self._answers is not None
        fitting = [
            done
            for temperature, max_tokens, done in self._answers.get(payload["question"].encode(), [])
            if temperature in (None, payload["temperature"]) and max_tokens in (None, payload["max_tokens"])
        ]
        if len(fitting) <= payload["sample"]:
            asked = payload["question"][-200:]
            raise ModelStopped(
                f"{self._folder / 'calls.sqlite'} has {len(fitting)} answers, and number {payload['sample'] + 1} was "
                f"asked for, at temperature {payload['temperature']:g} and {payload['max_tokens']} tokens: …{asked}"
            )
        sample: int = payload["sample"]
        return fitting[sample]

    async def close(self) -> None:
        """Let go of the answers."""
        self._answers = None


def _read(folder: Path) -> Answers:
    answers: Answers = {}
    for call in read_calls(folder):
        asked = call.request["payload"]
        if "question" in asked:  # a replay of a replay
            key = asked["question"].encode()
        else:
            system = [{"role": "system", "content": asked["system"]}] if asked.get("system") else []
            text = asked.get("text", asked.get("prompt"))
            key = _question(system + asked.get("messages", []), text, asked.get("prefill", ""), asked.get("score", ()))
        most = asked.get("max_tokens", asked.get("max_completion_tokens"))
        answers.setdefault(key, []).append((asked.get("temperature"), most, call.completion))
    return answers


def _question(messages: list[Any], text: str | None, prefill: str, score: Any) -> bytes:
    if prefill and messages and messages[-1]["role"] != "assistant":  # some servers take it as a last message
        messages = [*messages, {"role": "assistant", "content": prefill}]
    return orjson.dumps({"messages": messages, "text": text, "score": list(score)}, option=orjson.OPT_SORT_KEYS)
