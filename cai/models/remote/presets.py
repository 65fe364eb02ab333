"""Servers by the names of their vendors: where each is, whose key it takes, and what of OpenAI's protocol it changes.

An entry is all that a preset takes; `source` says where its facts are documented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.records import Values

TOP = 20  # alternatives per token that OpenAI lists, and most who imitate it


def alternatives(count: int) -> Values:
    """How a chat is asked for the most likely tokens."""
    return {"logprobs": True, "top_logprobs": count}


def _counted(count: int) -> Values:
    return {"logprobs": count}


# Small models would be asked conversations whose middle the router has left out.
# https://openrouter.ai/docs/guides/features/message-transforms
WHOLE = {"id": "context-compression", "enabled": False}


def _from_those_who_list(count: int) -> Values:
    """A router leaves out what the server behind it does not know, unless it is told to choose another."""
    return {**alternatives(count), "provider": {"require_parameters": True}}


@dataclass(frozen=True, slots=True)
class Habits:
    """What a server makes of `/chat/completions`; the defaults are those of most.

    max_tokens, seed: what it calls them; "" for a seed that it refuses or ignores.
    logprobs: alternatives per token that it lists; 0: none. listing: the fields that ask for them.
    completion: continues raw text. prefill: continues a started reply (`continue_final_message`).
    openai: a name without a vendor is one of OpenAI's. thinks: a pattern of names that reason before they answer, and
    so list no alternatives; refuses: what else these refuse or ignore. fields: what every chat is sent besides.
    """

    max_tokens: str = "max_tokens"
    seed: str = "seed"
    logprobs: int = TOP
    listing: Callable[[int], Values] = alternatives
    completion: bool = True
    prefill: bool = False
    openai: bool = False
    thinks: str = ""
    refuses: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


OPENAI = Habits(max_tokens="max_completion_tokens", openai=True)
VLLM = Habits(prefill=True)  # and of those who speak OpenAI's protocol at an address of their own


@dataclass(frozen=True, slots=True)
class Preset:
    """A server that specs name.

    url: its base URL; "" if each customer has one. source: the page that documents it. model: a name for examples.
    keys, urls: further variables of the environment that may hold the key and the address; NAME_API_KEY and
    NAME_BASE_URL count first.
    hosts: ends of the names of the vendor's further hosts. needs_key: whether these refuse a call without a key.
    tail: the path that is added to an address that does not end with a version, as those that people copy often do not.
    prices: what tables of prices call it; "" if they find it by its address.
    elsewhere: habits of other servers that are reached as this one; None: the same.
    is_started: if no address is said, a server is started for the model.
    """

    name: str
    url: str
    source: str
    model: str
    keys: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    needs_key: bool = True
    key_header: str = "Authorization"
    key_scheme: str = "Bearer "
    tail: str = ""
    prices: str = ""
    concurrency: int = 64
    habits: Habits = Habits()
    elsewhere: Habits | None = None
    is_started: bool = False

    @property
    def key_variables(self) -> tuple[str, ...]:
        return (f"{self.name.upper()}_API_KEY", *self.keys)

    @property
    def url_variables(self) -> tuple[str, ...]:
        return (f"{self.name.upper()}_BASE_URL", *self.urls)


_local = partial(Preset, needs_key=False, tail="/v1")  # a server that people run themselves
_AZURE_HOSTS = (
    ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".openai.azure.us",
    ".openai.azure.cn",
)  # fmt: skip
# OpenAI's and Anthropic's own protocols; other servers speak them, too, at another base URL.
NATIVE = {
    "openai": Preset(
        "openai",
        "https://api.openai.com/v1",
        "https://platform.openai.com/docs/api-reference/chat/create",
        "gpt-4.1-mini",
        hosts=(".api.openai.com", *_AZURE_HOSTS),
        habits=OPENAI,
        elsewhere=VLLM,
    ),
    "anthropic": Preset(
        "anthropic",
        "https://api.anthropic.com",
        "https://docs.claude.com/en/api/messages",
        "claude-haiku-4-5",
        key_header="x-api-key",
        key_scheme="",
    ),
}
_ALL = (
    Preset(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "https://openrouter.ai/docs/api-reference/parameters",
        "openai/gpt-4.1",
        prices="openrouter",
        habits=Habits(listing=_from_those_who_list, fields={"plugins": [WHOLE]}),
    ),
    Preset(
        "together",
        "https://api.together.ai/v1",
        "https://docs.together.ai/docs/inference/openai-compatibility",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        hosts=(".together.xyz",),
        prices="together",
        habits=Habits(listing=_counted),
    ),
    Preset(
        "groq",
        "https://api.groq.com/openai/v1",
        "https://console.groq.com/docs/openai",
        "llama-3.3-70b-versatile",
        prices="groq",
        habits=Habits(max_tokens="max_completion_tokens", logprobs=0, completion=False),
    ),
    Preset(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "https://docs.fireworks.ai/api-reference/post-chatcompletions",
        "accounts/fireworks/models/gpt-oss-120b",
        prices="fireworks",
        habits=Habits(logprobs=5),
    ),
    Preset(
        "deepseek",
        "https://api.deepseek.com",
        "https://api-docs.deepseek.com/guides/thinking_mode",
        "deepseek-chat",
        prices="deepseek",
        # All but the alias of the mode without thoughts think unless they are told not to, and ignore the temperature.
        habits=Habits(seed="", completion=False, thinks=r"(?!deepseek-chat$)", refuses=("temperature",)),
    ),
    Preset(
        "mistral",
        "https://api.mistral.ai/v1",
        "https://docs.mistral.ai/api/endpoint/chat",
        "mistral-small-latest",
        prices="mistral",
        habits=Habits(seed="random_seed", logprobs=0, completion=False),
    ),
    Preset(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://ai.google.dev/gemini-api/docs/openai",
        "gemini-2.5-flash",
        keys=("GOOGLE_API_KEY",),
        prices="google",
        habits=Habits(seed="", logprobs=0, completion=False),  # a field it does not know is refused
    ),
    Preset(
        "xai",
        "https://api.x.ai/v1",
        "https://docs.x.ai/developers/model-capabilities/text/reasoning",
        "grok-4-fast-non-reasoning",
        prices="x-ai",
        habits=Habits(
            max_tokens="max_completion_tokens",
            logprobs=8,
            completion=False,
            thinks=r"(?!.*non-reasoning|grok-2)",
            refuses=("stop",),
        ),
    ),
    Preset(
        "huggingface",
        "https://router.huggingface.co/v1",
        "https://huggingface.co/docs/inference-providers/tasks/chat-completion",
        "Qwen/Qwen3-32B:groq",
        keys=("HF_TOKEN",),
        prices="huggingface",
        habits=Habits(completion=False),
    ),
    Preset(
        "azure",
        "",
        "https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle",
        "my-deployment",
        keys=("AZURE_OPENAI_API_KEY",),
        urls=("AZURE_OPENAI_ENDPOINT",),
        hosts=(*_AZURE_HOSTS, ".azure-api.net"),
        key_header="api-key",
        key_scheme="",
        tail="/openai/v1",
        prices="azure",
        habits=OPENAI,
    ),
    _local(
        "ollama",
        "http://localhost:11434/v1",
        "https://docs.ollama.com/api/openai-compatibility",
        "qwen2.5:7b",
        urls=("OLLAMA_HOST",),
        concurrency=4,
    ),
    _local(
        "lmstudio",
        "http://localhost:1234/v1",
        "https://lmstudio.ai/docs/developer/openai-compat/chat-completions",
        "qwen2.5-7b-instruct",
        concurrency=4,
        habits=Habits(logprobs=0),  # `logprobs` of an answer is null
    ),
    _local(
        "vllm",
        "http://localhost:8000/v1",
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server",
        "Qwen/Qwen3-8B",
        habits=VLLM,
        is_started=True,
    ),
    _local(
        "sglang",
        "http://localhost:30000/v1",
        "https://docs.sglang.ai/basic_usage/openai_api_completions.html",
        "Qwen/Qwen3-8B",
        habits=VLLM,
        is_started=True,
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}
