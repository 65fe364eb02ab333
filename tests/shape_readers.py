"""One record as each command reads it: `cai label`, `judge bench`, `train`, `audit`, and runs over prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai.evaluation.bench import _labelled
from cai.judge.majority import People
from cai.records import Contest, Prompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case
from cai.sources.files import read_prompts
from cai.training.data.rowfile import read_rows

Record = dict[str, Any]
Answer = tuple[Any, str, str]  # the conversation, the better reply and the other


def judged(item: Any) -> Answer:
    assert isinstance(item, Contest) and item.a is not None and item.b is not None
    better, other = (item.a, item.b) if item.human == "a" else (item.b, item.a)
    return list(item.messages), better, other


def turns_of(prompt: Any) -> list[Any]:
    """The turns of a prompt that trains, which may be plain text."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def by_label(record: Record) -> Answer:
    [(_, item)] = read_pairs([record])
    return judged(item)


def by_bench(record: Record) -> Answer:
    [(_, item)], unlabelled = _labelled([record], People(), None)
    assert unlabelled == 0
    return judged(item)


def by_train(record: Record) -> Answer:
    [row] = read_rows([record], "dpo").rows
    assert row.rejected is not None
    return turns_of(row.prompt), row.reply, row.rejected


JUDGING: dict[str, Callable[[Record], Answer]] = {"label": by_label, "bench": by_bench, "train": by_train}


def by_sft(record: Record) -> tuple[list[Any], str]:
    [row] = read_rows([record], "sft").rows
    return turns_of(row.prompt), row.reply


def by_audit(record: Record) -> tuple[Any, str]:
    case = read_case(record)
    [(role, reply)] = case.replies
    assert role == "reply"
    return case.prompt, reply


def by_prompts(record: Record | Path) -> list[Any]:
    """The conversation that a run would ask about; a path is a file with one record."""
    [prompt] = read_prompts(record if isinstance(record, Path) else [record])
    assert isinstance(prompt, Prompt)
    return list(prompt.messages)
