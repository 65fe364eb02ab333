"""Sample runs in which a judge picks the best reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from players import Player, digits
from sample_runs import PROMPTS as ALL
from sample_runs import seeded

from cai.records import Candidates, Completion
from cai.runs.play import run_job
from cai.runs.sample import SampleSetup, resolve
from cai.runs.session import Job
from cai.runs.settings import SampleSettings, make_settings

PROMPTS = ALL[:6]

Answer = Callable[[dict[str, Any]], Completion]


def writer(answer: Answer = seeded, name: str = "writer") -> Player:
    return Player(answer, name, seeds=True)


def rewarder(answer: Answer | None = None) -> Player:
    def worth(payload: dict[str, Any]) -> Completion:
        return Completion("", "stop", "reward-1", scores=(digits(payload["messages"][-1]["content"]) % 1000 / 100,))

    return Player(answer or worth, "reward", reward=True, chat=False)


def setup(prompts: Any, out: Path, judge: Player, *models: Player, **given: Any) -> SampleSetup:
    """A best-of run of these models instead of those that it names."""
    dummies = []
    for model in (judge, *models):
        dummy = out.parent / f"{model.name}.jsonl"
        dummy.touch()
        dummies.append(f"recorded:{dummy}")
    protocol = "score" if judge.can.scoring else "vote"
    named: dict[str, Any] = {"judge": dummies[0], "protocol": protocol, "principles": 1}
    named = {"judge": "reward:some/model"} if judge.can.reward else named
    given = {"model": dummies[1:], "best_of": 3, "out": out} | named | given
    made = resolve(prompts, make_settings(SampleSettings, given))
    players = {**dict(zip(made.assistants, models, strict=True)), "judge": judge}
    seats: tuple[Mapping[Any, Any], ...] = (*({"assistant": model} for model in models), {"judge": judge})
    return replace(made, players=players, seats=seats)


def run(prompts: Any, out: Path, judge: Player, *models: Player, **given: Any) -> Job[Candidates]:
    job = Job(setup(prompts, out, judge, *models or (writer(),), **given), out)
    run_job(job)
    return job
