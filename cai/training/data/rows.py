"""One training row, from a record in any of the shapes that TRL's datasets and published ones have.

Knows columns and conversations. Knows nothing of files, of a dataset as a whole, or of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cai.records import Message
from cai.sources.conversations import NoPrompt, as_text, listed, prompt_hash, to_messages
from cai.texts.repeats import identical

Method = Literal["sft", "dpo", "kto", "reward"]
Kind = Literal["chat", "pairs", "graded", "labels", "revisions", "candidates", "prompts", "text", "unknown"]
Turns = tuple[Message, ...]

FITS: dict[Method, Kind] = {"sft": "chat", "dpo": "pairs", "reward": "pairs", "kto": "graded"}
LARGEST = 1 << 53  # of a whole number: float() refuses some that are larger, and no probability or margin is
COLUMNS: tuple[tuple[frozenset[str], Kind], ...] = (  # the first whose columns all have a value
    (frozenset({"votes", "a", "b"}), "labels"),
    (frozenset({"rounds", "initial", "final"}), "revisions"),
    (frozenset({"replies"}), "candidates"),
    (frozenset({"chosen", "rejected"}), "pairs"),
    (frozenset({"completion", "label"}), "graded"),
    (frozenset({"completion"}), "chat"),
    (frozenset({"messages"}), "chat"),
    (frozenset({"conversations"}), "chat"),
    (frozenset({"prompt"}), "prompts"),
    (frozenset({"text"}), "text"),
)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row. A `prompt` of plain text is continued as it is, without the model's chat template."""

    id: str
    prompt: Turns | str
    reply: str  # of a pair, the chosen one
    key: str  # hash of the prompt: rows of one prompt lie on one side of a split
    rejected: str | None = None  # of a pair
    label: bool | None = None  # of a graded reply: whether it is desirable
    p_chosen: float | None = None  # probability that `reply` is better than `rejected`; None: not judged
    margin: float | None = None  # log odds of it in nats; None: the dataset names none


def named(row: str) -> str:
    """A row's id in a sentence; a row without one is called by its line."""
    return row if row.startswith("line ") else f"row {row}"


def kind_of(record: Mapping[str, Any]) -> Kind:
    """What kind of dataset a record is from, by the columns it has a value in."""
    has = {name for name, value in record.items() if value is not None}
    return next((kind for columns, kind in COLUMNS if columns <= has), "unknown")


def advice(kind: Kind, where: str, method: Method, record: Mapping[str, Any]) -> str:
    """What to do with a dataset of another kind than `method` trains on; where: its file."""
    folder = Path(where).parent
    return {
        "chat": f"these are conversations, not what {method} trains on: cai train sft {where}",
        "pairs": f"these are pairs, not what {method} trains on: cai train dpo {where}",
        "graded": f"these are single replies with a label, not what {method} trains on: cai train kto {where}",
        "labels": f"these are labels, from which training rows are cut: name the run, cai train dpo {folder}",
        "revisions": f"these are revisions, from which training rows are cut: name the run, cai train sft {folder}",
        "candidates": f"these are replies that nobody has judged: cai label {where}",
        "prompts": f"these are prompts without replies: cai generate {where}",
        "text": "'text' does not tell the reply from the prompt; give 'messages', or 'prompt' and 'completion'",
        "unknown": f"no columns that {method} trains on; it has {listed(record)}",
    }[kind]


def row_of(record: Any, line: int, method: Method) -> TrainingRow:
    """The row in a record; raises NoPrompt for what cannot train."""
    if isinstance(record, NoPrompt):
        raise record
    if not isinstance(record, Mapping):
        raise NoPrompt(f"the record is of type {type(record).__name__}, not an object with columns")
    if (kind := kind_of(record)) != FITS[method]:
        raise NoPrompt(f"the columns are not those of {method}: {advice(kind, 'it', method, record)}")
    given = record.get("id")
    name = as_text(str(given), "the id") if isinstance(given, str | int) and given != "" else f"line {line}"
    if kind == "pairs":
        return _pair(record, name)
    prompt, reply = _single(record)
    label = record.get("label")
    if kind == "graded" and not isinstance(label, bool) and label not in (0, 1):
        raise NoPrompt(f"'label' is {str(label)[:40]!r}, not true or false")
    return TrainingRow(name, prompt, reply, _key(prompt), label=bool(label) if kind == "graded" else None)


