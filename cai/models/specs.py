"""Model specs as people type them: their parts, and what was probably meant by one that names no provider."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cai.errors import UsageError
from cai.texts.wording import close_to, printable
from cai.weights.named import NAMED

ADDRESS = re.compile(r"@(?=[a-z][a-z0-9+.-]*://)", re.IGNORECASE)  # before the address in NAME@http://host/v1
# What is left of an address in a name that ADDRESS does not see, as in m@http:/host or openai:http://host.
BROKEN = re.compile(r"\s*@\s*(?:https?(?![\w-])|//)|https?:/", re.IGNORECASE)
# An address without its http://: a port or an API's version is behind the host, as not behind a revision or a date.
BARE = re.compile(
    r"\s*@\s*(?:URL|localhost|\d{1,3}(?:\.\d{1,3}){3}|\[[\da-f:.]+\]|[\w-]+(?:\.[\w-]+)*(?=:\d+(?:/|$)|/v\d))"
    r"(?::\d+)?(?:/\S*)?$",
    re.IGNORECASE,
)
HIDDEN = "URL"  # stands for an address, which may hold a key, wherever a spec is written down
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Other names of providers, in small letters without signs.
OTHER_NAMES = {
    "azureai": "azure", "azureopenai": "azure", "claude": "anthropic", "fireworksai": "fireworks", "google": "gemini",
    "googleai": "gemini", "googleaistudio": "gemini", "googlegenai": "gemini", "googlegla": "gemini", "gpt": "openai",
    "chatgpt": "openai", "grok": "xai", "huggingfacehub": "hf", "hostedvllm": "vllm", "lms": "lmstudio",
    "mistralai": "mistral", "oai": "openai", "ollamachat": "ollama", "openaichat": "openai", "gguf": "local",
    "openailike": "openai", "openaicompatible": "openai", "togetherai": "together", "transformers": "hf",
    "llamacpp": "local",
}  # fmt: skip
# How the names of models begin, and who serves models of that name.
MAKERS = {
    "groq": r"[\w.-]+-(versatile|instant)$",
    "openai": r"(ft:)?(gpt-?\d|o\d+(-|$)|chatgpt|davinci|babbage|codex)",
    "anthropic": r"claude",
    "gemini": r"(models/)?gemini",
    "xai": r"grok",
    "mistral": r"(open-)?mi[sx]tral-(?!\d+x?\d*b)|(mini|magi|code|dev|pix)stral-(?!small-\d+b)|open-codestral",
    "deepseek": r"deepseek-(chat|reasoner|flash|pro|v\d[\w.]*-(flash|pro))",
    "fireworks": r"accounts/",
    "local": r"smollm2?(-135m(-instruct)?)?$",
}
ROUTERS = (
    "openrouter",
    "together",
    "groq",
    "fireworks",
    "huggingface",
)  # where others' models have their makers' names
OWN = ("azure", "ollama", "lmstudio", "vllm", "sglang", "hf", "local")  # where any name may be that of a model
# Names as Ollama has them, with the size behind a colon or not at all; and as their makers have them on the hub.
OPEN = re.compile(
    r"(code)?(llama|qwen(?!-(max|plus|turbo))|qwq|gemma|phi|mistral|mixtral|deepseek|smollm|granite|command-r|gpt-oss|glm"
    r"|olmo|falcon|nemotron|starcoder|tinyllama|hermes|dolphin|exaone|cogito)[\w.-]*$",
    re.IGNORECASE,
)
TAG = re.compile(r"(latest|instruct|chat|text|cloud|\d+(\.\d+)?[bm]|\d+x\d+b)(-[\w.-]+)?$", re.IGNORECASE)
SIZE = re.compile(r"-(?=\d+(\.\d+)?b$)")
SIZED = re.compile(r"[A-Z].*\d(\.\d+)?[BM](-|$)")
ORGANISATIONS = {
    "qwen": "Qwen", "llama": "meta-llama", "meta": "meta-llama", "mistral": "mistralai", "mixtral": "mistralai",
    "phi": "microsoft", "gemma": "google", "smollm": "HuggingFaceTB", "deepseek": "deepseek-ai",
}  # fmt: skip
HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?$")
HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", re.IGNORECASE)
PATH = re.compile(r"[./~]|[A-Za-z]:[\\/]")
KEPT = {".gguf": "local", ".jsonl": "recorded", ".gz": "recorded", ".sqlite": "recorded"}  # files that are models


def parts_of(spec: str) -> tuple[str, str, str | None]:
    """The provider, the name and the address of `PROVIDER:NAME@URL`; None without an address."""
    found = ADDRESS.search(spec)
    named = spec if found is None else spec[: found.start()]
    provider, _, name = named.partition(":")
    return provider, name, None if found is None else spec[found.end() :]


def has_address(spec: str) -> bool:
    """Whether a spec says where its model is asked."""
    return ADDRESS.search(spec) is not None


def without_address(spec: str) -> str:
    """A spec as it is kept in files: its address may hold a key, and a dataset is no place for it."""
    found = ADDRESS.search(spec)
    return spec if found is None else f"{spec[: found.start()]}@{HIDDEN}"


def check_address(spec: str) -> None:
    """UsageError for a spec whose address is broken or lacks its beginning, or is left out as in what a run keeps.

    Taken for a part of the name, it would be sent to another server, and kept, with the key that it may hold.
    """
    provider, name, url = parts_of(spec)
    if BROKEN.search(name):
        name = BROKEN.split(name)[0].strip() or "NAME"
        raise UsageError(f"{provider}:{name}: its address cannot be read: write {provider}:{name}@http://host:8000/v1")
    if url is not None and ADDRESS.search(url):
        raise UsageError(f"{provider}:{name} has two addresses: leave out one")
    found = BARE.search(name)
    if found is not None and url is None:
        _refuse_bare(f"{provider}:{name[: found.start()].strip()}", found[0].strip().removeprefix("@").strip())
    if name != name.strip():
        meant = f"{provider}:{name.strip()}" + (f"@{HIDDEN}" if url is not None else "")
        raise UsageError(f"there is a space beside the name of a model: did you mean {meant}?")


def _refuse_bare(name: str, address: str) -> NoReturn:
    if address == HIDDEN:
        raise UsageError(
            f"{name}@{HIDDEN}: files of runs keep no address; write the server's: {name}@http://host:8000/v1"
        )
    place = address.partition("?")[0]
    raise UsageError(f"{name}@{place}: write the address with its beginning, as in {name}@http://{place}")


def not_a_spec(spec: str, providers: Collection[str]) -> UsageError:
    """What to say of a spec whose provider is not known: what was probably meant, else what there is."""
    shown = without_address(spec)
    page = HUB_PAGE.match(spec)
    if page is not None:
        return UsageError(f"a model of the hub is named without the address of its page: did you mean hf:{page[1]}?")
    if SCHEME.match(spec):
        return UsageError("a model is named before its address: write openai:NAME@http://host:8000/v1")
    meant = meaning_of(shown.removesuffix(f"@{HIDDEN}"), providers, at_address=shown != spec)
    advice = f"write PROVIDER:NAME, with one of {', '.join(providers)}"
    if meant is not None:
        advice = f"did you mean {printable(meant)}?"
    provider, colon, _ = shown.partition(":")
    if colon and "/" not in provider:
        return UsageError(f"unknown model provider {provider!r} in {shown!r}; {advice}")
    return UsageError(f"no model {shown!r}: a spec begins with its provider; {advice}")


def meaning_of(spec: str, providers: Collection[str], *, at_address: bool = False) -> str | None:
    """The spec that was probably meant by one without a known provider; None if nothing is like it."""
    text = spec.strip()
    if at_address and ":" not in text:
        return f"openai:{text}@http://…"
    if text != spec and text.partition(":")[0] in providers:
        return text
    return _of_path(text) or _of_provider(text, providers) or _of_name(text) or _of_typo(text, providers)


def _of_path(text: str) -> str | None:
    """For a file or a folder: which provider opens it."""
    path = Path(text)
    if path.suffix in KEPT:
        return f"{KEPT[path.suffix]}:{text}"
    with suppress(OSError, ValueError, RuntimeError):  # longer than a name may be, with a null, of an unknown user
        path = path.expanduser()
        if text and (path / "calls.sqlite").exists():
            return f"recorded:{text}"
        if text and (path / "openvino_model.xml").exists():
            return f"local:{text}"
        if text and path.exists():
            return f"hf:{text}"
    return f"hf:{text}" if PATH.match(text) else None


def _of_provider(text: str, providers: Collection[str]) -> str | None:
    """For a provider under another name, in other letters, or before a slash as LiteLLM has it."""
    known = {_letters(name): name for name in providers}
    for sign in ":/":
        head, found, tail = text.partition(sign)
        provider = known.get(_letters(head)) or OTHER_NAMES.get(_letters(head))
        if not found or provider is None:
            continue
        if provider == "openai" and ":" in tail and sign == "/":  # a variant of OpenRouter's
            return f"openrouter:{text}"
        own = re.match(MAKERS.get(provider, r"(?!)"), tail, re.IGNORECASE)
        if sign == ":" or own or provider in (*ROUTERS, *OWN):
            return f"{provider}:{tail}" if tail else f"{provider}:NAME"
    return None


def _of_name(text: str) -> str | None:
    """For the name of a model alone: who serves models of that name."""
    name, colon, tag = text.partition(":")
    if text.lower() in NAMED:
        return f"local:{text.lower()}"
    if colon and "/" in name:
        return f"{'openrouter' if tag in ('free', 'nitro', 'floor', 'online') else 'huggingface'}:{text}"
    for provider, names in MAKERS.items():
        if re.match(names, text, re.IGNORECASE):
            return provider if provider == "local" else f"{provider}:{text.lower()}"
    if SIZED.match(text) and not colon and "/" not in text:
        maker = next((ORGANISATIONS[each] for each in ORGANISATIONS if text.lower().startswith(each)), "ORGANISATION")
        text = f"{maker}/{text}"
    if OPEN.match(name) and (TAG.match(tag) or not colon) and "/" not in text:
        return f"ollama:{SIZE.sub(':', text)}"
    return f"hf:{text} (loaded here) or vllm:{text} (from a server)" if HUB.match(text) else None


def _of_typo(text: str, providers: Collection[str]) -> str | None:
    head, _, tail = text.partition(":")
    close = close_to(head, providers)
    if close is None or close == "local":
        return close
    return f"{close}:{tail or 'NAME'}"


def is_ollamas(provider: str, name: str) -> bool:
    """Whether `mistral:7b` and the like are names of Ollama's, whose beginning is a provider here."""
    return OPEN.match(provider) is not None and TAG.match(name) is not None


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
