"""Reads pairs as files of others write them: chosen and rejected, output 1 and output 2, or a and b.

Which of two replies is better is hidden by a coin that depends on the texts alone. Knows nothing of runs and places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from cai.records import Contest, DropReason, Message
from cai.sources.conversations import NoPrompt, listed, pair_hash, prompt_hash, to_messages, to_prompt


def pair_of(record: Mapping[str, Any]) -> Contest:
    """The pair of a record, whose position is 0; raises NoPrompt where it holds none."""
    if "a" in record and "b" in record:
        return _own_pair(record)
    if "output_1" in record and "output_2" in record:
        label = record.get("label")
        if label not in (1, 2, "1", "2", None):
            raise NoPrompt(f"'label' is {label!r}, not 1 or 2")
        human: Literal["a", "b"] | None = None if label is None else "a" if int(label) == 1 else "b"
        messages = _prompt_of(record.get("input", record.get("prompt")), "input")
        first, second = (text_of(record[name], name) for name in ("output_1", "output_2"))
        return _pair(record, messages, first, second, "output_1", "output_2", human)
    if "chosen" in record and "rejected" in record:
        messages, chosen, rejected = _chosen_rejected(record)
        if int(pair_hash(messages, chosen, rejected)[:8], 16) % 2:
            return _pair(record, messages, rejected, chosen, "rejected", "chosen", "b")
        return _pair(record, messages, chosen, rejected, "chosen", "rejected", "a")
    known = "chosen and rejected, replies, a and b, or output_1 and output_2"
    raise NoPrompt(f"no pair of replies ({known}); it has {listed(record)}")


def _own_pair(record: Mapping[str, Any]) -> Contest:
    messages = _prompt_of(record.get("prompt"), "prompt")
    human = record.get("human")
    if human not in ("a", "b", None):
        raise NoPrompt(f"'human' is {human!r}, not a or b")
    origins = (optional_text(record, "a_from") or "a", optional_text(record, "b_from") or "b")
    found = _pair(record, messages, text_of(record["a"], "a"), text_of(record["b"], "b"), *origins, human)
    return replace(found, a_model=optional_text(record, "a_model"), b_model=optional_text(record, "b_model"))


def _chosen_rejected(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Prompt and both replies; without a prompt of their own, chosen and rejected are whole conversations."""
    if record.get("prompt") is not None:
        messages = _prompt_of(record["prompt"], "prompt")
        return messages, _reply(record["chosen"], "chosen"), _reply(record["rejected"], "rejected")
    (prompt, chosen), (other, rejected) = (_split(record[name], name) for name in ("chosen", "rejected"))
    if prompt != other:
        raise NoPrompt("chosen and rejected do not answer the same conversation")
    return prompt, chosen, rejected


def _split(value: Any, name: str) -> tuple[tuple[Message, ...], str]:
    """A whole conversation as its prompt and its last reply, which may be written in several turns."""
    turns = to_messages(value, name)
    start = len(turns)
    while start and turns[start - 1]["role"] == "assistant":
        start -= 1
    if start == len(turns):
        raise NoPrompt(f"{name} does not end with a reply")
    said = [turn["content"] for turn in turns[start:]]
    return to_prompt({"messages": turns[:start]}).messages, "\n\n".join(filter(str.strip, said))


def _prompt_of(value: Any, name: str) -> tuple[Message, ...]:
    if value is None:
        raise NoPrompt(f"no {name!r}")
    return to_prompt({"prompt": value}).messages


def _reply(value: Any, name: str) -> str:
    """A reply as text, or as a list of messages that ends with it."""
    if isinstance(value, list | tuple):
        turns = to_messages(value, name)
        if not turns or turns[-1]["role"] != "assistant":
            raise NoPrompt(f"{name} does not end with a reply")
        return turns[-1]["content"]
    return text_of(value, name)


def text_of(value: Any, name: str) -> str:
    """A value that must be text that a file can hold; raises NoPrompt with its name."""
    if not isinstance(value, str):
        raise NoPrompt(f"{name} is of type {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # as half a surrogate pair, which no file can hold
        raise NoPrompt(f"{name} holds what is not UTF-8 (character {error.start + 1})") from None
    return value


def optional_text(record: Mapping[str, Any], name: str) -> str | None:
    """A text that a record may lack."""
    return None if record.get(name) is None else text_of(record[name], f"'{name}'")


def _pair(
    record: Mapping[str, Any],
    messages: tuple[Message, ...],
    a: str,
    b: str,
    a_from: str,
    b_from: str,
    human: Literal["a", "b"] | None,
) -> Contest:
    for text, name in ((a, a_from), (b, b_from)):
        problem: tuple[str, DropReason] | None = (f"{name} is empty", "empty") if not text.strip() else None
        if problem is not None:
            raise NoPrompt(*problem)
    if a.strip() == b.strip():
        raise NoPrompt("the two replies are the same", "identical")
    given = record.get("id")
    named = str(given) if isinstance(given, int) and not isinstance(given, bool) else optional_text(record, "id")
    prompt_id = optional_text(record, "prompt_id") or prompt_hash(messages)
    key = pair_hash(messages, a, b)
    return Contest(named or key, 0, key, prompt_id, messages, a, b, a_from, b_from, human=human)
