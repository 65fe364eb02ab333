"""A trained reward model of transformers: one number for a conversation that ends with a reply.

Weights are what TRL's RewardTrainer saves: `AutoModelForSequenceClassification` with one label, or its LoRA adapter.
On a GPU they are bfloat16, whose 8 bits make steps of 0.03 in a reward of 5; on a CPU float32.
Knows files, the chat template and padding; the batch's thread is the one of `hf_engine`. Knows nothing of pairs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

from cai.errors import CallRejected, MissingExtra, ModelFault, ModelStopped, UnknownModel, UsageError
from cai.models import Abilities
from cai.models.bases import base_of, is_adapter, need, quiet
from cai.models.hf import _fingerprint
from cai.models.hf_engine import Engine, Row
from cai.records import Call, Completion

log = logging.getLogger("cai")


class RewardModel:
    """A sequence classifier with one label; `name` is a folder or a name on the hub.

    Safetensors only, and no code that comes with the weights runs. The completion's one score is the reward, as the
    model gives it: of no scale. Raises UsageError for a path that cannot be loaded.
    """

    provider = "reward"
    can = Abilities(chat=False, reward=True)

    def __init__(self, name: str) -> None:
        self._source, self._path = name, Path(name).expanduser()
        self._local = self._path.is_dir()
        if self._local:
            _look(name, self._path)
        elif name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UsageError(f"reward:{name}: no such folder")
        self.name = self._answers_as = _fingerprint(self._path) if self._local else name
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

    def count_tokens(self, text: str) -> int | None:
        """Tokens of `text` without any a template adds; None before `start`."""
        if self._tokenizer is None:
            return None
        with self._lock:
            return len(self._tokenizer.encode(text, add_special_tokens=False))

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
        with quiet():
            tokenizer, model = open_reward(self._source, self._path if self._local else None, dtype)
        tokenizer.model_max_length = 1 << 60  # else it logs about long texts, whose fit is checked here
        model = model.to(device).eval()
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None)
        self.concurrency = 64 if gpu else 8
        commit = getattr(model.config, "_commit_hash", None)
        self._answers_as = f"{self.name}@{commit[:12]}" if commit and not self._local else self.name
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


def _look(source: str, path: Path) -> None:
    parts = {part.name for part in path.iterdir()}
    if not parts & {"config.json", "adapter_config.json"}:
        raise UsageError(f"reward:{source}: the folder has no config.json, so it holds no transformers model")
    if not any(part.endswith(".safetensors") for part in parts):
        raise UsageError(
            f"reward:{source}: the folder has no .safetensors weights (pickled ones can run code and are refused)"
        )


def open_reward(source: str, path: Path | None, dtype: Any) -> tuple[Any, Any]:
    """The tokenizer and the model of a hub name or a folder, with the adapter on its base where it is one."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}
    place = words = str(path or source)
    adapter = path is not None and is_adapter(path)
    if path is not None and adapter:
        need("peft", f"reward:{source}, a LoRA adapter,", "hf")
        place = base_of(path).place
        words = words if (path / "tokenizer_config.json").exists() else place
    try:
        tokenizer = AutoTokenizer.from_pretrained(words, **options)
        config = AutoConfig.from_pretrained(place, **options)
        if adapter:
            config.num_labels = 1  # the base may be a language model: the adapter brings the head
        _check(source, config, tokenizer)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        missing = set(loaded["missing_keys"])
        if adapter:
            model, missing = _adapted(model, str(path), missing, tokenizer)
    except UsageError:
        raise
    except Exception as error:  # transformers raises a dozen kinds; each means that this model cannot be used
        reason = " ".join(str(error).split())[:500]
        raise UnknownModel(f"cannot load reward:{source}: {type(error).__name__}: {reason}") from error
    if missing:
        raise UsageError(f"reward:{source} is no trained reward model: its weights lack {', '.join(sorted(missing))}")
    return tokenizer, model


def _check(source: str, config: Any, tokenizer: Any) -> None:
    if config.num_labels != 1:
        raise UsageError(
            f"reward:{source} is no reward model: it has {config.num_labels} labels, and a reward model has one "
            "(a language model is asked with hf:)"
        )
    if not tokenizer.chat_template:
        raise UsageError(
            f"reward:{source} has no chat template: save the tokenizer it was trained with, template included"
        )


def _adapted(model: Any, folder: str, missing: set[str], tokenizer: Any) -> tuple[Any, set[str]]:
    """The base with its adapter; weights that neither of them has."""
    from peft import PeftModel, load_peft_weights

    if model.config.pad_token_id is None:  # as TRL sets it, which an adapter's folder does not tell
        model.config.pad_token_id = tokenizer.pad_token_id
    brought = load_peft_weights(folder, device="cpu")
    lacking = {key for key in missing if not any(name.endswith(key) for name in brought)}
    return PeftModel.from_pretrained(model, folder).merge_and_unload(), lacking
