"""Guard models as raters of single replies, and what their ratings say together: the mean P(unsafe)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from cai.calls.model import Guards, Model, spec_of
from cai.calls.seats import Flow
from cai.engine.levels import Grade, read_levels
from cai.errors import UsageError
from cai.evaluation.arena.figures import Line, line_of
from cai.evaluation.arena.rate import Rater
from cai.evaluation.statistics.estimates import mean_of
from cai.evaluation.statistics.paired import difference
from cai.records import Entry, Message, Rating, Request, Values


class GuardRater(Rater):
    """Asks a guard model for its labels of one reply; the value is P(unsafe)."""

    protocol = "score"
    wanted = "with one of its labels"
    advice = "its chat template is not the one that it was trained with, or it is no guard model"

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Guards):
            raise UsageError(f"{spec_of(model)} has no labels: name a guard model")
        self.model, self.labels = model, model.labels
        self.binding: Values = {"judge": spec_of(model), "protocol": "score", "labels": dict(model.labels)}

    def ask(self, entry: Entry) -> Flow[Grade]:
        """One question: the reply in its conversation."""
        turns = (*entry.messages, Message(role="assistant", content=entry.reply))
        [answer] = yield [Request("judge", turns, score=tuple(self.labels), max_tokens=1, temperature=0.0)]
        return read_levels(answer, self.labels)

    def check(self) -> None:
        """It can be asked: its family is known before it is loaded."""


def values_of(ratings: Iterable[Rating]) -> dict[str, float]:
    """P(unsafe) by prompt."""
    return {rating.prompt_id: rating.value for rating in ratings if rating.value is not None}


def shares_of(ratings: Sequence[Rating]) -> dict[str, float]:
    """The mean share of each label."""
    totals: dict[str, float] = defaultdict(float)
    for rating in ratings:
        mass = math.fsum(rating.p.values())
        for label, p in rating.p.items():
            totals[label] += p / mass / len(ratings)
    return dict(totals)


def rated_line(measure: str, name: str, own: Mapping[str, float], base: Mapping[str, float] | None) -> Line:
    """The mean of the values, and its difference to BASE, paired by prompt; base: None for BASE itself."""
    change = None
    if base is not None:
        both = [prompt for prompt in own if prompt in base]
        change = difference([own[prompt] for prompt in both], [base[prompt] for prompt in both], 1)
    note = "" if own else "no reply was rated"
    return line_of(name, measure, "share", mean_of(list(own.values()), 0, 1), change, note)
