"""Did DPO on human pairs make the embedded model better? `cai evaluate` of it against itself, by a reward model.

    python benchmarks/dpo_effect.py --out runs/effect [--prompts 100]

DPO trains on every second of the first 900 pairs of hh_harmless_dev, the reward model on hh_harmless_more, with no
prompt in common (CAI_SHARED_DATA). Prompts are the first of the 256 pairs that neither has seen; the accuracy of the
reward model is measured on those pairs. BASE is the unpacked embedded model, so that both are drawn alike.
About three hours on two cores; stopped, it resumes when the same command is run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from pathlib import Path

import cai

DATA = Path(os.environ.get("CAI_SHARED_DATA", "../shared/data"))
TRAIN = 900
FLAGS = {"batch_size": 16, "learning_rate": 2e-4}
LONGEST = {"dpo": 512, "reward": 256}  # tokens of a row; the reward model's longer rows are left out
BENCHED = 200  # held-out pairs on which the reward model is compared with people


def split(out: Path) -> dict[str, Path]:
    """The rows that train and those that do not, each in a file."""
    dev = gzip.decompress((DATA / "hh_harmless_dev.jsonl.gz").read_bytes()).splitlines(keepends=True)
    more = gzip.decompress((DATA / "hh_harmless_more.jsonl.gz").read_bytes()).splitlines(keepends=True)
    rows = {"dpo": dev[:TRAIN:2], "reward": more, "held-out": dev[TRAIN:]}
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        path.write_bytes(b"".join(rows[name]))
    (out / "dpo.eval.jsonl").write_bytes(b"".join(dev[TRAIN : TRAIN + 32]))
    (out / "reward.eval.jsonl").write_bytes(b"".join(dev[TRAIN : TRAIN + 8]))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/effect"))
    parser.add_argument("--prompts", type=int, default=100)
    given = parser.parse_args()
    paths = split(given.out)
    models = {}
    for method, longest in LONGEST.items():
        models[method] = given.out / method
        cai.train(method, paths[method], out=models[method], flags=FLAGS | {"max_length": longest}, tell=print)
    judge = f"reward:{models['reward']}"
    base = json.loads((models["dpo"] / "training.json").read_bytes())["model"]["place"]
    cai.judge_bench(paths["held-out"], judge, limit=BENCHED, out=given.out / "bench")
    evaluation = cai.evaluate(
        str(models["dpo"]),
        base,
        paths["held-out"],
        judge=judge,
        bench=given.out / "bench",
        limit=given.prompts,
        max_tokens=192,
        length_control=True,
        out=given.out / "evaluation",
    )
    print("\n".join(evaluation.lines()))
    cai.make_report(given.out / "evaluation", given.out / "report.html")


if __name__ == "__main__":
    main()
