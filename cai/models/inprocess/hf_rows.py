"""One request in the batch of `hf_engine`; how requests share a batch, and the tokens that they draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cai.errors import ModelFault
from cai.models.inprocess.engine import Job
from cai.records import Finish


@dataclass(slots=True, eq=False)
class Row(Job):
    """One request in the batch, and what has been made of it.

    stopped: whether the generated ids so far contain a stop string.
    continuations: token ids to score; if there are any, nothing is generated.
    """

    ids: list[int]  # of the prompt, then of what was generated
    max_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    repetition_penalty: float = 1.0
    top_logprobs: int = 0
    seed: int = 0
    stopped: Callable[[list[int]], bool] = lambda generated: False
    continuations: Sequence[list[int]] = ()
    scoring: bool = False
    prompt_tokens: int = 0
    logprobs: list[list[tuple[int, float]]] = field(default_factory=list)  # most probable first
    scores: list[float] = field(default_factory=list)
    generator: Any = None  # of `seed`, made at the first draw
    finish: Finish | None = None
    ended: bool = False  # by an end token, which is the last of `ids`

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.ids)

    @property
    def generated(self) -> list[int]:
        """The ids made so far, with the one that ended the reply."""
        return self.ids[self.prompt_tokens :]

    def end_scored(self, problem: str) -> None:
        """End the row with its scores, or with a ModelFault if one of them is not a finite number."""
        if all(map(math.isfinite, self.scores)):
            self.end()
        else:
            self.end(ModelFault(problem))


def padded(sequences: Sequence[list[int]], device: Any, side: str, filler: int = 0) -> tuple[Any, Any]:
    """Token ids of one length, with `filler` on one side ("left" or "right"), and a mask of what is not filler."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    pad = partial(pad_sequence, batch_first=True, padding_side=side)
    return pad(ids, padding_value=filler).to(device), pad([torch.ones_like(each) for each in ids]).to(device)


def choose(logits: Any, rows: Sequence[Row]) -> list[int]:
    """One token for each row of `logits` (rows, vocabulary), drawn as the row says; temperature 0 takes the largest."""
    import torch

    logits = logits.clone()
    for i, row in enumerate(rows):
        if row.repetition_penalty != 1.0:  # Keskar et al. 2019, arXiv 1909.05858, section 4.1
            seen = torch.tensor(sorted(set(row.ids)), device=logits.device)
            old = logits[i, seen]
            penalty = row.repetition_penalty
            logits[i, seen] = torch.where(old < 0, old * penalty, old / penalty)
    tokens: list[int] = logits.argmax(-1).tolist()
    if all(row.temperature == 0 for row in rows):
        return tokens
    temperatures = torch.tensor([[row.temperature or 1.0] for row in rows], device=logits.device)
    probabilities = (logits / temperatures).softmax(-1)
    for i, row in enumerate(rows):
        _cut_tail(probabilities[i], row)
        # The largest p/E with E exponential is a draw from p. A uniform number against cumulated p would be cheaper,
        # but rounding moves every later boundary: alone and in a batch, 1 reply of 3 came out different by token 128.
        if row.temperature:
            row.generator = row.generator or torch.Generator(logits.device).manual_seed(row.seed)
            probabilities[i] /= torch.empty_like(probabilities[i]).exponential_(generator=row.generator)
    for i, token in enumerate(probabilities.argmax(-1).tolist()):
        if rows[i].temperature:
            tokens[i] = token
    return tokens


def _cut_tail(probabilities: Any, row: Row) -> None:
    """Set to 0 what the row's top_k and top_p leave out."""
    if not row.top_k and row.top_p >= 1.0:
        return
    ordered, order = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= row.top_p  # the mass before a token already reaches top_p
    if row.top_k:
        outside[row.top_k :] = True
    probabilities[order[outside]] = 0.0
