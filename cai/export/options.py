"""The options of an export, as one pydantic model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.export.sft import SFT_FORMAT, SFT_REASONING, SftFormat
from cai.judge.certify import Calibration
from cai.records import Values

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
