"""The embedded model: OpenVINO GenAI on this machine's CPU, all live flows in one continuous batch.

It needs no network; OpenVINO's import would send an analytics event, which is prevented.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from threading import Event
from typing import Any, Literal

from cai.calls.model import Call
from cai.disk.hashes import fingerprint
from cai.disk.reading import read_if_there
from cai.errors import InputError, MissingExtra, ModelStopped, UsageError
from cai.models.inprocess.local_engine import BLOCK, LocalEngine, last_line
from cai.models.inprocess.local_words import LocalTokenizer
from cai.models.inprocess.requests import check_settings, question, reply_of
from cai.records import Abilities, Completion, Values
from cai.sources.files import path_of
from cai.weights.bases import Base, base_at, check_kind
from cai.weights.embedded import folder_of, weights_of
from cai.weights.exact import mapped_out
from cai.weights.gguf_read import gguf_metadata, misread
from cai.weights.merge import merged_file
from cai.weights.named import DEFAULT, NAMED, nearest_name

log = logging.getLogger("cai")

# What `extra_body` may hold: the sampling attributes of OpenVINO GenAI's GenerationConfig.
EXTRAS = (
    "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size",
    "min_new_tokens", "ignore_eos",
)  # fmt: skip
CACHE_GB = 2  # of keys and values an engine; taken as it fills. 12 kB a token for the embedded model, 64 kB at 8B
BATCH_TOKENS = 512  # of prompts in one step: as fast as 2,048, and a step is 0.3 s at most instead of 0.9 s
# A CPU with AMX would take bf16: less exact, and slower for the embedded model (548 against 621 tokens/s at 17).
FAST = {"INFERENCE_PRECISION_HINT": "f32"}
# Without 8-bit activations and cache, log-probabilities equal float32 transformers to 0.001 and do not depend on what
# else is in the batch; with them they are up to 0.09 off. Decoding takes 1.6 times as long: this is for scores.
EXACT = FAST | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
# For a model whose replies and lists come from one engine, with an 8-bit cache. Beside float32, p of judge prompts
# moves by 0.005 on average and 0.02 at most, in two thirds of the time.
LEAN = {"INFERENCE_PRECISION_HINT": "bf16"}
# Likeliest next tokens that a beam search lists with their log-probabilities. 20 beams take 45 ms longer than 4, like
# 50 tokens more of prompt; in 72 judge prompts over HHH pairs both letters were the likeliest two every time.
LISTED = (4, 20)


# Each has an engine of its own, loaded when first asked: a batch that holds beam searches gets wrong log-probabilities
# for its echoes (10 nats and more), and `echo` leaves out those of tokens that a prefix cache served.
Work = Literal["reply", "list", "echo"]


class LocalModel:
    """A named model, a GGUF file, an OpenVINO folder or an adapter, run in this process; "" is the embedded model.

    Nothing is loaded before `start`. Chat prompts follow the weights' own template, the default system message it
    may hold included (SmolLM2's names the model; a system message of the conversation takes its place).
    Raises `UsageError` or `InputError` if `name` is not a model.
    """

    provider = "local"
    concurrency = 16

    def __init__(self, name: str) -> None:
        self._spec = name or DEFAULT
        self._path = path_of(self._spec)
        self._named = NAMED.get(self._spec) if not (name and self._path.exists()) else None
        self._adapted: Base | None = None
        self.context: int | None
        if self._named is not None:
            self.name, self.context = self._named.mark, self._named.context
        elif (self._path / "adapter_config.json").exists():
            self._adapted = base_at(f"local:{name}", name)
            check_kind(self._adapted, rewards=False)
            self.name = f"{self._path.resolve().name}@{self._adapted.mark}"
            self.context = read_if_there(Path(self._adapted.place) / "config.json").get("max_position_embeddings")
        else:
            self.name, self.context = _identify(self._path)
        self.endpoint = f"local:{self.name}"
        self.can = Abilities(chat=True, completion=True, scoring=True, prefill=True)
        self._tokenizer: LocalTokenizer | None = None
        self._ends: Values = {}  # the tokens that end a reply, as the weights' own settings name them
        self._engines: dict[Work, asyncio.Task[LocalEngine]] = {}
        self._closing = Event()  # ends a download

    def payload(self, call: Call) -> Values:
        """What decides the answer; `UsageError` for settings this model does not have.

        Length is judged by `send`: tokens are known once the weights are loaded.
        """
        request = call.request
        if request.top_logprobs and not request.score:
            raise UsageError(f"{self.name} lists no alternatives per token; ask it for scores instead")
        body = question(request)
        if request.score:
            return body
        check_settings(call.sampling.extra_body, EXTRAS, "the local model")
        body["temperature"] = call.temperature
        body["max_tokens"] = call.max_tokens
        if request.stop:
            body["stop"] = list(request.stop)
        if body["temperature"] > 0:
            body["seed"] = call.seed
            if self._named is not None:
                body |= self._named.sampling
        return body | call.sampling.extra_body

    async def start(self) -> None:
        """Load the weights (about 2 s; the embedded ones are fetched on first use)."""
        await self._engine("reply")

    async def _engine(self, work: Work) -> LocalEngine:
        if work == "list" and self._named is not None and self._named.exact:
            work = "reply"
        if work not in self._engines:
            self._engines[work] = asyncio.create_task(asyncio.to_thread(self._load, work))
        return await asyncio.shield(self._engines[work])  # a cancelled call must not end what others wait for

    def _load(self, work: Work) -> LocalEngine:
        genai = import_genai()
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_batched_tokens = BATCH_TOKENS
        scheduler.enable_prefix_caching = work != "echo"
        properties = FAST if work == "reply" else EXACT
        path = self._path
        if self._named is not None and self._named.exact:
            path = folder_of(self._spec, genai, self._closing)
            properties = LEAN
            scheduler.cache_size = 0
            scheduler.num_kv_blocks = self._named.context // BLOCK
        elif self._named is not None:
            path = weights_of(self._spec, self._closing)
        elif self._adapted is not None:
            path = merged_file(self._adapted)
        try:
            tokenizer = self._tokenizer.tokenizer if self._tokenizer else genai.Tokenizer(path)
            pipeline = genai.ContinuousBatchingPipeline(path, tokenizer, scheduler, "CPU", **properties)
        except Exception as error:  # of any type: an unknown GGUF tokenizer is an IndexError
            hint = "; of GGUF it reads few architectures, an exported OpenVINO folder always works" * path.is_file()
            raise InputError(f"OpenVINO cannot load this model: {last_line(error)}{hint}", path) from error
        if self._tokenizer is None:
            own = pipeline.get_config()
            self._ends = {"eos_token_id": own.eos_token_id, "stop_token_ids": own.stop_token_ids}
            self._tokenizer = LocalTokenizer(tokenizer, self.name, self.context)
            self.context = self._tokenizer.context
        if self._named is not None and self._named.exact:
            with mapped_out(path / "openvino_model.bin"):
                pipeline.generate(["a"], [self._greedy()])  # packs the weights
        return LocalEngine(pipeline, self.name, in_turn=work != "echo")

    async def send(self, payload: Values) -> Completion:
        """Ask once; `CallRejected("too_long", …)` if prompt and reply exceed the context."""
        if self._tokenizer is None:
            raise RuntimeError("LocalModel.send before start")
        tokens = self._tokenizer.prompt(payload)
        if "score" in payload:
            return await self._score(tokens, payload)
        self._tokenizer.fit(len(tokens), payload["max_tokens"])
        engine = await self._engine("reply")
        [output] = await engine.ask(tokens, self._config(payload))
        ids = output.generated_ids
        text, reasoning = reply_of(payload, self._tokenizer.text(ids), ids, tokens, self._tokenizer.shown)
        return Completion(
            text,
            "stop" if output.finish_reason.name == "STOP" else "length",
            self.name,
            input_tokens=len(tokens),
            output_tokens=len(ids),
            reasoning=reasoning,
        )

    async def _score(self, prompt: list[int], payload: Values) -> Completion:
        """Log-probabilities of the texts of `score` after `prompt`, prompt and text tokenised apart.

        A narrow beam search lists the likeliest next tokens, a wide one more of them if a text is not among those;
        what neither answers is asked by echo, a prompt each.
        """
        assert self._tokenizer is not None
        parts = [tuple(self._tokenizer.continuation(text)) for text in payload["score"]]
        self._tokenizer.fit(len(prompt) + max(map(len, parts)), 1)
        scores: dict[tuple[int, ...], list[float]] = {(): []}
        for width in LISTED:
            if any(len(part) == 1 and part not in scores for part in parts):
                beams = self._greedy(num_beams=width, num_return_sequences=width)
                lister = await self._engine("list")
                for output in await lister.ask(prompt, beams):
                    scores[tuple(output.generated_ids)] = [output.generated_log_probs[0]]
        input_tokens = len(prompt)
        for part in parts:
            if part not in scores:
                tokens = [*prompt, *part]
                echo = await self._engine("echo")
                [output] = await echo.ask(tokens, self._greedy(echo=True))
                values = output.generated_log_probs  # one a token of the prompt, and one of the token made
                if len(values) != len(tokens) + 1:
                    raise ModelStopped(f"{self.name} returned {len(values)} log-probabilities for {len(tokens)}")
                scores[part] = list(values[len(prompt) : -1])
                input_tokens += len(tokens)
        own = None
        if "top_logprobs" in payload:
            names = [self._tokenizer.shown([token]) for token in parts[0]]
            own = tuple({name: value} for name, value in zip(names, scores[parts[0]], strict=True))
        sums = tuple(sum(scores[part]) for part in parts)
        return Completion("", "stop", self.name, input_tokens=input_tokens, output_tokens=0, scores=sums, logprobs=own)

    def _greedy(self, **settings: Any) -> Any:
        import openvino_genai as genai

        return genai.GenerationConfig(
            max_new_tokens=1, do_sample=False, logprobs=1, apply_chat_template=False, **self._ends, **settings
        )

    def _config(self, payload: Values) -> Any:
        """The sampling settings of a payload and the tokens that end a reply, without the weights' own defaults."""
        import openvino_genai as genai

        config = genai.GenerationConfig(
            max_new_tokens=payload["max_tokens"],
            stop_strings=set(payload.get("stop", ())),
            include_stop_str_in_output=True,  # else whole tokens are cut off, and with them text before the stop
            do_sample=payload["temperature"] > 0,
            apply_chat_template=False,
            **self._ends,
        )
        if payload["temperature"] > 0:
            config.temperature = payload["temperature"]
            config.rng_seed = payload["seed"]
        for key in EXTRAS:
            if key in payload:
                try:
                    setattr(config, key, payload[key])
                except TypeError:
                    raise ModelStopped(f"{self.name} cannot take {key}={payload[key]!r} (extra body)") from None
        try:
            config.validate()
        except RuntimeError as error:
            raise ModelStopped(f"{self.name} cannot sample like this: {last_line(error)}") from error
        return config

    async def close(self) -> None:
        """End the engines and free the weights."""
        self._closing.set()
        engines = list(self._engines.values())
        self._engines = {}
        self._tokenizer = None
        for task in engines:
            if not task.done():
                await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:  # else whoever asked for it has the error
                await task.result().close()
        self._closing.clear()


def import_genai() -> Any:
    """OpenVINO GenAI without its telemetry: importing openvino sends an analytics event unless that import fails."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import now raises ImportError
    try:
        import openvino_genai
    except ImportError as error:
        if error.name == "openvino_genai":
            raise MissingExtra("the embedded model", "local") from None
        raise
    return openvino_genai


def _identify(path: Path) -> tuple[str, int | None]:
    """Name and context length of the weights at `path`, whose bytes are read once."""
    if path.is_dir():
        if not (path / "openvino_model.xml").is_file():
            raise InputError(
                "holds neither openvino_model.xml nor adapter_config.json; name a GGUF file, an OpenVINO model folder "
                "or a LoRA adapter's folder",
                path,
            )
        context = read_if_there(path / "config.json").get("max_position_embeddings")
        return f"{path.resolve().name}@{fingerprint(path)}", context if isinstance(context, int) else None
    if not path.is_file():
        raise UsageError(f"no model at {path} (name a GGUF file by its path, local:PATH); {nearest_name(str(path))}")
    metadata = gguf_metadata(path)
    problem = misread(metadata, by_openvino=True)
    if problem is not None:
        log.warning(
            "local:%s: %s: its answers are not quite the model's; ask it with llama.cpp or another server",
            path,
            problem,
        )
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return f"{path.stem}@{fingerprint(path)}", context
