"""Judges and commands for a constitution's own tests."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fakes import Fake

from cai.cli.main import main
from cai.records import Abilities, Completion

REPLIES = re.compile(r"<reply_a>\n(.*?)\n</reply_a>\n\n<reply_b>\n(.*?)\n</reply_b>", re.S)


class Judge(Fake):
    """A judge with a mind of its own; says nothing of letters where that is None."""

    def __init__(self, mind: Callable[[str, str, str], float | None], **can: Any) -> None:
        super().__init__()
        self.mind = mind
        self.can = Abilities(**({"logprobs": 20, "prefill": True} | can))

    async def send(self, payload: dict[str, Any]) -> Completion:
        text = "\n".join(turn["content"] for turn in payload["messages"])  # after reasons the frame is in the first
        await super().send(payload)
        found = REPLIES.search(text)
        assert found is not None
        odds = self.mind(text[found.end() :], found[1], found[2])
        if odds is None:
            return Completion("Well", "stop", "fake-1", logprobs=({"Well": -0.1},))
        listed = {"A": -math.log1p(math.exp(-odds)), "B": -math.log1p(math.exp(odds))}
        return Completion("A" if odds > 0 else "B", "stop", "fake-1", 100, 1, logprobs=(listed,))


def value(reply: str) -> float:
    """What a reply says it is worth, as in "+2 …"."""
    return float(reply.split()[0])


def fair(question: str, first: str, second: str) -> float:
    return value(first) - value(second)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of a command of cai, run in this process."""
    monkeypatch.setattr(sys, "argv", ["cai", *words])
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        logging.getLogger("cai").handlers.clear()
    return int(end.value.code or 0)
