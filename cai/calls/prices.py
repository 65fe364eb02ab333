"""What a call costs: prices per token from the `genai-prices` tables, or as the user states them.

Knows model names and prices; nothing of runs. A price that is not known is None, never 0.
"""

from __future__ import annotations

from typing import NamedTuple

from cai.calls.model import Model
from cai.errors import UsageError


class Price(NamedTuple):
    """USD per token."""

    input: float
    output: float
    cached: float  # input tokens served from a prefix cache
    cache_write: float  # input tokens written to one

    def cost(self, input_tokens: int, output_tokens: int, cached: int = 0, cache_write: int = 0) -> float:
        """USD of a call or a sum of calls; `cached` and `cache_write` are parts of `input_tokens`."""
        fresh = input_tokens - cached - cache_write
        given = fresh * self.input + cached * self.cached + cache_write * self.cache_write
        return given + output_tokens * self.output

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """USD of a call whose every input token is billed at the dearest rate."""
        return input_tokens * max(self.input, self.cached, self.cache_write) + output_tokens * self.output


FREE = Price(0.0, 0.0, 0.0, 0.0)  # of models on the user's own machine


def parse_price(text: str) -> Price:
    """`IN,OUT` in USD per million tokens, as `--price` takes it."""
    try:
        given, made = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--price {text!r} is not IN,OUT in USD per million tokens; for example --price 0.4,1.6"
        ) from None
    if not (0 <= given < float("inf") and 0 <= made < float("inf")):
        raise UsageError(f"--price {text!r} must be two finite numbers of at least 0")
    return Price(given / 1e6, made / 1e6, given / 1e6, given / 1e6)


def known_price(model: Model) -> Price | None:
    """The listed price of a model at its endpoint, base tier; None where the table has none, as for one's own server.

    Tiers for very long prompts are not modelled: the table's rate for 1,000 tokens is used throughout.
    """
    from genai_prices import Usage, calc_price

    def rate(usage: Usage) -> float:
        return float(calc_price(usage, model_ref=model.name, provider_api_url=model.endpoint).total_price) / 1000

    try:
        given = rate(Usage(input_tokens=1000))
        cached = rate(Usage(input_tokens=1000, cache_read_tokens=1000))
        written = rate(Usage(input_tokens=1000, cache_write_tokens=1000))
        return Price(given, rate(Usage(output_tokens=1000)), cached, written)
    except LookupError:
        return None
