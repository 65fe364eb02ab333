"""transformers in this process: any causal model of a folder, a `.gguf` file or the hub, with exact logits.

Weights are bfloat16 on a GPU, as they were trained. On a CPU they are float32: bfloat16 is twice as fast there (158 and
321 tokens/s for a 135M forward), but its 8 bits blur the gap between two answer letters, which is what `hf:` is for.
Knows files and payloads; batching and sampling are the engine's (`hf_engine`), text and token ids are `hf_words`'.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cai.errors import CallRejected, MissingExtra, ModelStopped, UnknownModel, UsageError
from cai.models import Abilities
from cai.models.bases import base_of, is_adapter, need, quiet
from cai.models.hf_engine import Engine, Row
from cai.models.hf_words import Words, first_stop, split_thoughts
from cai.records import Call, Completion

log = logging.getLogger("cai")

EXTRAS = ("top_p", "top_k", "repetition_penalty")
# What a folder's files say about answers; its README, logs and training state do not.
PARTS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")


class HFModel:
    """A causal language model of transformers; `name` is a folder, a `.gguf` file or a name on the hub.

    Weights come from safetensors or GGUF only, and no code that comes with them runs. A LoRA adapter's folder is loaded
    with its base model. `concurrency`, `context` and `can.chat` of a hub model or `.gguf` are known after `start`.
    Raises UsageError for a path that cannot be loaded.
    """

    provider = "hf"

    def __init__(self, name: str) -> None:
        self._source, self._path = name, Path(name).expanduser()
        self._local = self._path.exists()
        self.endpoint = f"hf:{name}"
        self.concurrency = 8
        self.context: int | None = None
        self._engine: Engine | None = None
        self._words: Words | None = None
        self.name = self._answers_as = name
        self.can = self._abilities(chat=True)
        if self._local:
            self._look()
            self.name = _fingerprint(self._path)
        elif name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1:
            raise UsageError(f"hf:{name}: no such file or folder")

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

    def count_tokens(self, text: str) -> int | None:
        """Tokens of `text` without any a template adds; None before `start`."""
        return None if self._words is None else len(self._words.plain(text))

    def _look(self) -> None:
        """Learn from a local path what can be known without loading it."""
        if self._path.is_file():
            if self._path.suffix != ".gguf":
                raise UsageError(f"hf:{self._source}: give a folder with config.json, or a .gguf file")
            return
        parts = {path.name for path in self._path.iterdir()}
        if not parts & {"config.json", "adapter_config.json"}:
            raise UsageError(f"hf:{self._source}: the folder has no config.json, so it holds no transformers model")
        if not any(part.endswith(".safetensors") for part in parts):
            raise UsageError(
                f"hf:{self._source}: the folder has no .safetensors weights (pickled ones can run code and are refused)"
            )
        if "config.json" not in parts:  # an adapter: its base model decides
            return
        config = json.loads((self._path / "config.json").read_text(encoding="utf-8"))
        self.context = config.get("text_config", config).get("max_position_embeddings")
        tokens = self._path / "tokenizer_config.json"
        chat = (self._path / "chat_template.jinja").exists() or (
            tokens.exists() and bool(json.loads(tokens.read_text(encoding="utf-8")).get("chat_template"))
        )
        self.can = self._abilities(chat)

    def _abilities(self, chat: bool) -> Abilities:
        return Abilities(chat=chat, completion=True, logprobs=20, scoring=True, seeds=True, prefill=True)

    def _load(self) -> None:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"hf:{self._source}", "hf") from error
        gpu = torch.cuda.is_available()
        device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
        log.info("loading hf:%s on %s (%s)", self._source, device, str(dtype).removeprefix("torch."))
        with quiet():
            model, tokenizer = _open(self._source, self._path if self._local else None, dtype)
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


def _fingerprint(path: Path) -> str:
    """The path's last part and 12 hex digits of the SHA-256 of all that decides its answers: 1-2 GB/s, once."""
    files = [path] if path.is_file() else sorted({file for part in PARTS for file in path.glob(part)})
    digest = hashlib.sha256()
    for part in files:
        with part.open("rb") as file:
            digest.update(f"{part.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{path.resolve().name}@{digest.hexdigest()[:12]}"


def _open(source: str, path: Path | None, dtype: Any) -> tuple[Any, Any]:
    """The model and tokenizer of a hub name, or of what lies at `path`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    place = words = str(path or source)
    if path is not None and path.is_file():
        need("gguf", f"hf:{source}", "local")
        place = words = str(path.parent)
        options["gguf_file"] = path.name
    adapter = path is not None and is_adapter(path)
    if path is not None and adapter:
        need("peft", f"hf:{source}, a LoRA adapter,", "hf")
        place = base_of(path).place
        words = words if (path / "tokenizer_config.json").exists() else place
    try:
        tokenizer = AutoTokenizer.from_pretrained(words, **options)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, use_safetensors=True, **options)
        if adapter:
            model.load_adapter(str(path))  # beside the weights: in 16 bits a merge would round small changes away
    except Exception as error:  # transformers raises a dozen kinds; each means that this model cannot be used
        reason = " ".join(str(error).split())[:500]
        raise UnknownModel(f"cannot load hf:{source}: {type(error).__name__}: {reason}") from error
    return model, tokenizer
