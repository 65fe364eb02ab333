"""Label runs of judges made for tests."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from players import Player, digits

from cai.records import Completion
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.settings import LabelSettings
from cai.sources.yamlfile import make_settings


def odds_of(payload: dict[str, Any]) -> float:
    """How much likelier the first letter is to the judge of these tests: by texts, principle and place."""
    text = payload["messages"][0]["content"]
    first, second = re.findall(r"<reply_[ab]>\n(.*?)\n</reply_[ab]>", text, re.DOTALL)
    principle = text.rsplit("</reply_b>", 1)[1]
    worth = [digits(reply) % 2001 / 500 + digits(reply, principle) % 100 / 200 for reply in (first, second)]
    return worth[0] - worth[1] + 1.5


def scores(payload: dict[str, Any]) -> Completion:
    """The log probabilities of the two letters, which share nine tenths."""
    odds = odds_of(payload)
    logs = tuple(math.log(0.9) - math.log1p(math.exp(sign * odds)) for sign in (-1, 1))
    return Completion("", "length", "judge-1", input_tokens=9, output_tokens=1, scores=logs)


def votes(payload: dict[str, Any]) -> Completion:
    """A letter, drawn by the same odds."""
    draw = digits(payload) % 1000 / 1000
    return Completion("A" if draw < 1 / (1 + math.exp(-odds_of(payload))) else "B", "stop", "judge-1")


def mute(payload: dict[str, Any]) -> Completion:
    return Completion("", "length", "judge-1", scores=(-4.0, -5.0))


def scorer(answer: Callable[[dict[str, Any]], Completion] = scores) -> Player:
    return Player(answer, "judge", scoring=True, prefill=True)


def setup(source: Any, out: Path, judge: Player, sampler: Player | None = None, **given: Any) -> LabelRun:
    """A label run of this judge, and this model for further replies, instead of those that it names."""
    given = {"protocol": "score" if judge.can.scoring else "vote", "min_confidence": 0.6, "out": out} | given
    players = {"judge": judge} if sampler is None else {"judge": judge, "assistant": sampler}
    return LabelRun(source, make_settings(LabelSettings, given), players=players)


def run(source: Any, out: Path, judge: Player, sampler: Player | None = None, **given: Any) -> LabelRun:
    made = setup(source, out, judge, sampler, **given)
    made.finish()
    return made


def rows_of(folder: Path, name: str = "labels.jsonl") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return sorted(rows, key=lambda row: row["position"]) if name == "labels.jsonl" else rows


def lost(folder: Path) -> list[dict[str, Any]]:
    """What was dropped before it was judged, in order."""
    drops = rows_of(folder, "dropped.jsonl")
    return sorted((row for row in drops if row["stage"] not in ("pairs", "kto")), key=lambda row: row["position"])
