"""Servers by the names of their vendors: each is asked where, with whose key and in what words its vendor documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from habits import Answer, Asked, Mode, answer, chat, listed, says, serving
from yarl import URL

from cai.calls.model import Call, Connection, Model
from cai.calls.prices import FREE, known_price, parse_price
from cai.errors import AuthenticationFailed, FieldRefused, ModelError, UnknownModel, UsageError
from cai.models import PROVIDERS, open_model, open_models, prices_of
from cai.models.remote.presets import PRESETS, Preset
from cai.records import Completion, Request, Sampling

EVERY = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
MESSAGES = ({"role": "user", "content": "How do bees fly?"},)
KEY = "sk-of-no-worth-4711"
# As documented; written down apart from the register.
SERVERS = {
    "openrouter": ("https://openrouter.ai/api/v1", ["OPENROUTER_API_KEY"]),
    "together": ("https://api.together.ai/v1", ["TOGETHER_API_KEY"]),
    "groq": ("https://api.groq.com/openai/v1", ["GROQ_API_KEY"]),
    "fireworks": ("https://api.fireworks.ai/inference/v1", ["FIREWORKS_API_KEY"]),
    "deepseek": ("https://api.deepseek.com", ["DEEPSEEK_API_KEY"]),
    "mistral": ("https://api.mistral.ai/v1", ["MISTRAL_API_KEY"]),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", ["GEMINI_API_KEY", "GOOGLE_API_KEY"]),
    "xai": ("https://api.x.ai/v1", ["XAI_API_KEY"]),
    "huggingface": ("https://router.huggingface.co/v1", ["HUGGINGFACE_API_KEY", "HF_TOKEN"]),
    "ollama": ("http://localhost:11434/v1", []),
    "lmstudio": ("http://localhost:1234/v1", []),
    "vllm": ("http://localhost:8000/v1", []),
    "sglang": ("http://localhost:30000/v1", []),
}
OPENAIS = {"max_completion_tokens", "temperature", "stop", "seed", "logprobs", "top_logprobs"}
USUAL = {"max_tokens", "temperature", "stop", "seed", "logprobs", "top_logprobs"}
CONTINUED = {"continue_final_message", "add_generation_prompt"}
TAKEN = {  # fields of a chat that a server takes besides the model and its messages; any other is refused here
    "openrouter": USUAL | {"provider", "plugins"},
    "together": USUAL - {"top_logprobs"},
    "groq": {"max_completion_tokens", "temperature", "stop", "seed"},
    "fireworks": USUAL,
    "deepseek": USUAL - {"seed"},
    "mistral": {"max_tokens", "temperature", "stop", "random_seed"},
    "gemini": {"max_tokens", "temperature", "stop"},
    "xai": OPENAIS,
    "huggingface": USUAL,
    "azure": OPENAIS,
    "ollama": USUAL,
    "lmstudio": {"max_tokens", "temperature", "stop", "seed"},
    "vllm": USUAL | CONTINUED,
    "sglang": USUAL | CONTINUED,
}
MOST_LISTED = {"fireworks": 5, "xai": 8}


def strict(name: str) -> Mode:
    """A server that refuses what the documentation of its vendor does not have."""

    def reply(asked: Asked) -> Answer:
        payload = asked.payload
        for field in sorted(payload.keys() - TAKEN[name] - {"model", "messages"}):
            return answer({"error": {"message": f"Unrecognized request argument supplied: {field}"}}, 400)
        if payload.get("top_logprobs", 0) > MOST_LISTED.get(name, 20):
            return answer({"error": {"message": "top_logprobs must be less", "param": "top_logprobs"}}, 400)
        if "logprobs" not in payload:
            return says()(asked)
        if name == "together":  # the lists of `/completions`, and a number instead of true
            assert payload["logprobs"] == 20
            columns = {"tokens": ["A"], "token_logprobs": [-0.1], "top_logprobs": [{"A": -0.1, "B": -2.4}]}
            return answer(chat("A", choice={"logprobs": columns}))
        return answer(chat("A", choice={"logprobs": listed(("A", -0.1), ("B", -2.4))}))

    return Mode(reply)


def call(request: Request, **sampling: Any) -> Call:
    return Call(request, "row-1", 0, 7, Sampling(**sampling))


async def ask(model: Model, *requests: Request) -> list[Completion]:
    await model.start()
    try:
        return [await model.send(model.payload(call(request))) for request in requests]
    finally:
        await model.close()


def headers_of(model: Model, url: str, server: Any, mode: str) -> Mapping[str, str]:
    """What the server of a mode is sent in front of one question."""
    asyncio.run(ask(model, Request("assistant", MESSAGES)))
    headers: Mapping[str, str] = server.asked(mode)[-1].headers
    return headers


# Where, and with whose key


@pytest.mark.parametrize(("name", "server", "keys"), [(name, *facts) for name, facts in SERVERS.items()])
def test_a_preset_is_asked_where_its_vendor_says(
    name: str, server: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")  # is none of its business
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    if PRESETS[name].is_started:  # else one is started
        monkeypatch.setenv(f"{name.upper()}_BASE_URL", server)
    model = open_model(f"{name}:some/model:7b")
    assert model.endpoint == server and (model.provider, model.name) == (name, "some/model:7b")
    if not keys:
        asyncio.run(_start(model))
        return
    with pytest.raises(AuthenticationFailed) as refused:
        asyncio.run(_start(model))
    message = str(refused.value)
    assert message.startswith(f"{name}:some/model:7b: {server} needs a key: set the environment variable {keys[0]}")
    for variable in keys:
        with monkeypatch.context() as patch:
            patch.setenv(variable, KEY)
            asyncio.run(_start(open_model(f"{name}:m")))


async def _start(model: Model) -> None:
    await model.start()
    await model.close()


@EVERY
def test_every_preset_takes_its_address_and_key_from_variables_of_its_name(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        monkeypatch.setenv(f"{preset.name.upper()}_BASE_URL", server.url("plain"))
        monkeypatch.setenv(f"{preset.name.upper()}_API_KEY", KEY)
        for name in (*preset.keys, *preset.urls):  # which count second
            monkeypatch.setenv(name, "http://other")
        sent = headers_of(open_model(f"{preset.name}:m"), "", server, "plain")
    [header] = [name for name, value in sent.items() if KEY in value]
    assert not any("other" in value for value in sent.values())
    assert (header, sent[header]) == (
        ("api-key", KEY) if preset.name == "azure" else ("Authorization", f"Bearer {KEY}")
    )


@EVERY
def test_a_refused_key_is_said_with_the_preset_and_the_variable_that_held_it(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = Mode(answer({"error": {"message": "Invalid API key", "type": "authentication_error"}}, 401))
    with serving({"refuses": refuses}) as server:
        model = open_model(f"{preset.name}:m", Connection(server.url("refuses")))
        for variable in (None, *preset.key_variables):
            with monkeypatch.context() as patch, pytest.raises(AuthenticationFailed) as refused:
                if variable is not None:
                    patch.setenv(variable, KEY)
                asyncio.run(ask(model, Request("assistant", MESSAGES)))
            message = str(refused.value)
            assert message.startswith(f"{preset.name}:m: ") and KEY not in message
            assert message.endswith(f"check {variable}" if variable else f"set {' or '.join(preset.key_variables)}")


# Addresses as people have them


@pytest.mark.parametrize(
    ("spec", "variable", "value", "endpoint"),
    [
        ("azure:d", "AZURE_OPENAI_ENDPOINT", "https://acme.openai.azure.com", "https://acme.openai.azure.com/openai/v1"),
        ("azure:d", "AZURE_OPENAI_ENDPOINT", "https://acme.openai.azure.com/", "https://acme.openai.azure.com/openai/v1"),
        ("azure:d", "AZURE_OPENAI_ENDPOINT", "acme.openai.azure.com", "https://acme.openai.azure.com/openai/v1"),
        ("azure:d", "AZURE_BASE_URL", "https://a.services.ai.azure.com/openai/v1/", "https://a.services.ai.azure.com/openai/v1"),
        ("azure:d", "AZURE_OPENAI_ENDPOINT", "https://gw.azure-api.net/team", "https://gw.azure-api.net/team/openai/v1"),
        (
            "azure:d", "AZURE_OPENAI_ENDPOINT",
            "https://a.openai.azure.com/openai/deployments/d/chat/completions?api-version=2025-01-01-preview",
            "https://a.openai.azure.com/openai/v1",
        ),
        ("azure:d@https://a.openai.azure.com/openai/v1/responses", "AZURE_BASE_URL", "", "https://a.openai.azure.com/openai/v1"),
        ("ollama:m@http://h:1/v1/chat/completions", "OLLAMA_HOST", "", "http://h:1/v1"),
        ("ollama:m", "OLLAMA_HOST", "0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("ollama:m", "OLLAMA_HOST", "0.0.0.0:8080", "http://127.0.0.1:8080/v1"),
        ("ollama:m", "OLLAMA_HOST", "http://0.0.0.0:8080", "http://127.0.0.1:8080/v1"),
        ("ollama:m", "OLLAMA_HOST", "gpu-1", "http://gpu-1:11434/v1"),
        ("ollama:m", "OLLAMA_HOST", ":8080", "http://localhost:8080/v1"),
        ("ollama:m", "OLLAMA_HOST", "http://gpu-1:8080/", "http://gpu-1:8080/v1"),
        ("ollama:m", "OLLAMA_HOST", "https://box.example/ollama", "https://box.example/ollama/v1"),
        ("ollama:m", "OLLAMA_HOST", "[::]:8080", "http://[::1]:8080/v1"),
        ("ollama:m", "OLLAMA_BASE_URL", "http://gpu-1:11434", "http://gpu-1:11434/v1"),
        ("lmstudio:m", "LMSTUDIO_BASE_URL", "http://gpu-1:1234", "http://gpu-1:1234/v1"),
        ("vllm:m@http://gpu-1:8000", "VLLM_BASE_URL", "http://other:1/v1", "http://gpu-1:8000/v1"),
        ("openai:m@http://[::1]:8000/v1/", "OPENAI_BASE_URL", "http://other:1/v1", "http://[::1]:8000/v1"),
        ("anthropic:m@http://gpu-1:8000/v1", "ANTHROPIC_BASE_URL", "http://other:1", "http://gpu-1:8000"),
        ("groq:m", "GROQ_BASE_URL", "https://proxy.example/groq", "https://proxy.example/groq"),
        ("openai:m@https://h.example/v1?code=sk-1", "OPENAI_BASE_URL", "", "https://h.example/v1"),
    ],
)  # fmt: skip
def test_an_address_is_read_as_people_write_it(
    spec: str, variable: str, value: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert open_model(spec).endpoint == endpoint


@pytest.mark.parametrize(
    ("spec", "variable", "place", "path"),
    [
        ("azure:my-deployment", "AZURE_OPENAI_ENDPOINT", "http://127.0.0.1:{port}/plain/", "/plain/openai/v1"),
        ("azure:my-deployment", "AZURE_BASE_URL", "http://127.0.0.1:{port}/plain/openai/v1", "/plain/openai/v1"),
        ("ollama:qwen2.5:7b", "OLLAMA_HOST", "127.0.0.1:{port}", "/v1"),
        ("ollama:qwen2.5:7b", "OLLAMA_HOST", "http://0.0.0.0:{port}", "/v1"),
        (
            "gemini:models/gemini-2.5-flash",
            "GEMINI_BASE_URL",
            "http://127.0.0.1:{port}/plain/v1beta/openai/",
            "/plain/v1beta/openai",
        ),
    ],
)
def test_an_address_of_the_environment_is_asked(
    spec: str, variable: str, place: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({"v1": Mode(says())}) as server:
        monkeypatch.setenv(variable, place.format(port=server.port))
        [done] = asyncio.run(ask(open_model(spec), Request("assistant", MESSAGES)))
        [(asked, _)] = server.exchanges
    assert asked.target == f"{path}/chat/completions" and asked.payload["model"] == spec.partition(":")[2]
    assert done.finish == "stop"


def test_a_dated_version_is_left_out_of_an_address_and_the_rest_of_its_query_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as server:
        place = f"http://127.0.0.1:{server.port}/plain/openai/deployments/d/chat/completions"
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", f"{place}?api-version=2024-10-21&subscription=k-1")
        asyncio.run(ask(open_model("azure:d"), Request("assistant", MESSAGES)))
        [(asked, _)] = server.exchanges
    assert asked.target == "/plain/openai/v1/chat/completions?subscription=k-1"


def test_azure_has_no_address_of_its_own() -> None:
    with pytest.raises(UsageError, match="azure: has no address of its own: set AZURE_OPENAI_ENDPOINT"):
        open_model("azure:my-deployment")


@pytest.mark.parametrize(
    "url", ["http://joe:hush-hush@host/v1", "ftp://host/v1", "http:///v1", "http://", "http://[::1/v1",
     "http://a b/v1?k=hush-hush"]
)  # fmt: skip
def test_an_address_of_no_use_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(UsageError, match="the address after @") as refused:
        open_model(f"openai:m@{url}")
    assert "hush-hush" not in str(refused.value)


# In whose words


@EVERY
def test_every_setting_is_in_the_words_of_its_server(preset: Preset) -> None:
    """What is asked in a run passes a server that takes nothing but what its vendor documents."""
    question = Request("assistant", MESSAGES, stop=("Human:",))
    with serving({preset.name: strict(preset.name)}) as server:
        model = open_model(f"{preset.name}:{preset.model}", Connection(server.url(preset.name)))
        requests = [question]
        if model.can.logprobs:
            prefill = "The better reply is Reply" if model.can.prefill else ""
            requests.append(Request("judge", MESSAGES, prefill=prefill, top_logprobs=20, max_tokens=1))
        answers = asyncio.run(ask(model, *requests))
        sent = server.asked(preset.name)[0].payload
    assert sent["model"] == preset.model and sent["messages"] == list(MESSAGES)
    assert 512 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert (7 in (sent.get("seed"), sent.get("random_seed"))) == model.can.seed
    if model.can.logprobs:
        [token] = answers[1].logprobs or ()
        assert token == pytest.approx({"A": -0.1, "B": -2.4})
    else:
        with pytest.raises(UsageError, match=rf"{preset.name}:.* lists 0 logprobs"):
            model.payload(call(Request("judge", MESSAGES, top_logprobs=20)))


@EVERY
def test_a_preset_says_what_it_cannot_do_before_it_is_asked(preset: Preset) -> None:
    model = open_model(f"{preset.name}:m@http://127.0.0.1:1/v1")
    name = f"{preset.name}:m"
    if not model.can.completion:
        with pytest.raises(UsageError, match=f"{name} only chats"):
            model.payload(call(Request("assistant", (), text="Once upon")))
    if not model.can.prefill:
        with pytest.raises(UsageError, match=f"{name} does not continue a started reply"):
            model.payload(call(Request("judge", MESSAGES, prefill="The better")))
    with pytest.raises(UsageError, match=f"{name} cannot score"):
        model.payload(call(Request("judge", MESSAGES, score=("A",))))


@pytest.mark.parametrize(
    ("spec", "logprobs", "temperature", "stops"),
    [
        ("xai:grok-4", 0, 2.0, False),
        ("xai:grok-4-fast-non-reasoning", 8, 2.0, True),
        ("xai:grok-4.6", 0, 2.0, False),
        ("deepseek:deepseek-chat", 20, 2.0, True),
        ("deepseek:deepseek-reasoner", 0, None, True),
        ("deepseek:deepseek-v4-flash", 0, None, True),
        ("openrouter:openai/o3", 0, None, False),
        ("openrouter:openai/gpt-4.1", 20, 2.0, True),
        ("azure:o4-mini@http://h/v1", 0, None, False),
        ("azure:my-deployment@http://h/v1", 20, 2.0, True),
    ],
)
def test_models_that_think_are_not_sent_what_they_refuse_or_ignore(
    spec: str, logprobs: int, temperature: float | None, stops: bool
) -> None:
    model = open_model(spec)
    assert (model.can.logprobs, model.can.temperature) == (logprobs, temperature)
    stopped = call(Request("critic", MESSAGES, stop=("Human:",)))
    if stops:
        assert model.payload(stopped)["stop"] == ["Human:"]
    else:
        with pytest.raises(UsageError, match="takes no stop strings"):
            model.payload(stopped)
    assert ("temperature" in model.payload(call(Request("assistant", MESSAGES)))) == (temperature is not None)


def test_a_seed_of_the_extra_body_goes_by_the_name_that_the_server_has_for_it() -> None:
    asked = call(Request("assistant", MESSAGES), extra_body={"seed": 3})
    assert open_model("mistral:m").payload(asked)["random_seed"] == 3
    nothing = open_model("mistral:m").payload(call(Request("assistant", MESSAGES), extra_body={"seed": None}))
    assert not nothing.keys() & {"seed", "random_seed"}


def test_an_object_in_the_extra_body_is_merged_key_by_key() -> None:
    extra = {"provider": {"only": ["azure"], "sort": "price"}, "top_p": 0.9}
    question = call(Request("judge", MESSAGES, top_logprobs=5), extra_body=extra)
    payload = open_model("openrouter:openai/gpt-4.1").payload(question)
    assert payload["provider"] == {"require_parameters": True, "only": ["azure"], "sort": "price"}
    assert payload["top_p"] == 0.9


def test_a_router_is_told_to_send_conversations_whole() -> None:
    payload = open_model("openrouter:openai/gpt-4.1").payload(call(Request("assistant", MESSAGES)))
    assert payload["plugins"] == [{"id": "context-compression", "enabled": False}]


def test_the_key_of_a_call_is_that_of_its_preset_and_has_no_address() -> None:
    asked = call(Request("assistant", MESSAGES))
    payloads = [open_model(f"vllm:m{place}").payload(asked) for place in ("", "@http://a/v1", "@http://b:9/v1?k=1")]
    assert payloads[0] == payloads[1] == payloads[2]


# Prices


@pytest.mark.parametrize(
    "spec",
    [
        "openrouter:openai/gpt-4.1",
        "together:meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "groq:llama-3.3-70b-versatile",
        "fireworks:accounts/fireworks/models/deepseek-v3p2",
        "deepseek:deepseek-chat",
        "mistral:mistral-small-latest",
        "gemini:gemini-2.5-flash",
        "gemini:models/gemini-2.5-flash",
        "xai:grok-4",
        "huggingface:Qwen/Qwen3-32B:groq",
        "azure:gpt-4.1-mini@https://acme.openai.azure.com/openai/v1",
        "openai:gpt-4.1-mini",
        "anthropic:claude-haiku-4-5",
    ],
)
def test_the_tables_have_a_price_for_what_a_preset_asks(spec: str) -> None:
    price = known_price(open_model(spec))
    assert price is not None and price.input > 0 and price.output > 0


@pytest.mark.parametrize(
    "spec",
    [
        "groq:llama-3.3-70b-versatile@http://h/v1",
        "ollama:gpt-oss:120b-cloud",
        "ollama:m@https://ollama.com/v1",
        "openai:m@http://localhost:8000/v1",
        "azure:d@http://h/v1",
        "huggingface:Qwen/Qwen3-32B",
    ],
)
def test_a_price_is_not_known_elsewhere(spec: str) -> None:
    assert known_price(open_model(spec)) is None


@pytest.mark.parametrize("spec", ["ollama:qwen2.5:7b", "lmstudio:m", "vllm:m@http://gpu-1:8000/v1", "sglang:m"])
def test_tokens_of_your_own_server_cost_nothing_beside_those_of_a_vendor(spec: str) -> None:
    """A cap on what the vendor's cost holds; a price that is stated counts for all."""
    models = open_models({"assistant": "groq:llama-3.3-70b-versatile", "judge": spec}, Connection())
    prices = prices_of(models, None, max_cost=5.0)
    assert prices["judge"] == FREE and prices["assistant"] not in (None, FREE)
    assert prices_of(models, "1,2", None)["judge"] == parse_price("1,2")


