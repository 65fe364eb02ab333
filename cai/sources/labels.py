"""Which of two replies people prefer, by a record's own words: letters, numbers, winners, ranks and preferences.

    column                                        says
    human, label, gold, winner, preference,
      preferred, choice, preferences (an object
      with `human`)                               a or b, first or second, model_a or model_b, A>B, true or false: the
                                                  first is better, or not; tie and its like; the column of a reply, or
                                                  what `MODELS` says of it; 1 or 2 beside columns that end so, 0 is a
                                                  tie then; 0 or 1 beside columns that end so
    better_response_id, else safer_response_id    the number of a reply (PKU-SafeRLHF)
    labels beside human_ref_A                     1: the first, 0: the second (SHP)
    score_0, score_1 beside answer_0, answer_1    the higher is better (WebGPT)
    overall_preference, preference_strength       below 0: the first, above: the second, 0: a tie (HelpSteer)
    winner_model_a, winner_model_b, winner_tie    one of them is 1 (Arena)

Columns that contradict each other are an error, never a choice. Other numbers are not read: they could be either reply.
The columns of `BETTER` say it by their names, unless the record calls them a tie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cai.records import Object
from cai.sources.values import BadRecord, missing, shown

Preference = Literal["a", "b", "tie"]  # which of two replies people prefer; tie: neither
FIRST_AND_SECOND: tuple[Preference, Preference] = ("a", "b")
TIED = (
    "tie", "tied", "draw", "equal", "same", "both", "neither", "both_bad", "both_good", "both bad", "both good",
    "bothbad", "bothgood", "tie (bothbad)", "tie (both bad)", "tie (both good)", "½", "0.5", "a=b",
)  # fmt: skip
WORDS: dict[str, Preference] = {  # in lower case
    **dict.fromkeys(("a", "first", "model_a", "true", "a>b", "a>>b", "b<a", "b<<a"), "a"),
    **dict.fromkeys(("b", "second", "model_b", "false", "b>a", "b>>a", "a<b", "a<<b"), "b"),
    **dict.fromkeys(TIED, "tie"),
}
HUMAN_LABELS = ("human", "label", "gold", "winner", "preferences")  # the last is an object with `human`
SAID_IN_WORDS = (*HUMAN_LABELS, "preference", "preferred", "choice", "chosen")
NUMBERS = ("better_response_id", "safer_response_id")
BETTER = ("chosen", "chosen_response", "preferred_output", "response_j", "good_edited_response")  # are the better one
TIES = ("label", "winner", "status")  # columns that may call them a tie; the last is distilabel's
MODELS = ("model_{}", "generator_{}")  # columns of who wrote a reply, by the end of its own column
LONGEST = 80  # characters of a label that is more than a text beside the replies
DECORATION = re.compile(r"^[\[(*\s]*(?:(?:model|assistant|response|reply|answer|output|option)[ _-]?)?(.*?)[])*.\s]*$")
OTHER: dict[Preference, Preference] = {"a": "b", "b": "a", "tie": "tie"}  # the same, of swapped replies
NUMBERED: dict[str, dict[str, Preference]] = {  # by the end of the first column
    "1": {"1": "a", "2": "b", "0": "tie", "1.5": "tie"},
    "0": {"0": "a", "1": "b"},
}
STRONGEST = 3  # of HelpSteer's preferences; -100 and its like stand for those that people could not give
WINNERS: dict[str, Preference] = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}


def human_label(record: Object, name: str) -> str | None:
    """A human label in lower case, as text, whole numbers without their `.0`; None if there is none."""
    value = record.get(name)
    if name == "preferences":
        if not isinstance(value, Mapping):
            return None
        value = value.get("human")
    if missing(value) or value == "":
        return None
    if isinstance(value, list | tuple | Mapping):
        return ""  # several labels are none
    return str(value).strip().lower().removesuffix(".0")


def preferred_of(record: Object, names: Sequence[str]) -> Preference | None:
    """Which of the replies in two columns people prefer, a for the first; None if the record does not say.

    Raises BadRecord for a label that cannot be read, and for two that contradict each other.
    """
    if names[0] in BETTER:
        return "tie" if any(WORDS.get(human_label(record, column) or "") == "tie" for column in TIES) else "a"
    labels = {}
    for column, read in LABELS.items():
        label = read(record, column, names)
        if label is not None:
            labels[column] = label
    if len(set(labels.values())) > 1:
        values = ", ".join(f"{column!r} {shown(record[column])}" for column in labels)
        raise BadRecord(f"its labels contradict each other: {values}")
    return next(iter(labels.values()), None)


def _by_word(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    label = human_label(record, column)
    if label is None:
        return None
    side = _named(label, record, names)
    if side is None and column in HUMAN_LABELS and (column == "human" or names[0][-1] in NUMBERED):
        raise BadRecord(f"{column!r} is {shown(record[column])}, not {names[0][-1]} or {names[1][-1]}")
    return side


def _named(label: str, record: Object, names: Sequence[str]) -> Preference | None:
    """Which reply a label in lower case names: by a word, the end or the whole of its column, or who wrote it."""
    words = WORDS | NUMBERED.get(names[0][-1], {})
    if label in words:
        return words[label]
    sides: set[Preference] = set()
    for name, side in zip(names, FIRST_AND_SECOND, strict=True):
        end = name[-1].lower()
        writers = (record.get(column.format(form)) for column in MODELS for form in (end, end.upper()))
        if label in (name.lower(), *(str(writer).strip().lower() for writer in writers if writer is not None)):
            sides.add(side)
    if sides:
        return sides.pop() if len(sides) == 1 else None  # one model wrote both
    return words.get(DECORATION.sub(r"\1", label[:LONGEST]))


def _by_place(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    if column == "safer_response_id" and not missing(record.get("better_response_id")):
        return None  # the more helpful reply is often not the safer one
    return _meaning(record, column, NUMBERED.get(names[0][-1], NUMBERED["0"]))


def _of_the_first(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    return _meaning(record, column, {"1": "a", "0": "b"}) if names[0] == "human_ref_A" else None


def _by_sign(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    value = record.get(column)
    if missing(value):
        return None
    try:
        number = float(str(value))
    except ValueError:
        raise BadRecord(f"{column!r} is {shown(value)}, not a number") from None
    if not abs(number) <= STRONGEST:
        raise BadRecord(f"{column!r} is {shown(value)}, not from -{STRONGEST} to {STRONGEST}")
    if number == 0:
        return "tie"
    return "a" if number < 0 else "b"


def _one_of(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    winners = [WINNERS[name] for name in WINNERS if str(record.get(name)).lower() in ("1", "1.0", "true")]
    if len(winners) > 1:
        raise BadRecord(f"more than one of {', '.join(WINNERS)} is 1")
    return next(iter(winners), None)


def _by_score(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    return by_rank(record.get("score_0"), record.get("score_1")) if names[0] == "answer_0" else None


def _meaning(record: Object, column: str, meanings: Mapping[str, Preference]) -> Preference | None:
    label = human_label(record, column)
    if label is None:
        return None
    if label not in meanings:
        raise BadRecord(f"{column!r} is {shown(record[column])}, not {' or '.join(meanings)}")
    return meanings[label]


LABELS: dict[str, Callable[[Object, str, Sequence[str]], Preference | None]] = {
    **dict.fromkeys(SAID_IN_WORDS, _by_word),
    **dict.fromkeys(NUMBERS, _by_place),
    "labels": _of_the_first,
    "overall_preference": _by_sign,
    "preference_strength": _by_sign,
    "winner_model_a": _one_of,
    "score_0": _by_score,
}


def number_in(record: Object, names: Sequence[str]) -> str | None:
    """The 0, 1 or 2 that one of a record's labels is, beside columns that end with a number; else None."""
    if names[0][-1] not in NUMBERED:
        return None
    labels = (human_label(record, column) for column in (*SAID_IN_WORDS, *NUMBERS))
    return next((label for label in labels if label in ("0", "1", "2")), None)


def by_rank(first: Any, second: Any) -> Preference | None:
    """Which of two ranked replies is better; the higher the number the better. None: one has no rank."""
    if missing(first) or missing(second):
        return None
    if first == second:
        return "tie"
    return "a" if first > second else "b"
