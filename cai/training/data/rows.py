"""Reads training rows (texts, pairs, labels, `p_chosen`) from records as TRL and published datasets have them."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from cai.records import DropReason, Object, Turns
from cai.sources.conversations import conversation_before, keys_of, prompt_hash, prompt_in, to_prompt, to_reply
from cai.sources.labels import preferred_of
from cai.sources.replies import PAIRS, answers_in, column_of_many, columns_of, columns_of_two, many_of, shared_prompt
from cai.sources.threads import woven
from cai.sources.turns import CHATS, is_conversation, is_reply, messages_in
from cai.sources.values import BadRecord, id_of, missing, object_of, shown
from cai.training.data.kinds import ADVICE, WrongKind, advice, grade_of, kind_for, label_of
from cai.training.setup.methods import METHODS

WEIGHTS = ("weight", "train", "loss")  # keys by which a turn says whether it is learnt
IN_PARTS = ("train_detail", "training_detail")  # by which a turn says it of its parts (axolotl)
PLAIN = frozenset({"chosen", "rejected", "completion"})  # columns of TRL, whose text continues a text in `prompt`


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row. A `prompt` of plain text is continued as it is, without the model's chat template."""

    id: str
    prompt: Turns | str
    reply: str  # of a pair, the chosen one; empty: the row is a prompt, to which the model replies itself
    key: str  # hash of the prompt: all rows of one prompt are on one side of a split
    rejected: str | None = None  # of a pair
    label: bool | None = None  # of a graded reply: whether it is desirable
    p_chosen: float | None = None  # probability that `reply` is better than `rejected`; None: not judged
    margin: float | None = None  # log odds of it in nats; None: the dataset names none

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is plain text."""
        return isinstance(self.prompt, str)

    @property
    def replies(self) -> list[str]:
        """The reply, both replies of a pair, or none of a prompt."""
        if self.rejected is not None:
            return [self.reply, self.rejected]
        return [self.reply] if self.reply else []


def named(row: str) -> str:
    """A row's id in a sentence; a row without one is called by its line."""
    return row if row.startswith("line ") else f"row {row}"


def rows_of(record: Any, line: int, method: str) -> list[TrainingRow]:
    """The rows in a record; a pair is two where single replies are graded. Raises BadRecord for what cannot train."""
    if METHODS[method].rows == "prompts":
        return [_prompt(record, line, method)]
    record = woven(object_of(record, "columns"))
    kind = kind_for(record, method)
    if not _learnt_or_not("the weight of the record", record, WEIGHTS[:1]):
        raise BadRecord("its weight is 0: it is not to be learnt")
    name = id_of(record) or f"line {line}"
    if kind in ("pairs", "candidates"):
        pair = _pair(record, name) if kind == "pairs" else _of_ranks(record, name)
        return _graded(pair) if METHODS[method].rows == "graded" else [pair]
    columns = columns_of(record)
    if columns in PAIRS:  # the chat beside a pair
        columns = tuple(column for column in ("completion", *CHATS) if not missing(record.get(column)))[:1]
    prompt, [reply] = _read(record, columns)
    label = None
    if kind == "graded":
        column, value = label_of(record)
        label = grade_of(value)
        if label is None:
            raise BadRecord(f"{column!r} is {str(value)[:40]!r}, not true or false")
    return [TrainingRow(name, prompt, reply, _key(prompt), label=label)]


def _prompt(record: Any, line: int, method: str) -> TrainingRow:
    """The conversation of any record that has one, up to the turn that the model is to answer."""
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, Mapping) and not set(keys_of("auto", None)) & set(record):
        raise WrongKind(f"the columns are not those of {method}: {advice('it', method, record)}")
    turns = to_prompt(record).messages
    name = id_of(record) if isinstance(record, Mapping) else ""
    return TrainingRow(name or f"line {line}", turns, "", prompt_hash(turns))


def _pair(record: Object, name: str) -> TrainingRow:
    columns = columns_of_two(record)
    if columns is None:
        columns = next(pair for pair in PAIRS if all(column in record for column in pair))
        null = next(column for column in columns if missing(record[column]))
        raise BadRecord(f"{null!r} is null")
    preferred = preferred_of(record, columns)
    if preferred is None:
        label = record.get("label")
        unclear = "" if missing(label) else f", and 'label' {shown(label)} could be either"
        which = f"nothing says which of {columns[0]!r} and {columns[1]!r} is better"
        raise BadRecord(f"{which}{unclear}: cai label asks a judge")
    if preferred == "tie":
        raise BadRecord(f"its label calls {columns[0]!r} and {columns[1]!r} a tie", "low_confidence")
    prompt, replies = _read(record, columns)
    chosen, rejected = replies if preferred == "a" else reversed(replies)
    if chosen.split() == rejected.split():
        raise BadRecord(f"{columns[0]!r} and {columns[1]!r} are the same text", "identical")
    p = _number(record, "p_chosen")
    if p is not None and not 0.0 <= p <= 1.0:
        raise BadRecord(f"'p_chosen' is {p:g}, not a probability from 0 to 1")
    margin = _number(record, "margin")
    return TrainingRow(name, prompt, chosen, _key(prompt), rejected=rejected, p_chosen=p, margin=margin)


