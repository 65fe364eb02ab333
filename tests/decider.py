"""Servers that answer typed questions as one with the letters of a judge does: equal questions, equal probabilities.

A judge prompt and a typed question about the same replies are the same text, of which the question is the end; what a
server finds of it depends on that text alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from habits import MODEL, Answer, Asked, Mode, answer, chat, listed

Change = Callable[[list[dict[str, Any]]], Any]


def chance(text: str) -> float:
    """The probability of the first of two choices: from 0.05 to 0.95, by what is asked."""
    return 0.05 + 0.9 * int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def texts_of(payload: Mapping[str, Any]) -> list[str]:
    """What is asked in each typed question, whole."""
    state = payload["input"]
    if not isinstance(state, str):
        assert all(turn["role"] == "user" for turn in state)  # all that vLLM takes
        state = "\n\n".join(turn["content"] for turn in state)
    return [f"{state}\n\n{question['instructions']}" for question in payload["questions"]]


def answers_to(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers in OpenAI's form."""
    answers = []
    for question, text in zip(payload["questions"], texts_of(payload), strict=True):
        p = chance(text)
        made: dict[str, Any] = {"type": question["type"], "name": question.get("name")}
        if question["type"] == "predicate":
            made["probability"] = p
        else:
            first, second = (choice["value"] for choice in question["choices"])
            made["choice"] = first if p > 0.5 else second
            made["probabilities"] = [{"value": first, "probability": p}, {"value": second, "probability": 1 - p}]
            made["confidence"] = max(p, 1 - p)
        answers.append(made)
    return answers


def usage(tokens: int, written: int) -> dict[str, Any]:
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens + written,
    }


def decisions(change: Change | None = None, most: int = 64) -> Mode:
    """`/decisions` as vLLM 0.33 has it, which refuses unknown fields; `change`: of its answers, in another habit."""

    def reply(asked: Asked) -> Answer:
        if not asked.path.endswith("/v1/decisions"):
            return answer({"detail": "Not Found"}, 404)
        payload = asked.payload
        if unknown := payload.keys() - {"model", "input", "questions"}:
            return answer({"error": {"message": f"Extra inputs are not permitted: {sorted(unknown)}"}}, 400)
        if len(payload["questions"]) > most:
            problem = f"questions: at most {most} for this model"
            return answer({"error": {"message": problem, "type": "BadRequestError", "param": None, "code": 400}}, 400)
        answers = answers_to(payload)
        return answer(
            {
                "model": MODEL,
                "answers": answers if change is None else change(answers),
                "usage": usage(120, len(answers)),
            }
        )

    return Mode(reply)


def system_one(asked: Asked) -> Answer:
    """`/systemone` alone: a state, and questions and answers by name."""
    if not asked.path.endswith("/v1/systemone"):
        return answer({"error": {"message": "Not Found", "code": 404}}, 404)
    payload = asked.payload
    assert payload.keys() == {"model", "state", "questions"}
    answers: dict[str, Any] = {}
    for name, question in payload["questions"].items():
        p = chance(f"{payload['state']}\n\n{question['instructions']}")
        if question["type"] == "noul":
            answers[name] = {"type": "noul", "noul": p}
        else:
            first, second = question["criteria"]
            answers[name] = {"type": "choice", "choice": first if p > 0.5 else second, "confidence": 0.5}
            answers[name]["probabilities"] = {first: p, second: 1 - p}
    tokens = {"input_tokens": 120, "output_tokens": 0, "cost": 0.00001}
    return answer({"id": "gen-1", "provider": "P", "model": MODEL, "answers": answers, "usage": tokens})


def letters(asked: Asked) -> Answer:
    """A chat that lists both letters, whose mass is not all."""
    if not asked.path.endswith("/chat/completions"):
        return answer({"detail": "Not Found"}, 404)
    [text] = [turn["content"] for turn in asked.payload["messages"] if turn["role"] == "user"]
    p = chance(text)
    tokens = listed(("A", math.log(p * 0.9)), ("B", math.log((1 - p) * 0.9)), ("The", math.log(0.05)))
    return answer(chat("A", "length", choice={"logprobs": tokens}))


def both(asked: Asked) -> Answer:
    """A server that chats, lists letters, and takes typed questions."""
    if asked.path.endswith("/decisions"):
        return decisions().answer_to(asked)
    if asked.path.endswith("/chat/completions") and not asked.payload.get("logprobs"):
        return answer(chat(f"{asked.payload['model']} replies to {asked.payload['messages'][-1]['content']}"))
    return letters(asked)
