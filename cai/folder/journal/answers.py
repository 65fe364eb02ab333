"""Converts what a server or a file says of an answer to the types of a `Completion`; another type is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args

from cai.records import Finish

MOST_TOKENS = 2**31  # of one call; SQLite adds up 2**32 such calls before its integers overflow
NEVER = -9999.0  # what OpenAI's protocol says of a token that is too unlikely for its list: no log probability
FINISHES = get_args(Finish)


def count(value: Any) -> int | None:
    """Tokens: a whole number, also as 8.0; None for anything else, such as text, a list or a negative number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS and value % 1 == 0:
        return int(value)
    return None


def words(value: Any) -> str | None:
    """A text; None for anything else, and for one without a visible character."""
    if isinstance(value, str) and value.strip():
        return value
    return None


def finish(value: Any) -> Finish:
    """How an answer ended, as a stored one says it."""
    if value in FINISHES:
        return cast(Finish, value)
    return "unknown"


def log_probability(value: Any) -> float:
    """A finite number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return math.nan
    return float(value)


def log_probabilities(tokens: Any) -> dict[str, float]:
    """Tokens with their log probabilities; empty for anything else."""
    if not isinstance(tokens, Mapping):
        return {}
    return {token: log_probability(value) for token, value in tokens.items() if isinstance(token, str)}


def added(entries: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Tokens with their log probabilities, those of equal text added up: different tokens may have one text."""
    values: dict[str, list[float]] = {}
    for token, value in entries:
        values.setdefault(token, []).append(value)
    return {
        token: log_sum([each for each in all_of if not each <= NEVER] or [NEVER]) for token, all_of in values.items()
    }


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(v))) without overflow; `values` is not empty. NaN if one is."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
