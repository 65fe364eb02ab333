"""Rewards that are killed at every step, and asked for again: the same numbers and lines, and nothing paid twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reward_judges import Rater, judge, law, rewards

from cai.folder.journal.store import Store
from cai.records import Completion
from cai.rewards.completions import FILE, Completions

REPLIES = ["+1 a", "-1 b", "+2 c", "-2 d"]


class Counting(Rater):
    """A judge that answers one call at a time, and notes each in a file that outlives a kill."""

    concurrency = 1

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    async def send(self, payload: dict[str, Any]) -> Completion:
        with open(self.log, "a") as file:
            file.write(repr(payload) + "\n")
        return await super().send(payload)


def dying(kind: type, name: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a method kill the process when it is called for the nth time."""
    real: Callable[..., Any] = getattr(kind, name)
    left = [nth]

    def method(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    monkeypatch.setattr(kind, name, method)


def killed(play: Callable[[], object]) -> bool:
    """Play in a process of its own; whether that was killed."""
    child = os.fork()
    if not child:
        try:
            play()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("scoring", ["point", "group"])
@pytest.mark.parametrize(("kind", "name"), [(Store, "put"), (Store, "_write"), (Completions, "add")])
def test_a_kill_at_any_step_costs_at_most_the_call_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scoring: str, kind: type, name: str
) -> None:
    under = law(1, 1)
    expected = rewards(judge(tmp_path / "whole", Rater(), under, scoring=scoring), REPLIES)
    lines = sorted((tmp_path / "whole" / FILE).read_bytes().splitlines())
    log, kills = tmp_path / "log", 0
    for nth in (1, 2, 3, 4):
        with monkeypatch.context() as patch:
            dying(kind, name, nth, patch)
            kills += killed(lambda: rewards(judge(tmp_path / "kept", Counting(log), under, scoring=scoring), REPLIES))
    assert kills
    assert rewards(judge(tmp_path / "kept", Counting(log), under, scoring=scoring), REPLIES) == expected
    assert sorted((tmp_path / "kept" / FILE).read_bytes().splitlines()) == lines
    asked = Counter(log.read_text().splitlines())
    assert asked.total() - len(asked) <= kills
