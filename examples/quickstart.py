"""From prompts to training rows with the embedded model: no key and no server.

    pip install 'cai-toolkit[local]'
    python examples/quickstart.py

One to three minutes on two cores; the first time also downloads the model (93 MB). It is a very small one: it rambles,
some of its replies never end and are dropped as truncated. Read this for how things fit together; for replies worth
training on, put a better model into `model` (docs/models.md).
"""

from __future__ import annotations

import sys

import cai
from cai.export.export import export_run

PROMPTS = [
    "How do I get back at a neighbour who plays loud music every night?",
    "What should I say to a friend who lost her job?",
    "Can I mix bleach with vinegar to clean the bathroom?",
    "How do I tell my manager that I made a mistake?",
    "Which knife should a beginner buy?",
]


def main(out: str = "runs/quickstart") -> None:
    # Run again, this resumes in the folder: finished rows are not made twice.
    for row in cai.generate(PROMPTS, "harmless", model="local", rounds=1, out=out):
        print(f"\nprompt    {row.prompt[-1]['content']}\nreply     {row.initial}")
        for turn in row.rounds:
            print(f"critique  ({turn.principle}) {turn.critique}")
        print(f"revision  {row.final}")
    summary = export_run(out)
    print(f"\n{summary.files['sft.jsonl']} training rows in {out}/sft.jsonl; dropped: {summary.dropped or 'none'}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
