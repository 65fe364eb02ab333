"""What kind of dataset a record is from, by its columns, and what to do with one that a method does not train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai.records import Object
from cai.sources.conversations import PROMPTS
from cai.sources.replies import PAIRS, SINGLE, column_of_many
from cai.sources.turns import CHATS
from cai.sources.values import BadRecord, listed, missing
from cai.training.setup.methods import METHODS, Kind

GRADES = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}  # tables hold text
ADVICE: dict[Kind, str] = {  # what to do with a dataset of another kind than a method trains on
    "chat": "these are conversations, not what {method} trains on: cai train sft {where}",
    "pairs": "these are pairs, not what {method} trains on: cai train dpo {where}",
    "graded": "these are single replies with a label, not what {method} trains on: cai train kto {where}",
    "labels": "these are labels, from which training rows are cut: name the run, cai train dpo {folder}",
    "revisions": "these are revisions, from which training rows are cut: name the run, cai train sft {folder}",
    "candidates": "these are replies that nobody has judged: cai label {where}",
    "prompts": "these are prompts without replies: cai generate {where}",
    "text": "'text' does not tell the reply from the prompt; give 'messages', or 'prompt' and 'completion'",
    "unknown": "no columns that {method} trains on; it has {columns}",
}


class WrongKind(BadRecord):
    """A record is from a dataset of another kind."""


def kinds_of(record: Object) -> list[Kind]:
    """The kinds of dataset that a record can be from, the likeliest first.

    By the columns that have a value, and then by all: a null costs its record, and does not change the dataset.
    """
    valued = {name for name, value in record.items() if not missing(value)}
    kinds = [*_by_columns(record, valued), *_by_columns(record, set(record))]
    return list(dict.fromkeys(kinds)) or ["unknown"]


def _by_columns(record: Object, columns: set[str]) -> list[Kind]:
    return [kind for kind, test in KINDS.items() if test(record, columns)]


def _is_two(columns: set[str]) -> bool:
    return any(SECOND.get(name) in columns for name in columns)


def _is_chat(record: Object, columns: set[str]) -> bool:
    """Of a pair, only a reply of its own counts: whole conversations, as UltraFeedback has them, or a completion."""
    if _is_two(set(record)):
        return bool(columns & {"completion", *CHATS})
    return bool(columns & set(SINGLE) - {"text"})


KINDS: dict[Kind, Callable[[Object, set[str]], bool]] = {  # the likeliest first
    "labels": lambda record, columns: columns >= {"votes", "a", "b"},
    "revisions": lambda record, columns: columns >= {"rounds", "initial", "final"},
    "candidates": lambda record, columns: column_of_many(record) is not None,
    "pairs": lambda record, columns: _is_two(columns),
    "graded": lambda record, columns: columns >= {"completion", "label"} or is_graded(record) is True,
    "chat": _is_chat,
    "prompts": lambda record, columns: bool(columns & set(PROMPTS)),
    "text": lambda record, columns: "text" in columns,
}
SECOND = dict(PAIRS)
CUT = ("labels", "revisions")  # kinds of our own rows, which are never read as another
FITTING: dict[Kind, tuple[Kind, ...]] = {  # kind that a method trains on → kinds that its rows can be made from
    "chat": ("chat",),
    "pairs": ("pairs", "candidates"),
    "graded": ("graded", "pairs", "candidates"),
}


def kind_for(record: Object, method: str) -> Kind:
    """The kind as which a record trains by a method; raises WrongKind if there is none."""
    kinds = kinds_of(record)
    if kinds[0] not in CUT:
        for kind in FITTING[METHODS[method].rows]:
            if kind in kinds:
                return kind
    raise WrongKind(f"the columns are not those of {method}: {advice('it', method, record)}")


def is_graded(record: Object) -> bool | None:
    """Whether a reply has a grade, as KTO needs it; None: it has no label at all.

    1 and 0 are grades beside TRL's `completion`, and under LLaMA-Factory's `kto_tag`: elsewhere they may be classes.
    """
    name, label = label_of(record)
    if missing(label) or not set(record) & set(SINGLE) - {"text"}:
        return None
    numbers = "completion" in record or name == "kto_tag"
    return grade_of(label) is not None and (numbers or str(label).lower() in ("true", "false"))


def label_of(record: Object) -> tuple[str, Any]:
    """The column that grades a reply, and its value."""
    name = "label" if missing(record.get("kto_tag")) else "kto_tag"
    return name, record.get(name)


def grade_of(label: object) -> bool | None:
    """Whether a label calls a reply desirable; None: it is not a grade."""
    return GRADES.get(str(label).lower())


def advice(where: str, method: str, record: Object) -> str:
    """What to do with a record of another kind than `method` trains on; where: its file."""
    words = ADVICE[kinds_of(record)[0]]
    return words.format(where=where, folder=Path(where).parent, method=method, columns=listed(record))
