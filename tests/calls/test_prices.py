"""What calls cost: listed prices, stated prices, and none where none is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.calls.model import Connection
from cai.calls.prices import Price, known_price, parse_price
from cai.errors import UsageError
from cai.models import open_model

TOKENS = st.integers(0, 1_000_000)


def test_a_stated_price_is_in_usd_per_million_tokens() -> None:
    price = parse_price("0.4, 1.6")
    assert price.cost(1_000_000, 0) == pytest.approx(0.4)
    assert price.cost(0, 500_000) == pytest.approx(0.8)
    assert price.cost(1_000_000, 0, cached=1_000_000) == pytest.approx(0.4)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "nan,1", "1,inf", "-1,2"])
def test_a_price_that_is_none_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(UsageError, match="--price") as refused:
        parse_price(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_unlisted_model_has_no_price_rather_than_a_price_of_nothing(provider: str) -> None:
    assert known_price(open_model(f"{provider}:no-such-model-of-anyone")) is None


def test_a_listed_name_has_no_price_on_a_server_of_ones_own() -> None:
    own = Connection("http://127.0.0.1:8000/v1")
    assert known_price(open_model("openai:gpt-4.1-mini", own)) is None


@pytest.mark.parametrize("spec", ["openai:gpt-4.1-mini", "anthropic:claude-sonnet-4-5"])
def test_a_listed_model_is_cheaper_cached_and_dearer_in_what_it_writes(spec: str) -> None:
    price = known_price(open_model(spec))
    assert price is not None
    assert 0 < price.cached < price.input <= price.cache_write < price.output < 0.001


def test_every_listed_model_of_the_hosted_providers_has_a_finite_price_or_none() -> None:
    from genai_prices.data_snapshot import get_snapshot

    hosted = [provider for provider in get_snapshot().providers if provider.id in ("openai", "anthropic")]
    found = [known_price(open_model(f"{provider.id}:{model.id}")) for provider in hosted for model in provider.models]
    assert len(hosted) == 2 and sum(price is not None for price in found) > 50
    assert all(0 <= part < 0.01 for price in found if price is not None for part in price)


@given(TOKENS, TOKENS, TOKENS, TOKENS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_worst_case_of_a_call_is_never_below_its_cost(
    fresh: int, cached: int, written: int, made: int, a: float, b: float, c: float, d: float
) -> None:
    price, given_ = Price(a, b, c, d), fresh + cached + written
    assert price.cost(given_, made, cached, written) <= price.most(given_, made) * (1 + 1e-9)
