"""What the model says to held-out prompts before and after a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby, islice, takewhile
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Literal

from cai.records import Object, Record, Turns
from cai.texts.wording import reason_of
from cai.training.data.rows import TrainingRow
from cai.training.setup.folder import TrainFolder, read_lines
from cai.weights.loading import end_tokens

FILE = "samples.jsonl"
AT_ONCE = 8  # prompts in one batch
MOST_TOKENS = 128  # of a reply: half a minute for 8 of them with 135M parameters on a CPU
REFERENCE = "ref"  # the adapter in which TRL keeps a copy of one that is trained further

# Replies half or twice as long as before training: hardly the constitution's wish, and the best known shortcut of
# preference training (Singhal et al. 2023, arXiv 2310.03716; Park et al. 2024, arXiv 2403.19159).
LENGTH = 2.0
SAME = 0.75  # share of replies; 7 and 8 of 8 where DPO changed their log probabilities by 0.2 nats, then 1 of 8

When = Literal["before", "after"]


class Sample(Record):
    """A row of `samples.jsonl`: a held-out prompt, and what the model said to it."""

    id: str
    prompt: Turns | str
    before: str
    after: str | None = None  # None: the training is not over
    most_tokens: int  # at which both replies were cut


def write_answers(
    folder: TrainFolder,
    model: Any,
    tokenizer: Any,
    rows: Iterable[TrainingRow],
    when: When,
    *,
    room: int,
    most: int,
    progress: Callable[[Object], None] | None = None,
) -> list[str]:
    """Write the model's replies before or after the training to up to `most` prompts of at most `room` tokens.

    A model with an adapter of which there are no replies from before gives both after the training (`untrained`).
    Returns notes: that lengths changed much or nothing did, or what went wrong, since samples are not worth losing a
    trained model.
    """

    def ask(prompts: Sequence[Turns | str], when: When) -> list[str]:
        def tell(replies: int, token: int) -> None:
            if progress is not None:
                progress({"replies": replies, "of": len(prompts), "token": token, "most": MOST_TOKENS, "when": when})

        return greedy_replies(model, tokenizer, prompts, most_tokens=MOST_TOKENS, tell=tell)

    try:
        if when == "before" or (hasattr(model, "peft_config") and not read_samples(folder.path)):
            chosen = choose_prompts(rows, tokenizer, room, most)
            with nullcontext() if when == "before" else untrained(model):
                replies = ask([row.prompt for row in chosen], when="before")
            rows_before = [
                Sample(id=row.id, prompt=row.prompt, before=text, most_tokens=MOST_TOKENS)
                for row, text in zip(chosen, replies, strict=True)
            ]
            folder.replace(FILE, map(Sample.model_dump, rows_before))
        if when == "before":
            return []
        rows_before = read_samples(folder.path)
        replies = ask([row.prompt for row in rows_before], when="after")
        answers = [row.model_copy(update={"after": text}) for row, text in zip(rows_before, replies, strict=True)]
        folder.replace(FILE, map(Sample.model_dump, answers))
        return sample_notes(answers)
    except Exception as error:
        return [f"no samples {when}: {type(error).__name__}: {reason_of(error)}"]


def choose_prompts(rows: Iterable[TrainingRow], tokenizer: Any, room: int, most: int) -> list[TrainingRow]:
    """Up to `most` rows of different prompts that have at most `room` tokens; the same ones whatever the order of rows.

    They are the first by the hash of the prompt, which nothing about a prompt decides.
    """
    prompts = groupby(sorted(rows, key=attrgetter("key", "id")), key=attrgetter("key"))
    first = (next(group) for _, group in prompts)
    return list(islice((row for row in first if len(_ids(tokenizer, row.prompt)) <= room), most))


def greedy_replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Turns | str],
    *,
    most_tokens: int,
    tell: Callable[[int, int], None] = lambda replies, token: None,
) -> list[str]:
    """The model's most probable reply to each prompt, token by token, of at most `most_tokens` tokens.

    tell: called with the number of whole replies, and of the tokens of those that are being written.

    Special tokens in a conversation are spelled out, so that none opens a turn of its own (rows with other control
    tokens do not train); plain text brings its own, as in training. The model's mode stays as it was.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import GenerationConfig

    ends = end_tokens(model.generation_config, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # Prompts are padded on the left: generation continues from the last column.
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    # Anything unset here would come from the model's own generation_config, such as a repetition penalty.
    greedy = GenerationConfig(
        max_new_tokens=most_tokens, do_sample=False, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0,
        eos_token_id=ends, pad_token_id=pad, use_cache=True,
    )  # fmt: skip
    tensors = [torch.tensor(_ids(tokenizer, prompt)) for prompt in prompts]
    replies = []
    training = model.training
    model.eval()
    try:
        for start in range(0, len(tensors), AT_ONCE):
            batch = tensors[start : start + AT_ONCE]
            ids = padded(batch, padding_value=pad).to(model.device)
            mask = padded([torch.ones_like(row) for row in batch]).to(model.device)
            count = _Count(partial(tell, start), ids.shape[1])
            with torch.no_grad():
                tokens = model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=greedy, stopping_criteria=[count]
                )
            for row in tokens[:, ids.shape[1] :].tolist():
                reply = list(takewhile(lambda token: token not in ends, row))
                replies.append(tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return replies
    finally:
        model.train(training)


class _Count:
    """Sees every token that is written, and stops none; begin: tokens of the prompts."""

    def __init__(self, tell: Callable[[int], None], begin: int) -> None:
        self._tell, self._begin = tell, begin

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        self._tell(ids.shape[1] - self._begin)
        return ids.new_zeros(ids.shape[0], dtype=bool)


def _ids(tokenizer: Any, prompt: Turns | str) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt)
        while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
            ids.pop()
        return ids
    turns = [dict(turn) for turn in prompt]
    render = tokenizer.apply_chat_template
    return list(render(turns, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False))


