"""A trained reward model of transformers: one number for a conversation that ends with a reply.

Weights are what TRL's RewardTrainer saves: `AutoModelForSequenceClassification` with one label, or its LoRA adapter.
On a GPU they are bfloat16, whose 8 bits make steps of 0.03 in a reward of 5; on a CPU float32.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from cai.calls.model import Call
from cai.constitution.condition import is_told
from cai.errors import CallRejected, UsageError
from cai.models.inprocess.conditions import condition_at, condition_of
from cai.models.inprocess.hf_engine import HFEngine
from cai.models.inprocess.hf_model import TransformersModel
from cai.models.inprocess.hf_rows import Row, padded
from cai.records import Abilities, Completion, Values
from cai.weights.loading import open_reward


class RewardModel(TransformersModel):
    """A sequence classifier with one label; `name` is a folder or a name on the hub.

    Safetensors only, and no code that comes with the weights runs. The completion's one score is the reward as the
    model gives it, on no particular scale. One with a condition must be told a principle. Raises UsageError for a path
    that cannot be loaded.
    """

    provider = "reward"
    can = Abilities(chat=False, reward=True)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.can = replace(self.can, condition=condition_at(self._base))

    def payload(self, call: Call) -> Values:
        """The conversation, which alone decides the reward; UsageError for a request that asks for text."""
        request = call.request
        ends_with_reply = bool(request.messages) and request.messages[-1]["role"] == "assistant"
        if request.score != ("",) or request.text is not None or request.prefill or not ends_with_reply:
            raise UsageError(f"{self.spec} is a reward model: it gives a reply a number, and writes nothing")
        if self.can.condition is not None and not is_told(self.can.condition, request.messages):
            raise UsageError(f"{self.spec} judges by a principle that it is told, and was told none")
        return {"messages": [dict(message) for message in request.messages]}

    async def send(self, payload: Values) -> Completion:
        """Ask once; CallRejected("too_long", …) if the conversation exceeds the model's context: it is never cut."""
        tokenizer, engine = self._loaded()
        ids = await asyncio.to_thread(tokenizer.conversation, payload["messages"], answer=False)
        if self.context is not None and len(ids) > self.context:
            raise CallRejected("too_long", f"{len(ids)} tokens exceed the context of {self.context}")
        row = await engine.play(Row(ids=ids, scoring=True))
        scores = tuple(row.scores)
        return Completion("", "stop", self._answers_as, input_tokens=len(ids), output_tokens=0, scores=scores)

    def _open(self, dtype: Any) -> tuple[Any, Any]:
        tokenizer, model = open_reward(self._base, dtype)
        if condition_of(tokenizer, self.spec) != self.can.condition:  # of a model on the hub
            raise UsageError(f"{self.spec} judges by a principle that it is told: download it, and name its folder")
        return tokenizer, model

    def _engine_of(self, model: Any, tokenizer: Any) -> HFEngine:
        return RewardEngine(model, model.config.get_text_config().pad_token_id, self.spec, self.concurrency)


class RewardEngine(HFEngine):
    """Rows are padded on the right, where a causal model sees no padding before the token whose reward it reads.

    The model finds that token by the padding token it was trained with; without one, it takes one row at a time.
    """

    def __init__(self, model: Any, padding: int | None, name: str, limit: int) -> None:
        if padding is None:
            limit = 1
        self._padding = padding or 0
        super().__init__(model, frozenset(), name, limit)

    def _prefill(self, rows: list[Row]) -> tuple[Any, Any, Any]:
        ids, mask = padded([row.ids for row in rows], self._model.device, "right", self._padding)
        out = self._model(input_ids=ids, attention_mask=mask)
        return out.logits[:, 0], None, mask

    def _score(self, rows: list[Row], logits: Any, cache: Any, mask: Any) -> None:
        for row, reward in zip(rows, logits.float().tolist(), strict=True):
            row.scores.append(reward)
            row.end_scored("the reward is not finite: damaged weights")
