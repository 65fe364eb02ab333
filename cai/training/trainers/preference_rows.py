"""Preference rows as a dataset that TRL's trainers take, on disk, and what a length limit will do to them.

On disk, TRL finds what it computed from the rows again: its tokens and reference log-probabilities belong to a file,
and rows in memory have none. With the rows in one folder, the same command computes them once, and several processes
share them. Knows rows, columns and tokens; nothing of losses or settings.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cai.errors import MissingExtra, UsageError
from cai.training.data.rows import Method, TrainingRow


def on_disk(rows: Sequence[TrainingRow], folder: str | Path, *, certain: bool = False) -> Any:
    """The rows as a dataset under `folder`, in TRL's columns and with `row`, their place from 0.

    certain: a pair that nobody judged counts as certain, p_chosen 1; else its p_chosen stays null, which a loss of soft
    labels refuses. The same rows are written once; of several processes that call it, all take what the first wrote.
    UsageError for rows of plain text among conversations, which TRL reads in another way.
    """
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise MissingExtra("training", "train") from error
    if len({isinstance(row.prompt, str) for row in rows}) > 1:
        plain = next(row.id for row in rows if isinstance(row.prompt, str))
        raise UsageError(f"the prompt of {plain} is plain text and others are conversations: train on one kind at once")
    records = [record_of(row, place, certain) for place, row in enumerate(rows)]
    name = hashlib.sha256(orjson.dumps(records)).hexdigest()[:16]
    path = Path(folder) / f"rows-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
        Dataset.from_list(records).save_to_disk(part)
        try:
            part.rename(path)
        except OSError:
            shutil.rmtree(part)
            if not path.exists():
                raise
    return load_from_disk(path)


def record_of(row: TrainingRow, place: int = 0, certain: bool = False) -> dict[str, Any]:
    """The row in TRL's columns; place: its number among the rows."""
    record: dict[str, Any] = {"id": row.id, "row": place, "prompt": row.prompt}
    if not isinstance(row.prompt, str):
        record["prompt"] = [dict(message) for message in row.prompt]
    if row.rejected is None:
        return record | {"completion": _said(row, row.reply), "label": row.label}
    p = 1.0 if certain and row.p_chosen is None else row.p_chosen
    replies = {"chosen": _said(row, row.reply), "rejected": _said(row, row.rejected)}
    return record | replies | {"p_chosen": p, "margin": row.margin}


def _said(row: TrainingRow, reply: str) -> str | list[dict[str, str]]:
    return reply if isinstance(row.prompt, str) else [{"role": "assistant", "content": reply}]


@dataclass(frozen=True, slots=True)
class Length:
    """The size of a row in tokens, as TRL's trainer of its method cuts it."""

    prompt: int  # as far as the replies continue it
    whole: int  # the prompt with its longest reply

    def dropped(self, limit: int, method: Method) -> bool:
        """Whether TRL leaves the row out, without a word.

        DPO and KTO: where the prompt alone fills the limit; a reward row where either conversation is longer.
        """
        return self.whole > limit if method == "reward" else self.prompt >= limit


def measured(record: Mapping[str, Any], tokenizer: Any, method: Method) -> Length:
    """A row, in TRL's columns, in tokens made as TRL makes them; raises what the chat template raises."""
    from trl.data_utils import _tokenize, common_prefix_length

    replies = [record["completion"]] if method == "kto" else [record["chosen"], record["rejected"]]
    start = {"add_generation_prompt": True} if isinstance(record["prompt"], list) else {}
    prompt = _tokenize(tokenizer, record["prompt"], **start)["input_ids"]
    whole = [_tokenize(tokenizer, record["prompt"] + reply)["input_ids"] for reply in replies]
    ended = not start and any(ids[-1:] != [tokenizer.eos_token_id] for ids in whole)  # TRL ends a plain text
    return Length(min(common_prefix_length(prompt, ids) for ids in whole), max(map(len, whole)) + ended)
