"""OpenAI and every server that speaks its protocol: `/chat/completions`, and `/completions` for base models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cai.calls.model import Call, Connection, check_temperature
from cai.errors import UsageError
from cai.models.remote.envelope import known, read_choice
from cai.models.remote.http import HostedModel
from cai.records import Abilities, Completion, Values

OFFICIAL = "api.openai.com"
# OpenAI's reasoning models: temperature is fixed at 1, and they take neither stop strings nor logprobs.
REASONING = re.compile(r"(o\d+|gpt-([5-9]|\d\d)(?!\S*chat))(?![a-z])", re.IGNORECASE)
ROUTED = re.compile(r"(openai|azure)/", re.IGNORECASE)  # as routers begin the names of OpenAI's models
# What tokens of a letter may begin with; the last token of each such text is one that stands for the letter.
BEFORE = ("", " ", "\n", '"', "(", "*", "**", "[")


def reasons(name: str, *, at_openai: bool) -> bool:
    """Whether a name is that of one of OpenAI's reasoning models or of its fine-tunes, as OpenAI or a router writes it.

    at_openai: whether the server is OpenAI's, so that a name without a vendor is, too.
    """
    parts = ROUTED.sub("", name).split(":")
    base = parts[1] if parts[0] == "ft" and len(parts) > 1 else parts[0]
    return (at_openai or ROUTED.match(name) is not None) and REASONING.match(base) is not None


class OpenAIModel(HostedModel):
    """A model behind OpenAI's protocol.

    The base URL is the connection's, else OPENAI_BASE_URL, else OpenAI's own; the key is OPENAI_API_KEY, which only
    OpenAI's own servers require. At these, Azure's among them, the payload has `max_completion_tokens` (its reasoning
    models refuse `max_tokens`, which every imitator knows). For reasoning models it has neither temperature nor stop
    strings, at routers too. `extra_body` is merged last; a null in it takes the key out of the payload.
    """

    provider = "openai"
    replies = "choices"
    official = f"https://{OFFICIAL}/v1"
    hosts = (
        f".{OFFICIAL}", ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com",
        ".openai.azure.us", ".openai.azure.cn",
    )  # fmt: skip

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name, connection)
        self._reasoning = reasons(name, at_openai=self.is_official)
        self._max_tokens = "max_completion_tokens" if self.is_official else "max_tokens"
        self.can = Abilities(chat=True, completion=True, logprobs=20, prefill=not self.is_official)
        self._listed: list[int] = []  # ids of tokens that the server lists by name
        if self._reasoning:
            self.can = replace(self.can, logprobs=0, prefill=False, temperature=None)

    def payload(self, call: Call) -> Values:
        """The body to post: a chat, or raw text if the request has `text`."""
        request = call.request
        self._check(call)
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
        if request.top_logprobs and request.max_tokens == 1 and self._listed:
            body["logprob_token_ids"] = self._listed
        if not self._reasoning:
            body["temperature"] = call.temperature
            if request.stop:
                body["stop"] = list(request.stop)
        body["seed"] = call.seed
        body |= call.sampling.extra_body
        return {key: value for key, value in body.items() if value is not None}

    def _check(self, call: Call) -> None:
        request = call.request
        if request.score:
            raise UsageError(f"openai:{self.name} cannot score given text: the protocol has no call for it")
        if request.temperature is None:
            check_temperature(self, call.sampling)
        if request.stop and self._reasoning:
            raise UsageError(f"openai:{self.name} takes no stop strings, which the templates set: name others")
        if request.top_logprobs > self.can.logprobs:
            raise UsageError(f"openai:{self.name} lists {self.can.logprobs} logprobs, not {request.top_logprobs}")
        if request.prefill and request.text is None and not self.can.prefill:
            raise UsageError(f"openai:{self.name} does not continue a started reply: {OFFICIAL} has no call for it")

    async def list_tokens(self, letters: Sequence[str]) -> None:
        """Find the tokens of these letters, if the server is a vLLM that lists named ones (`logprob_token_ids`).

        Its `/openapi.json` says so, so that no other server is sent a field that it may refuse.
        """
        if self.is_official:
            return
        schemas = known(known(await self.look("GET", "/openapi.json")).get("components")).get("schemas")
        fields = known(known(schemas).get("ChatCompletionRequest")).get("properties")
        if "logprob_token_ids" not in known(fields):
            return
        ids: list[int] = []
        for letter in letters:
            for before in BEFORE:
                token = await self._last_token(before + letter)
                if token is None:
                    return
                ids.append(token)
        self._listed = sorted(set(ids))

    async def _last_token(self, text: str) -> int | None:
        """The id of the last token of a text."""
        question = {"model": self.name, "prompt": text, "add_special_tokens": False}
        tokens = (await self.look("POST", "/tokenize", question)).get("tokens")
        last = tokens[-1] if isinstance(tokens, list) and tokens else None
        return last if type(last) is int else None

    async def send(self, payload: Values) -> Completion:
        """Ask once."""
        chat = "messages" in payload
        path = "/chat/completions" if chat else "/completions"
        most = payload.get(self._max_tokens, payload.get("max_tokens"))
        return await self.answer(path, payload, partial(read_choice, name=self.name, most=most))
