"""The settings that every run has, their ranges and what must agree with what; models and prices opened from them.

Asks nothing of any model and writes nothing. What one kind of run adds is in `generating`, `sampling` and `labelling`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import orjson

from cai.calls.model import Connection, Model
from cai.calls.prices import FREE, Price, known_price, parse_price
from cai.engine.templates import Templates
from cai.errors import UsageError
from cai.folder.files import identity_hash
from cai.models import open_model, provider_of

Prompts = str | Path | Iterable[Any] | None
WHOLE = 2**63 - 1  # what JSON writers and SQLite take for a whole number
TINY = 5e-324  # the smallest float above 0
Ranges = tuple[tuple[str, float, float, str], ...]
RANGES: Ranges = (  # an int as least value: whole numbers alone
    ("temperature", 0.0, 2.0, "a number from 0 to 2"),
    ("max_tokens", 1, WHOLE, "a whole number of at least 1"),
    ("limit", 1, WHOLE, "a whole number of at least 1"),
    ("concurrency", 1, 100_000, "a whole number from 1 to 100000"),
    ("rpm", 1, WHOLE, "a whole number of at least 1"),
    ("tpm", 1, WHOLE, "a whole number of at least 1"),
    ("seed", 0, WHOLE, "a whole number from 0 to 2**63 - 1"),
    ("max_cost", 0.0, 1e308, "a number of at least 0"),
    ("timeout", TINY, 1e9, "a number of seconds above 0"),
)
Kinds = Mapping[str, tuple[Any, str]]
KINDS: Kinds = {
    **dict.fromkeys(("price", "base_url"), (str | None, "text")),
    **dict.fromkeys(("templates", "out"), (str | Path | None, "text or a path")),
    **dict.fromkeys(("extra_body", "headers"), (Mapping, "a dict")),
    "force": (bool, "True or False"),
}
FIXED = {  # what the method, the reader of the answers, or the run's identity stands on
    "messages": "the templates word what is asked",
    "prompt": "the templates word what is asked",
    "system": "use --system",
    "model": "name the model by its option",
    "stream": "answers are read whole",
    "n": "one answer is read",
    "best_of": "one answer is read, and all are billed",
}
S = TypeVar("S", bound="RunSettings")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every run can be told.

    templates: NAME or folder; None: `chat`. concurrency: None: what the model suggests. max_cost: USD for the whole run
    folder. price: "IN,OUT" in USD per million tokens, for models without a listed price. rpm, tpm: caps per minute and
    model. out: None on the command line: `runs/<name>-<identity>`; None in Python: nothing is kept.
    """

    ranges: ClassVar[Ranges] = ()  # what a kind of run adds to RANGES and KINDS
    kinds: ClassVar[Kinds] = {}
    optional: ClassVar[frozenset[str]] = frozenset({"limit", "concurrency", "rpm", "tpm", "max_cost"})  # may be None

    templates: str | Path | None = None
    temperature: float = 1.0
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    seed: int = 0
    max_cost: float | None = None
    price: str | None = None
    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0
    out: str | Path | None = None
    force: bool = False

    def check(self) -> None:
        """Raises UsageError for a value out of its range."""
        for name, least, most, need in (*self.ranges, *RANGES):
            value, kind = getattr(self, name), int if isinstance(least, int) else (int, float)
            if value is None and name in self.optional:
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                raise UsageError(f"{option(name)} {value!r} must be {need}")
        for name, (kinds, need) in {**self.kinds, **KINDS}.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise UsageError(f"{option(name)} must be {need}, not of type {type(value).__name__}")
        self._check_body()

    def _check_body(self) -> None:
        try:
            orjson.dumps(dict(self.extra_body))
        except TypeError as error:
            raise UsageError(f"--extra-body cannot be sent as JSON: {error}") from None
        for name in sorted(FIXED.keys() & self.extra_body.keys()):
            raise UsageError(f"--extra-body must not hold {name!r}: {FIXED[name]}")
        for name in sorted({"max_tokens", "max_completion_tokens"} & self.extra_body.keys()):
            if self.max_cost is not None:
                raise UsageError(f"--max-cost cannot hold with {name!r} in --extra-body: use --max-tokens alone")

    def sampling(self) -> dict[str, Any]:
        """How models draw, as the identity of a run has it."""
        return {
            "temperature": float(self.temperature),  # 1 and 1.0 are one setting
            "max_tokens": self.max_tokens,
            "extra_body": dict(self.extra_body),
        }

    def changeable(self) -> dict[str, Any]:
        """What may change when a run goes on; headers can hold keys and are left out."""
        return {name: getattr(self, name) for name in ("limit", "concurrency", "max_cost", "rpm", "tpm")}


