"""Training beside TRL's own scripts on this machine: tokens a second, peak memory, and whether the losses are the same.

    python benchmarks/train.py [--only dpo rloo] [--what equal] [--steps 4] [--repeats 2]

The same embedded model, the same human pairs of CAI_SHARED_DATA, each contestant in a process of its own, in turns.
`equal`: the same settings. `defaults`: what each does when told nothing but model and data. A step is known by the line
that the process writes after it, stamped as it arrives; loading and the first step are left out, and so is a reference
that is asked once before: `whole` counts all. Tokens are those that are no padding, as TRL counts them. Tokens a second
of CPU are the figure for a machine with other load. Of rloo and grpo the reward is a function that takes no time, and
`equal` is all there is. For GPUs see `train_gpu.py`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _common import HERE, conditions

from cai.training.data.dataset import load_rows
from cai.training.data.rows import TrainingRow
from cai.weights.bases import find_base

DATA = Path(os.environ.get("CAI_SHARED_DATA", HERE.parent.parent / "shared" / "data")) / "hh_harmless_dev.jsonl.gz"
LONGEST = 1600  # characters of a row: about 400 tokens, so that no limit cuts it for one contestant alone
AT_ONCE, BATCH = 2, 4
RATES = {"sft": 2e-4, "dpo": 5e-6, "rloo": 1e-5, "grpo": 1e-5}
ONLINE = ("rloo", "grpo")
GROUP, REPLY = 4, 64  # replies to each prompt, and tokens of a reply
# A module for both: TRL gives completions as messages, we give texts.
REWARDS = """
def short(completions, **rest):
    return [-len(turns[0]["content"]) / 1000 for turns in completions]


def brief(prompts, replies):
    return [-len(reply) / 1000 for reply in replies]
"""


@dataclass(frozen=True)
class Result:
    """What one process came to. `seconds`, `cpu` and `tokens` are of the steps after the first."""

    seconds: float
    cpu: float  # seconds, all threads
    tokens: float
    memory: float  # the most, in GB
    whole: float  # seconds from start to end
    steps: int
    losses: tuple[float, ...]

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def pace(self) -> float:
        """Steps a minute."""
        return 60 * self.steps / self.seconds

    @property
    def frugality(self) -> float:
        """Tokens a second of CPU, which other load on the machine disturbs less."""
        return self.tokens / self.cpu


def ours(method: str, rows: Path, out: Path, flags: dict[str, Any]) -> list[str]:
    """The command of a process that trains with this project."""
    task = {"method": method, "data": str(rows / "train.jsonl"), "out": str(out), "flags": flags}
    return [sys.executable, str(HERE / "train.py"), "--child", json.dumps(task)]


def trl(method: str, rows: Path, out: Path, model: str, *more: str) -> list[str]:
    """The command of TRL's script; a checkpoint at the end holds its log in full."""
    given = [
        "--model_name_or_path", model, "--dataset_name", str(rows), "--output_dir", str(out), "--use_cpu", "true",
        "--logging_steps", "1", "--disable_tqdm", "true", "--report_to", "none",
    ]  # fmt: skip
    return [sys.executable, "-m", f"trl.scripts.{method}", *given, *more]