def _single(record: Mapping[str, Any]) -> tuple[Turns | str, str]:
    """The prompt and the reply of a record that has one."""
    if record.get("completion") is None:
        return _parted(record.get("messages") or record.get("conversations"), "messages")
    prompt = record.get("prompt")
    if prompt is None:
        raise NoPrompt("there is a 'completion' and no 'prompt'")
    return _joined(prompt, record["completion"], "completion")


def _pair(record: Mapping[str, Any], name: str) -> TrainingRow:
    given, sides = record.get("prompt"), (record["chosen"], record["rejected"])
    prompt: Turns | str
    other: Turns | str
    if given is None:  # both are whole conversations, which differ in the last reply
        (prompt, chosen), (other, rejected) = (
            _parted(v, k) for v, k in zip(sides, ("chosen", "rejected"), strict=True)
        )
        if prompt != other:
            raise NoPrompt("'chosen' and 'rejected' differ before their last reply: they answer different prompts")
    else:
        (prompt, chosen), (other, rejected) = (
            _joined(given, v, k) for v, k in zip(sides, ("chosen", "rejected"), strict=True)
        )
        if prompt != other:
            raise NoPrompt("'chosen' and 'rejected' answer different prompts")
    if identical(chosen, rejected):
        raise NoPrompt("'chosen' and 'rejected' are the same text", "identical")
    p, margin = _number(record, "p_chosen"), _number(record, "margin")
    if p is not None and not 0.0 <= p <= 1.0:
        raise NoPrompt(f"'p_chosen' is {p:g}, not a probability from 0 to 1")
    return TrainingRow(name, prompt, chosen, _key(prompt), rejected=rejected, p_chosen=p, margin=margin)


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > LARGEST:
        value = math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NoPrompt(f"{name!r} is {str(value)[:40]!r}, not a finite number")
    return float(value)


def _joined(prompt: Any, reply: Any, name: str) -> tuple[Turns | str, str]:
    """A prompt and the reply to it, both plain text or both messages."""
    if isinstance(reply, str):
        if not isinstance(prompt, str):
            return _turns(prompt, "prompt"), _said(reply, name)
        if not prompt.strip():
            raise NoPrompt("the prompt is empty", "empty")
        return prompt, _said(reply, name)
    turns = to_messages(reply, name)
    if len(turns) > 1:  # the whole conversation again, as in many published sets
        return _parted(reply, name)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise NoPrompt(f"{name!r} is not one reply of the assistant")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return _turns(prompt, "prompt"), _said(turns[0]["content"], name)


def _parted(conversation: Any, name: str) -> tuple[Turns, str]:
    """A conversation as its prompt and its last reply."""
    turns = to_messages(conversation, name)
    if not turns or turns[-1]["role"] != "assistant":
        raise NoPrompt(f"{name!r} does not end with a reply of the assistant")
    return _turns(turns[:-1], name), _said(turns[-1]["content"], name)


def _turns(value: Any, name: str) -> Turns:
    turns = to_messages(value, name)
    if not turns or turns[-1]["role"] != "user":
        raise NoPrompt(f"{name!r} has no user turn before the reply")
    if not turns[-1]["content"].strip():
        raise NoPrompt("the prompt is empty", "empty")
    return tuple(turns)


def _said(reply: str, name: str) -> str:
    if not reply.strip():
        raise NoPrompt(f"{name!r} is an empty reply", "empty")
    return reply


def _key(prompt: Turns | str) -> str:
    return prompt_hash([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
