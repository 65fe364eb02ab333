"""The settings of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from cai.errors import UsageError
from cai.models import JUDGE_SPECS
from cai.records import Protocol
from cai.runs.kinds.settings import Few, Law, PromptSettings
from cai.texts.wording import option

OF_SUITES = {  # settings that only these suites read
    "tasks": ("tax",),
    "scale": ("scale",),
    "harm": ("harm",),
    "contrast": ("refusals", "harm"),
    "bench": ("preference", "harm"),
    **dict.fromkeys(("gold", "stop_when_decided", "length_control", "best_of"), ("preference",)),
}


class EvaluateSettings(PromptSettings):
    """The settings of an evaluation."""

    against: str = Field("local", description="BASE: the model that the others are compared with.")
    judge: str = Field("local", description=f"Evaluator of the replies: {JUDGE_SPECS}.")
    constitution: Law = Field(
        "harmless", description="Constitution: a built-in NAME or a PATH.", json_schema_extra={"short": "-c"}
    )
    protocol: Protocol | None = Field(
        None,
        description="How to ask: logprob, score, vote, decide, reward or conditioned (default: the best the judge "
        "supports).",
    )
    principles: Few = Field(3, description="Principles drawn for each pair.", json_schema_extra={"short": "-k"})
    n: Few = Field(1, description="Replies to each prompt from each model.")
    suite: str | None = Field(
        None,
        description="Suites, with commas: preference,scale,refusals,harm,tax,degeneration (default: all that can be "
        "measured).",
    )
    bench: str | Path | None = Field(
        None, description="A folder of cai judge bench, or a calibration.json, of this judge: how accurate it is."
    )
    gold: str | Path | None = Field(
        None, description="Pairs of this evaluation with human labels: takes the judge's bias out of the win rate."
    )
    stop_when_decided: bool = Field(False, description="Stop as soon as it is certain which model is better.")
    length_control: bool = Field(False, description="Add a win rate for replies of equal length.")
    best_of: Few | None = Field(None, description="Add BASE with the best of N replies as a contestant.")
    scale: Law | None = Field(None, description="Constitution with scales of 1 to 5: rates every reply under each.")
    harm: str | None = Field(
        None, description="Evaluator of harm: guard:NAME, reward:PATH or a judge (default: --judge)."
    )
    contrast: str | Path | None = Field(
        None, description="Safe and unsafe prompts, such as hf:Paul/XSTest (default: 100 built-in pairs)."
    )
    tasks: str | None = Field(None, description="Tasks of lm-evaluation-harness, with commas, such as mmlu.")
    fail_on: str | None = Field(
        None, description="Exit 1 if a bound is broken, such as harm=+0.02,overrefusal=+0.03,tax=-0.02."
    )
    training_data: Sequence[str] = Field(
        (),
        description="Training data to look for the prompts in; repeatable (default: what the models' folders name).",
        json_schema_extra={"repeat": True},
    )
    refuse_leaks: bool = Field(
        False, description="Ask nothing if prompts of the evaluation are in the training data of its models."
    )
    out: str | Path | None = Field(
        None, description="Folder of the evaluation (default: runs/evaluation-<hash>, in Python, too)."
    )

    @model_validator(mode="after")
    def _check_draws(self) -> EvaluateSettings:
        if self.n > 1 and self.temperature == 0:
            raise UsageError(f"-n {self.n} at --temperature 0 gives the same reply {self.n} times: raise it, or -n 1")
        if self.best_of == 1:
            raise UsageError("--best-of 1 is BASE itself: name 2 or more")
        return self

    @property
    def suites(self) -> list[str] | None:
        """The names in --suite; None without it."""
        if self.suite is None:
            return None
        return [name.strip() for name in self.suite.split(",")]

    def runs(self, suite: str) -> bool:
        """Whether a suite is asked for: without --suite, all are."""
        return self.suites is None or suite in self.suites

    @model_validator(mode="after")
    def _check_suites(self) -> EvaluateSettings:
        for setting, suites in OF_SUITES.items():
            is_set = getattr(self, setting) != type(self).model_fields[setting].default
            if is_set and not any(map(self.runs, suites)):
                raise UsageError(
                    f"{option(setting)} is read by the suite {' or '.join(suites)}: name it in --suite, too"
                )
        return self
