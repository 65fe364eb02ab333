"""Whether a reward model is told a principle, as its tokenizer's config says: it is part of what the model reads.

There, as the chat template, it lies beside an adapter, beside a whole model and in each checkpoint, and a merge keeps
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cai.constitution.condition import FORM, PLACE
from cai.disk.reading import read_if_there
from cai.errors import UsageError
from cai.records import Condition
from cai.weights.bases import Base
from cai.weights.loading import words_of

KEY = "principle_condition"  # in tokenizer_config.json


class _Kept(BaseModel):
    """What is written there."""

    model_config = ConfigDict(strict=True)

    form: str
    principles: list[str]


def set_condition(tokenizer: Any, principles: Sequence[str]) -> None:
    """Have a tokenizer say when it is saved that its model is told one of these principles; none: it is told none."""
    tokenizer.init_kwargs.pop(KEY, None)
    if principles:
        tokenizer.init_kwargs[KEY] = {"form": FORM, "principles": list(principles)}


def condition_of(tokenizer: Any, spec: str) -> Condition | None:
    """The condition of a tokenizer's model; None: it is told no principle. UsageError if it is damaged."""
    return _condition(tokenizer.init_kwargs.get(KEY), spec)


def condition_at(base: Base) -> Condition | None:
    """The condition of a model in a folder; of one on the hub nothing is known before it is loaded."""
    return _condition(read_if_there(Path(words_of(base)) / "tokenizer_config.json").get(KEY), base.spec)


def _condition(kept: Any, spec: str) -> Condition | None:
    if kept is None:
        return None
    try:
        found = _Kept.model_validate(kept)
    except ValidationError:
        found = None
    if found is None or PLACE not in found.form:
        raise UsageError(f"{spec}: {KEY} in its tokenizer_config.json is damaged: put the file back as it was")
    return Condition(found.form, tuple(found.principles))
