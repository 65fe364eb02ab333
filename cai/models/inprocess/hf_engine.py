"""Continuous batching over a transformers model: one thread, one batch, every row with its own sampling and seed.

New rows join between two steps and finished ones leave at once, so a long reply holds nobody up. A row draws from its
own generator, so its reply does not depend on its neighbours (beyond float noise). Knows tensors and token ids; nothing
of text, prompts or files.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from cai.errors import CallRejected, ModelFault, ModelStopped
from cai.records import Finish

log = logging.getLogger("cai")
_CLOSED = "the model was closed before it answered"


@dataclass(slots=True, eq=False)
class Row:
    """One request in the batch; `future` gives the row itself back when it is over.

    stopped: whether the generated ids so far contain a stop string.
    continuations: token ids to score; when given, nothing is generated.
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
    future: Future[Row] = field(default_factory=Future)
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

    def end(self, error: Exception | None = None) -> None:
        """Hand the row, or the error, to whoever waits; a cancelled row has nobody."""
        with contextlib.suppress(InvalidStateError):
            if error is None:
                self.future.set_result(self)
            else:
                self.future.set_exception(error)


class Engine:
    """Plays rows through `model` in a thread of its own, at most `limit` at a time.

    ends: token ids that end a reply. A row that fails gets a ModelError and leaves the others alone; a batch that does
    not fit in the device's memory is halved and its rows go on from the tokens they have.
    """

    def __init__(self, model: Any, ends: frozenset[int], limit: int) -> None:
        self._model, self._ends, self._limit = model, ends, limit
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        # transformers 5.24 renamed it; a model whose code comes from the hub may keep the old name.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._inbox: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._door, self._closed = threading.Lock(), False
        self._waiting: deque[Row] = deque()
        self._entering: list[Row] = []
        self._rows: list[Row] = []  # the cache holds all their ids but the last
        self._cache: Any = None
        self._mask: Any = None
        self._thread = threading.Thread(target=self._run, name="hf", daemon=True)
        self._thread.start()

    def submit(self, row: Row) -> None:
        """Put a row in the queue; from any thread. A closed engine ends it with ModelStopped."""
        with self._door:
            if not self._closed:
                return self._inbox.put(row)
        row.end(ModelStopped(_CLOSED))

    def close(self) -> None:
        """Stop after the current step; rows that are not over get ModelStopped."""
        with self._door:  # so that every row that got in lies before the None
            self._closed = True
            self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        import torch

        with torch.inference_mode():
            while self._receive():
                try:
                    self._admit()
                    self._step()
                except torch.OutOfMemoryError:
                    self._retreat()
                except Exception as error:  # whatever it was, nobody may wait for ever
                    fault = ModelFault(f"the model failed: {type(error).__name__}: {' '.join(str(error).split())}")
                    fault.__cause__ = error
                    self._clear(fault)
        self._clear(ModelStopped(_CLOSED))
        self._model = None
        torch.cuda.empty_cache()

    def _receive(self) -> bool:
        """Move what has arrived to the waiting rows, blocking while there is nothing to do; False: closed."""
        idle = not (self._rows or self._waiting)
        with contextlib.suppress(queue.Empty):
            while True:
                row = self._inbox.get(block=idle)
                if row is None:
                    return False
                self._waiting.append(row)
                idle = False
        return True

    def _clear(self, error: Exception) -> None:
        rows = [*self._rows, *self._entering, *(self._waiting if isinstance(error, ModelStopped) else ())]
        self._rows, self._entering, self._cache, self._mask = [], [], None, None
        for row in rows:
            row.end(error)

    def _retreat(self) -> None:
        """After running out of memory: free the cache, halve the batch, queue its rows again with what they have."""
        import torch

        rows = [*self._rows, *self._entering]
        self._rows, self._entering, self._cache, self._mask = [], [], None, None
        torch.cuda.empty_cache()
        if len(rows) > 1:
            self._limit = len(rows) // 2
            log.warning("hf: out of memory with %d requests at once; going on with %d", len(rows), self._limit)
            self._waiting.extendleft(reversed(rows))
        else:
            tokens = len(rows[0].ids)
            rows[0].end(CallRejected("too_long", f"{tokens} tokens alone do not fit in the device's memory"))

    def _admit(self) -> None:
        """Take waiting rows in, while there is room; a cache that cannot grow rows (see `_joins`) is filled once."""
        self._waiting = deque(row for row in self._waiting if not row.future.done())  # cancelled while it waited
        room = 0 if self._rows and not _joins(self._cache) else self._limit - len(self._rows)
        new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        self._entering = new
        for part in ([row for row in new if row.scoring], [row for row in new if not row.scoring]):
            if not part:
                continue
            logits, cache, mask = self._prefill(part)
            if part[0].scoring:
                self._score(part, logits, cache, mask)
                self._entering = [row for row in new if not row.scoring]
                continue
            keep = self._pick(part, logits)
            _select(cache, keep)
            self._join([part[i] for i in keep], cache, mask[keep])
        self._entering = []

    def _prefill(self, rows: list[Row]) -> tuple[Any, Any, Any]:
        """Read the rows' ids, padded on the left; the next token's logits, the cache and the mask."""
        import torch

        longest = max(len(row.ids) for row in rows)
        device = self._model.device
        ids = torch.tensor([[0] * (longest - len(row.ids)) + row.ids for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self._forward(ids, mask, positions, None, logits_to_keep=1)
        return out.logits[:, -1], getattr(out, self._cache_name), mask

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, **options: Any) -> Any:
        options[self._cache_name] = cache
        if self._takes_positions:
            options["position_ids"] = positions
        return self._model(input_ids=ids, attention_mask=mask, use_cache=True, **options)

    def _join(self, rows: list[Row], cache: Any, mask: Any) -> None:
        """Put new rows beside the running ones: the shorter of the two caches is padded on the left."""
        import torch
        from torch.nn.functional import pad

        if not rows:
            return
        if not self._rows:
            self._rows, self._cache, self._mask = rows, cache, mask
            return
        width = max(self._mask.shape[1], mask.shape[1])
        old_gap, new_gap = width - self._mask.shape[1], width - mask.shape[1]
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = torch.cat([pad(old.keys, (0, 0, old_gap, 0)), pad(new.keys, (0, 0, new_gap, 0))])
            old.values = torch.cat([pad(old.values, (0, 0, old_gap, 0)), pad(new.values, (0, 0, new_gap, 0))])
        self._mask = torch.cat([pad(self._mask, (old_gap, 0)), pad(mask, (new_gap, 0))])
        self._rows = self._rows + rows

    def _step(self) -> None:
        """One more token for every row."""
        import torch

        if not self._rows:
            return
        device = self._mask.device
        ids = torch.tensor([[row.ids[-1]] for row in self._rows], device=device)
        positions = torch.tensor([[len(row.ids) - 1] for row in self._rows], device=device)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=-1)
        out = self._forward(ids, self._mask, positions, self._cache)
        self._cache = getattr(out, self._cache_name)
        keep = self._pick(self._rows, out.logits[:, -1])
        if len(keep) < len(self._rows):
            self._rows = [self._rows[i] for i in keep]
            _select(self._cache, keep)
            self._mask = _trim(self._cache, self._mask[keep])
        if not self._rows:
            self._cache = self._mask = None

    def _pick(self, rows: list[Row], logits: Any) -> list[int]:
        """Append a token to every row, end those that are over, and say which go on."""
        import torch

        logits = logits.float()
        sound = torch.isfinite(logits.logsumexp(-1)).tolist()
        wanted = max(row.top_logprobs for row in rows)
        top = logits.log_softmax(-1).topk(min(wanted, logits.shape[-1])) if wanted else None
        values, indices = (top.values.tolist(), top.indices.tolist()) if top else ([], [])
        keep = []
        for i, (row, token) in enumerate(zip(rows, choose(logits, rows), strict=True)):
            if row.future.cancelled():
                continue
            if not sound[i]:
                row.end(ModelFault("the model's logits are not finite: damaged weights, or a type too narrow for them"))
                continue
            row.ids.append(token)
            if row.top_logprobs:
                row.logprobs.append(list(zip(indices[i], values[i], strict=True))[: row.top_logprobs])
            row.ended = token in self._ends
            if row.ended or row.stopped(row.generated):
                row.finish = "stop"
            elif len(row.ids) - row.prompt_tokens >= row.max_tokens:
                row.finish = "length"
            if row.finish:
                row.end()
            else:
                keep.append(i)
        return keep

    def _score(self, rows: list[Row], logits: Any, cache: Any, mask: Any) -> None:
        """The log-probability of every continuation: its first token from `logits`, the others from one more pass."""
        import torch

        owners = [i for i, row in enumerate(rows) for _ in row.continuations]
        texts = [ids for row in rows for ids in row.continuations]
        first = logits.float().log_softmax(-1)
        scores = [float(first[i, ids[0]]) if ids else 0.0 for i, ids in zip(owners, texts, strict=True)]
        width = max(len(ids) for ids in texts) - 1
        if width > 0:
            _select(cache, owners)
            ids = torch.tensor([(t[:-1] + [0] * (width + 1))[:width] for t in texts], device=mask.device)
            real = torch.tensor([[int(k < len(t) - 1) for k in range(width)] for t in texts], device=mask.device)
            start = torch.tensor([[len(rows[i].ids)] for i in owners], device=mask.device)
            positions = start + torch.arange(width, device=mask.device)
            out = self._forward(ids, torch.cat([mask[owners], real], dim=-1), positions, cache)
            for n, text in enumerate(texts):
                rest = out.logits[n, : max(len(text) - 1, 0)].float().log_softmax(-1)
                scores[n] += sum(float(rest[k, token]) for k, token in enumerate(text[1:]))
        for n, i in enumerate(owners):
            rows[i].scores.append(scores[n])
        for row in rows:
            sound = all(abs(score) < float("inf") for score in row.scores)  # NaN compares false
            row.end(None if sound else ModelFault("the model's logits are not finite: damaged weights"))


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
    greedy = logits.argmax(-1)
    if all(row.temperature == 0 for row in rows):
        return [int(token) for token in greedy.tolist()]
    temperatures = torch.tensor([[row.temperature or 1.0] for row in rows], device=logits.device)
    probabilities = (logits / temperatures).softmax(-1)
    for i, row in enumerate(rows):
        if row.top_k or row.top_p < 1.0:
            ordered, order = probabilities[i].sort(descending=True)
            outside = ordered.cumsum(-1) - ordered >= row.top_p  # the mass before a token already reaches top_p
            if row.top_k:
                outside[row.top_k :] = True
            probabilities[i, order[outside]] = 0.0
        # The largest p/E with E exponential is a draw from p. A uniform number against cumulated p would be cheaper,
        # but rounding moves every later boundary: alone and in a batch, 1 reply of 3 came out different by token 128.
        if row.temperature:
            row.generator = row.generator or torch.Generator(logits.device).manual_seed(row.seed)
            probabilities[i] /= torch.empty_like(probabilities[i]).exponential_(generator=row.generator)
    drawn = probabilities.argmax(-1).tolist()
    return [int(d if row.temperature else g) for row, d, g in zip(rows, drawn, greedy.tolist(), strict=True)]


def _joins(cache: Any) -> bool:
    """Whether rows can be put beside those of `cache`: plain keys and values for every slot, no window, no state."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _select(cache: Any, rows: list[int]) -> None:
    """Keep `rows` of the batch, in that order; one may come more than once."""
    import torch

    cache.reorder_cache(torch.tensor(rows, dtype=torch.long))


def _trim(cache: Any, mask: Any) -> Any:
    """Cut the slots that are padding in every row left of the batch; the mask that remains."""
    if not len(mask) or not _joins(cache):
        return mask
    unused = int(mask.argmax(-1).min())
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
    return mask[:, unused:]
