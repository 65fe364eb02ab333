"""Two constitutions over the same prompts: where do the final replies differ, and under which principle?

    python examples/compare_constitutions.py                        # recorded answers: a second, no model
    python examples/compare_constitutions.py openai:gpt-4.1-mini    # any model spec; 32 calls at most

The seed is the same, but each constitution draws from principles of its own. Where a provider does not keep to the
seed, the first replies differ, too: look at them before you credit a principle with the change.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cai

HERE = Path(__file__).resolve().parent


def finals(constitution: str | Path, model: str | None) -> dict[str, cai.Revision]:
    """The rows under a constitution, by prompt; without a model, the recorded answers of its name."""
    law = cai.load_constitution(constitution)
    answers = f"recorded:{HERE / f'answers-{law.name}.jsonl'}"
    rows = cai.generate(HERE / "prompts.jsonl", law, model=model or answers, rounds=1)
    return {row.id: row for row in rows}


def main(model: str | None = None) -> None:
    ours, theirs = finals(HERE / "my_constitution.yaml", model), finals("harmless", model)
    both = [name for name in ours if name in theirs]  # a prompt that one of them dropped cannot be compared
    different = [name for name in both if ours[name].final != theirs[name].final]
    for name in different:
        print(f"\n{ours[name].prompt[-1]['content']}")
        for row in (ours[name], theirs[name]):
            fixed = "revised" if row.final != row.initial else "unchanged"
            print(f"\n  {row.constitution.name}, {fixed} under {row.rounds[0].principle}:\n  {row.final}")
    print(f"\n{len(different)} of {len(both)} final replies differ")


if __name__ == "__main__":
    main(*sys.argv[1:2])
