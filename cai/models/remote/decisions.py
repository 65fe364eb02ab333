"""Typed questions in the two forms that servers take, OpenAI's Decisions and System One, and the answers of both.

A payload, by which a call is known, is in OpenAI's form; a server that takes the other is sent the same in that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cai.errors import CallRejected, ModelStopped
from cai.folder.journal.answers import words
from cai.models.remote.envelope import known, tokens_in
from cai.models.remote.failures import Failure, shown
from cai.records import Completion, Object, Request, Values

OPENAI_MOST = 400  # questions in one request to OpenAI
MOST = 64  # to any other server: what vLLM 0.33 takes of most models; OpenRouter takes 200
# OpenAI's model with the endpoint, which its reference names; elsewhere only asking shows it, but for models that do
# nothing else, such as typesafe/jev-1.13, openai/gpt-6-luna-decisions and perplexity/pplx-decider-v1.2 of OpenRouter.
LUNA = re.compile(r"gpt-6-luna(?![a-z])", re.IGNORECASE)
DECIDERS = re.compile(r"(.*[/~-])?(jev|decider|decisions?)(?![a-z])", re.IGNORECASE)


class NoDecisions(ModelStopped):
    """The server has no such endpoint."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form: where it is posted, how a payload is put into it, and how its answers become OpenAI's."""

    path: str
    body: Callable[[Values], Values]
    answers: Callable[[Any], Any]


def payload_of(name: str, request: Request) -> Values:
    """The payload of the typed questions of a request, in OpenAI's form.

    The input is one user message, which vLLM takes, too.
    """
    questions = []
    for decision in request.decisions:
        question: Values = {"type": decision.kind, "name": decision.name, "instructions": decision.instructions}
        if decision.choices:
            question["choices"] = [{"value": choice} for choice in decision.choices]
        questions.append(question)
    return {"model": name, "input": [dict(turn) for turn in request.messages], "questions": questions}


def _state(payload: Values) -> Values:
    """The same in System One's form: a state, and questions by name."""
    questions = {}
    for question in payload["questions"]:
        asked: Values = {"type": "noul", "instructions": question["instructions"]}
        if question["type"] == "choice":
            criteria = {choice["value"]: None for choice in question["choices"]}
            asked = {**asked, "type": "choice", "criteria": criteria}
        questions[question["name"]] = asked
    others = {key: value for key, value in payload.items() if key not in ("input", "questions")}
    state = "\n\n".join(turn["content"] for turn in payload["input"])
    return {**others, "state": state, "questions": questions}


def _listed(answers: Any) -> Any:
    """System One's answers, by name, as OpenAI lists them."""
    if not isinstance(answers, dict):
        return answers
    return list(map(_as_openai, answers.items()))


def _as_openai(item: tuple[str, Any]) -> Values:
    name, answer = item
    values = {**known(answer), "name": name}
    if values.get("type") == "noul":
        values |= {"type": "predicate", "probability": values.pop("noul", None)}
    probabilities = values.get("probabilities")
    if isinstance(probabilities, Mapping):
        values["probabilities"] = [{"value": value, "probability": p} for value, p in probabilities.items()]
    return values


FORMS = {
    "decisions": Form("/decisions", lambda payload: payload, lambda answers: answers),
    "systemone": Form("/systemone", _state, _listed),
}
OTHER_FORM = {"decisions": "systemone", "systemone": "decisions"}  # to try if a server does not have the first
SYSTEM_ONE = ("openrouter", "sglang", "ollama")  # presets whose servers take that form


def abilities(name: str, host: str) -> Values:
    """What a model at a host can be asked, as fields of `Abilities`."""
    if host.endswith("api.openai.com"):
        return {"decisions": OPENAI_MOST, "decides": LUNA.match(name) is not None}
    return {"decisions": MOST, "decides": DECIDERS.match(name) is not None}


def first_form(provider: str) -> str:
    """The form in which a provider's server is asked first."""
    if provider in SYSTEM_ONE:
        return "systemone"
    return "decisions"


def read_answers(body: Object, form: Form, name: str) -> Completion:
    """The answers of a body in OpenAI's form, as the text of a completion; name: the model's, if it gives none."""
    answers = form.answers(body.get("answers"))
    if not isinstance(answers, list):
        problem = f"the server answered 200 with `answers` that are {type(answers).__name__}: {shown(str(answers))!r}"
        raise CallRejected("model_error", problem, billed=True)
    return Completion(
        text=json.dumps(answers, ensure_ascii=False, separators=(",", ":")),
        finish="stop",
        model=words(body.get("model")) or name,
        **tokens_in(body),
    )


def lacks_decisions(answer: Failure, meaning: str) -> bool:
    """Whether an error says that the server has no such path, or not for this model."""
    nameless = answer.status == 404 and "model" not in answer.message.lower()
    return nameless or answer.status in (405, 501) or meaning == "path"