@dataclass(frozen=True, kw_only=True)
class PromptSettings(RunSettings):
    """What a run over prompts can be told besides.

    system: put before every conversation. format, prompt_field: how to read the prompts.
    """

    kinds: ClassVar[Kinds] = dict.fromkeys(("system", "format", "prompt_field"), (str | None, "text"))

    system: str | None = None
    format: str | None = None
    prompt_field: str | None = None


def option(name: str) -> str:
    """A setting as the command line names it."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def open_models(settings: RunSettings, specs: Mapping[str, str]) -> dict[str, Model]:
    """The model of every player by its spec, each opened once; raises UsageError where a key could go astray."""
    connection = Connection(settings.base_url, settings.headers, settings.timeout)
    opened = {spec: open_model(spec, connection) for spec in dict.fromkeys(specs.values())}
    hosted = {model.provider for model in opened.values() if not provider_of(model).free}
    if len(hosted) > 1 and (settings.base_url is not None or settings.headers):
        raise UsageError(
            f"--base-url and --header would go to {' and '.join(sorted(hosted))} alike, keys included: set "
            "OPENAI_BASE_URL or ANTHROPIC_BASE_URL instead, or use one provider"
        )
    return {player: opened[spec] for player, spec in specs.items()}


def spec_of(model: Model) -> str:
    """`provider:name`, as rows and identities name a model."""
    return f"{model.provider}:{model.name}"


def check_identity(identity: Mapping[str, Any]) -> None:
    """Raises UsageError where a setting cannot be written down."""
    try:
        identity_hash(identity)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are no UTF-8 text") from None


def check_ability(model: Model, templates: Templates) -> None:
    """Raises UsageError where a model cannot answer what a template set asks."""
    spec = spec_of(model)
    if templates.completes and not model.can.completion:
        raise UsageError(f"{spec} cannot continue text: use chat templates, or a model with completions")
    if not templates.completes and not model.can.chat:
        raise UsageError(f"{spec} has no chat template: it is a base model, use --templates fewshot")


def prices_of(settings: RunSettings, models: Mapping[str, Model]) -> dict[str, Price | None]:
    """The price of every player's tokens; raises UsageError where a cap could not hold."""
    stated = None if settings.price is None else parse_price(settings.price)
    prices = {player: _price_of(model, stated) for player, model in models.items()}
    if settings.max_cost is not None:
        for player, price in prices.items():
            if price is None:
                name = spec_of(models[player])
                raise UsageError(f"--max-cost cannot hold: no listed price for {name}; state it with --price IN,OUT")
    return prices


def _price_of(model: Model, stated: Price | None) -> Price | None:
    if provider_of(model).free:
        return FREE
    return stated or known_price(model)


def make_settings(kind: type[S], given: Mapping[str, Any]) -> S:
    """Settings from keywords; raises UsageError with a suggestion for an unknown one."""
    known = set(kind.__dataclass_fields__)
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown setting {name!r}{hint}")
    settings = kind(**given)
    settings.check()
    return settings


def settings_from_options(kind: type[S], options: Mapping[str, Any]) -> S:
    """The settings that the command line's options make, in which a JSON object and headers are still text."""
    given = dict(options)
    given["headers"] = dict(_header(text) for text in given.pop("header", None) or ())
    extra = given.pop("extra_body", None)
    if extra is not None:
        try:
            given["extra_body"] = orjson.loads(extra)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"--extra-body is not JSON ({error}): {extra[:80]!r}") from None
        if not isinstance(given["extra_body"], dict):
            raise UsageError(f"--extra-body must be a JSON object, such as '{{\"top_p\": 0.9}}', not {extra[:80]!r}")
    return make_settings(kind, given)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name.strip(), re.ASCII) and value.strip().isprintable()):
        raise UsageError("--header must be 'Name: value', in one line")  # not quoted: it may hold a key
    return name.strip(), value.strip()
