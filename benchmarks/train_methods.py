"""What a step of every training method costs on this machine: seconds for eight rows, and peak memory.

    python benchmarks/train_methods.py [--only sft ppo] [--steps 4]

The embedded model with LoRA of rank 16, bf16, the first human pairs of CAI_SHARED_DATA under 600 characters, each
method in a process of its own. A row is a reply for sft and kto, a pair for those that compare, and a reply that is
written (64 tokens at most) and then learned from for those that are online, whose reward takes no time. Loading and the
first step are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import conditions
from train import REWARDS, Result, ours, subset, watch

from cai.training.data.rows import TrainingRow

BATCH, AT_ONCE, LONGEST = 8, 2, 600
GROUP, REPLY = 4, 64  # replies to each prompt, and tokens of a reply
ONLINE: dict[str, Any] = {"generations": GROUP, "reply_length": REPLY, "reward": "rewards:brief", "rows_at_once": GROUP}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"reference": "once"},
    "kto": {},
    "orpo": {},
    "simpo": {},
    "cpo": {},
    "reward": {},
    "rloo": ONLINE,
    "grpo": ONLINE,
    "ppo": ONLINE,
}


def lines_of(method: str, pairs: list[TrainingRow], steps: int) -> list[dict[str, Any]]:
    """The rows of a method for so many steps; the online ones get a prompt for each group of replies."""
    if method in ("rloo", "grpo", "ppo"):
        return [{"prompt": pair.prompt} for pair in pairs[: BATCH // GROUP * steps]]
    if method == "sft":
        return [{"prompt": pair.prompt, "completion": said(pair.reply)} for pair in pairs[: BATCH * steps]]
    if method == "kto":
        replies = itertools.chain.from_iterable(((p, p.reply, True), (p, p.rejected, False)) for p in pairs)
        graded = [{"prompt": p.prompt, "completion": said(text), "label": label} for p, text, label in replies]
        return graded[: BATCH * steps]
    every = pairs[: BATCH * steps]
    return [{"prompt": p.prompt, "chosen": said(p.reply), "rejected": said(p.rejected)} for p in every]


def said(text: str | None) -> list[dict[str, str | None]]:
    """A reply as TRL's conversational columns hold it."""
    return [{"role": "assistant", "content": text}]


def measure(method: str, pairs: list[TrainingRow], steps: int, folder: Path) -> Result:
    """Train for so many steps in a process of its own."""
    folder.mkdir()
    (folder / "rewards.py").write_text(REWARDS)
    rows = "".join(json.dumps(line) + "\n" for line in lines_of(method, pairs, steps))
    (folder / "train.jsonl").write_text(rows)
    flags = {
        "split": 1, "dtype": "bfloat16", "attention": "sdpa", "rows_at_once": AT_ONCE, "batch_size": BATCH,
        "gradient_checkpointing": False, "seed": 0, "save_every": steps, "trl.max_steps": steps,
    }  # fmt: skip
    return watch(ours(method, folder, folder / "out", flags | METHODS[method]), folder / "out")


def main(given: argparse.Namespace) -> None:
    conditions()
    table = ["| method | seconds for 8 rows | peak GB |", "|---" * 3 + "|"]
    pairs = [pair for pair in subset(400) if length(pair) <= LONGEST]
    with tempfile.TemporaryDirectory() as scratch:
        for method in given.only:
            result = measure(method, pairs, given.steps, Path(scratch) / method)
            table.append(f"| {method} | {result.seconds / result.steps:.1f} | {result.memory:.2f} |")
            print(table[-1], file=sys.stderr, flush=True)
    print("\n" + "\n".join(table))


def length(pair: TrainingRow) -> int:
    """Characters of the prompt and of the longer reply."""
    prompt = sum(len(turn["content"]) for turn in pair.prompt if not isinstance(turn, str))
    return prompt + max(len(pair.reply), len(pair.rejected or ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--steps", type=int, default=4, help="of the optimiser, of which the first is not measured")
    main(parser.parse_args())
