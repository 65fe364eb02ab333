"""The settings of each kind of run, with their ranges and what each does; options, keywords and their docs follow.

`json_schema_extra` of a field says what the command line cannot read from its type: `option`, the name of the option
if it is another; `short`, its one-letter form; `repeat`, that it may be given several times; `alone`, what it stands
for without a value, and `off`, what its --no- form does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.calls.again import reasons_of
from cai.calls.model import Connection
from cai.constitution.principles import Constitution
from cai.engine.screen import SCREEN
from cai.errors import UsageError
from cai.export.options import MIN_CONFIDENCE, Pairing
from cai.export.sft import SFT_FORMAT, SftFormat
from cai.judge.accept import ACCEPT
from cai.models import JUDGE_SPECS, SPECS
from cai.models.specs import without_address
from cai.records import Object, Protocol, Sampling, Values
from cai.texts.wording import option, words_of

GATE = 0.5  # the threshold of the gate
VERDICT = 1024  # tokens that a judge may write before it names a letter
WHOLE = 2**63 - 1  # the largest whole number that JSON writers and SQLite take
FIXED = {  # keys of a request that the method, the reader of the answers, or the run's identity depends on
    "messages": "the templates word what is asked",
    "prompt": "the templates word what is asked",
    "input": "the templates word what is asked",
    "questions": "the templates word what is asked",
    "system": "use --system",
    "model": "name the model by its option",
    "stream": "answers are read whole",
    "n": "one answer is read",
    "best_of": "one answer is read, and all are billed",
}
# Decide no row, or may hold keys.
UNWRITTEN = ("headers", "extra_body", "base_url", "out", "force", "concurrency", "rpm", "tpm", "timeout")
MODELS = ("model", "critic", "reviser", "judge", "accept", "against", "harm")  # fields that hold model specs
CHANGEABLE = (
    "limit", "concurrency", "max_cost", "rpm", "tpm", "min_confidence", "agreement", "target", "max_candidates",
)  # fmt: skip
ANNOTATE = 100  # pairs to label by hand: fewer than 50 fit no temperature, and 100 to 500 certify a threshold
Count = Annotated[int, Field(ge=1, le=WHOLE)]
Few = Annotated[int, Field(ge=1, le=1_000)]
Share = Annotated[float, Field(ge=0.5, le=1.0)]
Law = str | Path | Constitution


class RunSettings(BaseModel):
    """The settings of every run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    templates: str | Path | None = Field(
        None, description="Template set: chat (the default), quoted, fewshot, or a folder."
    )
    temperature: float = Field(1.0, ge=0, le=2, description="Sampling temperature; 0 is greedy.")
    max_tokens: Count = Field(512, description="Longest answer in tokens; a reply that reaches it is dropped.")
    extra_body: Object = Field({}, repr=False, description="JSON object merged into every request.")
    limit: Count | None = Field(None, description="Read at most this many prompts or pairs.")
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Most calls in flight at once (default: what the model suggests)."
    )
    rpm: Count | None = Field(None, description="Most calls per minute to one model.")
    tpm: Count | None = Field(None, description="Most tokens per minute to one model.")
    seed: Annotated[int, Field(ge=0, le=WHOLE)] = Field(0, description="Random seed: same seed, same questions.")
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Stop before the run folder has cost more than this many USD."
    )
    price: str | None = Field(None, description="Price in USD per million tokens, IN,OUT; overrides a listed price.")
    base_url: str | None = Field(None, repr=False, description="Server of a hosted model, such as http://host:8000/v1.")
    headers: Mapping[str, str] = Field(
        {},
        repr=False,
        description="Extra HTTP header 'Name: value'; repeatable. In Python a dict.",
        json_schema_extra={"option": "--header", "repeat": True},
    )
    timeout: float = Field(600.0, gt=0, le=1e9, description="Seconds to wait for one call.")
    out: str | Path | None = Field(
        None, description="Run folder (default: runs/<name>-<hash>; in Python nothing is kept without it)."
    )
    retry: str | Sequence[str] = Field(
        (),
        description="Try dropped rows again: truncated (with a higher --max-tokens), empty, content_filter, too_long; "
        "repeatable, or with commas. model_error always is.",
        json_schema_extra={"repeat": True},
    )
    reuse: str | Path | Sequence[str | Path] = Field(
        (),
        description="Take answers to equal calls from this run folder, free of charge; repeatable.",
        json_schema_extra={"repeat": True},
    )
    force: bool = Field(False, description="Start over in a folder that holds another run.")

    @model_validator(mode="after")
    def _check_body(self) -> RunSettings:
        try:
            orjson.dumps(dict(self.extra_body))
        except TypeError as error:
            raise UsageError(f"--extra-body cannot be sent as JSON: {error}") from None
        for name in sorted(FIXED.keys() & self.extra_body.keys()):
            raise UsageError(f"--extra-body must not hold {name!r}: {FIXED[name]}")
        for name in sorted({"max_tokens", "max_completion_tokens"} & self.extra_body.keys()):
            if self.max_cost is not None:
                raise UsageError(f"--max-cost cannot hold with {name!r} in --extra-body: use --max-tokens alone")
        return self

    @model_validator(mode="after")
    def _check_retry(self) -> RunSettings:
        reasons_of(self.retry)
        return self

    @property
    def retried(self) -> tuple[str, ...]:
        """The reasons of drops that are tried again."""
        return reasons_of(self.retry)

    @property
    def reused(self) -> list[Path]:
        """The folders of runs whose answers are used."""
        folders = [self.reuse] if isinstance(self.reuse, str | Path) else self.reuse
        return list(map(Path, folders))

    @property
    def connection(self) -> Connection:
        """How hosted models are reached."""
        return Connection(self.base_url, self.headers, self.timeout)

    @property
    def sampling(self) -> Sampling:
        """How models draw."""
        return Sampling(self.temperature, self.max_tokens, dict(self.extra_body))

    def words(self, *left_out: str) -> list[str]:
        """The options of the command line for what is not at its default; without secrets, speed, and some fields."""
        values = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Constitution):
                value = value.source.removeprefix("built-in ") or value.name
            if name in MODELS:
                value = without_addresses(value)
            if value != field.default and name not in (*UNWRITTEN, *left_out):
                values[name] = value
        if self.base_url is not None:
            values["base_url"] = "URL"  # the address itself may hold a key
        return words_of(values)

    def changeable(self) -> Values:
        """What may change when a run is resumed; headers can hold keys and are left out."""
        return {name: getattr(self, name) for name in CHANGEABLE if hasattr(self, name)}


