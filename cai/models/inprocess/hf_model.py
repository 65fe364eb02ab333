"""What all models of transformers in this process share: finding, loading and closing them.

Weights are bfloat16 on a GPU, as they were trained. On a CPU they are float32: bfloat16 is twice as fast there (158 and
321 tokens/s for a 135M forward), but its 8 bits blur the gap between two answer letters, which is what `hf:` is for.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from cai.errors import ModelStopped
from cai.models.inprocess.hf_engine import HFEngine
from cai.models.inprocess.hf_words import HFTokenizer
from cai.packages import need
from cai.records import Abilities
from cai.sources.files import path_of
from cai.weights.bases import Base, at_commit, base_at, check_kind
from cai.weights.loading import load_model, load_tokenizer

log = logging.getLogger("cai")


class TransformersModel(ABC):
    """A model of transformers; `name` is what follows its provider in the spec.

    `concurrency` and `context` of a model on the hub are known after `start`.
    """

    provider: str
    can: Abilities

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec = f"{self.provider}:{name}"  # as the user wrote it
        self.endpoint = self.spec
        self.concurrency = 8
        self.context: int | None = None
        self._base = self._examine(name)
        path = path_of(name)
        if path.exists():
            self.name = f"{path.resolve().name}@{self._base.mark}"
        self._answers_as = name
        self._opened: tuple[HFTokenizer, HFEngine] | None = None

    def _examine(self, name: str) -> Base:
        """The weights, and what can be known of them before they are loaded; UsageError for a path that cannot be."""
        base = base_at(self.spec, name)
        check_kind(base, rewards=self.can.reward)
        return base

    async def start(self) -> None:
        """Load the weights, in a thread; raises MissingExtra, or UnknownModel with transformers' own reason."""
        if self._opened is None:
            await asyncio.to_thread(self._load)

    async def close(self) -> None:
        """Stop the engine and free the weights."""
        opened = self._opened
        self._opened = None
        if opened is not None:
            await opened[1].close()

    def _open(self, dtype: Any) -> tuple[Any, Any]:
        """The tokenizer and the model, with its adapter."""
        return load_tokenizer(self._base), load_model(self._base, dtype)

    @abstractmethod
    def _engine_of(self, model: Any, tokenizer: Any) -> HFEngine:
        """The engine that plays the loaded model."""

    def _load(self) -> None:
        need(self.spec, "hf", "torch", "transformers")
        import torch

        device, dtype = "cpu", torch.float32
        if torch.cuda.is_available():
            device, dtype = "cuda", torch.bfloat16
            self.concurrency = 64
        self._base = at_commit(self._base)  # all its files, and the name of who answered, are of one commit
        log.info("loading %s on %s (%s)", self.spec, device, str(dtype).removeprefix("torch."))
        tokenizer, model = self._open(dtype)
        if self._base.adapter is not None:
            model = model.get_base_model()  # with the adapter beside its weights: merged, 16 bits would round it away
        model = model.to(device).eval()
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._answers_as = self.name
        if self._base.commit is not None and self._base.adapter is None:
            self._answers_as = f"{self._base.place}@{self._base.commit[:12]}"
        self._opened = HFTokenizer(tokenizer), self._engine_of(model, tokenizer)

    def _loaded(self) -> tuple[HFTokenizer, HFEngine]:
        if self._opened is None:
            raise ModelStopped(f"{self.spec} is not loaded: start() comes before send()")
        return self._opened