# Several servers


@pytest.mark.parametrize(
    ("specs", "connection"),
    [
        (["openai:a@http://h:1/v1", "openai:b@http://h:2/v1"], Connection(headers={"x-key": KEY})),
        (["openai:a@http://h:1/v1", "openai:b"], Connection(headers={"x-key": KEY})),
        (["openai:a", "groq:b"], Connection(headers={"x-key": KEY})),
        (["openai:a", "groq:b"], Connection(base_url="http://h:1/v1")),
        (["openai:a", "anthropic:b"], Connection(base_url="http://h:1/v1")),
        (["openai:a@http://h:1/v1"], Connection(base_url="http://h:2/v1")),
        (["openai:a@http://h:1/v1", "local"], Connection(base_url="http://h:2/v1")),
        (["openai:a@http://h:1/v1", "openai:b", "groq:c"], Connection(base_url="http://h:2/v1")),
        (["vllm:a@http://gpu-1:8000/v1", "vllm:b@http://gpu.1:8000/v1"], Connection()),
    ],
)
def test_no_key_can_go_to_a_server_that_it_is_not_for(specs: list[str], connection: Connection) -> None:
    with pytest.raises(UsageError, match=r"alike|leave out one"):
        open_models(dict(zip("abc", specs, strict=False)), connection)


