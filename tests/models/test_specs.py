"""Names of models as people know them: each is opened, or its refusal says what to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.chat import find_spec
from cai.errors import UsageError
from cai.models import PROVIDERS, open_model
from cai.models.remote.presets import PRESETS
from cai.models.specs import has_address, not_a_spec, parts_of, without_address

USUAL = {
    # as their makers' documentation has them
    "gpt-4.1": "openai:gpt-4.1",
    "GPT-4o": "openai:gpt-4o",
    "gpt-5.2-mini": "openai:gpt-5.2-mini",
    "o3": "openai:o3",
    "o4-mini-2025-04-16": "openai:o4-mini-2025-04-16",
    "chatgpt-4o-latest": "openai:chatgpt-4o-latest",
    "ft:gpt-4o-mini-2024-07-18:acme::9x": "openai:ft:gpt-4o-mini-2024-07-18:acme::9x",
    "claude-sonnet-4-5": "anthropic:claude-sonnet-4-5",
    "claude-3-5-haiku-latest": "anthropic:claude-3-5-haiku-latest",
    "gemini-2.5-flash": "gemini:gemini-2.5-flash",
    "models/gemini-2.5-pro": "gemini:models/gemini-2.5-pro",
    "grok-4": "xai:grok-4",
    "mistral-small-latest": "mistral:mistral-small-latest",
    "open-mistral-nemo": "mistral:open-mistral-nemo",
    "ministral-8b-latest": "mistral:ministral-8b-latest",
    "codestral-latest": "mistral:codestral-latest",
    "deepseek-chat": "deepseek:deepseek-chat",
    "deepseek-v4-flash": "deepseek:deepseek-v4-flash",
    "llama-3.3-70b-versatile": "groq:llama-3.3-70b-versatile",
    "accounts/fireworks/models/deepseek-v3p2": "fireworks:accounts/fireworks/models/deepseek-v3p2",
    # as Ollama has them
    "llama3.1": "ollama:llama3.1",
    "llama3.1:8b": "ollama:llama3.1:8b",
    "qwen2.5:7b": "ollama:qwen2.5:7b",
    "qwen2.5-coder:1.5b-instruct-q8_0": "ollama:qwen2.5-coder:1.5b-instruct-q8_0",
    "gemma3:4b": "ollama:gemma3:4b",
    "deepseek-r1:8b": "ollama:deepseek-r1:8b",
    "mistral:7b": "ollama:mistral:7b",
    "mistral:latest": "ollama:mistral:latest",
    "mixtral:8x7b": "ollama:mixtral:8x7b",
    "gpt-oss-120b": "ollama:gpt-oss:120b",
    "phi4": "ollama:phi4",
    # as the hub has them
    "Qwen/Qwen3-8B": "hf:Qwen/Qwen3-8B (loaded here) or vllm:Qwen/Qwen3-8B",
    "meta-llama/Llama-3.1-8B-Instruct": "hf:meta-llama/Llama-3.1-8B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3": "hf:mistralai/Mistral-7B-Instruct-v0.3",
    "openai/gpt-oss-120b": "hf:openai/gpt-oss-120b",
    "google/gemma-3-27b-it": "hf:google/gemma-3-27b-it",
    "Qwen3-8B": "hf:Qwen/Qwen3-8B",
    "Llama-3.1-8B-Instruct": "hf:meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-32B:groq": "huggingface:Qwen/Qwen3-32B:groq",
    "smollm2": "local",
    "qwen2.5-coder-1.5b": "local:qwen2.5-coder-1.5b",
    "SmolLM2-135M": "local:smollm2-135m",
    # as routers and other tools have them
    "openai/gpt-4.1": "openai:gpt-4.1",
    "openai/gpt-4.1:free": "openrouter:openai/gpt-4.1:free",
    "anthropic/claude-sonnet-4.5": "anthropic:claude-sonnet-4.5",
    "x-ai/grok-4": "xai:grok-4",
    "google/gemini-2.5-flash": "gemini:gemini-2.5-flash",
    "openrouter/openai/gpt-4.1": "openrouter:openai/gpt-4.1",
    "together_ai/meta-llama/Llama-3.3-70B": "together:meta-llama/Llama-3.3-70B",
    "fireworks_ai/accounts/a/models/m": "fireworks:accounts/a/models/m",
    "azure/my-deployment": "azure:my-deployment",
    "ollama_chat/qwen3:8b": "ollama:qwen3:8b",
    "google:gemini-2.5-pro": "gemini:gemini-2.5-pro",
    "lm_studio:phi-4": "lmstudio:phi-4",
    "OpenAI:gpt-4.1": "openai:gpt-4.1",
    "opneai:gpt-4.1": "openai:gpt-4.1",
    " openai:gpt-4.1": "openai:gpt-4.1",
    "HF:Qwen/Qwen3-8B": "hf:Qwen/Qwen3-8B",
    # files
    "./models/dpo": "hf:./models/dpo",
    "~/models/tiny.gguf": "local:~/models/tiny.gguf",
    "C:\\models\\tiny.gguf": "local:C:\\models\\tiny.gguf",
    "answers.jsonl": "recorded:answers.jsonl",
    # addresses
    "https://huggingface.co/Qwen/Qwen3-8B/tree/main": "hf:Qwen/Qwen3-8B",
    "http://localhost:8000/v1": "openai:NAME@http://host:8000/v1",
    "gpt-4.1@https://gateway.example/v1?key=sk-secret-1": "openai:gpt-4.1@http://…",
    "openai:tiny@localhost:8000/v1": "openai:tiny@http://localhost:8000/v1",
    "vllm:tiny@gpu-1:8000": "vllm:tiny@http://gpu-1:8000",
    "openai:tiny@[::1]:8000/v1": "openai:tiny@http://[::1]:8000/v1",
    "openai:tiny@URL": "openai:tiny@http://host:8000/v1",
}


def refusal(spec: str) -> str:
    with pytest.raises(UsageError) as refused:
        open_model(spec)
    message = str(refused.value)
    assert "\n" not in message and "sk-secret-1" not in message
    return message


@pytest.mark.parametrize(("typed", "meant"), USUAL.items())
def test_a_usual_name_is_refused_with_what_to_type(typed: str, meant: str) -> None:
    assert meant in refusal(typed)


def test_what_is_to_be_typed_names_a_provider_that_is_known() -> None:
    assert {meant.partition(":")[0] for meant in USUAL.values()} <= {*PROVIDERS}


@pytest.mark.parametrize("name", ["sonnet", "bedrock:anthropic.claude-3", "qwen-max", "my model", ""])
def test_a_name_that_is_like_nothing_is_refused_with_all_providers(name: str) -> None:
    assert all(f" {provider}" in refusal(name) for provider in PROVIDERS)


@given(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(["~nobody/m", "a" * 5000, "m\0", "\n", ":", "@", "/", "x" * 300 + ".gguf"]),
    )
)
def test_whatever_is_typed_is_refused_in_one_line(typed: str) -> None:
    error = not_a_spec(typed, PROVIDERS)
    assert str(error) and "\n" not in str(error)


def test_a_chat_and_an_evaluation_say_what_to_type_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gpt-4.1", "llama3.1", "Qwen/Qwen3-8B"):
        with pytest.raises(UsageError, match=re.escape(f"did you mean {USUAL[name]}")):
            find_spec(name)


NAMES = st.text("abcXYZ0189/:@._-", min_size=1, max_size=40).filter(lambda name: "@://" not in name and name.strip("/"))
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    st.sampled_from(["localhost", "gpu-1", "10.0.0.7", "[::1]", "api.example.com"]),
    st.sampled_from(["", ":8000", ":443"]),
    st.sampled_from(["", "/", "/v1", "/v1/", "/a/b@2/v1", "/v1?key=k@1&x=y"]),
)


@given(st.sampled_from([*PRESETS, "openai", "anthropic"]), NAMES, URLS)
def test_a_spec_is_its_provider_its_name_and_its_address(provider: str, name: str, url: str) -> None:
    assert parts_of(f"{provider}:{name}@{url}") == (provider, name, url)
    assert parts_of(f"{provider}:{name}") == (provider, name, None)
    kept = without_address(f"{provider}:{name}@{url}")
    assert kept == f"{provider}:{name}@URL" and not has_address(kept)


@pytest.mark.parametrize(
    "spec",
    [
        "ollama:qwen2.5:7b",
        "ollama:hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "openrouter:openai/gpt-4.1:free",
        "together:meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "fireworks:accounts/fireworks/models/llama#accounts/acme/deployments/d1",
        "openai:@cf/meta/llama-3.1-8b-instruct",
        "anthropic:claude-3-5-sonnet@20240620",
        "huggingface:Qwen/Qwen3-32B:groq",
        "vllm:org/my-model",
        "mistral:ft:open-mistral-7b:587a6b29:20240514:7e773925",
    ],
)
def test_a_name_may_hold_slashes_colons_and_at_signs(spec: str) -> None:
    model = open_model(spec)
    assert f"{model.provider}:{model.name}" == spec


@pytest.mark.parametrize("name", ["local", "local:m", "hf:org/name", "recorded:a"])
def test_a_model_that_is_opened_here_takes_no_address(name: str) -> None:
    assert refusal(f"{name}@http://h/v1").startswith(f"{name} runs in this process and takes no @URL: leave it out")


BROKEN = {
    "with one slash": "openai:m@http:/127.0.0.1:8000/v1?key=sk-hidden",
    "without slashes": "vllm:m@http:127.0.0.1:8000/v1?key=sk-hidden",
    "without a colon": "openai:m@https//host/v1?key=sk-hidden",
    "without its scheme": "openrouter:m@//host:8000/v1?key=sk-hidden",
    "in place of the name": "openai:http://host:8000/v1?key=sk-hidden",
    "of a host alone": "anthropic:m@host:8000/v1?key=sk-hidden",
    "of a number": "openai:m@10.0.0.7",
    "of a host after a space": "openai:m @ host:8000/v1?key=sk-hidden",
    "after a space": "openai:m@ http://host:8000/v1?key=sk-hidden",
    "between spaces": "vllm:org/m @ http://host:8000/v1?key=sk-hidden",
    "behind a space": "openai:m @http://host:8000/v1?key=sk-hidden",
    "twice": "openai:m@http://host:8000/v1@http://other:8000/v1?key=sk-hidden",
}


@pytest.mark.parametrize("spec", BROKEN.values(), ids=BROKEN)
def test_a_broken_address_is_no_part_of_a_name_and_its_key_is_not_shown(spec: str) -> None:
    words = refusal(spec)
    assert "sk-hidden" not in words
    assert "@http://" in words or "@URL" in words or "two addresses" in words


@pytest.mark.parametrize("spec", ["openai:gpt-4.1 ", "anthropic: claude-haiku-4-5", "vllm:Qwen/Qwen3-8B\n"])
def test_a_space_beside_a_name_is_refused_with_the_name_alone(spec: str) -> None:
    provider, _, name = spec.partition(":")
    assert f"did you mean {provider}:{name.strip()}?" in refusal(spec)
