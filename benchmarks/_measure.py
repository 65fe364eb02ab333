"""The process that measures one row of `train_gpu.py`: reads its task from stdin once everything is imported.

A made-up model, made-up rows, and either this project or TRL's script, stopped when enough steps were measured. It
sees no other row.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _gpu import BATCH, GROUP, MARK, ONLINE, REPLY, SHAPES, TINY, Case, mean_context

ROWS, MEDIAN, SIGMA, CUT = 512, 200, 0.8, 1024
WARM = 3  # steps that are not measured: kernels are chosen, memory is taken
WORDS = ["river", "bread", "answer", "quiet", "window", "honest", "paper", "seven", "light", "kind", "stone", "field"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Enough(Exception):
    """The row has been measured."""


def lengths(count: int, seed: int = 0) -> list[int]:
    """Tokens of rows, as drawn."""
    draw = random.Random(seed)
    middle = random.Random.lognormvariate
    return [min(CUT, max(16, round(MEDIAN * middle(draw, 0, SIGMA)))) for _ in range(count)]


def records(method: str, tiny: bool) -> Iterator[dict[str, Any]]:
    """Made-up rows in TRL's conversational columns: a third of the tokens in the prompt, a word about a token."""
    draw = random.Random(1)

    def said(role: str, count: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(draw.choices(WORDS, k=max(1, count)))}]

    scale = 8 if tiny else 1
    for number, length in enumerate(lengths(64 if tiny else ROWS)):
        frame = 16  # tokens of the chat template
        prompt, reply = length // 3 // scale, max(4, (2 * length // 3 - frame) // scale)
        row = {"id": str(number), "prompt": said("user", prompt)}
        if method in ONLINE:
            yield row
        elif method == "sft":
            yield row | {"completion": said("assistant", reply)}
        else:
            yield row | {"chosen": said("assistant", reply), "rejected": said("assistant", draw.randint(4, reply + 4))}


class Clock:
    """Stamps each step; raises Enough after `seconds` of measured steps."""

    def __init__(self, seconds: float, first: Callable[[], None] = lambda: None) -> None:
        """first: called after the first step."""
        self.seconds, self.first, self.began, self.start = seconds, first, time.perf_counter(), 0.0
        self.stamps: list[tuple[float, float]] = []

    def see(self, step: int, tokens: float) -> None:
        """step: from 1; a training that begins anew with fewer rows at once is measured anew."""
        now = time.perf_counter()
        if step == 1:
            self.stamps, self.start = [], now - self.began
            self.first()
        self.stamps.append((now, tokens))
        if step > WARM + 2 and now - self.stamps[WARM - 1][0] >= self.seconds:
            raise Enough

    def result(self) -> dict[str, float]:
        (began, before), (end, after) = self.stamps[WARM - 1], self.stamps[-1]
        return {
            "tokens_per_second": (after - before) / (end - began),
            "steps": len(self.stamps) - WARM,
            "pace": 60 * (len(self.stamps) - WARM) / (end - began),
            "start": self.start,
        }


def tokenizer(folder: Path, tiny: bool) -> None:
    """The embedded model's where its weights have been fetched, else one of our own, with a token for each word."""
    import transformers

    from cai.disk.hashes import cache_folder
    from cai.weights.bases import find_base
    from cai.weights.embedded import STEM

    if not tiny and find_spec("gguf") and any(cache_folder().glob(f"{STEM}-*.gguf")):
        transformers.AutoTokenizer.from_pretrained(find_base("local").place).save_pretrained(folder)
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator([" ".join(WORDS), "user assistant system"] * 3, trainer)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token=special[0])
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)


