"""Conversations whose questions and answers stand in lists of their own, as in Arena's table of 55,000 battles."""

from __future__ import annotations

from itertools import chain
from typing import Any

import orjson

from cai.records import Object
from cai.sources.values import BadRecord

ASKED = "prompt"
ANSWERED = {"response_a": "conversation_a", "response_b": "conversation_b"}


def woven(record: Object) -> Object:
    """The record with a conversation in place of each list of answers to the questions in `prompt`; others as they are.

    The lists are JSON text. Raises BadRecord if there are more or fewer answers than questions.
    """
    asked = _texts(record.get(ASKED))
    changes = {}
    for name, column in ANSWERED.items():
        answered = _texts(record.get(name))
        if asked is None or answered is None:
            return record
        if len(asked) != len(answered):
            raise BadRecord(f"{name} has {len(answered)} answers to {len(asked)} questions")
        turns = zip(("user", "assistant") * len(asked), chain(*zip(asked, answered, strict=True)), strict=True)
        changes[column] = [{"role": role, "content": text} for role, text in turns]
    others = {name: value for name, value in record.items() if name not in (ASKED, *ANSWERED)}
    return others | changes


def _texts(value: Any) -> list[Any] | None:
    """The texts in a JSON list; None: the value is another thing."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        texts = orjson.loads(value)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    return texts if texts and all(isinstance(text, str | None) for text in texts) else None
