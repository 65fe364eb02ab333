"""Continuous batching over a transformers model: one thread, one batch, every row with its own sampling and seed.

New rows join between two steps and finished ones leave at once, so a long reply delays no other. A row draws from its
own generator, so its reply does not depend on its neighbours (beyond float noise).
"""

from __future__ import annotations

import inspect
from typing import Any

from cai.errors import ModelFault
from cai.models.inprocess.engine import Engine
from cai.models.inprocess.hf_rows import Row, choose, padded


class HFEngine(Engine[Row]):
    """Plays rows through `model`.

    ends: token ids that end a reply. A row that fails gets a ModelError and leaves the others alone; a batch that does
    not fit in the device's memory is halved, and its rows continue from the tokens they have.
    """

    def __init__(self, model: Any, ends: frozenset[int], name: str, limit: int) -> None:
        self._model = model
        self._ends = ends
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        # transformers 5.24 renamed it; a model whose code comes from the hub may keep the old name.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._entering: list[Row] = []
        self._cache: Any = None  # of the live rows: all their ids but the last
        self._mask: Any = None
        super().__init__(name, limit)

    def _run(self) -> None:
        import torch

        with torch.inference_mode():
            super()._run()
        self._model = self._cache = self._mask = None
        torch.cuda.empty_cache()

    def _fail(self, error: Exception) -> None:
        import torch

        rows = self._live + self._entering
        self._live = []
        self._entering = []
        self._cache = self._mask = None
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            tokens = len(rows[0].ids)
            self._retreat(rows, len(rows), f"{tokens} tokens alone do not fit in the device's memory")
            return
        fault = ModelFault(f"the model failed: {type(error).__name__}: {' '.join(str(error).split())}")
        fault.__cause__ = error
        for row in rows:
            row.end(fault)

    def _step(self) -> None:
        """Take waiting rows in, then one more token for every row."""
        import torch

        self._admit()
        if not self._live:
            return
        device = self._mask.device
        ids = torch.tensor([[row.ids[-1]] for row in self._live], device=device)
        positions = torch.tensor([[len(row.ids) - 1] for row in self._live], device=device)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=-1)
        out = self._forward(ids, self._mask, positions, self._cache)
        self._cache = getattr(out, self._cache_name)
        keep = self._pick(self._live, out.logits[:, -1])
        if len(keep) < len(self._live):
            self._live = [self._live[i] for i in keep]
            _select(self._cache, keep)
            self._mask = _trim(self._cache, self._mask[keep])
        if not self._live:
            self._cache = self._mask = None

    def _admit(self) -> None:
        """Take waiting rows in, while there is room; a cache that cannot grow rows (see `_joins`) is filled once."""
        if self._live and not _joins(self._cache):
            return
        room = self._limit - len(self._live)
        self._entering = self._waiting[:room]
        self._waiting = self._waiting[room:]
        to_score = [row for row in self._entering if row.scoring]
        if to_score:
            self._score(to_score, *self._prefill(to_score))
            self._entering = [row for row in self._entering if not row.scoring]
        if self._entering:
            logits, cache, mask = self._prefill(self._entering)
            keep = self._pick(self._entering, logits)
            _select(cache, keep)
            self._join([self._entering[i] for i in keep], cache, mask[keep])
            self._entering = []

    def _prefill(self, rows: list[Row]) -> tuple[Any, Any, Any]:
        """Read the rows' ids, padded on the left; the next token's logits, the cache and the mask."""
        ids, mask = padded([row.ids for row in rows], self._model.device, "left")
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
        if not self._live:
            self._live = rows
            self._cache = cache
            self._mask = mask
            return
        width = max(self._mask.shape[1], mask.shape[1])
        old_gap = width - self._mask.shape[1]
        new_gap = width - mask.shape[1]

        def beside(old: Any, new: Any) -> Any:
            return torch.cat([pad(old, (0, 0, old_gap, 0)), pad(new, (0, 0, new_gap, 0))])

        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = beside(old.keys, new.keys)
            old.values = beside(old.values, new.values)
        self._mask = torch.cat([pad(self._mask, (old_gap, 0)), pad(mask, (new_gap, 0))])
        self._live = self._live + rows

    def _pick(self, rows: list[Row], logits: Any) -> list[int]:
        """Append a token to every row and end those that are over; returns the places of the others."""
        import torch

        logits = logits.float()
        sound = torch.isfinite(logits.logsumexp(-1)).tolist()
        likeliest = _likeliest(logits, max(row.top_logprobs for row in rows))
        keep = []
        for i, (row, token) in enumerate(zip(rows, choose(logits, rows), strict=True)):
            if row.future.cancelled():
                continue
            if not sound[i]:
                row.end(ModelFault("the model's logits are not finite: damaged weights, or a type too narrow for them"))
                continue
            row.ids.append(token)
            if row.top_logprobs:
                row.logprobs.append(likeliest[i][: row.top_logprobs])
            row.ended = token in self._ends
            if row.ended or row.stopped(row.generated):
                row.finish = "stop"
            elif len(row.generated) >= row.max_tokens:
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
        values = [[float(first[i, token]) for token in ids[:1]] for i, ids in zip(owners, texts, strict=True)]
        ids, real = padded([text[:-1] for text in texts], mask.device, "right")
        if ids.shape[1] > 0:
            _select(cache, owners)
            start = torch.tensor([[len(rows[i].ids)] for i in owners], device=mask.device)
            positions = start + torch.arange(ids.shape[1], device=mask.device)
            out = self._forward(ids, torch.cat([mask[owners], real], dim=-1), positions, cache)
            for n, text in enumerate(texts):
                rest = out.logits[n, : max(len(text) - 1, 0)].float().log_softmax(-1)
                values[n] += rest.gather(1, torch.tensor(text[1:], device=rest.device)[:, None])[:, 0].tolist()
        for i, text, own in zip(owners, texts, values, strict=True):
            rows[i].scores.append(sum(own))
            if rows[i].top_logprobs:
                rows[i].logprobs += [[pair] for pair in zip(text, own, strict=True)]
        for row in rows:
            row.end_scored("the model's logits are not finite: damaged weights")


def _joins(cache: Any) -> bool:
    """Whether rows can be put beside those of `cache`: plain keys and values for every slot, no window, no state."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _select(cache: Any, rows: list[int]) -> None:
    """Keep `rows` of the batch, in that order; one may come more than once."""
    import torch

    cache.reorder_cache(torch.tensor(rows, dtype=torch.long))


def _trim(cache: Any, mask: Any) -> Any:
    """Cut the slots that are padding in every remaining row; returns the mask without them."""
    if not len(mask) or not _joins(cache):
        return mask
    unused = int(mask.argmax(-1).min())
    for layer in cache.layers:
        layer.keys = layer.keys[:, :, unused:]
        layer.values = layer.values[:, :, unused:]
    return mask[:, unused:]


def _likeliest(logits: Any, count: int) -> list[list[tuple[int, float]]]:
    """The `count` likeliest tokens of every row with their log-probabilities; nothing if `count` is 0."""
    if not count:
        return []
    top = logits.log_softmax(-1).topk(min(count, logits.shape[-1]))
    return [list(zip(*pair, strict=True)) for pair in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