def equal(method: str, steps: int) -> tuple[dict[str, Any], list[str]]:
    """The same settings for both, in the words of each."""
    flags = {
        "split": 1, "dtype": "bfloat16", "attention": "sdpa", "rows_at_once": AT_ONCE, "batch_size": BATCH,
        "max_length": 512, "gradient_checkpointing": False, "learning_rate": RATES[method], "warmup": 0, "seed": 0,
        "save_every": steps, "trl.max_steps": steps,
    }  # fmt: skip
    words = [
        "--dtype", "bfloat16", "--attn_implementation", "sdpa", "--per_device_train_batch_size", str(AT_ONCE),
        "--gradient_accumulation_steps", str(BATCH // AT_ONCE), "--max_length", "512", "--gradient_checkpointing",
        "false", "--learning_rate", str(RATES[method]), "--lr_scheduler_type", "cosine", "--warmup_steps", "0",
        "--seed", "0", "--max_steps", str(steps), "--use_peft", "--lora_r", "16", "--lora_alpha", "32",
        "--lora_dropout", "0", "--lora_target_modules", "all-linear",
    ]  # fmt: skip
    if method == "dpo":
        flags |= {"loss": "sigmoid", "nll": 0, "beta": 0.1, "reference": "once"}
        words += ["--loss_type", "sigmoid", "--beta", "0.1", "--precompute_ref_log_probs", "true"]
    if method in ONLINE:
        flags |= {"generations": GROUP, "reply_length": REPLY, "beta": 0.05, "reward": "rewards:brief"}
        flags |= {"rows_at_once": GROUP, "batch_size": 2 * GROUP}
        flags.pop("max_length")
        words = _without(words, "--max_length")
        words += [
            "--num_generations", str(GROUP), "--max_completion_length", str(REPLY), "--beta", "0.05", "--reward_funcs",
            "rewards.short", "--disable_dropout", "true", "--per_device_train_batch_size", str(GROUP),
            "--gradient_accumulation_steps", "2",
        ]  # fmt: skip
    return flags, words


def _without(words: list[str], option: str) -> list[str]:
    """The words without an option and its value."""
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def watch(command: Sequence[str], out: Path) -> Result:
    """Run a contestant to its end."""
    psutil: Any = importlib.import_module("psutil")  # accelerate needs it
    places = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": places, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    with (out.parent / f"{out.name}.log").open("w+") as log:
        began, stamps = time.perf_counter(), list[tuple[float, float]]()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=out.parent
        )
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                if "'loss'" in line or '"loss"' in line:
                    times = psutil.Process(process.pid).cpu_times()
                    stamps.append((time.perf_counter(), times.user + times.system))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - began
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{log.read()[-3000:]}")
    entries = history(out)
    if len(stamps) != len(entries) or len(stamps) < 2:
        raise SystemExit(f"{len(stamps)} lines of steps and {len(entries)} entries in the log of {out}")
    return Result(
        stamps[-1][0] - stamps[0][0],
        stamps[-1][1] - stamps[0][1],
        entries[-1]["num_tokens"] - entries[0]["num_tokens"],
        used.ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20),
        whole,
        len(stamps) - 1,
        tuple(entry["loss"] for entry in entries),
    )


def history(out: Path) -> list[dict[str, Any]]:
    """The entries of all training steps: of our folder, or of TRL's last checkpoint."""
    if (out / "metrics.jsonl").exists():
        entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    else:
        [state] = out.glob("checkpoint-*/trainer_state.json")
        entries = json.loads(state.read_text())["log_history"]
    return [entry for entry in entries if "loss" in entry]


def write(rows: Sequence[TrainingRow], method: str, folder: Path) -> Path:
    """The rows as both contestants read them: TRL's conversational columns, in a folder with one file."""

    def said(text: str | None) -> list[dict[str, str | None]]:
        return [{"role": "assistant", "content": text}]

    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        for row in rows:
            replies: dict[str, Any] = {"chosen": said(row.reply), "rejected": said(row.rejected)}
            if method == "sft":
                replies = {"completion": said(row.reply)}
            if method in ONLINE:
                replies = {}
            file.write(json.dumps({"prompt": row.prompt} | replies) + "\n")
    return folder


def subset(count: int) -> list[TrainingRow]:
    """Pairs of the shared data, the first that are short enough."""
    if not DATA.exists():
        raise SystemExit(f"{DATA} is not there: set CAI_SHARED_DATA to the folder that holds it")

    def length(row: TrainingRow) -> int:
        prompt = sum(len(turn["content"]) for turn in row.prompt if not isinstance(turn, str))
        return prompt + max(len(row.reply), len(row.rejected or ""))

    rows = (row for row in load_rows(DATA, "dpo", split=1).train if length(row) <= LONGEST)
    return list(itertools.islice(rows, count))


