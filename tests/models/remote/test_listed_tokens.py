"""A server that can be named tokens lists both letters of a judge, however unlikely; no other is sent a new field."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, Asked, Habits, Mode, answer, chat, listed, serving

import cai
from cai.calls.model import Call, Connection
from cai.folder.journal.store import read_calls
from cai.models.remote.openai import OpenAIModel
from cai.records import Request, Sampling

FIELDS = {"model": {"type": "string"}, "messages": {"type": "array"}, "top_logprobs": {"type": "integer"}}
FILLERS = {f"word{number}": 0.01 for number in range(30)}
CHANCES = {"A": 0.6, "B": 0.004, " B": 0.001, **FILLERS}  # B is likelier than nothing, and below the 20 likeliest
PAIR = [{"prompt": "How long does cooked rice keep?", "chosen": "A day in the fridge.", "rejected": "Till it smells."}]
QUESTION = Request("judge", ({"role": "user", "content": "A or B?"},), max_tokens=1, temperature=0.0, top_logprobs=20)
# One token a character, and one for a letter behind a space, as many tokenizers have it.
IDS = {" A": 1001, " B": 1002}


def token_ids(text: str) -> list[int]:
    return [*map(ord, text[:-2]), IDS[text[-2:]]] if text[-2:] in IDS else list(map(ord, text))


def chosen(payload: dict[str, Any]) -> Answer:
    """One token with the alternatives that were named, else with the likeliest."""
    chances = CHANCES
    if "logprob_token_ids" in payload:
        names = {ord("A"): "A", ord("B"): "B", 1001: " A", 1002: " B"}
        chances = {names[token]: CHANCES.get(names[token], 1e-5) for token in payload["logprob_token_ids"]}
    top = sorted(chances.items(), key=lambda item: -item[1])[: payload["top_logprobs"]]
    logprobs = listed(*((token, math.log(chance)) for token, chance in top))
    return answer(chat("A", "length", choice={"logprobs": logprobs}))


def vllm(*, names_tokens: bool) -> Mode:
    """vLLM, from the version on that lists named tokens, or before it; it ignores fields that it does not know."""
    more = {"logprob_token_ids": {"anyOf": [{"type": "array"}, {"type": "null"}]}} if names_tokens else {}
    schema = {"components": {"schemas": {"ChatCompletionRequest": {"properties": FIELDS | more}}}}

    def reply(asked: Asked) -> Answer:
        if asked.path == "/openapi.json":
            return answer(schema)
        if asked.path == "/tokenize":
            assert asked.payload["add_special_tokens"] is False
            return answer({"tokens": token_ids(asked.payload["prompt"]), "max_model_len": 4096})
        return chosen(asked.payload)

    return Mode(reply)


def strict(asked: Asked) -> Answer:
    """A server with neither page that refuses fields which it does not know."""
    if not asked.path.endswith("/chat/completions"):
        return answer({"detail": "Not Found"}, 404)
    if unknown := asked.payload.keys() - {*FIELDS, "max_tokens", "logprobs", "temperature", "seed", "prompt",
                                          "continue_final_message", "add_generation_prompt"}:  # fmt: skip
        return answer({"error": {"message": f"unknown fields: {unknown}"}}, 400)
    return chosen(asked.payload)


def odd(body: Any, tokens: Any = None) -> Mode:
    """A server whose pages are of another shape."""

    def reply(asked: Asked) -> Answer:
        if asked.path.endswith("/chat/completions"):
            return strict(asked)
        return answer(tokens if asked.path == "/tokenize" else body)

    return Mode(reply)


SCHEMA = {"components": {"schemas": {"ChatCompletionRequest": {"properties": {"logprob_token_ids": {}}}}}}
OTHERS = {
    "before": vllm(names_tokens=False),
    "strict": Mode(strict),
    "nothing": odd(None),
    "list": odd([1]),
    "components": odd({"components": [1]}),
    "schemas": odd({"components": {"schemas": {"ChatCompletionRequest": {"properties": ["logprob_token_ids"]}}}}),
    "no-tokens": odd(SCHEMA, {"tokens": []}),
    "words": odd(SCHEMA, {"tokens": ["A"]}),
    "truth": odd(SCHEMA, {"tokens": [True]}),
    "no-answer": odd(SCHEMA, None),
}


def label(server: Habits, mode: str, out: Path) -> Any:
    [row] = cai.label(PAIR, "harmless", judge="openai:m", base_url=server.url(mode), out=out)
    return row


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghij")


def test_a_letter_below_the_list_is_read_exactly_from_a_server_that_can_be_named_it(tmp_path: Path) -> None:
    with serving({"now": vllm(names_tokens=True), "before": vllm(names_tokens=False)}) as server:
        exact = label(server, "now", tmp_path / "now")
        floored = label(server, "before", tmp_path / "before")
        asked = [request.payload for request in server.asked("now") if "chat" in request.path]
    for vote in exact.votes:
        assert vote.ab.second == pytest.approx(math.log(0.005)) and not vote.ab.bounded
        assert vote.ab.mass == pytest.approx(0.605, abs=1e-4)
    assert all(vote.ab.bounded and vote.ab.second == pytest.approx(math.log(0.01)) for vote in floored.votes)
    assert all(payload["logprob_token_ids"] == [65, 66, 1001, 1002] for payload in asked)
    stored = {str(call.request["payload"].get("logprob_token_ids")) for call in read_calls(tmp_path / "now")}
    assert stored == {"[65, 66, 1001, 1002]"}  # what is stored is what was sent


@pytest.mark.parametrize("mode", OTHERS)
def test_another_server_is_sent_the_payload_that_it_always_was(mode: str, tmp_path: Path) -> None:
    with serving(OTHERS) as server:
        row = label(server, mode, tmp_path / "out")
        asked = [request for request in server.asked(mode) if "chat" in request.path]
    assert row.p_a is not None and len(asked) == 6
    model = OpenAIModel("m", Connection(base_url="http://127.0.0.1:1/v1"))
    plain = model.payload(Call(QUESTION, "row", 0, 7, Sampling()))
    assert all(
        request.payload.keys() <= {*plain, "continue_final_message", "add_generation_prompt"} for request in asked
    )


def test_only_a_question_for_one_token_names_tokens() -> None:
    async def play() -> None:
        with serving({"now": vllm(names_tokens=True)}) as server:
            model = OpenAIModel("m", Connection(base_url=server.url("now")))
            plain = model.payload(Call(QUESTION, "row", 0, 7, Sampling()))
            await model.start()
            await model.list_tokens(("Yes", "B"))
            named = model.payload(Call(QUESTION, "row", 0, 7, Sampling()))
            reply = model.payload(Call(Request("assistant", QUESTION.messages), "row", 0, 7, Sampling()))
            await model.close()
        assert named == plain | {"logprob_token_ids": [66, 115, 1002]} and "logprob_token_ids" not in reply

    asyncio.run(play())


def test_a_server_that_cannot_be_asked_what_it_is_is_not_named_tokens() -> None:
    async def play() -> None:
        model = OpenAIModel("m", Connection(base_url="http://127.0.0.1:1/v1", timeout=1))
        await model.start()
        await model.list_tokens(("A", "B"))
        assert "logprob_token_ids" not in model.payload(Call(QUESTION, "row", 0, 7, Sampling()))
        await model.close()

    asyncio.run(play())
