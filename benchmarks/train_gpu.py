"""Training on one NVIDIA GPU: tokens a second, model FLOPs utilisation and memory, in a table; nothing is downloaded.

    python benchmarks/train_gpu.py --out DIR [--only 8B-dpo 1B-sft-cai] [--seconds 8] [--budget 540] [--peak 989e12]
    python benchmarks/train_gpu.py --out DIR --device cpu --tiny      # random two-layer models: whether it works

SmolLM2-135M and, randomly initialised, the shapes of Llama 3.2 1B and 3.1 8B; SFT and DPO, LoRA and all weights, padded
or not, with and without liger kernels, the reference asked once or at each step; the defaults of this project beside
those of TRL's scripts; rloo and grpo with equal settings, and with a vLLM server for the replies. Each row is measured
in a process of its own, so one that runs out of memory is a row of the table. Finished rows are kept in DIR/rows.jsonl;
if the time runs out, run the same command again to resume. Lengths of the made-up rows are lognormal with a median of
200 tokens and σ 0.8, cut at 1,024.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from _common import HERE
from _gpu import MARK, ONLINE, RANK, SHAPES, TINY, Case, peak_of, per_token, utilisation

LOADING = 240  # seconds a row may take beside its measured ones; 8 billion weights are made, written and read
COLUMNS = (
    "model", "method", "who", "trains", "rows lie", "liger", "reference", "rows at once", "checkpoints", "tokens/s",
    "steps/min", "MFU", "peak GB", "first step after",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All rows, what tells most first: a short budget then has it."""
    sizes = list(SHAPES)
    methods: tuple[Literal["sft", "dpo"], ...] = ("sft", "dpo")
    for size, method in itertools.product(sizes, methods):
        yield Case(size, method, defaults=True)
        yield Case(size, method, "TRL", defaults=True)
        yield Case(size, method, "TRL", full=True, defaults=True)
    for method, size in itertools.product(ONLINE, sizes):
        yield Case(size, method)
        yield Case(size, method, "TRL")
        yield Case(size, method, rollouts="vllm")
    for full, size in itertools.product((False, True), sizes):
        for layout, liger in itertools.product(("none", "padding_free", "packed"), (False, True)):
            yield Case(size, "sft", full=full, layout=layout, liger=liger)
        for liger, reference in itertools.product((False, True), ("once", "each_step")):
            yield Case(size, "dpo", full=full, liger=liger, reference=reference)
        yield Case(size, "dpo", full=full, layout="padding_free")


