"""What a run shows and records of its settings is what a server is sent; else the run is refused, or says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.calls.model import Call, Connection, Model, check_temperature, seed_words, temperature_words
from cai.errors import UsageError
from cai.models import open_model
from cai.records import Request, Sampling

HERE = "http://127.0.0.1:1/v1"
SPECS = {
    "anthropic:claude-haiku-4-5": None,
    "anthropic:claude-opus-4-8": None,
    "anthropic:claude-next": None,
    "anthropic:glm-5": HERE,
    "anthropic:my-gateway-name": HERE,
    "openai:gpt-4.1-mini": None,
    "openai:o4-mini": None,
    "openai:gpt-5.2": None,
    "openai:Qwen/Qwen3-8B": HERE,
}
SEED = 100  # above those of EXTRAS: a body's own seed is not the run's
QUESTION = ({"role": "user", "content": "How do bees fly?"},)


def models() -> list[Model]:
    return [open_model(spec, Connection(base_url=url)) for spec, url in SPECS.items()]


EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.one_of(st.none(), st.floats(0, 2)),
        "seed": st.one_of(st.none(), st.integers(0, 99)),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 99),
        "stop": st.just(["END"]),
    },
)


@given(st.sampled_from(models()), st.sampled_from([0.0, 0.3, 1.0, 1.7]), st.integers(1, 9999), EXTRAS)
def test_a_setting_is_sent_or_refused_or_said_not_to_be(
    model: Model, temperature: float, max_tokens: int, extra: dict[str, Any]
) -> None:
    sampling = Sampling(temperature, max_tokens, extra)
    try:
        payload = model.payload(Call(Request("assistant", QUESTION), "row", 0, SEED, sampling))
    except UsageError as error:
        with pytest.raises(UsageError, match="temperature"):
            check_temperature(model, sampling)  # which a run asks before it makes anything
        assert f"{temperature:g}" in str(error) and f"{model.provider}:{model.name}" in str(error)
        return
    check_temperature(model, sampling)
    for name, value in extra.items():
        assert payload.get(name) == value and (value is not None or name not in payload)
    assert max_tokens in (payload.get("max_tokens"), payload.get("max_completion_tokens"))
    words = temperature_words([model], sampling)
    if "temperature" in payload:
        assert words == f"temperature {payload['temperature']:g}" or words == f"temperature {payload['temperature']}"
    else:
        assert "not sent to" in words or "as the server sets it" in words
    assert (payload.get("seed") == SEED) == (seed_words([model], sampling, SEED) == f"seed {SEED}")


@pytest.mark.parametrize("name", ["claude-next", "glm-5", "kimi-k2", "my-gateway-name", "claude-mythos-preview", "x"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_a_name_that_does_not_say_its_version_is_sent_the_temperature(name: str, temperature: float) -> None:
    model = open_model(f"anthropic:{name}")
    call = Call(Request("assistant", QUESTION), "row", 0, 7, Sampling(temperature))
    assert model.payload(call)["temperature"] == temperature
    assert model.payload(Call(Request("judge", QUESTION, temperature=0.0), "row", 0, 7, Sampling()))["temperature"] == 0


@pytest.mark.parametrize(
    "spec", ["anthropic:claude-opus-4-8", "anthropic:claude-sonnet-5", "openai:o3", "openai:gpt-5"]
)
def test_a_model_with_a_fixed_temperature_refuses_another_before_the_first_call(spec: str) -> None:
    model = open_model(spec)
    with pytest.raises(
        UsageError, match=f"{spec} takes no temperature, and 0.3 was asked for: leave out --temperature"
    ):
        check_temperature(model, Sampling(0.3))
    check_temperature(model, Sampling(1.0))
    check_temperature(model, Sampling(0.3, extra_body={"temperature": None}))
    assert temperature_words([model], Sampling(1.0)) == f"temperature 1 (not sent to {spec})"


def test_stop_strings_that_a_model_does_not_take_are_refused() -> None:
    call = Call(Request("critic", QUESTION, stop=("Human:",)), "row", 0, 7, Sampling())
    with pytest.raises(UsageError, match="openai:o3 takes no stop strings"):
        open_model("openai:o3").payload(call)


def test_every_model_that_is_not_sent_the_seed_is_named() -> None:
    haiku, mini, own = (open_model(spec) for spec in ("anthropic:claude-haiku-4-5", "openai:gpt-4.1-mini", "openai:x"))
    assert seed_words([haiku, mini], Sampling(), 3) == "seed 3 (not sent to anthropic:claude-haiku-4-5)"
    nothing = Sampling(extra_body={"seed": None})
    assert seed_words([mini, own, mini], nothing, 3) == "seed 3 (not sent to openai:gpt-4.1-mini, openai:x)"
