"""Battles of two models whose questions and answers stand in lists of their own, or which go on after what was judged.

The first are Arena's table of 55,000 battles, the others MT-Bench's judgments, whose `turn` is the one that was judged.
"""

from __future__ import annotations

from typing import Any

from cai.records import Object
from cai.sources.turns import is_conversation, value_in, whole
from cai.sources.values import BadRecord, id_of

ASKED = "prompt"
ANSWERED = {"response_a": "conversation_a", "response_b": "conversation_b"}
JUDGED = "turn"  # column with the number of the question whose answers were judged


def woven(record: Object) -> Object:
    """The record with the two conversations of a battle up to what was judged; others as they are.

    Lists of questions and answers are JSON text. Raises BadRecord if there are more or fewer answers than questions.
    """
    record = _with_conversations(record)
    number = id_of(record, JUDGED) or ""
    if not number.isdigit() or not all(is_conversation(record.get(name), name) for name in ANSWERED.values()):
        return record
    return {**record, **{name: _until(int(number), record[name], name) for name in ANSWERED.values()}}


def _until(number: int, conversation: Any, name: str) -> Any:
    """The turns before the question after that number."""
    turns = whole(conversation, name)
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    return turns[: asked[number]] if 0 < number < len(asked) else conversation


def _with_conversations(record: Object) -> Object:
    """The record with questions and answers in place of each list of answers to the questions in `prompt`."""
    asked = _texts(record.get(ASKED))
    changes = {}
    for name, column in ANSWERED.items():
        answered = _texts(record.get(name))
        if asked is None or answered is None:
            return record
        if len(asked) != len(answered):
            raise BadRecord(f"{name} has {len(answered)} answers to {len(asked)} questions")
        changes[column] = [list(pair) for pair in zip(asked, answered, strict=True)]
    others = {name: value for name, value in record.items() if name not in (ASKED, *ANSWERED)}
    return others | changes


def _texts(value: Any) -> list[Any] | None:
    """The texts in a list that is JSON text, or Python's print of it; None: the value is another thing."""
    texts = value_in(value) if isinstance(value, str) else None
    return texts if isinstance(texts, list) and texts and all(isinstance(text, str | None) for text in texts) else None