def contest(commands: dict[str, Callable[[Path], list[str]]], folder: Path, repeats: int) -> dict[str, list[Result]]:
    """Run the contestants in turns, every second round in the other order."""
    found: dict[str, list[Result]] = {name: [] for name in commands}
    for turn in range(repeats):
        for name in list(commands)[:: 1 if turn % 2 == 0 else -1]:
            out = folder / f"{name.replace(' ', '-')}-{turn}"
            found[name].append(watch(commands[name](out), out))
            latest = found[name][-1]
            print(f"  {name}: {latest.rate:.1f} tokens/s, {latest.whole:.0f} s in all", file=sys.stderr, flush=True)
    return found


def lines(what: str, found: dict[str, list[Result]]) -> Iterator[str]:
    """Rows of the table, of the best; ratios are to the first contestant's best."""
    first = next(iter(found.values()))
    fastest, least = (max(getattr(result, key) for result in first) for key in ("rate", "frugality"))
    for name, results in found.items():
        rates, frugal = [result.rate for result in results], max(result.frugality for result in results)
        memory, whole = (min(getattr(result, key) for result in results) for key in ("memory", "whole"))
        yield (
            f"| {what} | {name} | {max(rates):.0f} ({median(rates):.0f}) | {max(rates) / fastest:.2f} | "
            f"{max(result.pace for result in results):.2f} | {frugal:.0f} | "
            f"{frugal / least:.2f} | {memory:.2f} | {whole:.0f} s |"
        )


def compare(method: str, what: str, folder: Path, given: argparse.Namespace) -> dict[str, list[Result]]:
    """One part of the table."""
    folder.mkdir()
    model, steps = find_base("local").place, given.steps
    rows = write(subset((16 if what == "defaults" else BATCH) * steps), method, folder / "rows")
    (folder / "rewards.py").write_text(REWARDS)
    print(f"{method}, {what}", file=sys.stderr, flush=True)
    if what == "defaults":
        few = ["--max_steps", str(steps)]
        commands: dict[str, Callable[[Path], list[str]]] = {
            "TRL": lambda out: trl(method, rows, out, model, *few),
            "TRL --use_peft": lambda out: trl(method, rows, out, model, *few, "--use_peft"),
            "cai": lambda out: ours(method, rows, out, {"split": 1, "save_every": steps, "trl.max_steps": steps}),
        }
        return contest(commands, folder, 1)
    flags, words = equal(method, steps)
    found = contest(
        {"TRL": lambda out: trl(method, rows, out, model, *words), "cai": lambda out: ours(method, rows, out, flags)},
        folder, given.repeats,
    )  # fmt: skip
    if method == "dpo":  # of SFT they do: TRL also trains on what the template puts after the end of turn
        apart = max(abs(a - b) for a, b in zip(found["TRL"][0].losses, found["cai"][0].losses, strict=True))
        print(f"dpo: the losses of {steps} steps differ by at most {apart:.1e}", flush=True)
    return found


def main(given: argparse.Namespace) -> None:
    conditions()
    table = ["| what | who | tokens/s | ratio | steps/min | tokens/CPU s | ratio | peak GB | whole |", "|---" * 9 + "|"]
    with tempfile.TemporaryDirectory() as scratch:
        for method, what in itertools.product(given.only, given.what):
            if method in ONLINE and what == "defaults":
                continue
            found = compare(method, what, Path(scratch) / f"{method}-{what}", given)
            table += lines(f"{method}, {what}", found)
    print("\n" + "\n".join(table))


def child(task: dict[str, Any]) -> None:
    """Train, and write the metrics of every step as they come."""
    from cai.training.train import train

    def show(metrics: Any) -> None:
        print(json.dumps(dict(metrics), default=float), flush=True)

    train(task["method"], task["data"], out=task["out"], flags=task["flags"], progress=show)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*RATES], default=["sft", "dpo"])
    parser.add_argument("--what", nargs="+", choices=["equal", "defaults"], default=["equal", "defaults"])
    parser.add_argument("--steps", type=int, default=4, help="of the optimiser, of which the first is not measured")
    parser.add_argument("--repeats", type=int, default=2, help="of equal settings")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    child(arguments.child) if arguments.child else main(arguments)
