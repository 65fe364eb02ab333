"""Online training stops and resumes at the end of a batch of replies, to the same weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
from rewarded import Judge, likes_a, named, questions, train
from trainings import ctrl_c, lines, losses, record, weights

from cai.errors import ServerDown

TWO_EPOCHS = {"epochs": 2.0, "save_every": 100, "split": 1.0}  # six steps each


@pytest.mark.parametrize(
    ("method", "pressed", "stops"),
    [
        ("rloo", 8, 9),  # in the second epoch
        pytest.param("grpo", 2, 3, marks=pytest.mark.slow),
        # Two steps from each batch of replies: after the third one it goes on to the fourth.
        pytest.param("ppo", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path, method: str, pressed: int, stops: int
) -> None:
    flags = TWO_EPOCHS | ({"iterations": 2, "epochs": 1.0} if method == "ppo" else {})
    train(method, base, tmp_path / "whole", flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train(method, base, tmp_path / "cut", flags=flags, progress=ctrl_c(pressed))
    assert max(losses(tmp_path / "cut")) == stops
    train(method, base, tmp_path / "cut", flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_judge_that_stops_loses_no_step(base: Path, tmp_path: Path) -> None:
    train("rloo", base, tmp_path / "whole", reward=Judge(), flags=TWO_EPOCHS)
    told: list[str] = []
    with pytest.raises(ServerDown):
        train("rloo", base, tmp_path / "cut", reward=Judge(stops=7), flags=TWO_EPOCHS, tell=told.append)
    assert any(line.startswith("stopped; run the same command again") for line in told)
    assert max(losses(tmp_path / "cut")) == 6  # the seventh batch, the first one of the second epoch, got no reward
    assert not record(tmp_path / "cut")["finished"]
    judge = Judge()
    train("rloo", base, tmp_path / "cut", reward=judge, flags=TWO_EPOCHS)
    assert judge.calls == 6
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def compares(prompts: Sequence[Any], replies: Sequence[str]) -> list[float | None]:
    """Knows no reward of a reply that is the only one to its prompt, as held-out ones are."""
    counts = Counter(str(prompt) for prompt in prompts)
    rewards = likes_a(prompts, replies)
    return [reward if counts[str(prompt)] > 1 else None for prompt, reward in zip(prompts, rewards, strict=True)]


class NoneAtFirst(Judge):
    """Knows no reward of the first batch that is learnt from."""

    async def __call__(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[Any]:
        rewards = await super().__call__(prompts, replies)
        return [None] * len(rewards) if self.calls == 1 else list(rewards)


ALIKE = named("alike", lambda replies: [0.0] * len(replies))
UNKNOWN = {
    "held-out rewards": ("rloo", lambda: compares, {"split": 0.8}),
    "all rewards of a batch": ("rloo", NoneAtFirst, {"split": 1.0}),
    "the spread of one reward": ("rloo", lambda: likes_a, {"split": 0.95}),
    "how well values foresee returns that are alike": ("ppo", lambda: ALIKE, {"split": 1.0}),
}


@pytest.mark.parametrize("name", seldom(UNKNOWN, ("the spread of one reward",)))
def test_numbers_that_are_not_known_are_no_damage(base: Path, tmp_path: Path, name: str) -> None:
    method, reward, own = UNKNOWN[name]
    flags = TWO_EPOCHS | {"epochs": 1.0, "iterations": 1} | own
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(method, base, tmp_path / "cut", reward=reward(), flags=flags, progress=ctrl_c(2), tell=told.append)
    resumed = train(method, base, tmp_path / "cut", reward=reward(), flags=flags, tell=told.append)
    assert any(line.startswith("resuming from") for line in told)
    assert record(tmp_path / "cut")["finished"] and sorted(losses(tmp_path / "cut")) == [*range(1, resumed.steps + 1)]


class StopsEvaluating(Judge):
    """A judge that is down at the evaluation after a step, which has fewer replies than a batch that trains."""

    def __init__(self, evaluation: int) -> None:
        super().__init__()
        self._evaluation = evaluation
        self._seen = 0

    async def __call__(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        rewards = await super().__call__(prompts, replies)
        self._seen += len(set(map(str, prompts))) == len(prompts)
        if self._seen == self._evaluation:
            raise ServerDown("the judge is down")
        return rewards


@pytest.mark.parametrize(("method", "iterations"), seldom([("rloo", 1), ("ppo", 2)], [("ppo", 2)]))
def test_a_judge_that_stops_in_an_evaluation_loses_no_step(
    base: Path, tmp_path: Path, method: str, iterations: int
) -> None:
    flags = {"epochs": 1.0, "save_every": 100, "split": 0.8, "eval_every": 2, "iterations": iterations}
    train(method, base, tmp_path / "whole", reward=Judge(), flags=flags)
    told: list[str] = []
    with pytest.raises(ServerDown):
        train(method, base, tmp_path / "cut", reward=StopsEvaluating(2), flags=flags, tell=told.append)
    assert any(line.startswith("stopped; run the same command again") for line in told)
    assert max(losses(tmp_path / "cut")) == 2
    train(method, base, tmp_path / "cut", reward=Judge(), flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    evaluated = [[line["step"] for line in lines(tmp_path / name) if "eval_loss" in line] for name in ("cut", "whole")]
    assert evaluated[0] == evaluated[1] and 2 in evaluated[0]


def test_the_reward_of_an_evaluation_is_the_mean_over_its_replies(base: Path, tmp_path: Path) -> None:
    rewards = named("by_length", lambda replies: [float(ord(reply[0]) if reply else 0) for reply in replies])
    seen: list[float] = []

    def keeping(prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        found = rewards(prompts, replies)
        seen.extend(found)
        return found

    flags = {"split": 0.5, "rows_at_once": 4, "epochs": 1.0, "eval_every": 100}
    held = train("rloo", base, tmp_path / "out", reward=keeping, data=questions(12), flags=flags).eval_rows
    assert held % 4, "the last batch is a smaller one"
    first = next(line for line in lines(tmp_path / "out") if "eval_loss" in line)
    assert first["step"] == 0
    assert first["eval_reward"] == pytest.approx(sum(seen[:held]) / held, rel=1e-5)
