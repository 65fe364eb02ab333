"""The settings of a generate run, checked and resolved into everything a run needs before its first call.

Knows defaults, ranges and what must agree with what; asks nothing of any model and writes nothing.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from cai.ask import Ask
from cai.constitution import Constitution, load_constitution
from cai.errors import CaiError, UsageError
from cai.models import Connection, Model, open_model
from cai.prices import FREE, Price, known_price, parse_price
from cai.records import BadPrompt, Prompt, Role
from cai.run import identity_hash
from cai.sources import describe, read_prompts
from cai.templates import Templates, load_templates

Prompts = str | Path | Iterable[Any] | None
WHOLE = 2**63 - 1  # what JSON writers and SQLite take for a whole number
TINY = 5e-324  # the smallest float above 0
RANGES: tuple[tuple[str, float, float, str], ...] = (  # an int as least value: whole numbers alone
    ("rounds", 1, 1_000, "a whole number from 1 to 1000"),
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
OPTIONAL = {"limit", "concurrency", "rpm", "tpm", "max_cost"}
KINDS: dict[str, tuple[Any, str]] = {
    "model": (str, "text"),
    **dict.fromkeys(("critic", "reviser", "system", "format", "prompt_field"), (str | None, "text")),
    **dict.fromkeys(("price", "base_url"), (str | None, "text")),
    **dict.fromkeys(("templates", "out"), (str | Path | None, "text or a path")),
    **dict.fromkeys(("extra_body", "headers"), (Mapping, "a dict")),
    "gate": (bool | None, "True, False or None"),
    "force": (bool, "True or False"),
}
FIXED = {  # what the method, the reader of the answers, or the run's identity stands on
    "messages": "the templates word what is asked",
    "prompt": "the templates word what is asked",
    "system": "use --system",
    "model": "use --model, --critic and --reviser",
    "stream": "answers are read whole",
    "n": "one answer is read",
    "best_of": "one answer is read, and all are billed",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a generate run can be told; the defaults and their evidence are in docs/how-it-works.md.

    critic, reviser: model specs; None: the assistant's model. gate: None: on for chat templates, off for completion
    sets. templates: NAME or folder; None: `chat`. concurrency: None: what the model suggests. max_cost: USD for the
    whole run folder. price: "IN,OUT" in USD per million tokens, for models without a listed price. rpm, tpm: caps per
    minute and model. out: None on the command line: `runs/<constitution>-<identity>`; None in Python: nothing is kept.
    """

    model: str = "local"
    critic: str | None = None
    reviser: str | None = None
    rounds: int = 2
    gate: bool | None = None
    system: str | None = None
    templates: str | Path | None = None
    temperature: float = 1.0
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    prompt_field: str | None = None
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
        for name, least, most, need in RANGES:
            value, kind = getattr(self, name), int if isinstance(least, int) else (int, float)
            if value is None and name in OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                raise UsageError(f"--{name.replace('_', '-')} {value!r} must be {need}")
        for name, (kinds, need) in KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                raise UsageError(f"--{name.replace('_', '-')} must be {need}, not of type {type(value).__name__}")
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


@dataclass(frozen=True)
class Setup:
    """A generate run, resolved and checked; no prompt has been read yet, nothing asked and nothing written."""

    prompts: Prompts
    settings: Settings
    constitution: Constitution
    templates: Templates
    models: dict[Role, Model]
    prices: dict[Role, Price | None]
    gate: bool
    identity: dict[str, Any]

    @property
    def out(self) -> Path:
        """The run's folder: as asked, else one named after the constitution and everything that decides the rows."""
        named = self.settings.out
        return Path(named) if named is not None else Path("runs") / self._default_name

    @property
    def _default_name(self) -> str:
        return f"{self.constitution.name}-{identity_hash(self.identity)}"

    def source(self) -> Iterator[Prompt | BadPrompt]:
        """The prompts, from the first, as far as `limit`."""
        items = read_prompts(self.prompts, format=self.settings.format, field=self.settings.prompt_field)
        return itertools.islice(items, self.settings.limit)

    def count_prompts(self, tell: Callable[[int], None]) -> None:
        """Count the prompts of a file in a thread of its own, and tell; other sources cannot be read twice."""
        source = self.prompts
        if not (source is None or (isinstance(source, str | Path) and Path(source).is_file())):
            return

        def count() -> None:
            # A damaged source is reported by the run itself, which reads it too.
            with suppress(CaiError):
                tell(sum(1 for _ in self.source()))

        threading.Thread(target=count, name="cai-count", daemon=True).start()

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        law, settings = self.constitution, self.settings
        names = {role: f"{model.provider}:{model.name}" for role, model in self.models.items()}
        one = len(set(names.values())) == 1
        rounds = "1 round" if settings.rounds == 1 else f"{settings.rounds} rounds"
        gate = "no revision where a critique finds nothing" if self.gate else "always revises"
        limit = "" if settings.limit is None else f", the first {settings.limit:,}"
        source, count = law.source or "made in Python", len(law.principles_for("revise"))
        yield f"constitution  {law.name} {law.version} ({source}), {count} principles"
        yield f"prompts       {self._prompts}{limit}"
        yield f"method        {rounds}, {gate}, templates {self.templates.source}, seed {settings.seed}"
        yield f"model         {names['assistant'] if one else ', '.join(f'{role} {names[role]}' for role in names)}"
        yield f"folder        {self.out}"

    @property
    def _prompts(self) -> str:
        if self.prompts is None:
            return "the built-in set"
        return str(self.prompts) if isinstance(self.prompts, str | Path) else "from Python"


