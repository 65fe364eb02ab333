"""What an export can be told: which options fit which run, their kinds and ranges, and what they ask of a pair.

Knows calibrations and files of benign prompts; nothing of rows and how they are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import UsageError
from cai.export.pairs import PAIRINGS, Filters
from cai.judge.calibration import binding_problems, first_problem, load_calibration
from cai.judge.certify import Calibration, threshold
from cai.records import BadPrompt
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts

DEFAULTS: dict[str, Any] = {  # options by the run they fit, beside those that fit every run
    "generate": {"rounds_kept": "last"},
    "label": {
        "min_confidence": None, "calibration": None, "agreement": None, "pairing": "all", "order_flip": False,
        "max_length_ratio": None, "benign": None, "dead_zone": None, "target": None,
    },
    "sample": {},  # with --best-of
    "": {"split": None, "parquet": False, "hygiene": True},
}  # fmt: skip
NUMBER, SWITCH = ((int, float), "a number"), (bool, "True or False")
KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("split", "min_confidence", "agreement", "max_length_ratio", "dead_zone"), NUMBER),
    **dict.fromkeys(("parquet", "hygiene", "order_flip"), SWITCH),
    "target": (int, "a whole number"),
    "benign": (str | Path, "text or a path"),
    "calibration": (str | Path | Calibration | Mapping, "a path, or a calibration"),
}
MIN_CONFIDENCE = 0.7
Row = dict[str, Any]


def check_options(options: Row) -> None:
    """Raises UsageError for a value of another type, or out of its range."""
    for name, (kind, need) in KINDS.items():
        value = options[name]
        wanted = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not wanted and (kind is bool or value is not None):
            raise UsageError(f"{_flag(name)} {value!r} must be {need}")
    for name, low, high, need in (
        ("split", 0.0, 1.0, "above 0 and below 1: it is the share of prompts that trains"),
        ("min_confidence", 0.5, 1.0, "from 0.5 to 1"),
        ("agreement", 0.5, 1.0, "at least 0.5 and below 1"),
        ("dead_zone", 0.5, 1.0, "from 0.5 to 1"),
        ("max_length_ratio", 1.0, float("inf"), "at least 1"),
        ("target", 1, float("inf"), "at least 1"),
    ):
        value = options[name]
        if value is None:
            continue
        at_an_end = (name == "split" and value == low) or (name in ("split", "agreement") and value == high)
        if at_an_end or not low <= value <= high:
            raise UsageError(f"{_flag(name)} {value} must be {need}")
    for name, known in (("rounds_kept", ("last", "all")), ("pairing", PAIRINGS)):
        if options[name] not in known:
            raise UsageError(f"{_flag(name)} {options[name]!r} must be {', '.join(known[:-1])} or {known[-1]}")
    if options["agreement"] is not None and options["min_confidence"] is not None:
        raise UsageError("--agreement chooses the threshold and --min-confidence states it: name one of them")


def fitting(options: Row, command: str) -> Row:
    """The options of this kind of run; raises UsageError where others are set."""
    for other in DEFAULTS.keys() - {command, ""}:
        wrong = [_flag(name) for name, default in DEFAULTS[other].items() if options[name] != default]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: for runs of cai {other} alone; this is one of cai {command}")
    return {name: options[name] for name in (*DEFAULTS[command], *DEFAULTS[""])}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def words(options: Row) -> tuple[str, ...]:
    """The options of `cai export` that are not as they would be anyway; files by what they are."""
    words: list[str] = []
    files = {"calibration": "calibration.json", "benign": "BENIGN"}
    for name, value in options.items():
        default = next(defaults[name] for defaults in DEFAULTS.values() if name in defaults)
        if value == default or name == "parquet":
            continue
        flag = f"--no-{name}" if name == "hygiene" else _flag(name)
        words += [flag] if isinstance(value, bool) else [flag, files.get(name, str(value))]
    return tuple(words)


def filters_of(
    identity: Mapping[str, Any],
    *,
    min_confidence: float | None = None,
    calibration: str | Path | Calibration | Mapping[str, Any] | None = None,
    agreement: float | None = None,
    order_flip: bool = False,
    max_length_ratio: float | None = None,
    benign: str | Path | None = None,
    hygiene: bool = True,
) -> Filters:
    """What the options of an export ask of a pair; identity: of the label run.

    Raises UsageError where the calibration is of another judge, or certifies no threshold for the agreement.
    """
    made = calibration_of(identity, calibration)
    if agreement is not None:
        if made is None:
            raise UsageError("--agreement needs --calibration FILE: it is certified on pairs with human labels")
        min_confidence = threshold(made, agreement).calibrated
    return Filters(
        min_confidence=MIN_CONFIDENCE if min_confidence is None else min_confidence,
        temperature=None if made is None else made.temperature,
        max_length_ratio=max_length_ratio,
        order_flip=order_flip,
        benign=frozenset() if benign is None else _hashes(benign),
        hygiene=hygiene,
    )


def calibration_of(
    identity: Mapping[str, Any], given: str | Path | Calibration | Mapping[str, Any] | None
) -> Calibration | None:
    """The calibration that is given, if any; raises UsageError where it does not speak of the labels of this run."""
    if given is None:
        return None
    if isinstance(given, str | Path):
        made = load_calibration(given)
    else:
        made = given if isinstance(given, Calibration) else _read_calibration(given)
    problems = binding_problems(made, identity["binding"])
    if problems:
        raise UsageError(
            f"the calibration does not fit these labels: {'; '.join(problems)}; make one of this judge: "
            "cai judge calibrate"
        )
    return made


def _read_calibration(given: Mapping[str, Any]) -> Calibration:
    try:
        return Calibration.model_validate_json(orjson.dumps(dict(given)))
    except ValidationError as error:
        raise UsageError(f"the calibration that is given is none ({first_problem(error)})") from None
    except TypeError as error:  # of values that JSON does not have
        raise UsageError(f"the calibration that is given is none ({error})") from None


def _hashes(path: str | Path) -> frozenset[str]:
    """The hashes of the prompts of a file; raises UsageError for a record that is none."""
    found = set()
    for prompt in read_prompts(path):
        if isinstance(prompt, BadPrompt):
            raise UsageError(f"--benign {path}: record {prompt.line} is no prompt ({prompt.problem})")
        found.add(prompt_hash(prompt.messages))
    return frozenset(found)
