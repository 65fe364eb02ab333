"""What an export can be told: one model of its options, and the filters of pairs that they come to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from cai.errors import UsageError
from cai.export.pairs import MIN_CONFIDENCE, Filters, Pairing
from cai.judge.calibration import binding_problems, load_calibration
from cai.judge.certify import Calibration, threshold
from cai.records import BadPrompt
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.sources.yamlfile import first_fault, unfit

OF_GENERATE: JsonDict = {"command": "generate"}  # options that fit one kind of run; the others fit every kind
OF_LABEL: JsonDict = {"command": "label"}


class ExportOptions(BaseModel):
    """The options of an export; the ones with a `command` are for runs of that command only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rounds_kept: Literal["last", "all"] = Field(
        "last",
        description="Generate runs: last keeps one SFT row per prompt, the final revision; all keeps every revision.",
        json_schema_extra=OF_GENERATE,
    )
    min_confidence: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description=f"Label runs: keep pairs with at least this confidence (default {MIN_CONFIDENCE}, not calibrated).",
        json_schema_extra=OF_LABEL,
    )
    calibration: str | Path | Calibration | dict[str, Any] | None = Field(
        None, description="Label runs: a calibration.json of the judge.", json_schema_extra=OF_LABEL
    )
    agreement: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="Label runs: keep pairs whose agreement with human labels is certified at this rate "
        "(needs --calibration or a calibration.json in the folder).",
        json_schema_extra=OF_LABEL,
    )
    pairing: Pairing = Field(
        "all",
        description="Label runs: keep all pairs, best-worst of several replies, or final round against first reply.",
        json_schema_extra=OF_LABEL,
    )
    order_flip: bool = Field(
        False, description="Label runs: drop pairs whose votes flip with reply order.", json_schema_extra=OF_LABEL
    )
    max_length_ratio: float | None = Field(
        None,
        ge=1,
        description="Label runs: drop pairs where one reply is more than N times longer, in characters.",
        json_schema_extra=OF_LABEL,
    )
    benign: str | Path | None = Field(
        None,
        description="Label runs: a file of prompts that must not be refused; drop replies that refuse them.",
        json_schema_extra=OF_LABEL,
    )
    dead_zone: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description="Label runs: keep replies in kto.jsonl whose win rate is at least P or at most 1 - P "
        "(default: the confidence that pairs need).",
        json_schema_extra=OF_LABEL,
    )
    target: int | None = Field(
        None,
        ge=1,
        description="Label runs: keep at most this many pairs (default: the --target of the run).",
        json_schema_extra=OF_LABEL,
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
        json_schema_extra=OF_LABEL,
    )


FIELDS = ExportOptions.model_fields
DEFAULTS = {name: field.default for name, field in FIELDS.items()}
BEST = ("calibration", "benign")  # options of labels that `best` takes: the others are about pairs


def command_of(name: str) -> str | None:
    """The command whose runs an option is for; None: all."""
    extra = FIELDS[name].json_schema_extra
    return str(extra["command"]) if isinstance(extra, dict) else None


def read_options(values: Mapping[str, Any]) -> ExportOptions:
    """The options with these values; raises UsageError for an unknown name, a wrong type or a value out of range."""
    for name in values:
        if name not in FIELDS:
            raise UsageError(f"an export has no option {name!r}; its options: {', '.join(FIELDS)}")
    try:
        return ExportOptions(**values)
    except ValidationError as error:
        name, problem = unfit(error)
        raise UsageError(f"{flag(name)} {values[name]!r} {problem}") from None


def check_options(options: ExportOptions, command: str) -> None:
    """Raise UsageError for options that do not fit this kind of run, or each other."""
    changed = [name for name, default in DEFAULTS.items() if getattr(options, name) != default]
    for other in ("generate", "label"):
        wrong = [flag(name) for name in changed if command_of(name) == other]
        if wrong and command != other and not (options.best and other == "label" and command == "sample"):
            raise UsageError(f"{', '.join(wrong)}: only for runs of cai {other}; this is a run of cai {command}")
    if options.agreement is not None and options.min_confidence is not None:
        raise UsageError("--agreement chooses the threshold and --min-confidence states it: give one of them")
    if options.best:
        wrong = [flag(name) for name in changed if command_of(name) == "label" and name not in ("best", *BEST)]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: only for pairs; --best takes one reply to each prompt")


def options_of(options: ExportOptions, command: str) -> dict[str, Any]:
    """The options that fit this kind of run, as JSON; `best`, which is newer than 0.1.0, only if it is set."""
    fits = [name for name in FIELDS if command_of(name) in (command, None) and name != "best"]
    if options.best:
        fits = [name for name in FIELDS if command_of(name) is None or name in (*BEST, "best")]
    values = options.model_dump(mode="json", include=set(fits))
    return {name: values[name] for name in fits}


def flag(name: str) -> str:
    """The name of an option on the command line."""
    return f"--{name.replace('_', '-')}"


def words(options: ExportOptions) -> list[str]:
    """The command line options of what is not the default; files by what they are, and not by their path."""
    files = {"calibration": "calibration.json", "benign": "BENIGN"}
    line: list[str] = []
    for name, default in DEFAULTS.items():
        value = getattr(options, name)
        if value == default or name == "parquet":
            continue
        if value is False:
            line.append(f"--no-{name}")
        elif value is True:
            line.append(flag(name))
        else:
            line += [flag(name), files.get(name, str(value))]
    return line


# Filters


def filters_of(options: ExportOptions, calibration: Calibration | None) -> Filters:
    """What the options ask of a pair, under the calibration that `calibration_of` gives.

    Raises UsageError if the agreement is not certified, or --benign cannot be read.
    """
    least = options.min_confidence
    if options.agreement is not None:
        if calibration is None:
            raise UsageError("--agreement needs --calibration FILE: it is certified on pairs with human labels")
        least = threshold(calibration, options.agreement).calibrated
    return Filters(
        min_confidence=MIN_CONFIDENCE if least is None else least,
        temperature=None if calibration is None else calibration.temperature,
        max_length_ratio=options.max_length_ratio,
        order_flip=options.order_flip,
        benign=frozenset() if options.benign is None else _hashes(options.benign),
        hygiene=options.hygiene,
    )


def calibration_of(options: ExportOptions, binding: Mapping[str, Any]) -> Calibration | None:
    """The calibration of the options, if any; raises UsageError if it was made for another judge than the labels'."""
    source = options.calibration
    if source is None:
        return None
    if isinstance(source, str | Path):
        calibration = load_calibration(source)
    elif isinstance(source, Calibration):
        calibration = source
    else:
        calibration = _read_calibration(source)
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(
            f"the calibration was made for a different judge: {'; '.join(problems)}; make one for this judge: "
            "cai judge calibrate"
        )
    return calibration


def _read_calibration(values: Mapping[str, Any]) -> Calibration:
    try:
        return Calibration.model_validate_json(orjson.dumps(dict(values)))
    except ValidationError as error:
        raise UsageError(f"the value of calibration is not a calibration ({first_fault(error)})") from None
    except TypeError as error:  # of values that JSON does not have
        raise UsageError(f"the value of calibration is not a calibration ({error})") from None


def _hashes(path: str | Path) -> frozenset[str]:
    """The hashes of the prompts of a file; raises UsageError for a record that is not a prompt."""
    hashes = set()
    for prompt in read_prompts(path):
        if isinstance(prompt, BadPrompt):
            raise UsageError(f"--benign {path}: record {prompt.line} is not a prompt ({prompt.problem})")
        hashes.add(prompt_hash(prompt.messages))
    return frozenset(hashes)
