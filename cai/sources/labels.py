"""Which of two replies people prefer, by a record's own words: letters, numbers, winners, ranks and preferences.

    column                                        says
    human, label, gold, winner,
      preferences (an object with `human`)        a or b, first or second, model_a or model_b, true or false: the first
                                                  is better, or not; tie and its like; 1 or 2 beside columns that end so
    better_response_id, else safer_response_id    0 or 1, the number of a reply (PKU-SafeRLHF)
    labels beside human_ref_A                     1: the first, 0: the second (SHP)
    overall_preference, preference_strength       below 0: the first, above: the second, 0: a tie (HelpSteer)
    winner_model_a, winner_model_b, winner_tie    one of them is 1 (Arena)

Columns that contradict each other are an error, never a choice. Other numbers are not read: they could be either reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cai.records import Object
from cai.sources.values import BadRecord, missing, shown

Preference = Literal["a", "b", "tie"]  # which of two replies people prefer; tie: neither
WORDS: dict[str, Preference] = {  # in lower case
    **dict.fromkeys(("a", "first", "model_a", "true"), "a"),
    **dict.fromkeys(("b", "second", "model_b", "false"), "b"),
    **dict.fromkeys(
        ("tie", "tied", "draw", "equal", "both", "neither", "both_bad", "bothbad", "tie (bothbad)", "½", "0.5"), "tie"
    ),
}
HUMAN_LABELS = ("human", "label", "gold", "winner", "preferences")  # the last is an object with `human`
OTHER: dict[Preference, Preference] = {"a": "b", "b": "a", "tie": "tie"}  # the same, of swapped replies
NUMBERED: dict[str, dict[str, Preference]] = {"1": {"1": "a", "2": "b"}, "0": {"0": "a", "1": "b"}}  # by the first
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
    return str(value).strip().lower().removesuffix(".0")


def preferred_of(record: Object, names: Sequence[str]) -> Preference | None:
    """Which of the replies in two columns people prefer, a for the first; None if the record does not say.

    Raises BadRecord for a label that cannot be read, and for two that contradict each other.
    """
    if names[0].startswith("chosen"):
        return "a"
    labels = {}
    for column, read in LABELS.items():
        label = read(record, column, names)
        if label is not None:
            labels[column] = label
    if len(set(labels.values())) > 1:
        told = ", ".join(f"{column!r} {shown(record[column])}" for column in labels)
        raise BadRecord(f"its labels contradict each other: {told}")
    return next(iter(labels.values()), None)


def _by_word(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    label = human_label(record, column)
    numbers = NUMBERED.get(names[0][-1], {})
    if label is None or label in WORDS or label in numbers:
        return (WORDS | numbers).get(label or "")
    if column == "human" or numbers:
        expected = " or ".join(numbers or ("a", "b"))
        raise BadRecord(f"{column!r} is {shown(record[column])}, not {expected}")
    return None


def _by_place(record: Object, column: str, names: Sequence[str]) -> Preference | None:
    if column == "safer_response_id" and not missing(record.get("better_response_id")):
        return None  # the more helpful reply is often not the safer one
    return _meaning(record, column, NUMBERED["0"])


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


def _meaning(record: Object, column: str, meanings: Mapping[str, Preference]) -> Preference | None:
    label = human_label(record, column)
    if label is None:
        return None
    if label not in meanings:
        raise BadRecord(f"{column!r} is {shown(record[column])}, not {' or '.join(meanings)}")
    return meanings[label]


LABELS: dict[str, Callable[[Object, str, Sequence[str]], Preference | None]] = {
    **dict.fromkeys(HUMAN_LABELS, _by_word),
    "better_response_id": _by_place,
    "safer_response_id": _by_place,
    "labels": _of_the_first,
    "overall_preference": _by_sign,
    "preference_strength": _by_sign,
    "winner_model_a": _one_of,
}


def by_rank(first: Any, second: Any) -> Preference | None:
    """Which of two ranked replies is better; the higher the number the better. None: one has no rank."""
    if first is None or second is None:
        return None
    if first == second:
        return "tie"
    return "a" if first > second else "b"
