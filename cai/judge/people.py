"""Reads pairs that a judge and people have both judged: label runs of ours, and rows of others.

Strict: a row that could mean two things is an error that names its line. Knows shapes of rows; no metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError
from cai.judge.belief import log_odds
from cai.records import Label
from cai.sources.conversations import BadRecord, listed

PROBABILITIES = ("p_a", "p", "prob", "probs")
HUMAN = ("human", "label", "gold", "preferences")  # the last is an object with `human`
TEXTS = ("replies", "outputs")  # lists of two; else a and b, or output_1 and output_2
SAID = {"a": True, "first": True, "b": False, "second": False}
LOOSE = 0.01  # by which two probabilities may miss 1 in their sum, as rounding to two digits does
# Deliberately plain: a judge to beat, not the detector of `cai audit`.
REFUSAL_WORDS = ("i cannot", "i can't", "i won't", "i'm sorry", "i am sorry", "unable to", "as an ai", "must decline")


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair with the log odds that its first reply is better, and whether people say so."""

    z: float
    truth: bool
    key: str  # pairs of one key are not independent: of one prompt
    guesses: Mapping[str, float]  # trivial judge → its probability that the first is better: 0, 0.5 or 1


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """What a source holds."""

    rows: tuple[Judged, ...]
    invalid: int  # with a human label, and no valid vote
    unlabelled: int
    labels: bool  # whether they are rows of a label run
    numbering: str  # how human labels that are numbers were read; empty: there are none


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, before it is known how the file counts replies."""

    line: int
    z: float | None
    human: bool | int | None  # a number where the row has one
    key: str
    guesses: dict[str, float]
    of: dict[str, Any] | None  # whose label it is, where the row says so
    pair: bool = False  # the probability came as a pair, as in `probs`
    counts_from_1: bool = False  # by its shape


def read_judged(records: Iterable[tuple[int, Any]], path: str | Path | None) -> JudgedRows:
    """The judged pairs of numbered records, `Label`s or mappings.

    Raises InputError for a row that cannot be read, and for rows of several judges.
    """
    rows: list[_Row] = []
    for line, record in records:
        try:
            row = _row(line, record)
            if rows:
                _like(rows[0], row)
        except BadRecord as bad:
            raise InputError(bad.problem, path, line) from None
        rows.append(row)
    ways = {row.pair: row.line for row in reversed(rows) if row.z is not None}
    if len(ways) > 1:
        problem = (
            f"one probability in some rows (line {ways[False]}), two in others (line {ways[True]}): write all alike"
        )
        raise InputError(problem, path)
    first, numbering = _numbering(rows, path)
    found, invalid, unlabelled = [], 0, 0
    for row in rows:
        human = row.human
        truth = human if human is None or isinstance(human, bool) else human == first
        if truth is None:
            unlabelled += 1
        elif row.z is None:
            invalid += 1
        else:
            found.append(Judged(row.z, truth, row.key, row.guesses))
    return JudgedRows(tuple(found), invalid, unlabelled, any(row.of for row in rows), numbering)


def trivial_guesses(texts: tuple[str, str] | None) -> dict[str, float]:
    """What judges that read nothing say of a pair, by their name; 0.5 where one cannot tell."""
    said = {"always_first": 1.0}
    if texts is not None:
        a, b = texts
        longer = 0.5 if len(a) == len(b) else float(len(a) > len(b))
        refuses = [any(word in text.casefold().replace("’", "'") for word in REFUSAL_WORDS) for text in texts]
        said |= {"longer": longer, "shorter": 1 - longer, "not_refusing": 0.5 + (refuses[1] - refuses[0]) / 2}
    return said


# Rows


def _row(line: int, record: Any) -> _Row:
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, Label):
        return _of_label(line, record)
    if not isinstance(record, Mapping):
        raise BadRecord(f"is {type(record).__name__}, not an object with a probability and a human label")
    if "votes" in record and "z" in record:
        try:
            return _of_label(line, Label.model_validate_json(orjson.dumps(record)))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the row"
            raise BadRecord(f"looks like a row of labels.jsonl, but {where}: {problem['msg']}") from None
    z, pair = _z(record)
    human, counts_from_1 = _human(record)
    key = record.get("prompt_id", record.get("id"))
    return _Row(
        line, z, human, str(line if key is None else key), trivial_guesses(_texts(record)), None, pair, counts_from_1
    )


def _of_label(line: int, label: Label) -> _Row:
    if label.z is not None and not math.isfinite(label.z):
        raise BadRecord(f"z is {label.z}, not a finite number")
    of = {
        "protocol": label.protocol,
        "templates": label.templates,
        "constitution": label.constitution,
        "principles": len({vote.principle for vote in label.votes}),
        "judge model": label.models.get("judge"),
    }
    human = None if label.human is None else label.human == "a"
    return _Row(line, label.z, human, label.prompt_id, trivial_guesses((label.a, label.b)), of)


def _like(first: _Row, row: _Row) -> None:
    """Raises BadRecord where two rows are not of one judge, or of one shape."""
    if (first.of is None) != (row.of is None):
        raise BadRecord(f"rows of labels.jsonl and other rows are mixed (line {first.line} is of the other kind)")
    for name, value in (row.of or {}).items():
        other = (first.of or {})[name]
        if value != other:
            raise BadRecord(
                f"{name} is {_short(value)}, but {_short(other)} in line {first.line}: a calibration speaks of one "
                "judge; keep the labels of each in a file of its own"
            )


def _short(value: Any) -> str:
    name, mark = getattr(value, "name", None), getattr(value, "hash", "")
    return repr(value) if name is None else f"{name} {mark[:8]}"


def _z(record: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The log odds, None for a vote that is missing, and whether they came as two probabilities."""
    name = _one_of(PROBABILITIES, record, "probability that the first reply is better")
    value = record[name]
    if value is None:
        return None, False
    if not isinstance(value, list | tuple):
        return log_odds(_probability(value, name)), False
    if len(value) != 2:
        raise BadRecord(f"{name!r} has {len(value)} numbers, not two: p of the first reply, and of the second")
    first, second = (_probability(one, name) for one in value)
    if abs(first + second - 1) > LOOSE:
        raise BadRecord(f"{name!r} is {[first, second]}, which do not add up to 1")
    if first > second:  # of the smaller, which keeps its digits, and so that swapped rows mirror
        return -log_odds(second / (first + second)), True
    return log_odds(first / (first + second)), True


