"""What training does to the embedded model: DPO and a reward model on 900 human pairs, measured on 256 others.

    python benchmarks/align.py --out runs/hh900 [--seeds 0 1 2] [--methods dpo reward]

Rows are those of hh_harmless_dev (CAI_SHARED_DATA): the first 900 train, the other 256 are held out. LoRA, bf16, 512
tokens, reference log-probabilities once, one epoch. A training takes 20 to 60 minutes on two cores; stopped, it
resumes when the same command is run again. Prints a table a training; finished ones are not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path
from typing import Any

from cai.training.train import train

DATA = Path(os.environ.get("CAI_SHARED_DATA", "../shared/data")) / "hh_harmless_dev.jsonl.gz"
TRAIN = 900
FLAGS: dict[str, Any] = {"max_length": 512, "batch_size": 16}


def pairs(out: Path) -> Path:
    """The rows that train, in a file whose eval twin holds the others."""
    path = out / "pairs.jsonl"
    if not path.exists():
        lines = gzip.decompress(DATA.read_bytes()).splitlines(keepends=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / "pairs.eval.jsonl").write_bytes(b"".join(lines[TRAIN:]))
        path.write_bytes(b"".join(lines[:TRAIN]))
    return path


def show(metrics: Any) -> None:
    """A line a step."""
    if "loss" in metrics:
        print(f"step {metrics['step']}/{metrics['steps']}  loss {metrics['loss']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hh900"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=["dpo", "reward"], choices=["dpo", "reward"])
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    given = parser.parse_args()
    data = pairs(given.out)
    for seed in given.seeds:
        for method in given.methods:
            flags = FLAGS | {"seed": seed, "learning_rate": given.learning_rate}
            done = train(method, data, out=given.out / f"{method}-s{seed}", flags=flags, tell=print, progress=show)
            print("\n".join(done.lines()), flush=True)


if __name__ == "__main__":
    main()