def can_go_back(model: Any, *, is_new: bool) -> bool:
    """Whether a trained model can answer as before; is_new: its adapter, of which it is enough to leave it out."""
    adapters = getattr(model, "peft_config", {})
    return REFERENCE in adapters or (is_new and bool(adapters))


def untrained(model: Any) -> AbstractContextManager[None]:
    """Make a model with a LoRA adapter what it was before the training: with the adapter `ref` if it has one.

    Take the samples of a model that cannot go back before the training.
    """
    adapters = getattr(model, "peft_config", None)
    if adapters is None:
        return nullcontext()
    from trl.trainer.utils import use_adapter

    context: AbstractContextManager[None] = use_adapter(model, REFERENCE if REFERENCE in adapters else None)
    return context


def sample_notes(rows: Sequence[Sample]) -> list[str]:
    """A note if most replies are as before, or became much shorter or longer, in characters."""
    if not rows:
        return []
    same = sum(row.before == row.after for row in rows)
    if same >= SAME * len(rows):
        return [
            f"{same} of {len(rows)} sample replies are what they were before the training: little was learned; raise "
            "--learning-rate, or train on more rows or epochs"
        ]
    before, after = median_lengths(rows)
    if not before or 1 / LENGTH < after / before < LENGTH:
        return []
    return [
        f"the median reply was {before:g} long and is {after:g}: length may be what was learned most; "
        "cai audit shows the lengths in the data"
    ]


def median_lengths(rows: Sequence[Sample]) -> tuple[float, float]:
    """Characters of the median reply before and after the training."""
    return median(len(row.before) for row in rows), median(len(row.after or "") for row in rows)


def read_samples(folder: Path) -> list[Sample]:
    """The rows of samples.jsonl, none if it was not written."""
    return [Sample.model_validate(row) for row in read_lines(folder / FILE)]
