"""transformers in this process: any causal model of a folder, a `.gguf` file or the hub, with exact logits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from cai.calls.model import Call
from cai.disk.hashes import fingerprint
from cai.disk.reading import read_if_there
from cai.errors import CallRejected, UsageError
from cai.models.inprocess.hf_engine import HFEngine
from cai.models.inprocess.hf_model import TransformersModel
from cai.models.inprocess.hf_rows import Row
from cai.models.inprocess.hf_words import HFTokenizer
from cai.models.inprocess.requests import check_settings, first_stop, question, reply_of
from cai.records import Abilities, Completion, Values
from cai.sources.files import path_of
from cai.weights.bases import Base
from cai.weights.loading import end_tokens, words_of

EXTRAS = ("top_p", "top_k", "repetition_penalty")
SAMPLING = ("max_tokens", "temperature", "top_logprobs", "seed", *EXTRAS)  # what a row takes from a payload as it is


class HFModel(TransformersModel):
    """A causal language model of transformers; `name` is a folder, a `.gguf` file or a name on the hub.

    Weights come from safetensors or GGUF only, and no code that comes with them runs. A LoRA adapter's folder is loaded
    with its base model. `can.chat` of a hub model or `.gguf` is known after `start`.
    Raises UsageError for a path that cannot be loaded.
    """

    provider = "hf"
    can = Abilities(chat=True, completion=True, logprobs=20, scoring=True, prefill=True)

    def _examine(self, name: str) -> Base:
        path = path_of(name)
        if path.is_file() != (path.suffix == ".gguf"):
            raise UsageError(f"{self.spec}: no such file; give a folder with config.json, or a .gguf file")
        if path.is_file():
            return Base(self.spec, str(path), fingerprint(path))
        base = super()._examine(name)
        # What can be known of a local folder without loading the model.
        config = read_if_there(Path(base.place) / "config.json")
        self.context = config.get("text_config", config).get("max_position_embeddings")
        words = Path(words_of(base))
        if words.is_dir():
            in_config = bool(read_if_there(words / "tokenizer_config.json").get("chat_template"))
            self.can = replace(self.can, chat=in_config or (words / "chat_template.jinja").exists())
        return base

    def payload(self, call: Call) -> Values:
        """What decides the answer; raises UsageError for an `extra_body` key that is not one of EXTRAS."""
        request = call.request
        check_settings(call.sampling.extra_body, EXTRAS, "hf:")
        body = question(request)
        if request.score:
            return body
        body["max_tokens"] = call.max_tokens
        body["temperature"] = call.temperature
        body["stop"] = list(request.stop)
        body["top_logprobs"] = request.top_logprobs
        body |= call.sampling.extra_body
        if call.temperature > 0:  # else the seed decides nothing
            body["seed"] = call.seed
        return body

    async def send(self, payload: Values) -> Completion:
        """Ask once. `output_tokens` and `logprobs` count the token that ended the reply, as the model made it."""
        tokenizer, engine = self._loaded()
        row = await asyncio.to_thread(self._row, payload, tokenizer)
        return self._completion(await engine.play(row), payload, tokenizer)

    def _engine_of(self, model: Any, tokenizer: Any) -> HFEngine:
        self.can = replace(self.can, chat=bool(tokenizer.chat_template))
        ends = frozenset(end_tokens(model.generation_config, tokenizer))
        return HFEngine(model, ends, self.spec, self.concurrency)

    def _row(self, payload: Values, tokenizer: HFTokenizer) -> Row:
        if "messages" in payload and not self.can.chat:
            raise UsageError(
                f"{self.spec} is a base model (its tokenizer has no chat template): use --templates fewshot"
            )
        ids = tokenizer.prompt(payload)
        if "score" in payload:
            continuations = [tokenizer.plain(text) for text in payload["score"]]
            self._fit(len(ids), max(map(len, continuations)), "to score")
            return Row(ids=ids, continuations=continuations, scoring=True, top_logprobs=payload.get("top_logprobs", 0))
        self._fit(len(ids), payload["max_tokens"], "of max_tokens")
        stops = payload["stop"]
        window = 4 * max(map(len, stops), default=0) + 8  # tokens: a letter has up to 4 bytes, a token at least one

        def stopped(generated: list[int]) -> bool:
            return bool(stops) and first_stop(stops, tokenizer.text(generated[-window:])) is not None

        return Row(ids=ids, stopped=stopped, **{key: payload[key] for key in SAMPLING if key in payload})

    def _fit(self, tokens: int, more: int, what: str) -> None:
        if self.context is not None and tokens + more > self.context:
            raise CallRejected(
                "too_long", f"{tokens} tokens of prompt and {more} {what} exceed the context of {self.context}"
            )

    def _completion(self, row: Row, payload: Values, tokenizer: HFTokenizer) -> Completion:
        ids = row.generated
        output_tokens = len(ids)
        if row.ended:
            ids = ids[:-1]
        text = tokenizer.text(ids)
        if "messages" in payload and not payload.get("prefill"):
            text = tokenizer.decode(ids, skip_special_tokens=True)
        text, reasoning = reply_of(payload, text, ids, row.ids[: row.prompt_tokens], tokenizer.decode)
        logprobs = tuple(map(tokenizer.named, row.logprobs)) if payload.get("top_logprobs") else None
        return Completion(
            text=text,
            finish=row.finish or "stop",
            model=self._answers_as,
            input_tokens=row.prompt_tokens,
            output_tokens=output_tokens,
            reasoning=reasoning,
            logprobs=logprobs,
            scores=tuple(row.scores) or None,
        )
