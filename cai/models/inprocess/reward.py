"""A trained reward model of transformers: one number for a conversation that ends with a reply.

Weights are what TRL's RewardTrainer saves: `AutoModelForSequenceClassification` with one label, or its LoRA adapter.
On a GPU they are bfloat16, whose 8 bits make steps of 0.03 in a reward of 5; on a CPU float32.
Knows files, the chat template and padding; the batch's thread is the one of `hf_engine`. Knows nothing of pairs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from cai.errors import CallRejected, MissingExtra, ModelFault, ModelStopped, UsageError
from cai.models.inprocess.hf_engine import Engine, Row
from cai.records import Abilities, Call, Completion
from cai.sources.built_in import path_of
from cai.weights.bases import base_at, check_kind
from cai.weights.loading import open_reward

log = logging.getLogger("cai")


class RewardModel:
    """A sequence classifier with one label; `name` is a folder or a name on the hub.

    Safetensors only, and no code that comes with the weights runs. The completion's one score is the reward, as the
    model gives it: of no scale. Raises UsageError for a path that cannot be loaded.
    """

    provider = "reward"
    can = Abilities(chat=False, reward=True)

    def __init__(self, name: str) -> None:
        self._source, path = name, path_of(name)
        self._base = base_at(f"reward:{name}", name)
        check_kind(self._base, rewards=True)
        self.name = self._answers_as = f"{path.resolve().name}@{self._base.mark}" if path.exists() else name
        self.endpoint = f"reward:{name}"
        self.concurrency = 8
        self.context: int | None = None
        self._engine: Engine | None = None
        self._lock, self._tokenizer = threading.Lock(), None

    def payload(self, call: Call) -> dict[str, Any]:
        """The conversation, which decides the reward alone; UsageError for a request that asks for words."""
        request = call.request
        last = request.messages[-1]["role"] if request.messages else None
        if request.score != ("",) or request.text is not None or request.prefill or last != "assistant":
            raise UsageError(f"reward:{self._source} is a reward model: it gives a reply a number, and writes nothing")
        return {"messages": [dict(message) for message in request.messages]}

    async def start(self) -> None:
        """Load the weights, in a thread; UsageError where they are no reward model or have no chat template."""
        if self._engine is None:
            await asyncio.to_thread(self._load)

    async def send(self, payload: dict[str, Any]) -> Completion:
        """Ask once; CallRejected("too_long", …) where the conversation passes the model's context: it is never cut."""
        engine = self._engine
        if engine is None:
            raise ModelStopped(f"reward:{self._source} is not loaded: start() comes before send()")
        ids = await asyncio.to_thread(self._ids, payload["messages"])
        if self.context is not None and len(ids) > self.context:
            raise CallRejected("too_long", f"{len(ids)} tokens exceed the context of {self.context}")
        row = Row(ids=ids, scoring=True)
        engine.submit(row)
        await asyncio.wrap_future(row.future)
        return Completion(
            "", "stop", self._answers_as, input_tokens=len(ids), output_tokens=0, scores=tuple(row.scores)
        )  # fmt: skip

    async def close(self) -> None:
        """Stop the engine and free the weights."""
        engine, self._engine, self._tokenizer = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        """The conversation in the tokenizer's own template; control tokens in its texts are spelled out."""
        from jinja2 import TemplateError

        tokenizer: Any = self._tokenizer
        try:
            with self._lock:  # encoding sets options on the Rust tokenizer
                ids: list[int] = tokenizer.apply_chat_template(
                    messages, sanitize_control_tokens=True, return_dict=False
                )
        except TemplateError as error:
            raise CallRejected("bad_input", f"the model's chat template refuses the conversation: {error}") from error
        return ids

    def _load(self) -> None:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"reward:{self._source}", "hf") from error
        gpu = torch.cuda.is_available()
        device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
        log.info("loading reward:%s on %s (%s)", self._source, device, str(dtype).removeprefix("torch."))
        tokenizer, model = open_reward(self._base, dtype)
        if self._base.adapter is not None:
            model = model.get_base_model()  # with the adapter beside its weights: merged, 16 bits would round it away
        tokenizer.model_max_length = 1 << 60  # else it logs about long texts, whose fit is checked here
        model = model.to(device).eval()
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None)
        self.concurrency = 64 if gpu else 8
        commit = getattr(model.config, "_commit_hash", None)
        self._answers_as = f"{self.name}@{commit[:12]}" if commit else self.name
        self._tokenizer = tokenizer
        self._engine = _Rewards(model, config.pad_token_id, self.concurrency)


class _Rewards(Engine):
    """Rows are padded on the right, where a causal model sees no padding before the token whose reward it reads.

    Which token that is, the model decides by the padding token it was trained with; one without takes rows singly.
    """

    def __init__(self, model: Any, padding: int | None, limit: int) -> None:
        self._padding = padding or 0
        super().__init__(model, frozenset(), 1 if padding is None else limit)

    def _prefill(self, rows: list[Row]) -> tuple[Any, Any, Any]:
        import torch

        longest, device = max(len(row.ids) for row in rows), self._model.device
        ids = torch.tensor([row.ids + [self._padding] * (longest - len(row.ids)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=device)
        return self._model(input_ids=ids, attention_mask=mask).logits[:, 0], None, mask

    def _score(self, rows: list[Row], logits: Any, cache: Any, mask: Any) -> None:
        for row, reward in zip(rows, logits.float().tolist(), strict=True):
            row.scores.append(reward)
            sound = abs(reward) < float("inf")  # NaN compares false
            row.end(None if sound else ModelFault("the reward is not finite: damaged weights"))
