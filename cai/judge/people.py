"""Reads pairs that a judge and people have both judged: label runs of ours, and rows of others.

Strict: a row that could mean two things is an error that names its line. One whose two probabilities do not add up is
dropped, and counted with its line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError
from cai.judge.majority import People
from cai.judge.metrics import log_odds
from cai.judge.trivial import trivial_guesses
from cai.records import ConstitutionRef, Label, Object
from cai.sources.labels import HUMAN_LABELS, WORDS, human_label, preferred_of
from cai.sources.replies import MANY, PAIRS, RANKED, columns_of_two, many_of, with_clear_numbers
from cai.sources.values import BadRecord, listed, missing, object_of
from cai.sources.yamlfile import first_fault

PROBABILITIES = ("p_a", "p", "prob", "probs")

NUMBERS = {"0": 0, "1": 1, "2": 2}
TRUTHS = {"a": 1.0, "b": 0.0, "tie": 0.5}
LOOSE = 0.01  # by which two probabilities may miss 1 in their sum, as rounding to two digits does
LOOSEST = 0.1  # and as letters do that share their probability with other tokens: normalised, with a note


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair with the log odds that its first reply is better, and what people say of that."""

    z: float
    truth: float  # 1: the first is better, 0: the second, 0.5: a tie
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
    normalised: int = 0  # whose two probabilities missed 1 by more than rounding does
    dropped: tuple[str, ...] = ()  # each with its line
    undecided: tuple[float, ...] = ()  # log odds of pairs that were drawn for people, none of whom labelled them
    strangers: int = 0  # pairs with votes that are not among the rows
    late: int = 0  # pairs that were drawn when the rows were not all there


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, before it is known how the file counts replies."""

    line: int
    z: float | None
    human: str | None  # the human label, in lower case
    key: str
    guesses: dict[str, float]
    judge: Object = field(default_factory=dict)  # whose label it is, if the row says so
    pair: bool = False  # the probability came as a pair, as in `probs`
    normalised: bool = False  # and missed 1 in its sum
    counts_from_1: bool = False  # by its shape
    pair_key: str = ""
    is_known: bool = False  # that people voted on the pair


class _Unequal(BadRecord):
    """Two probabilities are far from adding up to 1."""


def read_judged(
    records: Iterable[tuple[int, Any]], path: str | Path | None, people: People | None = None
) -> JudgedRows:
    """The judged pairs of numbered records, `Label`s or mappings.

    people: what people say of the pairs of a label run, instead of what its rows say. Raises InputError for a row that
    cannot be read, for rows of several judges, and if some have one probability and others two.
    """
    rows: list[_Row] = []
    dropped = []
    for line, record in with_clear_numbers(records, path):
        try:
            row = _row(line, record) if people is None else _with_votes(line, record, people)
            _check_judge(row, rows[0] if rows else row)
        except _Unequal as bad:
            dropped.append(f"line {line}: {bad.problem}")
            continue
        except BadRecord as bad:
            raise InputError(bad.problem, path, line) from None
        rows.append(row)
    lines = {row.pair: row.line for row in reversed(rows) if row.z is not None}
    if len(lines) > 1:
        one = f"one probability in some rows (line {lines[False]})"
        raise InputError(f"{one}, two in others (line {lines[True]}): write all alike", path)
    meanings, numbering = _numbering(rows, path)
    meanings |= {word: TRUTHS[preference] for word, preference in WORDS.items()}
    judged = tuple(
        Judged(row.z, meanings[row.human], row.key, row.guesses)
        for row in rows
        if row.human is not None and row.z is not None
    )
    unlabelled = sum(row.human is None for row in rows)
    known = [row for row in rows if row.is_known]
    people = people or People()
    return JudgedRows(
        judged,
        invalid=len(rows) - unlabelled - len(judged),
        unlabelled=unlabelled,
        labels=any(row.judge for row in rows),
        numbering=numbering,
        normalised=sum(row.normalised for row in rows),
        dropped=tuple(dropped),
        undecided=tuple(row.z for row in known if row.z is not None and people.is_lost(row.pair_key)),
        strangers=len(people.words.keys() - {row.pair_key for row in known}),
        late=people.late({row.pair_key for row in rows}),
    )


def _check_judge(row: _Row, first: _Row) -> None:
    """Raise BadRecord if a row is not of the same judge as the first one of its source."""
    if bool(first.judge) != bool(row.judge):
        raise BadRecord(f"rows of labels.jsonl and other rows are mixed (line {first.line} is of the other kind)")
    for name, value in row.judge.items():
        if value != first.judge[name]:
            values = f"{_short(value)}, but {_short(first.judge[name])} in line {first.line}"
            problem = f"{name} is {values}: a calibration is of one judge; keep the labels of each in a file of its own"
            raise BadRecord(problem)


# Rows


def _row(line: int, record: Any) -> _Row:
    if isinstance(record, Label):
        return _of_label(line, record)
    record = object_of(record, "a probability and a human label")
    if "votes" in record and "z" in record:
        return _of_label(line, _label(record))
    z, missed = _log_odds(record)
    human = _human(record)
    named = (record.get(name) for name in ("prompt_id", "prompt", "id"))
    key = next((value for value in named if not _is_empty(value)), line)
    guesses = trivial_guesses(_texts(record))
    return _Row(
        line,
        z,
        human,
        str(key),
        guesses,
        pair=missed is not None,
        normalised=missed is not None and missed > LOOSE,
        counts_from_1="preferences" in record,
    )


def _label(record: Object) -> Label:
    try:
        return Label.model_validate_json(orjson.dumps(record))
    except ValidationError as error:
        raise BadRecord(f"looks like a row of labels.jsonl, but {first_fault(error)}") from None


def _with_votes(line: int, record: Any, people: People) -> _Row:
    """A row of a label run, with what people say of it."""
    label = record if isinstance(record, Label) else _label(object_of(record, "the votes of a judge"))
    pair = label.key, label.a, label.b
    return replace(_of_label(line, label), human=people.human(*pair), pair_key=label.key, is_known=people.knows(*pair))


def _of_label(line: int, label: Label) -> _Row:
    if label.z is not None and not math.isfinite(label.z):
        raise BadRecord(f"z is {label.z}, not a finite number")
    judge = {
        "protocol": label.protocol,
        "templates": label.templates,
        "constitution": label.constitution,
        "principles": len({vote.principle for vote in label.votes}),
        "judge model": label.models.get("judge"),
    }
    return _Row(line, label.z, label.human, label.prompt_id, trivial_guesses((label.a, label.b)), judge)


def _short(value: Any) -> str:
    if isinstance(value, ConstitutionRef):
        return f"{value.name} {value.hash[:8]}"
    return repr(value)


def _is_empty(value: Any) -> bool:
    """Whether a value is none, as an empty cell of a table is."""
    return missing(value) or (isinstance(value, str) and not value.strip())


def _log_odds(record: Object) -> tuple[float | None, float | None]:
    """The log odds, None for a vote that is missing, and by how much two probabilities miss 1; None: there is one."""
    name = _only(PROBABILITIES, record, "probability that the first reply is better")
    value = record[name]
    if _is_empty(value):
        return None, None
    if not isinstance(value, list | tuple):
        return log_odds(_probability(value, name)), None
    if len(value) != 2:
        raise BadRecord(f"{name!r} has {len(value)} numbers, not two: p of the first reply, and of the second")
    first, second = (_probability(one, name, 1 + LOOSEST) for one in value)
    missed = round(abs(first + second - 1), 9)  # 0.6 and 0.5 add up to 1.1
    if missed > LOOSEST:
        raise _Unequal(f"{name!r} is {[first, second]}, which do not add up to 1")
    if first > second:  # of the smaller, which keeps its digits, and so that swapped rows mirror
        return -log_odds(second / (first + second)), missed
    return log_odds(first / (first + second)), missed


def _probability(value: Any, name: str, most: float = 1.0) -> float:
    with suppress(TypeError, ValueError):
        if not isinstance(value, bool) and 0 <= float(value) <= most:  # tables hold text
            return float(value)
    raise BadRecord(f"{name!r} is {value!r}, not a probability from 0 to 1")


def _human(record: Object) -> str | None:
    """The human label, None if there is none."""
    names = columns_of_two(record)
    preference = None
    if names and names not in RANKED:
        preference = preferred_of(record, names)
    if preference is not None:
        return preference
    name = _only(HUMAN_LABELS, record, "human label")
    if name == "preferences" and (not isinstance(record[name], Mapping) or "human" not in record[name]):
        raise BadRecord("'preferences' has no 'human' in it")
    label = human_label(record, name)
    if label is None or label in WORDS or label in NUMBERS:
        return label
    choices = "a or b, first or second, 1 or 2, true or false, tie; null if there is no human label"
    raise BadRecord(f"{name!r} is {record[name]!r}, not {choices}")


def _texts(record: Object) -> tuple[str, str] | None:
    """The two replies, if the row has them."""
    pairs = [(record[a], record[b]) for a, b in PAIRS[1:] if a in record and b in record]
    lists = [name for name in MANY if isinstance(record.get(name), list)]
    if len(pairs) + len(lists) > 1:
        raise BadRecord(f"two pairs of replies; keep one of {listed(record)}")
    texts = [text for pair in pairs for text in pair]
    texts += [reply.text for name in lists for reply in many_of(record, name)]
    match texts:
        case []:
            return None
        case [str(a), str(b)]:
            return a, b
    raise BadRecord("the replies are not two texts")


def _only(columns: tuple[str, ...], record: Object, what: str) -> str:
    """The one of some columns that a record has."""
    names = [name for name in columns if name in record]
    if not names:
        raise BadRecord(f"no {what}: expected one of {', '.join(columns)}; it has {listed(record)}")
    if len(names) > 1:
        raise BadRecord(f"{' and '.join(names)} could both be the {what}: keep one")
    return names[0]


def _numbering(rows: list[_Row], path: str | Path | None) -> tuple[dict[str, float], str]:
    """What the numbers among human labels mean, and how to say so.

    1 and 2 count replies, and 0 is a tie beside both; 0 and 1 beside a pair of probabilities are places in it; 1 beside
    a single probability is what that is the probability of.
    """
    numbers = {NUMBERS[row.human]: row.line for row in reversed(rows) if row.human in NUMBERS}
    if not numbers:
        return {}, ""
    line = min(numbers.values())
    from_1 = 2 in numbers or any(row.counts_from_1 for row in rows if row.human in NUMBERS)
    if from_1 and 0 in numbers and len(numbers) < 3:
        raise InputError("human labels count both from 0 and from 1; write a or b", path, line)
    if from_1 and 0 in numbers:
        return {"1": 1.0, "2": 0.0, "0": 0.5}, "1 is the first reply, 2 the second, 0 a tie"
    if from_1:
        return {"1": 1.0, "2": 0.0}, "1 is the first reply, 2 the second"
    if 0 not in numbers:
        raise InputError("every human label is 1, which may count from 0 or from 1; write a or b", path, line)
    if any(row.pair for row in rows):
        return {"0": 1.0, "1": 0.0}, "0 is the first reply, 1 the second, as in the pair of probabilities"
    return {"1": 1.0, "0": 0.0}, "1 says that the first reply is better, 0 that it is not"