def _of_ranks(record: Object, name: str) -> TrainingRow:
    """The best and the worst of several replies that their record ranks; of equals, the first of each."""
    column = column_of_many(record)
    if column is None:
        raise BadRecord("it has no list of replies")
    replies = [(reply.rank, reply.text) for reply in many_of(record, column) if reply.rank is not None]
    if len(replies) < 2:
        raise WrongKind(
            f"fewer than two of its replies have a rank or a score: {ADVICE['candidates'].format(where='it')}"
        )
    best, chosen = max(replies, key=itemgetter(0))
    worst, rejected = min(replies, key=itemgetter(0))
    if best == worst:
        raise BadRecord("all of its replies have the same rank", "low_confidence")
    if chosen.split() == rejected.split():
        raise BadRecord("the best and the worst reply are the same text", "identical")
    if not chosen.strip() or not rejected.strip():
        raise BadRecord("the best or the worst reply is empty", "empty")
    prompt = to_reply(conversation_before(record, (), column))
    return TrainingRow(name, prompt, chosen, _key(prompt), rejected=rejected)


def _graded(pair: TrainingRow) -> list[TrainingRow]:
    """The two replies of a pair, each with its grade."""
    return [
        TrainingRow(f"{pair.id}:{side}", pair.prompt, reply, pair.key, label=side == "chosen")
        for side, reply in zip(("chosen", "rejected"), pair.replies, strict=True)
    ]


def _read(record: Object, columns: Sequence[str]) -> tuple[Turns | str, list[str]]:
    """The prompt, and the replies in these columns; the prompt is text if it and all replies are plain text."""
    record = _learnt(record, columns)
    before, replies = answers_in(record, columns)
    for column, reply in zip(columns, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{column!r} is an empty reply", "empty")
    prompt = record.get("prompt")
    chats = [column for column in columns if is_conversation(record[column], column)]
    if isinstance(prompt, str) and PLAIN.issuperset(columns) and not chats and _is_continued(prompt):
        if not prompt.strip():
            raise BadRecord("the prompt is empty", "empty")
        if before[0] == prompt_in(record, "prompt"):  # no system text and no earlier turns
            return prompt, replies
    return to_reply(shared_prompt(record, before)), replies


def _is_continued(prompt: str) -> bool:
    """Whether a prompt of text is continued as it stands: a transcript is, and messages as JSON text are not."""
    return prompt.lstrip().startswith("Human:") or not is_conversation(prompt, "prompt")


def _learnt(record: Object, columns: Sequence[str]) -> Object:
    """The record without what follows the last reply whose weight is not 0; of a pair, neither may have weight 0."""
    changes = {}
    for column in columns:
        messages = messages_in(record[column], column)
        if messages is None:
            continue
        weights = [_weight(number, turn) for number, turn in enumerate(messages, 1)]
        if 0 not in weights:
            continue
        end = max((number for number, weight in enumerate(weights, 1) if weight == 1), default=0)
        start = end
        while start and weights[start - 1] is not None:
            start -= 1
        if not end or (len(columns) > 1 and end < len(messages)):
            raise BadRecord(f"{column!r} has no reply to learn: its weight is 0")
        if 0 in weights[start:end]:
            raise BadRecord(f"{column!r} ends with a reply in several turns, of which some have weight 0")
        changes[column] = messages[:end]
    return {**record, **changes}


def _weight(number: int, turn: Any) -> bool | None:
    """Whether a reply is learnt, by its own words; None: it is no reply."""
    if not is_reply(turn):
        return None
    for name in IN_PARTS:
        if turn.get(name):
            raise BadRecord(f"turn {number} has {name!r}: replies are learnt whole or not at all")
    return _learnt_or_not(f"the weight of turn {number}", turn, WEIGHTS)


def _learnt_or_not(what: str, entry: Object, names: Sequence[str]) -> bool:
    values = [entry[name] for name in names if not missing(entry.get(name)) and entry[name] != ""]
    weights = {grade_of(value) for value in values} or {True}
    weight = weights.pop()
    if weights or weight is None:
        raise BadRecord(f"{what} is {' and '.join(map(str, values))[:40]}, not 0 or 1")
    return weight


def _number(record: Object, name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        value = math.inf  # Python writes no integer of more than 4,300 digits
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise BadRecord(f"{name!r} is {str(value)[:40]!r}, not a finite number")
    return float(value)


def _key(prompt: Turns | str) -> str:
    return prompt_hash([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


def last_words(prompt: Turns | str) -> str:
    """The text that a reply answers."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


# Records that do not train


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that does not train."""

    file: str
    line: int  # 0: found out after it was read
    reason: DropReason
    detail: str


def reasons_of(drops: Iterable[Skipped]) -> dict[str, int]:
    """How many were dropped, by reason."""
    return dict(Counter(drop.reason for drop in drops))


def drops_in_words(drops: Sequence[Skipped]) -> Iterator[str]:
    """How many rows were dropped for each reason, for people to read, and what was wrong with the first."""
    for why, count in sorted(reasons_of(drops).items()):
        first = next(drop for drop in drops if drop.reason == why)
        yield f"dropped: {why} {count:,}; the first is {first.detail}"
