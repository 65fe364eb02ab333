"""What a model says to held-out prompts before and after a training, and the file that keeps it, `samples.jsonl`.

Knows causal models of transformers and peft, token ids and rows; nothing of trainers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from cai.folder.files import write_atomically
from cai.records import Message, Record
from cai.training.data.rows import TrainingRow, Turns

FILE = "samples.jsonl"
AT_ONCE = 8  # prompts in one batch
REFERENCE = "ref"  # the adapter in which TRL keeps a copy of one that is trained further


class Sample(Record):
    """A row of `samples.jsonl`: a held-out prompt, and what the model said to it."""

    id: str
    prompt: tuple[Message, ...] | str
    before: str
    after: str | None = None  # None: the training is not over
    most_tokens: int  # at which both replies were cut


def choose_prompts(rows: Iterable[TrainingRow], tokenizer: Any, room: int, most: int) -> list[TrainingRow]:
    """Up to `most` rows of different prompts that have at most `room` tokens; the same ones whatever the order of rows.

    They are the first by the hash of the prompt, which nothing about a prompt decides.
    """
    chosen: dict[str, TrainingRow] = {}
    for row in sorted(rows, key=lambda row: (row.key, row.id)):
        if len(chosen) == most:
            break
        if row.key not in chosen and len(_ids(tokenizer, row.prompt)) <= room:
            chosen[row.key] = row
    return list(chosen.values())


def samples(model: Any, tokenizer: Any, prompts: Sequence[Turns | str], *, most_tokens: int) -> list[str]:
    """The model's most probable reply to each prompt, token by token, of at most `most_tokens` tokens.

    Control tokens in a prompt are spelled out, so that none opens a turn of its own. The model's mode stays as it was.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = [_ids(tokenizer, prompt) for prompt in prompts]
            parts = [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
            return [text for part in parts for text in _replies(model, tokenizer, part, most_tokens)]
    finally:
        model.train(training)


def _replies(model: Any, tokenizer: Any, prompts: list[list[int]], most_tokens: int) -> Iterator[str]:
    """The replies of one batch, whose prompts are padded on the left: generation goes on from the last column."""
    import torch
    from transformers import GenerationConfig

    ends = _ends(model, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    # What is left open here would come from the model's own generation_config, such as a repetition penalty.
    how = GenerationConfig(
        max_new_tokens=most_tokens, do_sample=False, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0,
        eos_token_id=ends, pad_token_id=pad, use_cache=True,
    )  # fmt: skip
    made = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
    for row in made[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        yield tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The token ids that end a reply."""
    given = None if model.generation_config is None else model.generation_config.eos_token_id
    ids = [*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ids if token is not None))


def _ids(tokenizer: Any, prompt: Turns | str) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt, split_special_tokens=True)
        while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
            ids.pop()
        return ids
    turns = [dict(turn) for turn in prompt]
    return list(
        tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
        )
    )


@contextmanager
def untrained(model: Any) -> Iterator[Any]:
    """A model with a LoRA adapter as it was before the training: with the adapter `ref` where it has one, else without.

    Of a model that is trained in full nothing is left of what was before: take its samples first.
    """
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield model
        return
    active = model.active_adapter
    model.set_adapter(REFERENCE)
    try:
        yield model
    finally:
        model.set_adapter(active)  # which also makes it the one that trains


def length_note(rows: Sequence[Sample]) -> str | None:
    """A line where the replies became much shorter or longer, in characters."""
    done = [row for row in rows if row.after is not None]
    return length_warning([len(row.before) for row in done], [len(row.after or "") for row in done])


def write_samples(folder: Path, rows: Iterable[Sample]) -> None:
    """Write samples.jsonl at once; raises RunError where it cannot be written."""
    write_atomically(folder / FILE, b"".join(orjson.dumps(row.model_dump()) + b"\n" for row in rows))


def read_samples(folder: Path) -> list[Sample]:
    """What `write_samples` wrote; nothing where it wrote nothing."""
    path = folder / FILE
    return [Sample.model_validate_json(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# Replies half or twice as long as before training: hardly the constitution's wish, and the best known shortcut of
# preference training (Singhal et al. 2023, arXiv 2310.03716; Park et al. 2024, arXiv 2403.19159).
LENGTH = 2.0


def length_warning(before: Sequence[int], after: Sequence[int]) -> str | None:
    """A line where sampled replies to the same prompts became much shorter or longer; lengths in any one unit."""
    if not before or not after or not median(before):
        return None
    ratio = median(after) / median(before)
    if 1 / LENGTH < ratio < LENGTH:
        return None
    return (
        f"the median reply was {median(before):g} long and is {median(after):g}: length may be what was learnt most; "
        "cai audit tells the lengths in the data"
    )