def resolve(prompts: Prompts, constitution: str | Path | Constitution, settings: Settings) -> Setup:
    """Check everything that can be checked before the first call, and say what the run will be."""
    settings.check()
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    law = constitution if isinstance(constitution, Constitution) else load_constitution(constitution)
    principles = law.principles_for("revise")
    templates = load_templates(settings.templates)
    Ask(templates, law).check(principles)
    if templates.completes and settings.gate:
        raise UsageError("--gate needs chat templates: a base model gives no verdict line; use --no-gate")
    connection = Connection(settings.base_url, settings.headers, settings.timeout)
    critic = settings.model if settings.critic is None else settings.critic
    reviser = critic if settings.reviser is None else settings.reviser
    specs: dict[Role, str] = {"assistant": settings.model, "critic": critic, "reviser": reviser}
    opened = {spec: open_model(spec, connection) for spec in dict.fromkeys(specs.values())}
    models: dict[Role, Model] = {role: opened[spec] for role, spec in specs.items()}
    for model in opened.values():
        check_ability(model, templates)
    hosted = {model.provider for model in opened.values() if model.provider not in FREE}
    if len(hosted) > 1 and (settings.base_url is not None or settings.headers):
        raise UsageError(
            f"--base-url and --header would go to {' and '.join(sorted(hosted))} alike, keys included: set "
            "OPENAI_BASE_URL or ANTHROPIC_BASE_URL instead, or use one provider"
        )
    gate = settings.gate if settings.gate is not None else not templates.completes
    identity = {
        "command": "generate",
        "source": {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field},
        "constitution": law.ref.model_dump(),
        "templates": templates.hash,
        "models": {role: f"{model.provider}:{model.name}" for role, model in models.items()},
        "rounds": settings.rounds,
        "gate": gate,
        "system": settings.system,
        "sampling": {
            "temperature": float(settings.temperature),  # 1 and 1.0 are one setting
            "max_tokens": settings.max_tokens,
            "extra_body": dict(settings.extra_body),
        },
        "seed": settings.seed,
    }
    try:
        identity_hash(identity)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are no UTF-8 text") from None
    return Setup(prompts, settings, law, templates, models, _prices(settings, models), gate, identity)


def check_ability(model: Model, templates: Templates) -> None:
    """Raises UsageError where a model cannot answer what a template set asks."""
    spec = f"{model.provider}:{model.name}"
    if templates.completes and not model.can.completion:
        raise UsageError(f"{spec} cannot continue text: use chat templates, or a model with completions")
    if not templates.completes and not model.can.chat:
        raise UsageError(f"{spec} has no chat template: it is a base model, use --templates fewshot")


def _prices(settings: Settings, models: Mapping[Role, Model]) -> dict[Role, Price | None]:
    stated = None if settings.price is None else parse_price(settings.price)
    prices = {
        role: stated if stated is not None and model.provider not in FREE else known_price(model)
        for role, model in models.items()
    }
    if settings.max_cost is not None:
        for role, price in prices.items():
            if price is None:
                name = f"{models[role].provider}:{models[role].name}"
                raise UsageError(f"--max-cost cannot hold: no listed price for {name}; state it with --price IN,OUT")
    return prices


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from keywords; raises UsageError with a suggestion for an unknown one."""
    known = set(Settings.__dataclass_fields__)
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown setting {name!r}{hint}")
    settings = Settings(**given)
    settings.check()
    return settings


def setup_from_options(options: Mapping[str, Any]) -> Setup:
    """The setup that the command line's options make, in which a JSON object and headers are still text."""
    given = dict(options)
    prompts, constitution = given.pop("prompts"), given.pop("constitution")
    given["headers"] = dict(_header(text) for text in given.pop("header") or ())
    extra = given.pop("extra_body")
    if extra is not None:
        try:
            given["extra_body"] = orjson.loads(extra)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"--extra-body is not JSON ({error}): {extra[:80]!r}") from None
        if not isinstance(given["extra_body"], dict):
            raise UsageError(f"--extra-body must be a JSON object, such as '{{\"top_p\": 0.9}}', not {extra[:80]!r}")
    return resolve(prompts, constitution, make_settings(given))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name.strip(), re.ASCII) and value.strip().isprintable()):
        raise UsageError("--header must be 'Name: value', in one line")  # not quoted: it may hold a key
    return name.strip(), value.strip()