def without_addresses(specs: Any) -> Any:
    """A spec, several of them, or None, as files keep them."""
    if specs is None or isinstance(specs, str):
        return specs and without_address(specs)
    return list(map(without_address, specs))


class PromptSettings(RunSettings):
    """The settings of every run over prompts."""

    system: str | None = Field(None, description="System text put before every conversation.")
    format: str | None = Field(None, description="Shape of the prompts: auto, text, prompt, messages or hh.")
    prompt_field: str | None = Field(None, description="Column or key that holds the prompt.")


class GenerateSettings(PromptSettings):
    """The settings of a generate run; the defaults and their evidence are in docs/how-it-works.md."""

    constitution: Law = Field(
        "harmless", description="Constitution: a built-in NAME or a PATH.", json_schema_extra={"short": "-c"}
    )
    model: str = Field("local", description=f"Model that replies: {SPECS}.")
    critic: str | None = Field(None, description="Model that critiques (default: --model).")
    reviser: str | None = Field(None, description="Model that revises (default: --critic).")
    rounds: Few = Field(2, description="Critique and revision rounds, each under one drawn principle.")
    gate: float | bool | None = Field(
        None,
        description="Skip the revision if the critic gives less than this probability that the reply needs a change "
        f"(default: {GATE} for chat templates).",
        json_schema_extra={"alone": str(GATE), "off": "Revise every reply, without asking."},
    )
    draw: Literal["uniform", "screen"] | None = Field(
        None,
        description="How to draw the principle of a round, by weight: uniform, from all (the default); or screen, from "
        "those that the critic finds violated. If it finds none, the reply stands.",
    )
    screen_at: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description=f"With --draw screen: a principle counts as violated from this probability on (default {SCREEN}).",
    )
    accept: str | None = Field(
        None,
        description="Judge that must prefer a revision before it replaces the reply: a model as for --model, or "
        "reward:NAME (default: every revision does).",
    )
    accept_at: Annotated[float, Field(ge=0.5, lt=1)] | None = Field(
        None,
        description=f"With --accept: a revision must be preferred with a probability above this (default {ACCEPT}).",
    )
    sft_format: SftFormat | None = Field(None, description=SFT_FORMAT)

    @model_validator(mode="after")
    def _check_thresholds(self) -> GenerateSettings:
        if self.screen_at is not None and self.draw != "screen":
            raise UsageError("--screen-at is for --draw screen: name that, too, or leave it out")
        if self.accept_at is not None and self.accept is None:
            raise UsageError("--accept-at is for --accept: name the judge, such as --accept openai:NAME")
        return self

    @model_validator(mode="after")
    def _check_gate(self) -> GenerateSettings:
        if self.gate is not None and not 0 <= self.gate <= 1:
            raise UsageError(f"--gate {self.gate:g} must be a probability, from 0 to 1")
        return self