def test_a_base_url_is_that_of_the_models_without_an_address_of_their_own() -> None:
    specs = {"assistant": "openai:a", "critic": "openai:c@http://h:1/v1", "judge": "groq:j@http://h:3/v1"}
    opened = open_models(specs, Connection(base_url="http://h:2/v1"))
    hosts = {player: URL(model.endpoint).port for player, model in opened.items()}
    assert hosts == {"assistant": 2, "critic": 1, "judge": 3}


def test_a_header_may_go_to_several_models_of_one_host() -> None:
    specs = {"a": "openai:a@http://h:1/x/v1", "b": "openai:b@http://h:1/y/v1"}
    assert len(open_models(specs, Connection(headers={"x-key": KEY}))) == 2


def test_every_preset_is_a_provider() -> None:
    assert {*PRESETS} <= {*PROVIDERS} and {*SERVERS} | {"azure"} == {*PRESETS}


def test_a_router_whose_providers_list_no_logprobs_says_how_to_judge() -> None:
    message = "No endpoints found that can handle the requested parameters. To learn more, visit: https://x.example"
    none = Mode(answer({"error": {"message": message, "code": 404}}, 404))
    with serving({"none": none}) as server:
        model = open_model("openrouter:anthropic/claude-sonnet-4.5", Connection(server.url("none")))
        with pytest.raises(FieldRefused, match="ask a judge with --protocol vote"):
            asyncio.run(ask(model, Request("judge", MESSAGES, top_logprobs=20, max_tokens=1)))
        with pytest.raises(UnknownModel):
            asyncio.run(ask(model, Request("assistant", MESSAGES)))


def test_what_goes_wrong_at_a_preset_is_said_by_its_name() -> None:
    gone = Mode(answer({"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, 404))
    with serving({"gone": gone}) as server, pytest.raises(ModelError, match="groq:m: no model 'm'"):
        asyncio.run(ask(open_model("groq:m", Connection(server.url("gone"))), Request("assistant", MESSAGES)))
