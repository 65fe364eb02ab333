"""OpenAI and every server that speaks its protocol: `/chat/completions`, and `/completions` for base models."""

from __future__ import annotations

import re
from typing import Any

from cai.calls.model import Call, Connection
from cai.errors import ModelFault, UsageError
from cai.models.remote.failures import error_in
from cai.models.remote.http import HostedModel
from cai.records import Abilities, Completion, Finish, Request, Values
from cai.texts.thoughts import split_thoughts

OFFICIAL = "api.openai.com"
# OpenAI's reasoning models: temperature is fixed at 1, and they take neither stop strings nor logprobs.
REASONING = re.compile(r"o\d|gpt-[5-9](?!.*chat)")
FINISH: dict[str, Finish] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
    "content_filter": "content_filter",
}  # fmt: skip
PASSING = {"abort", "error", "insufficient_system_resource"}  # the server gave up, not the model (vLLM, …)


class OpenAIModel(HostedModel):
    """A model behind OpenAI's protocol.

    The base URL is the connection's, else OPENAI_BASE_URL, else OpenAI's own; the key is OPENAI_API_KEY, which only
    OpenAI's own server requires. At api.openai.com the payload has `max_completion_tokens` (its reasoning models refuse
    `max_tokens`, which every imitator knows) and, for reasoning models, neither temperature nor stop strings.
    `extra_body` is merged last; a null in it takes the key out of the payload.
    """

    provider = "openai"
    official = f"https://{OFFICIAL}/v1"

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name, connection)
        self._reasoning = self.is_official and REASONING.match(name) is not None
        self._max_tokens = "max_completion_tokens" if self.is_official else "max_tokens"
        logprobs = 0 if self._reasoning else 20
        self.can = Abilities(chat=True, completion=True, logprobs=logprobs, prefill=not self.is_official)

    def payload(self, call: Call) -> Values:
        """The body to post: a chat, or raw text if the request has `text`."""
        request = call.request
        self._check(request)
        body: Values = {"model": self.name}
        if request.text is None:
            messages = list(request.messages)
            body |= {"messages": messages, self._max_tokens: call.max_tokens}
            if request.prefill:
                messages.append({"role": "assistant", "content": request.prefill})
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            if request.top_logprobs:
                body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        else:
            body |= {"prompt": f"{request.text}{request.prefill}", "max_tokens": call.max_tokens}
            if request.top_logprobs:
                body["logprobs"] = request.top_logprobs
        if not self._reasoning:
            body["temperature"] = call.temperature
            if request.stop:
                body["stop"] = list(request.stop)
        body["seed"] = call.seed
        body |= call.sampling.extra_body
        return {key: value for key, value in body.items() if value is not None}

    def _check(self, request: Request) -> None:
        if request.score:
            raise UsageError(f"openai:{self.name} cannot score given text: the protocol has no call for it")
        if request.top_logprobs > self.can.logprobs:
            raise UsageError(f"openai:{self.name} lists {self.can.logprobs} logprobs, not {request.top_logprobs}")
        if request.prefill and request.text is None and not self.can.prefill:
            raise UsageError(f"openai:{self.name} does not continue a started reply: {OFFICIAL} has no call for it")

    async def send(self, payload: Values) -> Completion:
        """Ask once."""
        chat = "messages" in payload
        reply = await self.post("/chat/completions" if chat else "/completions", payload)
        if not reply.get("choices") and "error" in reply:  # routers put an upstream's failure into a 200
            raise self.error(error_in(_status_in(reply["error"]), reply))
        try:
            return self._completion(reply, chat)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise self.odd("JSON that holds no choices to read") from None

    def _completion(self, reply: Values, chat: bool) -> Completion:
        choice = reply["choices"][0]
        finish = self._finish(choice["finish_reason"])
        usage = reply.get("usage") or {}
        listed = choice.get("logprobs") or {}
        reasoning = None
        if chat:
            message = choice["message"]
            text = _joined(message.get("content") or "")
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            if message.get("refusal"):
                text = message["refusal"]
                finish = "content_filter"
            elif reasoning is None:
                text, reasoning = split_thoughts(text)
            logprobs = chat_logprobs(listed)
        else:
            text = choice["text"]
            logprobs = text_logprobs(listed)
        if not isinstance(text, str):
            raise TypeError(text)
        return Completion(
            text,
            finish,
            reply.get("model") or self.name,
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            reasoning=reasoning,
            logprobs=logprobs,
        )

    def _finish(self, reason: str | None) -> Finish:
        if reason in FINISH:
            return FINISH[reason]
        if reason in PASSING:
            raise ModelFault(f"{self.endpoint} gave the reply up: finish reason {reason!r}")
        raise self.unusable(reason)


def _status_in(error: Any) -> int:
    """The status that a router names for an upstream's failure; a bad gateway's if it names none."""
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        return int(error["code"])
    return 502


def _joined(content: Any) -> Any:
    """The text of a message; Mistral's reasoning models answer in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content


def chat_logprobs(listed: Values) -> tuple[dict[str, float], ...] | None:
    """Per token its listed alternatives, or itself if none are listed, as `/chat/completions` gives them.

    A drawn token below the listed ones is left out: a reader takes the lowest entry for the floor of the list.
    """
    if listed.get("content") is None:
        return None
    return tuple(
        {entry["token"]: entry["logprob"] for entry in token.get("top_logprobs") or [token]}
        for token in listed["content"]
    )


def text_logprobs(listed: Values) -> tuple[dict[str, float], ...] | None:
    """The same as `/completions` gives them."""
    if listed.get("tokens") is None:
        return None
    tops = listed.get("top_logprobs") or [None] * len(listed["tokens"])
    drawn = zip(listed["tokens"], listed["token_logprobs"], tops, strict=True)
    return tuple(dict(top or {token: value}) for token, value, top in drawn)