class Measuring:
    """A process that has imported everything by the time it is given a row: the next one starts while one measures."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "0",
        }
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "_measure.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, env=environment,
            )  # fmt: skip

    def run(self, task: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """What the row came to; None where it was not done after `seconds`."""
        try:
            said, _ = self.process.communicate(json.dumps(task), seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return None
        last = (said.splitlines() or [""])[-1]
        if last.startswith(MARK):
            result: dict[str, Any] = json.loads(last.removeprefix(MARK))
            return result
        if self.process.returncode < 0:
            return {"problem": f"killed by signal {-self.process.returncode}: the machine's own memory may be full"}
        return {"again": True, "problem": "failed, see log.txt"}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(todo: Sequence[Case], given: argparse.Namespace, models: Path) -> Iterator[dict[str, Any]]:
    """The rows that could be done within the budget, each as it is done; `again`: the next call tries it, too."""
    end = time.monotonic() + given.budget
    waiting: Measuring | None = None
    try:
        for case in todo:
            problem = case.missing(given.device)
            if problem is not None:
                yield {"name": case.name, "case": asdict(case), "problem": problem, "again": True}
                continue
            left = end - time.monotonic()
            if left < given.seconds + 20:  # hardly time to load
                return
            now, waiting = waiting or Measuring(given.out / "log.txt"), Measuring(given.out / "log.txt")
            task = {"case": asdict(case), "seconds": given.seconds, "device": given.device, "tiny": given.tiny}
            result = now.run(task | {"models": str(models)}, min(left, given.seconds + LOADING))
            if result is None and given.seconds + LOADING < left:
                result = {"problem": f"not measured after {given.seconds + LOADING:.0f} s"}
            if result is None:
                return
            yield {"name": case.name, "case": asdict(case), **result}
    finally:
        if waiting is not None:
            waiting.end()


def line(row: Mapping[str, Any], peak: float | None, tiny: bool) -> tuple[str, ...]:
    """A row of the table; peak: FLOPs a second of the device."""
    case = Case(**row["case"])
    who = case.who + (", defaults" if case.defaults else "")
    if case.rollouts == "vllm":
        who += ", replies by vLLM"
    start = (case.size, case.method, who, "all weights" if case.full else "LoRA")
    layout = {"none": "padded", "padding_free": "padding-free"}
    reference = row.get("reference", case.reference).replace("_", " ") if case.method == "dpo" else "–"
    how = (layout.get(rows := row.get("layout", case.layout), rows), "yes" if case.liger else "no", reference)
    if "problem" in row:
        told = " ".join(row["problem"].split()).replace("|", "/")
        return (*start, *how, "–", "–", told[:100], "–", "–", "–", "–")
    shape = TINY if tiny else SHAPES[case.size]
    # TRL's --use_peft leaves the choice to peft, which takes queries and values where a Llama says nothing.
    adapter = None if case.full else shape.adapter(RANK, few=case.who == "TRL")
    again = case.method == "dpo" and row["reference"] == "each_step"
    flops = per_token(shape, row["context"], adapter=adapter, reference=again)
    used = "–" if peak is None or case.method in ONLINE else f"{utilisation(row['tokens_per_second'], flops, peak):.1%}"
    return (
        *start, *how, str(row["rows_at_once"]), "yes" if row["checkpoints"] else "no",
        f"{row['tokens_per_second']:,.0f}", f"{row.get('pace', 0):.1f}", used,
        f"{row['peak_gb']:.1f}", f"{row['start']:.0f} s",
    )  # fmt: skip


def markdown(rows: Iterable[Mapping[str, Any]], peak: float | None, tiny: bool) -> str:
    """The whole table, in the order of `cases`."""
    order = {case.name: place for place, case in enumerate(cases())}
    kept = sorted((row for row in rows if row["name"] in order), key=lambda row: order[row["name"]])
    cells = [COLUMNS, ("---",) * len(COLUMNS), *(line(row, peak, tiny) for row in kept)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def main(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "rows.jsonl"
    done = {row["name"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    chosen = [case for case in cases() if not given.only or any(part in case.name for part in given.only)]
    todo = [case for case in chosen if done.get(case.name, {"again": True}).get("again")]
    with tempfile.TemporaryDirectory() as scratch, kept.open("a") as file:
        for row in measure(todo, given, given.models or Path(scratch)):
            file.write(json.dumps(row) + "\n")
            file.flush()
            done[row["name"]] = row
            told = row.get("problem") or f"{row['tokens_per_second']:,.0f} tokens/s, {row['peak_gb']:.1f} GB"
            print(f"{row['name']}: {told}", file=sys.stderr, flush=True)
    devices = sorted({row["device"] for row in done.values() if "device" in row})
    peak = given.peak or next((peak for name in devices if (peak := peak_of(name))), None)
    table = markdown(done.values(), peak, given.tiny)
    (given.out / "table.md").write_text(table)
    told = "unknown: give --peak for the utilisation" if peak is None else f"{peak / 1e12:.0f} TFLOP/s"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    print(f"\n{date.today()}, {', '.join(devices)} (peak {told}), {versions}\n\n{table}")
    left = sum(case.name not in done for case in chosen)
    if left:
        print(f"{left} rows are left: run the same command to resume")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="rows whose name holds one of these, such as 8B-dpo-cai-lora")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, of each row")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds of this call")
    parser.add_argument("--peak", type=float, help="FLOPs a second of the device, where its name is not known")
    parser.add_argument("--models", type=Path, help="where the random models are kept (20 GB); else they are removed")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="random models of two layers in place of all")
    main(parser.parse_args())
