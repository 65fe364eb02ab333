"""What an export counted: rows, drops, and how the judge voted."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from cai.export.pairs import Row, flipped
from cai.judge.metrics import share


@dataclass(slots=True)
class Facts:
    """What an export counted."""

    rows: int = 0  # finished rows of the run
    files: dict[str, int] = field(default_factory=dict)  # rows by name of the file
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by stage and reason
    used: Counter[str] = field(default_factory=Counter)  # critiques or votes by principle
    changed: Counter[str] = field(default_factory=Counter)  # revisions that differ from the reply, by principle
    models: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # rows by role and model
    # Of an export of judged replies, over pairs with a valid vote:
    confidences: array[float] = field(default_factory=lambda: array("d"))  # of each
    asked: int = 0  # principles put to the judge, in both orders
    votes: int = 0  # of those, the ones whose both orders were read
    flips: int = 0  # of those, the ones that prefer the same place in both orders
    biases: int = 0  # of those, the ones with log probabilities
    bias: float = 0.0  # sum of their position biases towards the first reply, in nats
    decided: int = 0  # answers to typed questions, of which the mass of all choices is not known
    clipped: int = 0  # of those, the ones whose probability was too near to 0 or 1
    uneven: int = 0  # choices between replies that differ in length
    longer: int = 0  # of those, the ones whose chosen reply is the longer one

    def count_models(self, models: Mapping[str, str | None]) -> None:
        """Count a row under the models of its roles, as the servers named them; None: it was not asked."""
        for role, name in models.items():
            if name is not None:
                self.models[role][name] += 1

    def count_votes(self, row: Row) -> None:
        """Count how a judge votes on two replies, and under which principles."""
        self.count_orders(row)
        for vote in row["votes"]:
            self.used[vote["principle"]] += 1

    def count_orders(self, row: Row) -> None:
        """Count what a judge says of two replies in either order."""
        flips, votes = flipped(row)
        self.asked += len(row["votes"])
        self.flips += flips
        self.votes += votes
        for vote in row["votes"]:
            if vote["b"] is not None:
                self.biases += 1
                self.bias += vote["b"]
            for order in ("ab", "ba"):
                if vote[order]["first"] is not None and vote[order]["mass"] is None:
                    self.decided += 1
                    self.clipped += vote[order]["bounded"]

    @property
    def flip_rate(self) -> float | None:
        """Share of the valid votes that prefer the same place in both orders; None: there are none."""
        return share(self.flips, self.votes)

    @property
    def mean_bias(self) -> float | None:
        """Mean position bias in nats, towards the first reply; None: no vote has log probabilities."""
        return share(self.bias, self.biases)

    @property
    def longer_share(self) -> float | None:
        """Share of choices between replies of unequal length that took the longer one; None: there are none."""
        return share(self.longer, self.uneven)
