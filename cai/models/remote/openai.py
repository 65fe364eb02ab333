"""OpenAI and every server that speaks its protocol: `/chat/completions`, and `/completions` for base models."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from cai.calls.model import Call, Connection, check_temperature
from cai.calls.protocols import choose_protocol
from cai.errors import CallRejected, FieldRefused, ModelError, UnknownModel, UsageError
from cai.models.remote import decisions
from cai.models.remote.envelope import known, read_choice
from cai.models.remote.failures import Failure
from cai.models.remote.http import HostedModel
from cai.models.remote.meanings import meaning_of
from cai.models.remote.presets import NATIVE, TOP, Preset
from cai.records import Abilities, Completion, Values

# OpenAI's reasoning models: temperature is fixed at 1, and they take neither stop strings nor logprobs.
REASONING = re.compile(r"(o\d+|gpt-([5-9]|\d\d)(?!\S*chat))(?![a-z])", re.IGNORECASE)
ROUTED = re.compile(r"(openai|azure)/", re.IGNORECASE)  # as routers begin the names of OpenAI's models
CRITICS = ("gate", "screen")  # who is asked Yes or No, whatever tokens are listed for a judge on the same model
MOST_LISTED = 128  # tokens that vLLM 0.33 lists by name; more are refused
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
    """A model behind OpenAI's protocol, at OpenAI, at a server that a preset names, or at any other.

    At OpenAI's own servers, Azure's among them, the payload has `max_completion_tokens` (its reasoning models refuse
    `max_tokens`, which every imitator knows). For reasoning models it has neither temperature nor stop strings, at
    routers too. `extra_body` is merged last, an object key by key; a null in it takes the key out of the payload.
    """

    replies = "choices"

    def __init__(self, name: str, connection: Connection, preset: Preset = NATIVE["openai"]) -> None:
        super().__init__(name, connection, preset)
        habits = preset.habits
        if preset.elsewhere is not None and not self.is_official:
            habits = preset.elsewhere
        self.habits = habits
        is_openais = reasons(name, at_openai=habits.openai)
        thinks = is_openais or (habits.thinks != "" and re.match(habits.thinks, name) is not None)
        self._refuses = frozenset[str]()
        if thinks:
            self._refuses = frozenset(("temperature", "stop") if is_openais else habits.refuses)
        self.can = Abilities(
            completion=habits.completion,
            logprobs=0 if thinks else habits.logprobs,
            prefill=habits.prefill and not thinks,
            temperature=None if "temperature" in self._refuses else 2.0,
            seed=bool(habits.seed),
            **decisions.abilities(name, self._base.host or ""),
        )
        self._listed: list[int] = []  # ids of tokens that the server lists by name
        self._form = decisions.first_form(preset.name)  # in which the server takes typed questions, as far as is known
        self._form_works = preset.name == "openai" and self.is_official

    def payload(self, call: Call) -> Values:
        """The body to post: a chat, or raw text if the request has `text`."""
        request = call.request
        self._check(call)
        if request.decisions:
            body = decisions.payload_of(self.name, request) | call.sampling.extra_body
            return {key: value for key, value in body.items() if value is not None}
        body = {"model": self.name}
        count = min(request.top_logprobs, self.can.logprobs)
        if request.text is None:
            messages = list(request.messages)
            body |= {"messages": messages, self.habits.max_tokens: call.max_tokens}
            if request.prefill:
                messages.append({"role": "assistant", "content": request.prefill})
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            body |= self.habits.fields
            if count:
                body |= self.habits.listing(count)
        else:
            body |= {"prompt": f"{request.text}{request.prefill}", "max_tokens": call.max_tokens}
            if count:
                body["logprobs"] = count
        if count and request.max_tokens == 1 and self._listed and request.role not in CRITICS:
            body["logprob_token_ids"] = self._listed
        if self.can.temperature is not None:
            body["temperature"] = call.temperature
        if request.stop:
            body["stop"] = list(request.stop)
        if self.habits.seed:
            body[self.habits.seed] = call.seed
        extra = dict(call.sampling.extra_body)
        if self.habits.seed and "seed" in extra:
            extra[self.habits.seed] = extra.pop("seed")
        for name, value in extra.items():
            ours = body.get(name)
            if isinstance(ours, dict) and isinstance(value, dict):  # OpenRouter's `provider`
                value = ours | value
            body[name] = value
        return {key: value for key, value in body.items() if value is not None}

    def _check(self, call: Call) -> None:
        request = call.request
        if request.score:
            raise UsageError(f"{self.spec} cannot score given text: the protocol has no call for it")
        if request.temperature is None:
            check_temperature(self, call.sampling)
        if request.stop and "stop" in self._refuses:
            raise UsageError(f"{self.spec} takes no stop strings, which the templates set: name others")
        if request.top_logprobs > (TOP if self.can.logprobs else 0):  # of fewer than TOP it lists what it can
            raise UsageError(f"{self.spec} lists {self.can.logprobs} logprobs, not {request.top_logprobs}")
        if request.text is not None and not self.can.completion:
            raise UsageError(f"{self.spec} only chats: {self._base.host} continues no raw text")
        if request.prefill and request.text is None and not self.can.prefill:
            raise UsageError(f"{self.spec} does not continue a started reply: {self._base.host} has no call for it")

    async def list_tokens(self, letters: Sequence[str]) -> None:
        """Find the tokens of these letters, if the server is a vLLM that lists named ones (`logprob_token_ids`).

        Its `/openapi.json` says so, so that no other server is sent a field that it may refuse.
        """
        if not self.habits.prefill:  # whoever lists tokens by name continues replies, too
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
        if len(set(ids)) <= MOST_LISTED:
            self._listed = sorted(set(ids))

    async def _last_token(self, text: str) -> int | None:
        """The id of the last token of a text."""
        question = {"model": self.name, "prompt": text, "add_special_tokens": False}
        tokens = (await self.look("POST", "/tokenize", question)).get("tokens")
        last = tokens[-1] if isinstance(tokens, list) and tokens else None
        return last if type(last) is int else None

    async def send(self, payload: Values) -> Completion:
        """Ask once; a server is asked typed questions in each of their forms until it is known which it has."""
        if "questions" in payload:
            return await self._decide(payload)
        return await self.answer(self.path(payload), payload, self.reader(payload))

    def path(self, payload: Values) -> str:
        """Where a payload that asks for words goes."""
        return "/chat/completions" if "messages" in payload else "/completions"

    def reader(self, payload: Values) -> Callable[[Values], Completion]:
        """What reads the answer to a payload that asks for words."""
        most = payload.get(self.habits.max_tokens, payload.get("max_tokens"))
        return partial(read_choice, name=self.name, most=most)

    async def _decide(self, payload: Values) -> Completion:
        """Typed questions, in the form that the server takes: until that is known, both are tried."""
        if self._form_works:
            return await self._in_form(self._form, payload)
        form = self._form
        try:
            done = await self._in_form(form, payload)
        except (CallRejected, FieldRefused, decisions.NoDecisions) as refusal:
            form = decisions.OTHER_FORM[form]
            try:
                done = await self._in_form(form, payload)
            except ModelError:
                raise refusal from None
        self._form, self._form_works = form, True
        return done

    async def _in_form(self, name: str, payload: Values) -> Completion:
        form = decisions.FORMS[name]
        read = partial(decisions.read_answers, form=form, name=self.name)
        return await self.answer(form.path, form.body(payload), read, replies="answers")

    def error(self, answer: Failure, payload: Values) -> ModelError:
        """The error that an answer means; of typed questions also that the server takes none."""
        error = super().error(answer, payload)
        if "questions" not in payload:
            return error
        instead = choose_protocol(None, replace(self.can, decides=False), self.spec)
        if decisions.lacks_decisions(answer, meaning_of(answer, payload)):
            problem = f"{self.spec}: this server has no /decisions: use --protocol {instead}, or name another judge"
            return decisions.NoDecisions(f"{problem} ({error})")
        if isinstance(error, UnknownModel):
            return UnknownModel(f"{error}; others may be asked with --protocol {instead}")
        return error
