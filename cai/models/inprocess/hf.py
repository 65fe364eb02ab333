"""transformers in this process: any causal model of a folder, a `.gguf` file or the hub, with exact logits.

Weights are bfloat16 on a GPU, as they were trained. On a CPU they are float32: bfloat16 is twice as fast there (158 and
321 tokens/s for a 135M forward), but its 8 bits blur the gap between two answer letters, which is what `hf:` is for.
Knows files and payloads; batching and sampling are the engine's (`hf_engine`), text and token ids are `hf_words`'.
"""

from __future__ import annotations

import asyncio
import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cai.errors import CallRejected, MissingExtra, ModelStopped, UsageError
from cai.folder.files import read_object
from cai.models.inprocess.hf_engine import Engine, Row
from cai.models.inprocess.hf_words import Words, first_stop, split_thoughts
from cai.records import Abilities, Call, Completion
from cai.sources.built_in import path_of
from cai.weights.bases import Base, base_at, check_kind
from cai.weights.hashes import fingerprint
from cai.weights.loading import load_model, load_tokenizer, words_of

log = logging.getLogger("cai")

EXTRAS = ("top_p", "top_k", "repetition_penalty")


class HFModel:
    """A causal language model of transformers; `name` is a folder, a `.gguf` file or a name on the hub.

    Weights come from safetensors or GGUF only, and no code that comes with them runs. A LoRA adapter's folder is loaded
    with its base model. `concurrency`, `context` and `can.chat` of a hub model or `.gguf` are known after `start`.
    Raises UsageError for a path that cannot be loaded.
    """

    provider = "hf"

    def __init__(self, name: str) -> None:
        self._source, path = name, path_of(name)
        self.endpoint = f"hf:{name}"
        self.concurrency = 8
        self.context: int | None = None
        self._engine: Engine | None = None
        self._words: Words | None = None
        self.name = self._answers_as = name
        self.can = self._abilities(chat=True)
        if path.suffix == ".gguf" or path.is_file():
            if path.suffix != ".gguf" or not path.is_file():
                raise UsageError(f"hf:{name}: no such file; give a folder with config.json, or a .gguf file")
            self._base = Base(self.endpoint, str(path), fingerprint(path))
        else:
            self._base = base_at(self.endpoint, name)
            check_kind(self._base, rewards=False)
            self._look()
        if path.exists():
            self.name = f"{path.resolve().name}@{self._base.mark}"

    def payload(self, call: Call) -> dict[str, Any]:
        """What decides the answer; raises UsageError for an `extra_body` key that is not one of EXTRAS."""
        request, sampling = call.request, call.sampling
        for key in sampling.extra_body:
            if key not in EXTRAS:
                close = get_close_matches(key, EXTRAS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(EXTRAS)}"
                raise UsageError(f"hf: takes no {key!r} in extra_body; {hint}")
        asked: dict[str, Any] = (
            {"text": request.text} if request.text is not None else {"messages": list(request.messages)}
        )
        if request.prefill:
            asked["prefill"] = request.prefill
        if request.score:
            return asked | {"score": list(request.score)}
        temperature = sampling.temperature if request.temperature is None else request.temperature
        asked |= {
            "max_tokens": request.max_tokens or sampling.max_tokens,
            "temperature": temperature,
            "stop": list(request.stop),
            "top_logprobs": request.top_logprobs,
            **sampling.extra_body,
        }
        return asked if temperature == 0 else asked | {"seed": call.seed}  # greedy: the seed decides nothing

    async def start(self) -> None:
        """Load the weights, in a thread; raises MissingExtra, or UnknownModel with transformers' own reason."""
        if self._engine is None:
            await asyncio.to_thread(self._load)

    async def send(self, payload: dict[str, Any]) -> Completion:
        """Ask once. `output_tokens` and `logprobs` count the token that ended the reply, as the model made it."""
        engine, words = self._engine, self._words
        if engine is None or words is None:
            raise ModelStopped(f"hf:{self._source} is not loaded: start() comes before send()")
        row = await asyncio.to_thread(self._row, payload, words)
        engine.submit(row)
        return self._completion(await asyncio.wrap_future(row.future), payload, words)

    async def close(self) -> None:
        """Stop the engine and free the weights."""
        engine, self._engine, self._words = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    def _look(self) -> None:
        """Learn from local folders what can be known without loading the model."""
        config, words = Path(self._base.place) / "config.json", Path(words_of(self._base))
        if config.is_file():
            told = read_object(config)
            self.context = told.get("text_config", told).get("max_position_embeddings")
        if words.is_dir():
            told = read_object(words / "tokenizer_config.json") if (words / "tokenizer_config.json").exists() else {}
            self.can = self._abilities(bool(told.get("chat_template")) or (words / "chat_template.jinja").exists())

    def _abilities(self, chat: bool) -> Abilities:
        return Abilities(chat=chat, completion=True, logprobs=20, scoring=True, prefill=True)

    def _load(self) -> None:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"hf:{self._source}", "hf") from error
        gpu = torch.cuda.is_available()
        device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
        log.info("loading hf:%s on %s (%s)", self._source, device, str(dtype).removeprefix("torch."))
        tokenizer, model = load_tokenizer(self._base), load_model(self._base, dtype)
        if self._base.adapter is not None:
            model = model.get_base_model()  # with the adapter beside its weights: merged, 16 bits would round it away
        model = model.to(device).eval()
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None)
        self.concurrency = 64 if gpu else 8
        self.can = self._abilities(chat=bool(tokenizer.chat_template))
        commit = getattr(model.config, "_commit_hash", None)
        self._answers_as = f"{self.name}@{commit[:12]}" if commit else self.name
        self._words = Words(tokenizer)
        ends = model.generation_config.eos_token_id if model.generation_config else None
        ids = [*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id]
        self._engine = Engine(model, frozenset(token for token in ids if token is not None), self.concurrency)

    def _row(self, payload: dict[str, Any], words: Words) -> Row:
        if "messages" in payload and not self.can.chat:
            raise UsageError(
                f"hf:{self._source} is a base model (its tokenizer has no chat template): use --templates fewshot"
            )
        ids = words.prompt(payload)
        continuations = [words.plain(text) for text in payload.get("score", ())]
        more = max((len(text) for text in continuations), default=payload.get("max_tokens", 0))
        if self.context is not None and len(ids) + more > self.context:
            what = "to score" if continuations else "of max_tokens"
            raise CallRejected(
                "too_long", f"{len(ids)} tokens of prompt and {more} {what} exceed the context of {self.context}"
            )
        stops = tuple(payload.get("stop", ()))
        window = 4 * max(map(len, stops), default=0) + 8  # tokens: a letter has up to 4 bytes, a token at least one
        return Row(
            ids=ids,
            max_tokens=payload.get("max_tokens", 0),
            temperature=payload.get("temperature", 1.0),
            **{key: payload[key] for key in EXTRAS if key in payload},
            top_logprobs=payload.get("top_logprobs", 0),
            seed=payload.get("seed", 0),
            stopped=lambda made: bool(stops) and first_stop(stops, words.text(made[-window:])) is not None,
            continuations=continuations,
            scoring=bool(continuations),
        )

    def _completion(self, row: Row, payload: dict[str, Any], words: Words) -> Completion:
        made, chat = row.generated, "messages" in payload
        said = made[:-1] if row.ended else made
        text = words.opening(said) if chat and not payload.get("prefill") else words.text(said)
        text = text[: first_stop(payload.get("stop", ()), text)]
        reasoning = None
        if chat:
            reasoning, text = split_thoughts(text, words.spelled(row.ids[: row.prompt_tokens][-8:]))
        return Completion(
            text=text,
            finish=row.finish or "stop",
            model=self._answers_as,
            input_tokens=row.prompt_tokens,
            output_tokens=len(made),
            reasoning=reasoning,
            logprobs=tuple(words.named(top) for top in row.logprobs) if payload.get("top_logprobs") else None,
            scores=tuple(row.scores) if row.scoring else None,
        )
