"""The settings of each kind of run, with their ranges and what each does; options, keywords and their docs follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.engine.screen import SCREEN
from cai.errors import UsageError
from cai.export.options import MIN_CONFIDENCE, Pairing
from cai.export.sft import SFT_FORMAT, SFT_REASONING, SftFormat
from cai.judge.accept import ACCEPT
from cai.models import JUDGE_SPECS, SPECS
from cai.models.specs import without_address
from cai.records import Protocol, Values
from cai.runs.settings import Count, Divisible, RunSettings, without_addresses
from cai.texts.wording import option
from cai.weights.named import named_of

GATE = 0.5  # the threshold of the gate
VERDICT = 1024  # tokens that a judge may write before it names a letter
ANNOTATE = 100  # pairs to label by hand: fewer than 50 fit no temperature, and 100 to 500 certify a threshold
OF_CRITIQUES = ("critic", "rounds", "gate", "draw", "screen_at", "accept", "accept_at")  # settings that only they need
GATED = "harmless"  # the constitution whose gate the thresholds of named models were chosen for
ALONE: Values = {"workers": None, "ray": None}  # of a run that one process plays
Few = Annotated[int, Field(ge=1, le=1_000)]
Share = Annotated[float, Field(ge=0.5, le=1.0)]
Law = str | Path | Constitution


class PromptSettings(RunSettings):
    """The settings of every run over prompts."""

    system: str | None = Field(None, description="System text put before every conversation.")
    format: str | None = Field(None, description="Shape of the prompts: auto, text, prompt, messages or hh.")
    prompt_field: str | None = Field(None, description="Column or key that holds the prompt.")


class GenerateSettings(PromptSettings, Divisible):
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
        description="Skip the revision if the critic's probability that the reply needs a change is below this "
        f"(default {GATE}; no gate with fewshot templates).",
        json_schema_extra={"alone": str(GATE), "off": "Revise every reply, without asking."},
    )
    draw: Literal["uniform", "screen"] | None = Field(
        None,
        description="How to draw the principle of a round, by weight: uniform, from all (the default); or screen, from "
        "those that the critic finds violated, and if there are none the reply stays.",
    )
    screen_at: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description=f"With --draw screen: a principle counts as violated from this probability on (default {SCREEN}).",
    )
    accept: str | None = Field(
        None,
        description="Keep a revision only if this judge prefers it to the reply: a model as for --model, or "
        "reward:NAME (default: keep every revision).",
    )
    accept_at: Annotated[float, Field(ge=0.5, lt=1)] | None = Field(
        None,
        description=f"With --accept: the judge's probability must be above this (default {ACCEPT}).",
    )
    distill: bool = Field(
        False,
        description="Instead of critiques, answer again with all principles in the system text: rows to learn that "
        "reply without them. --reviser names another model for it.",
    )
    sft_format: SftFormat | None = Field(None, description=SFT_FORMAT)
    sft_reasoning: bool | None = Field(None, description=SFT_REASONING)

    @property
    def specs(self) -> dict[str, str]:
        """The model of each player by its spec."""
        critic = self.model if self.critic is None else self.critic
        specs = {"assistant": self.model, "critic": critic}
        if self.distill:
            del specs["critic"]
        specs["reviser"] = critic if self.reviser is None else self.reviser
        if self.accept is not None:
            specs["accept"] = self.accept
        return specs

    @model_validator(mode="after")
    def _check_distillation(self) -> GenerateSettings:
        stated = [name for name in OF_CRITIQUES if name in self.model_fields_set and getattr(self, name) is not None]
        if self.distill and stated:
            raise UsageError(f"{option(stated[0])} is for critiques, which --distill does not ask for: leave it out")
        return self

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


class SampleSettings(PromptSettings, Divisible):
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
        description="With --best-of: logprob, score, vote, decide, reward or conditioned (default: the best the judge "
        "supports).",
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


class LabelSettings(Divisible):
    """The settings of a label run."""

    max_tokens: Count = Field(VERDICT, description="Longest answer in tokens of a judge that votes in words.")
    constitution: Law = Field(
        "harmless", description="Constitution: a built-in NAME or a PATH.", json_schema_extra={"short": "-c"}
    )
    judge: str = Field("local", description=f"Judge: {JUDGE_SPECS}.")
    protocol: Protocol | None = Field(
        None,
        description="How to ask: logprob, score, vote, reason, decide, reward or conditioned "
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
    def _check_parts(self) -> LabelSettings:
        if self.part is not None and self.gold is not None:
            raise UsageError(
                "--gold would be judged in every shard: judge it once without --shard, and name the calibration.json "
                "of that run as --calibration"
            )
        if self.part is not None and self.target is not None:
            raise UsageError("--target counts the pairs of all shards together: it does not go with --shard")
        if self.part is not None and self.pairing == "best-worst":
            raise UsageError("--pairing best-worst is for the cut, which shards leave to cai export: name it there")
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


def with_defaults(settings: GenerateSettings) -> GenerateSettings:
    """The settings, and where they leave open what the register says of a named local model, that.

    The model must be writer, critic and reviser: the register knows nothing of others. Its threshold is that of the
    gate of `harmless`; other constitutions and templates ask another question, or have none.
    """
    named = named_of(settings.model)
    if named is None or {settings.critic, settings.reviser} - {None, settings.model}:
        return settings
    is_open = {name for name in named.chain if name not in settings.model_fields_set or getattr(settings, name) is None}
    asks_other = load_constitution(settings.constitution).gate != load_constitution(GATED).gate
    if asks_other or settings.templates not in (None, named.chain.get("templates")):
        is_open.discard("gate")
    return settings.model_copy(update={name: value for name, value in named.chain.items() if name in is_open})
