"""Tokens and cost of calls, and the cap on them: prices per token from `genai-prices`, or as the user states them.

A price that is not known is None, never 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from cai.calls.live import Live
from cai.calls.model import Model, Priced
from cai.errors import BudgetReached, UsageError
from cai.records import Completion, Request, Usage

# English text under the tokenizers of 2024–2026; others need up to four times as many tokens.
CHARACTERS_PER_TOKEN = 4.0
TOKENS_PER_MESSAGE = 4  # role markers
TYPICAL_ANSWER = 0.5  # of max_tokens


@dataclass
class Tally:
    """What happened to the calls of a run; the progress display reads it."""

    sent: int = 0
    answered: int = 0
    replayed: int = 0  # answered from the call store
    retries: int = 0
    throttled: int = 0  # 429s
    in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0  # USD of the calls of this session whose price is known
    waiting: str = ""  # what the run waits for instead of answers


def total_usage(parts: Sequence[Completion | Usage]) -> Usage:
    """The tokens of several calls; a sum is None as soon as one call did not report it."""
    sums = {}
    for name in Usage.model_fields:
        counts = [getattr(part, name) for part in parts]
        if None not in counts:
            sums[name] = sum(counts)
    return Usage(**sums)


class Price(NamedTuple):
    """USD per token."""

    input: float
    output: float
    cached: float  # input tokens served from a prefix cache
    cache_write: float  # input tokens written to one

    def cost(self, input_tokens: int, output_tokens: int, cached: int = 0, cache_write: int = 0) -> float:
        """USD of a call or a sum of calls; `cached` and `cache_write` are parts of `input_tokens`."""
        fresh = input_tokens - cached - cache_write
        inputs = fresh * self.input + cached * self.cached + cache_write * self.cache_write
        return inputs + output_tokens * self.output

    def of(self, done: Completion, worst: float) -> float:
        """USD of one call; `worst` if the server did not report its tokens."""
        if done.input_tokens is None or done.output_tokens is None:
            return worst
        return self.cost(done.input_tokens, done.output_tokens, done.cached_tokens or 0, done.cache_write_tokens or 0)

    def share(self, part: float) -> Price:
        """A part of it."""
        return Price(*(part * each for each in self))

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """USD of a call whose every input token is billed at the highest rate."""
        return input_tokens * max(self.input, self.cached, self.cache_write) + output_tokens * self.output


FREE = Price(0.0, 0.0, 0.0, 0.0)  # of models on the user's own machine


def parse_price(text: str) -> Price:
    """`IN,OUT` in USD per million tokens, as `--price` takes it."""
    try:
        inputs, outputs = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--price {text!r} is not IN,OUT in USD per million tokens; for example --price 0.4,1.6"
        ) from None
    if not (0 <= inputs < inf and 0 <= outputs < inf):
        raise UsageError(f"--price {text!r} must be two finite numbers of at least 0")
    return Price(inputs / 1e6, outputs / 1e6, inputs / 1e6, inputs / 1e6)


def known_price(model: Model) -> Price | None:
    """The listed price of a model at its endpoint, base tier; None if the table has none, as for your own server.

    Tiers for very long prompts are not modelled: the table's rate for 1,000 tokens is used throughout.
    """
    from genai_prices import Usage, calc_price

    names = model.price_names if isinstance(model, Priced) else (None, model.name)
    if names is None:
        return FREE
    provider, name = names

    def rate(usage: Usage) -> float:
        if provider is None:
            price = calc_price(usage, model_ref=name, provider_api_url=model.endpoint)
        else:
            price = calc_price(usage, model_ref=name, provider_id=provider)
        return float(price.total_price) / 1000

    try:
        return Price(
            input=rate(Usage(input_tokens=1000)),
            output=rate(Usage(output_tokens=1000)),
            cached=rate(Usage(input_tokens=1000, cache_read_tokens=1000)),
            cache_write=rate(Usage(input_tokens=1000, cache_write_tokens=1000)),
        )
    except LookupError:
        return None


def cap_in_words(cap: float, spent: float, worst: float) -> str:
    """Why a run stops at its cap; worst: what the next call could cost."""
    return (
        f"--max-cost {cap:g} USD: {spent:.4f} spent, and the next call could cost {worst:.4f}; "
        "what was finished is kept, run the same command with a higher cap to go on"
    )


def count_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    texts = [turn["content"] for turn in request.messages] if request.text is None else [request.text]
    texts += [decision.instructions for decision in request.decisions]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return round(size / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(texts)


@dataclass
class Budget:
    """A cap on what a run may cost: each call's worst case is reserved before it is sent, and settled after."""

    cap: float  # USD
    spent: float = 0.0
    live: Live = field(default_factory=Live)

    def __post_init__(self) -> None:
        self._reserved = 0.0  # USD of the calls in flight
        self._open = 0  # how many calls are in flight
        self._settled = asyncio.Event()

    async def reserve(self, worst: float) -> None:
        """Set `worst` USD aside; waits while calls in flight may still give some back, then raises BudgetReached."""
        while self.spent + self._reserved + worst > self.cap:
            if not self._open:
                raise BudgetReached(cap_in_words(self.cap, self.spent, worst))
            self._settled.clear()
            with self.live.waiting():
                await self._settled.wait()
        self._reserved += worst
        self._open += 1

    def owe(self, worst: float) -> None:
        """Set `worst` USD aside for a call that is on its way already, whatever is left."""
        self._reserved += worst
        self._open += 1

    def settle(self, worst: float, actual: float) -> None:
        """Turn a reservation into what the call cost; 0 if it failed."""
        self._open -= 1
        self._reserved -= worst
        if not self._open:
            self._reserved = 0.0  # without what rounding left behind
        self.spent += actual
        self._settled.set()
