"""What a call costs: prices per token from the `genai-prices` tables, or as the user states them.

Knows model names and prices; nothing of runs. A price that is not known is None, never 0.
"""

from __future__ import annotations

from typing import NamedTuple

from cai.errors import UsageError

# Models that run on the user's own machine cost no money per token.
FREE = frozenset({"local", "hf", "recorded"})


class Price(NamedTuple):
    """USD per token."""

    input: float
    output: float
    cached: float  # input tokens served from a prefix cache

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """USD of a call or a sum of calls; `cached_tokens` is a part of `input_tokens`."""
        fresh = input_tokens - cached_tokens
        return fresh * self.input + cached_tokens * self.cached + output_tokens * self.output


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
    return Price(given / 1e6, made / 1e6, given / 1e6)


def known_price(provider: str, name: str) -> Price | None:
    """The listed price of a model, base tier; None where the table has none.

    Tiers for very long prompts are not modelled: the table's rate for 1,000 tokens is used throughout.
    """
    if provider in FREE:
        return Price(0.0, 0.0, 0.0)
    from genai_prices import Usage, calc_price

    def rate(usage: Usage) -> float:
        return float(calc_price(usage, model_ref=name, provider_id=provider).total_price) / 1000

    try:
        given = rate(Usage(input_tokens=1000))
        cached = rate(Usage(input_tokens=1000, cache_read_tokens=1000))
        return Price(given, rate(Usage(output_tokens=1000)), cached)
    except LookupError:
        return None