def model(task: dict[str, Any]) -> Path:
    """The folder of a model, made once: the embedded weights where they have been fetched, else random ones."""
    import torch
    import transformers

    from cai.disk.hashes import cache_folder
    from cai.weights.bases import find_base
    from cai.weights.embedded import STEM

    size, tiny = task["case"]["size"], task["tiny"]
    if size == "135M" and not tiny and find_spec("gguf") and any(cache_folder().glob(f"{STEM}-*.gguf")):
        return Path(find_base("local").place)
    folder = Path(task["models"]) / ("tiny" if tiny else size)
    if folder.exists():
        return folder
    shape, scratch = TINY if tiny else SHAPES[size], folder.with_name(f".making-{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed while it wrote
    scratch.mkdir(parents=True)
    tokenizer(scratch, tiny)
    words = transformers.AutoTokenizer.from_pretrained(scratch)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.groups,
        head_dim=shape.head, tie_word_embeddings=shape.tied, max_position_embeddings=8192,
        eos_token_id=words.eos_token_id, bos_token_id=None, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    with torch.device(task["device"]):
        made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(scratch)
    scratch.rename(folder)
    del made
    if task["device"] == "cuda":
        torch.cuda.empty_cache()
    return folder


def brief(prompts: Any, replies: Any) -> list[float]:
    """A reward that takes no time."""
    return [-len(reply) / 1000 for reply in replies]


def short(completions: Any, **rest: Any) -> list[float]:
    """The same as TRL asks for it."""
    return brief(None, [turns[0]["content"] for turns in completions])


def by_cai(case: Case, task: dict[str, Any], data: Path, place: Path, clock: Clock) -> dict[str, Any]:
    """Train with this project; the settings that came of it."""
    from cai.training.train import train

    flags: dict[str, Any] = {"split": 1, "epochs": 1000, "save_every": 10**6, "full": case.full}
    if case.method in ONLINE:
        flags |= {"generations": GROUP, "batch_size": BATCH, "rows_at_once": BATCH, "reply_length": REPLY, "beta": 0.05}
        if case.rollouts == "vllm":
            flags |= {"rollouts": f"vllm:{place}", "server_args": "--gpu-memory-utilization 0.4"}
    elif not case.defaults:
        flags |= {"packing": case.layout} if case.method == "sft" else {"reference": case.reference}
        if case.liger:
            flags["trl.use_liger_kernel"] = True
    out = data.parent / "out"
    with contextlib.suppress(Enough):
        train(
            case.method, data, out=out, model=str(place), flags=flags, reward=brief if case.method in ONLINE else None,
            progress=lambda found: clock.see(found["step"], found["num_tokens"]) if "loss" in found else None,
        )  # fmt: skip
    told = {item["name"]: item["value"] for item in json.loads((out / "training.json").read_text())["plan"]}
    return {
        "layout": told.get("packing", "none"), "reference": told.get("reference", case.reference),
        "rows_at_once": told["rows_at_once"], "checkpoints": told["gradient_checkpointing"],
    }  # fmt: skip


def by_trl(case: Case, task: dict[str, Any], data: Path, place: Path, clock: Clock) -> dict[str, Any]:
    """Train as TRL's script does, which parses the arguments, and with a clock."""
    import importlib

    import trl
    from datasets import load_dataset
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **rest: Any) -> None:
            if "loss" in logs:
                clock.see(state.global_step, logs["num_tokens"])

    words = [
        "--model_name_or_path", str(place), "--dataset_name", str(data), "--output_dir", str(data.parent / "out"),
        "--logging_steps", "1", "--num_train_epochs", "1000", "--save_strategy", "no", "--report_to", "none",
        *([] if case.full else ["--use_peft"]), *(["--use_cpu", "true"] if task["device"] == "cpu" else []),
    ]  # fmt: skip
    more: dict[str, Any] = {}
    if case.method in ONLINE:
        more["reward_funcs"] = short
        words += [
            "--num_generations", str(GROUP), "--per_device_train_batch_size", str(BATCH), "--beta", "0.05",
            "--gradient_accumulation_steps", "1", "--max_completion_length", str(REPLY), "--learning_rate", "1e-5",
            "--lora_target_modules", "all-linear",
        ]  # fmt: skip
    script = importlib.import_module(f"trl.scripts.{case.method}")
    _, arguments, given, _ = script.make_parser().parse_args_and_config(args=words)
    arguments.model_init_kwargs = {"dtype": given.dtype, "attn_implementation": given.attn_implementation}
    rows = load_dataset("json", data_files=str(data), split="train", cache_dir=str(data.parent / "cache"))
    trainer = getattr(trl, f"{case.method.upper()}Trainer")(
        model=given.model_name_or_path, args=arguments, train_dataset=rows,
        peft_config=trl.get_peft_config(given), callbacks=[Watch()], **more,
    )  # fmt: skip
    with contextlib.suppress(Enough):
        trainer.train()
    return {
        "layout": "padding_free" if getattr(arguments, "padding_free", False) else "none",
        "reference": "once" if getattr(arguments, "precompute_ref_log_probs", False) else "each_step",
        "rows_at_once": arguments.per_device_train_batch_size, "checkpoints": arguments.gradient_checkpointing,
    }  # fmt: skip


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """What a row came to; `problem` where it could not be measured."""
    import torch
    import transformers

    from cai.errors import CaiError

    case, cuda = Case(**task["case"]), task["device"] == "cuda"
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in records(case.method, task["tiny"])))
        try:
            place = model(task)
            # From the first step on, so that an attempt with more rows at once, which failed, is not counted.
            clock = Clock(task["seconds"], torch.cuda.reset_peak_memory_stats if cuda else lambda: None)
            settled = (by_cai if case.who == "cai" else by_trl)(case, task, data, place, clock)
        except CaiError as error:
            return {"problem": str(error)}
        except RuntimeError as error:  # torch.OutOfMemoryError is one; cuBLAS and others have none of their own
            if "out of memory" not in str(error) and "ALLOC_FAILED" not in str(error):
                raise
            return {"problem": "out of memory"}
        words = transformers.AutoTokenizer.from_pretrained(place)
        context = mean_context([n for row in map(json.loads, data.open()) for n in tokens_of(row, words)])
    name = torch.cuda.get_device_name() if cuda else "cpu"
    return {**settled, **clock.result(), "context": context, "peak_gb": peak_memory(cuda), "device": name}


def tokens_of(row: dict[str, Any], words: Any) -> list[int]:
    """Tokens of each conversation of a row."""
    replies = [row[name] for name in ("completion", "chosen", "rejected") if name in row] or [[]]
    return [min(CUT, len(words.apply_chat_template(row["prompt"] + reply)["input_ids"])) for reply in replies]


def peak_memory(cuda: bool) -> float:
    """The most that was taken, of the GPU or of this process, in GB of 2^30 bytes."""
    if cuda:
        import torch

        return float(torch.cuda.max_memory_allocated()) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def main() -> None:
    for package in ("torch", "transformers", "datasets", "peft", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"):
        importlib.import_module(package)
    given = sys.stdin.read()
    if given:
        print("\n" + MARK + json.dumps(measure(json.loads(given))), flush=True)


if __name__ == "__main__":
    main()
