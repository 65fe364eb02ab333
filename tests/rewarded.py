"""What tests of online training share: a bandit with a known optimum, and a judge that can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainings import train as train_any

from cai.errors import ServerDown

Turns = Sequence[Any]
# One token a reply, so that the optimum is known: the letter a, at the start of it.
FLAGS = {
    "split": 0.8, "batch_size": 16, "rows_at_once": 8, "generations": 4, "reply_length": 1, "dtype": "float32",
    "learning_rate": 2e-2, "schedule": "constant", "warmup": 0.0,
}  # fmt: skip


def questions(count: int = 24) -> list[dict[str, str]]:
    return [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(count)]


def likes_a(prompts: Sequence[Turns], replies: Sequence[str]) -> list[float]:
    return [float(reply.startswith("a")) for reply in replies]


def train(method: str, base: Path, out: Path, /, *, reward: Any = likes_a, data: Any = None, **more: Any) -> Any:
    flags = FLAGS | more.pop("flags", {})
    return train_any(method, data or questions(), out=out, model=str(base), reward=reward, flags=flags, **more)


class Judge:
    """A reward that likes what `likes_a` does, until it is called for the time `stops`, counted from 1."""

    name = "judge"

    def __init__(self, stops: int = 0) -> None:
        self.calls = 0
        self._stops = stops

    async def __call__(self, prompts: Sequence[Turns], replies: Sequence[str]) -> list[float]:
        self.calls += 1
        if self.calls == self._stops:
            raise ServerDown("the judge is down")
        return likes_a(prompts, replies)

    async def close(self) -> None:
        """Nothing was taken."""


def named(name: str, answers: Callable[[Sequence[str]], list[Any]]) -> Callable[..., list[Any]]:
    """A reward of that name."""

    def function(prompts: Sequence[Turns], replies: Sequence[str]) -> list[Any]:
        return answers(replies)

    function.__name__ = name
    return function
