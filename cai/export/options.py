"""The options of an export, as one pydantic model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.errors import UsageError
from cai.export.sft import SFT_FORMAT, SFT_REASONING, SftFormat
from cai.judge.certify import Calibration, threshold
from cai.records import BadPrompt, Values
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.texts.likeness import Ngram

MIN_CONFIDENCE = 0.7  # about 80 % agreement for the judges measured in docs/judging.md; promises nothing for others
Pairing = Literal["all", "best-worst", "final"]


class ExportOptions(BaseModel):
    """The options of an export; most are for one kind of run only: see `ONLY`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rounds_kept: Literal["last", "all"] = Field(
        "last",
        description="Generate runs: last keeps one SFT row per prompt, the final revision; all keeps every revision.",
    )
    sft_format: SftFormat = Field("completion", description=SFT_FORMAT)
    sft_reasoning: bool = Field(False, description=SFT_REASONING)
    min_confidence: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description=f"Label runs: keep pairs with at least this confidence (default {MIN_CONFIDENCE}, not calibrated).",
    )
    calibration: str | Path | Calibration | Values | None = Field(
        None, description="Label runs: a calibration.json of the judge."
    )
    agreement: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="Label runs: keep pairs whose agreement with human labels is certified at this rate "
        "(needs --calibration or a calibration.json in the folder).",
    )
    pairing: Pairing = Field(
        "all",
        description="Label runs: keep all pairs, best-worst of several replies, or final round against first reply.",
    )
    order_flip: bool = Field(False, description="Label runs: drop pairs whose votes flip with reply order.")
    max_length_ratio: float | None = Field(
        None,
        ge=1,
        description="Label runs: drop pairs where one reply is more than N times longer, in characters.",
    )
    benign: str | Path | None = Field(
        None,
        description="Label runs: a file of prompts that must not be refused; drop replies that refuse them.",
    )
    dead_zone: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description="Label runs: keep replies in kto.jsonl whose win rate is at least P or at most 1 - P "
        "(default: the confidence that pairs need).",
    )
    target: int | None = Field(
        None,
        ge=1,
        description="Label runs: keep at most this many pairs (default: the --target of the run).",
    )
    split: float | None = Field(
        None, gt=0, lt=1, description="Share of the prompts to train on; the others go to *.eval.jsonl."
    )
    parquet: bool = Field(False, description="Also write every training file as .parquet.")
    hygiene: bool = Field(
        True, description="Drop texts with faults of form, such as a leaked preamble or mixed-up roles."
    )
    best: bool = Field(
        False,
        description="Label runs: write the best reply to each prompt to sft.jsonl instead of preferences (best of N).",
    )


FIELDS = ExportOptions.model_fields
DEFAULTS = {name: field.default for name, field in FIELDS.items()}
OF_PAIRS = {
    "min_confidence", "agreement", "pairing", "order_flip", "max_length_ratio", "dead_zone", "target",
}  # fmt: skip
ONLY = {  # options for the runs of one command; the others are for all
    "generate": {"rounds_kept", "sft_reasoning"},
    "label": {*OF_PAIRS, "calibration", "benign", "best"},
}


@dataclass(frozen=True, slots=True)
class Filters:
    """What a pair must be like to be kept.

    min_confidence: in [0.5, 1], on the scale of `confidence`. certified: the same before the temperature, by which it
    is decided if it is known. temperature: as fitted on human labels; None: not calibrated. max_length_ratio: in
    characters, at least 1; None: any. order_flip: drop pairs whose votes flip with the order. benign: `prompt_hash` of
    prompts not to be refused. hygiene: look for faults. asked: see `off_task`.
    """

    min_confidence: float = MIN_CONFIDENCE
    temperature: float | None = None
    max_length_ratio: float | None = None
    certified: float | None = None
    order_flip: bool = False
    benign: frozenset[str] = frozenset()
    hygiene: bool = True
    asked: frozenset[Ngram] = frozenset()


def filters_of(options: ExportOptions, calibration: Calibration | None) -> Filters:
    """What the options ask of a pair, under the calibration of their judge, if any.

    Raises UsageError if the agreement is not certified, or --benign cannot be read.
    """
    least = options.min_confidence or MIN_CONFIDENCE
    temperature = certified = None
    if calibration is not None:
        temperature = calibration.temperature
        if options.agreement is not None:
            at = threshold(calibration, options.agreement)
            least, certified = at.calibrated, at.confidence
    elif options.agreement is not None:
        raise UsageError("--agreement needs --calibration FILE, which cai judge calibrate makes of human labels")
    benign = set()
    if options.benign is not None:
        for prompt in read_prompts(options.benign):
            if isinstance(prompt, BadPrompt):
                problem = f"record {prompt.line} is not a prompt ({prompt.problem})"
                raise UsageError(f"--benign {options.benign}: {problem}")
            benign.add(prompt_hash(prompt.messages))
    return Filters(
        min_confidence=least,
        certified=certified,
        temperature=temperature,
        max_length_ratio=options.max_length_ratio,
        order_flip=options.order_flip,
        benign=frozenset(benign),
        hygiene=options.hygiene,
    )