class SampleSettings(PromptSettings):
    """The settings of a sample run, and with `best_of` of the label run that finds the best of its replies."""

    model: str | Sequence[str] = Field(
        "local",
        description=f"Model that replies: {SPECS}; repeatable: each model gives -n replies.",
        json_schema_extra={"repeat": True},
    )
    n: Few | None = Field(None, description="Replies to each prompt from each model (default 2).")
    best_of: Annotated[int, Field(ge=2, le=1_000)] | None = Field(
        None, description="Like -n; then --judge compares the replies, and sft.jsonl holds the best one of each prompt."
    )
    judge: str | None = Field(None, description=f"With --best-of: {JUDGE_SPECS}.")
    constitution: Law | None = Field(
        None,
        description="With --best-of: a built-in NAME or a PATH (default: harmless).",
        json_schema_extra={"short": "-c"},
    )
    protocol: Protocol | None = Field(
        None,
        description="With --best-of: logprob, score, vote, decide or reward (default: the best the judge supports).",
    )
    principles: Few | None = Field(
        None,
        description="With --best-of: principles drawn for each pair (default 3).",
        json_schema_extra={"short": "-k"},
    )

    sft_format: SftFormat | None = Field(None, description=f"With --best-of: {SFT_FORMAT}")

    @property
    def each(self) -> int:
        """Replies to each prompt from each model."""
        return self.best_of or self.n or 2

    @property
    def specs(self) -> tuple[str, ...]:
        """The model specs, in the order given."""
        if isinstance(self.model, str):
            return (self.model,)
        return tuple(self.model)

    @model_validator(mode="after")
    def _check_models(self) -> SampleSettings:
        if not self.specs:
            raise UsageError("--model must be a model spec, or a list of them")
        for spec in self.specs:
            if self.specs.count(spec) > 1:
                raise UsageError(
                    f"--model {without_address(spec)} is named twice: raise -n for more replies of one model"
                )
        if self.each > 1 and self.temperature == 0:
            name, advice = ("-n", "raise it, or -n 1") if self.best_of is None else ("--best-of", "raise it")
            raise UsageError(f"{name} {self.each} at --temperature 0 gives the same reply {self.each} times: {advice}")
        return self

    @model_validator(mode="after")
    def _check_judge(self) -> SampleSettings:
        if self.best_of is None:
            for name in ("judge", "constitution", "protocol", "principles", "sft_format"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{option(name)} is for picking the best of several replies: name --best-of N, too"
                    )
        elif self.n is not None:
            raise UsageError("-n and --best-of both say how many replies are drawn: name one of them")
        elif self.judge is None:
            raise UsageError("--best-of needs who picks the best: --judge SPEC, such as openai:NAME or reward:PATH")
        return self

    def changeable(self) -> Values:
        """What may change when a run is resumed, and the specs, from which further replies can be drawn."""
        return super().changeable() | {"model": without_addresses(self.specs)}


class LabelSettings(RunSettings):
    """The settings of a label run."""

    max_tokens: Count = Field(VERDICT, description="Longest answer in tokens of a judge that votes in words.")
    constitution: Law = Field(
        "harmless", description="Constitution: a built-in NAME or a PATH.", json_schema_extra={"short": "-c"}
    )
    judge: str = Field("local", description=f"Judge: {JUDGE_SPECS}.")
    protocol: Protocol | None = Field(
        None,
        description="How to ask: logprob, score, vote, reason, decide or reward "
        "(default: the best the judge supports).",
    )
    principles: Few = Field(3, description="Principles drawn for each pair.", json_schema_extra={"short": "-k"})
    pairing: Pairing | Literal["models"] = Field(
        "all",
        description="Pairs to keep: all; best-worst of several replies; models: one model's against another's; "
        "final: last revision against first reply.",
    )
    min_confidence: Share | None = Field(
        None, description=f"Keep pairs with at least this confidence (default {MIN_CONFIDENCE}, not calibrated)."
    )
    agreement: Share | None = Field(
        None,
        description="Keep pairs whose agreement with human labels is certified at this rate "
        "(needs --gold or --calibration).",
    )
    gold: str | Path | None = Field(None, description="File of pairs with human labels; judged first, to calibrate.")
    calibration: str | Path | None = Field(None, description="A calibration.json of this judge, instead of --gold.")
    annotate: Count | None = Field(
        None, description=f"Print the command that opens this many pairs to label by hand (default {ANNOTATE})."
    )
    target: Count | None = Field(None, description="Keep sampling replies until this many pairs are kept.")
    max_candidates: Annotated[int, Field(ge=2, le=300)] | None = Field(
        None, description="With --target: most replies to one prompt."
    )
    model: str | None = Field(
        None, description="With --target: model that writes further replies (default: the sample run's model)."
    )

    @model_validator(mode="after")
    def _check_gold(self) -> LabelSettings:
        if self.gold is not None and self.calibration is not None:
            raise UsageError("--gold makes a calibration and --calibration brings one: name one of them")
        if self.agreement is None:
            return self
        if self.agreement == 1.0:
            raise UsageError("--agreement 1 can never be certified: name less, such as 0.95")
        if self.min_confidence is not None:
            raise UsageError("--agreement chooses the threshold and --min-confidence states it: name one of them")
        return self

    @model_validator(mode="after")
    def _check_target(self) -> LabelSettings:
        if (self.target is None) != (self.max_candidates is None):
            raise UsageError("--target and --max-candidates go together: how many pairs, and when to give a prompt up")
        if self.target is not None and self.pairing != "all":
            raise UsageError(f"--target counts every pair: it does not go with --pairing {self.pairing}")
        if self.model is not None and self.target is None:
            raise UsageError("--model draws further replies for --target: name that too, or leave it out")
        return self
