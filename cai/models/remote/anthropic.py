"""Anthropic's `/v1/messages`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from cai.calls.model import Call, Connection, check_temperature
from cai.errors import UsageError
from cai.models.remote.envelope import read_message
from cai.models.remote.http import HostedModel
from cai.models.remote.presets import NATIVE, Preset
from cai.records import Abilities, Completion, Turns, Values


class AnthropicModel(HostedModel):
    """A Claude model behind Anthropic's protocol.

    From Claude 4.6 on a started assistant turn is refused, from 4.7 on any
    temperature: then `can.prefill` is false, `can.temperature` None, and the payload has no temperature. A name that
    does not say its version is sent the temperature, and no started turn. `extra_body` is merged last; a null in it
    takes the key out of the payload. Thinking in it is left out of a question whose answer is begun, or is to be no
    longer than the tokens to think for (https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking).
    """

    replies = "content"
    version = "/v1"
    headers: ClassVar = {"anthropic-version": "2023-06-01"}

    def __init__(self, name: str, connection: Connection, preset: Preset = NATIVE["anthropic"]) -> None:
        super().__init__(name, connection, preset)
        version = generation(name)
        temperature = None if version is not None and version >= (4, 7) else 1.0
        prefill = version is not None and version < (4, 6)
        self.can = Abilities(chat=True, prefill=prefill, temperature=temperature, seed=False)

    def payload(self, call: Call) -> Values:
        """The body to post.

        Turns of a chain share their prefix, so all roles but the judge, who asks once, request automatic caching: the
        server marks the last block, and the next turn reads everything up to it for a tenth of the price. Prefixes
        under 1,024 to 4,096 tokens, by model, are not cached and cost nothing more.
        """
        request = call.request
        if request.text is not None or request.score or request.top_logprobs:
            raise UsageError(
                f"anthropic:{self.name} only chats: it continues no raw text, gives no logprobs and no scores"
            )
        if request.prefill and not self.can.prefill:
            raise UsageError(f"anthropic:{self.name} does not continue a started reply; models before Claude 4.6 do")
        system, turns = split_system(request.messages)
        if request.prefill:
            turns.append({"role": "assistant", "content": request.prefill.rstrip()})
        body: Values = {
            "model": self.name,
            "max_tokens": call.max_tokens,
            "messages": turns,
        }
        if system:
            body["system"] = system
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        if request.temperature is None:
            check_temperature(self, call.sampling)
        if self.can.temperature is not None:
            body["temperature"] = call.temperature
        if request.role != "judge":
            body["cache_control"] = {"type": "ephemeral"}
        body |= call.sampling.extra_body
        if thinks(body):
            self._let_think(body, call)
        return {key: value for key, value in body.items() if value is not None}

    def _let_think(self, body: Values, call: Call) -> None:
        """Leave out what cannot be sent beside thinking, or thinking itself of a question that has no room for it."""
        budget, most = body["thinking"].get("budget_tokens"), call.request.max_tokens
        if call.request.prefill or (most and isinstance(budget, int) and most <= budget):
            body["thinking"] = None
            return
        if "temperature" in call.sampling.extra_body:
            return
        if call.request.temperature is None and call.temperature != 1:
            raise UsageError(f"anthropic:{self.name} thinks at the temperature 1 alone: name --temperature 1")
        body["temperature"] = None

    async def send(self, payload: Values) -> Completion:
        """Ask once."""
        return await self.answer("/v1/messages", payload, self.reader(payload))

    def reader(self, payload: Values) -> Callable[[Values], Completion]:
        """What reads the answer to a payload."""
        return partial(read_message, name=self.name, most=payload.get("max_tokens"))


def thinks(body: Values) -> bool:
    """Whether a payload asks for thinking: then nothing may begin the reply, and no temperature is taken but 1."""
    match body.get("thinking"):
        case {"type": "enabled" | "adaptive"}:
            return True
    return False


def generation(name: str) -> tuple[int, int] | None:
    """(4, 5) for claude-haiku-4-5-20251001; None for a name without a version."""
    version = re.search(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?", name)
    if version is None:
        return None
    return int(version[1]), int(version[2] or 0)


def split_system(messages: Turns) -> tuple[str, list[Values]]:
    """System text, and the turns with neighbours of one role joined: both by a blank line."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    turns = [
        {"role": role, "content": "\n\n".join(message["content"] for message in neighbours)}
        for role, neighbours in groupby(others, itemgetter("role"))
    ]
    return "\n\n".join(system), turns