def _probability(value: Any, name: str) -> float:
    try:
        p = math.nan if isinstance(value, bool) else float(value)  # tables hold text
    except (TypeError, ValueError):
        p = math.nan
    if not 0 <= p <= 1:
        raise BadRecord(f"{name!r} is {value!r}, not a probability from 0 to 1")
    return p


def _human(record: Mapping[str, Any]) -> tuple[bool | int | None, bool]:
    name = _one_of(HUMAN, record, "human label")
    value, nested = record[name], name == "preferences"
    if nested:
        if not isinstance(value, Mapping) or "human" not in value:
            raise BadRecord("'preferences' has no 'human' in it")
        name, value = "preferences.human", value["human"]
    if value is None or value == "":
        return None, nested
    said = value.strip().lower() if isinstance(value, str) else value
    if isinstance(said, str) and said in SAID:
        return SAID[said], nested
    if not isinstance(said, bool) and str(said) in ("0", "1", "2", "0.0", "1.0", "2.0"):  # tables hold 1.0
        return int(float(said)), nested
    raise BadRecord(f"{name!r} is {value!r}, not a or b, first or second, 1 or 2; null where there is no human label")


def _texts(record: Mapping[str, Any]) -> tuple[str, str] | None:
    found = [record[name] for name in TEXTS if name in record]
    found += [(record[a], record[b]) for a, b in (("a", "b"), ("output_1", "output_2")) if a in record and b in record]
    if not found:
        return None
    if len(found) > 1:
        raise BadRecord(f"two pairs of replies; keep one of {listed(record)}")
    match found[0]:
        case [str(a), str(b)]:
            return a, b
    raise BadRecord("the replies are not two texts")


def _one_of(known: tuple[str, ...], record: Mapping[str, Any], what: str) -> str:
    names = [name for name in known if name in record]
    if len(names) == 1:
        return names[0]
    if names:
        raise BadRecord(f"{' and '.join(names)} could both be the {what}: keep one")
    raise BadRecord(f"no {what}: expected one of {', '.join(known)}; it has {listed(record)}")


def _numbering(rows: list[_Row], path: str | Path | None) -> tuple[int, str]:
    """The number that human labels give the first reply, and how to say so.

    1 and 2 count replies; 0 and 1 beside a pair of probabilities are places in it; 1 beside a single probability is
    what that is the probability of.
    """
    numbered = [row for row in rows if row.human is not None and not isinstance(row.human, bool)]
    seen = {row.human for row in numbered}
    if not seen:
        return 1, ""
    line = numbered[0].line
    if seen >= {0, 2} or (0 in seen and any(row.counts_from_1 for row in numbered)):
        raise InputError("human labels count both from 0 and from 1; write a or b", path, line)
    if 2 in seen or any(row.counts_from_1 for row in numbered):
        return 1, "1 is the first reply, 2 the second"
    if 0 not in seen:
        problem = "every human label is 1, which may count from 0 or from 1; write a or b"
        raise InputError(problem, path, line)
    if any(row.pair for row in rows):
        return 0, "0 is the first reply, 1 the second, as in the pair of probabilities"
    return 1, "1 says that the first reply is better, 0 that it is not"
