"""Sample runs in which a judge compares the replies, and the best of them are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from players import Player, digits
from sample_runs import PROMPTS as ALL
from sample_runs import seeded
from sample_runs import setup as sample_setup

from cai.records import Completion
from cai.runs.kinds.sample import SampleRun

PROMPTS = ALL[:6]

Answer = Callable[[dict[str, Any]], Completion]


def writer(answer: Answer = seeded, name: str = "writer") -> Player:
    return Player(answer, name, seeds=True)


def rewarder(answer: Answer | None = None) -> Player:
    def worth(payload: dict[str, Any]) -> Completion:
        return Completion("", "stop", "reward-1", scores=(digits(payload["messages"][-1]["content"]) % 1000 / 100,))

    return Player(answer or worth, "reward", reward=True, chat=False)


def setup(prompts: Any, out: Path, judge: Player, *models: Player, **given: Any) -> SampleRun:
    """A best-of run of these models instead of those that it names."""
    named: dict[str, Any] = {"judge": "recorded:judge"}
    if not judge.can.reward:
        named |= {"protocol": "score" if judge.can.scoring else "vote", "principles": 1}
    return sample_setup(prompts, out, *models or (writer(),), player=judge, **{"best_of": 3} | named | given)


def run(prompts: Any, out: Path, judge: Player, *models: Player, **given: Any) -> SampleRun:
    made = setup(prompts, out, judge, *models, **given)
    for part in made.sessions():
        part.finish()
    return made
