"""Rows whose text holds a control token of the tokenizer, such as the end of a turn.

A trainer's tokenizer reads it as the token itself, so that a reply could open turns of its own, and a reward model
would learn from other tokens than a judge is shown: everywhere else such text is spelled out. Knows tokenizers, rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from cai.training.data.dataset import TrainingData
from cai.training.data.files import Drop
from cai.training.data.rows import TrainingRow, named


def without_forged_turns(data: TrainingData, tokenizer: Any) -> TrainingData:
    """The data without the conversations that hold a control token; plain text, which brings its own, stays.

    Raises InputError where too few rows are left.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted({*special, *tokenizer.all_special_tokens}, key=len, reverse=True)
    if not tokens:
        return data
    known = re.compile("|".join(map(re.escape, tokens)))
    drops = list[Drop]()

    def sound(rows: Sequence[TrainingRow], file: int) -> Iterator[TrainingRow]:
        for row in rows:
            token = None if isinstance(row.prompt, str) else known.search("\0".join(_texts(row)))
            if token is None:
                yield row
            else:
                told = f"{named(row.id)}: its text holds {token[0]!r}, a control token, and could open turns of its own"
                drops.append(Drop(data.files[file][0], 0, "role_mixup", told))

    train, held = list(sound(data.train, 0)), list(sound(data.eval, -1))
    return data.of(train, held, drops) if drops else data


def _texts(row: TrainingRow) -> Iterator[str]:
    if not isinstance(row.prompt, str):
        yield from (turn["content"] for turn in row.prompt)
    yield from (row.reply, row.rejected or "")
