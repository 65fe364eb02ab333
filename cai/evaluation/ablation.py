"""`cai constitution ablate`: what each principle decides, and what leaving it out would change, from stored votes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.engine.letters import probability
from cai.errors import InputError, UsageError
from cai.export.options import MIN_CONFIDENCE
from cai.judge.flows import belief, is_valid, mean_preference, odds_of_votes
from cai.judge.metrics import average, confidence, credit, wilson
from cai.judge.people import TRUTHS
from cai.judge.votes import labels_file, read_people, votes_of_run
from cai.records import Label, Record, Values, Vote
from cai.sources.files import read_records
from cai.sources.yamlfile import first_fault
from cai.texts.wording import report_lines


class Left(Record):
    """What a principle's votes are, and what leaving them out would change."""

    principle: str
    pairs: int  # in which it has a valid vote
    invalid_vote_rate: float  # of its votes
    win_rate: float | None  # how often the pair's verdict is its own; half if it names neither reply
    agrees_with_rest: float | None  # how often the verdict of the other principles is its own
    rest: int  # pairs in which these have one
    strength: float | None  # mean |d| in nats; None: the judge gives no probabilities
    bias: float | None  # mean b in nats, towards the first
    turned: int  # pairs that would have another verdict
    gained: int  # pairs that would reach the threshold
    lost: int  # pairs that would fall below it
    alone: int  # pairs with no other valid vote, which would have no verdict
    people: float | None  # by how much agreement with people would change, in pairs with both
    people_pairs: int

    @property
    def changes(self) -> int:
        """Pairs of which something would be different, and crossings of those that turn."""
        return self.turned + self.gained + self.lost + self.alone


class Ablation(Record):
    """Every principle of some labels, those first whose absence would change most."""

    source: str
    pairs: int  # with a valid vote
    protocol: str
    min_confidence: float
    weighted: bool | None  # whether votes count by weight or alike; None: it makes no difference
    principles: tuple[Left, ...]

    def notes(self) -> Iterator[str]:
        """Which principles do nothing, and which work against the others."""
        silent = [one.principle for one in self.principles if not one.pairs]
        if silent:
            yield f"never answered in both orders: {', '.join(silent)}"
        idle = [f"{one.principle} ({one.pairs:,})" for one in self.principles if one.pairs and not one.changes]
        if idle:
            what = f"no pair turns, or crosses {self.min_confidence:g}, without one of these (their pairs)"
            yield f"decide nothing: {what}: {', '.join(idle)}"
        for one in self.principles:
            if one.agrees_with_rest is not None and wilson(one.agrees_with_rest * one.rest, one.rest)[1] < 0.5:
                share = f"{one.agrees_with_rest:.0%} of {one.rest:,} pairs"
                yield f"{one.principle} contradicts the rest: they agree on {share}"

    def summary(self) -> Values:
        """The table as JSON."""
        return {**self.model_dump(), "notes": list(self.notes())}

    def lines(self) -> list[str]:
        """The table for people to read."""
        return report_lines(__file__, report=self)


class _Tally:
    """What was counted for one principle, and the values that means are taken of: one for each pair or vote."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.values = defaultdict[str, list[float]](list)

    def left(self, principle: str) -> Left:
        means = ("win_rate", "agrees_with_rest", "strength", "bias", "people")
        figures: Values = {name: average(self.values[name]) for name in means}
        figures |= {name: self.counts[name] for name in ("pairs", "turned", "gained", "lost", "alone")}
        return Left(
            principle=principle,
            invalid_vote_rate=1 - self.counts["valid"] / self.counts["votes"],
            rest=len(self.values["agrees_with_rest"]),
            people_pairs=len(self.values["people"]),
            **figures,
        )


class _Way:
    """One way to weigh votes, and the counts of every principle under it."""

    def __init__(self, *, weighted: bool) -> None:
        self.weighted = weighted
        self.tallies = defaultdict[str, _Tally](_Tally)

    def odds(self, votes: Sequence[Vote], protocol: str) -> float | None:
        """Log odds that a is better by some votes, as the judge weighs them; None if none is valid."""
        if protocol == "vote":
            return odds_of_votes(votes)
        return mean_preference(votes, weighted=self.weighted)

    def explains(self, label: Label) -> bool:
        """Whether the votes of a label, weighed so, give its z."""
        odds = self.odds(label.votes, label.protocol)
        if odds is None or label.z is None:
            return odds is label.z
        return math.isclose(odds, label.z, abs_tol=1e-9)

    def count(self, label: Label, least: float) -> None:
        """Count what a label says of each of its principles."""
        for principle in {vote.principle for vote in label.votes}:
            tally = self.tallies[principle]
            own = [vote for vote in label.votes if vote.principle == principle]
            tally.counts.update(votes=len(own), valid=sum(map(is_valid, own)))
            odds = self.odds(own, label.protocol)
            if odds is None or label.z is None:
                continue
            tally.counts["pairs"] += 1
            tally.values["strength"] += [abs(vote.d) for vote in own if vote.d is not None]
            tally.values["bias"] += [vote.b for vote in own if vote.b is not None]
            if label.z:
                tally.values["win_rate"].append(credit(probability(odds), label.z > 0))
            rest = self.odds([vote for vote in label.votes if vote.principle != principle], label.protocol)
            if rest is None:
                tally.counts["alone"] += 1
                continue
            if rest:
                tally.values["agrees_with_rest"].append(credit(probability(odds), rest > 0))
            ps = [belief(z, label.protocol, label.temperature) for z in (label.z, rest)]
            before, after = (p is not None and confidence(p) >= least for p in ps)
            turned = _sign(label.z) != _sign(rest)
            tally.counts.update(turned=turned, gained=after and not before, lost=before and not after)
            if label.human is not None:
                truth = TRUTHS[label.human]
                change = credit(probability(rest), truth) - credit(probability(label.z), truth)
                tally.values["people"].append(change)

    def principles(self) -> list[Left]:
        """What was counted, those first whose absence would change most."""
        rows = [tally.left(name) for name, tally in self.tallies.items()]
        return sorted(rows, key=lambda one: (-one.changes, -one.turned, one.principle))


def _sign(odds: float) -> int:
    return (odds > 0) - (odds < 0)


def ablate(source: str | Path | Iterable[Label], *, min_confidence: float = MIN_CONFIDENCE) -> Ablation:
    """Take each principle in turn out of stored labels; what the remaining votes say is the verdict without it.

    source: a label run, its labels.jsonl, or labels. min_confidence: the threshold whose crossings are counted, on the
    scale of `confidence`, at temperature 1. Raises InputError for rows that cannot be ablated.
    """
    if not 0.5 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence {min_confidence!r} must be a number from 0.5 to 1")
    # Whether votes count by weight is not written in a row: it follows from how many principles the constitution had.
    # So both ways are counted until one does not give a row's z. If both always do, as with equal weights, votes
    # counted by weight if every pair was judged under the same principles: drawn ones would differ.
    name = "labels"
    path: Path | None = None
    if isinstance(source, str | Path):
        name = str(source)
        path = labels_file(source)
        labels = _read_labels(path)
    else:
        labels = enumerate(source, 1)
    ways = [_Way(weighted=False), _Way(weighted=True)]
    first: Label | None = None
    pairs = 0
    drawn = False
    for line, label in labels:
        first = first or label
        ways = [way for way in ways if way.explains(label)]
        problem = _problem(first, label, ways)
        if problem is not None:
            raise InputError(problem, path, line)
        pairs += label.z is not None
        drawn = drawn or {vote.principle for vote in label.votes} != {vote.principle for vote in first.votes}
        for way in ways:
            way.count(label, min_confidence)
    if first is None:
        raise InputError("there is no label in it", path)
    weighted, principles = _decided(ways, drawn)
    return Ablation(
        source=name,
        pairs=pairs,
        protocol=first.protocol,
        min_confidence=min_confidence,
        weighted=weighted,
        principles=tuple(principles),
    )


def _decided(ways: Sequence[_Way], drawn: bool) -> tuple[bool | None, list[Left]]:
    """How votes counted, None if both ways give the same, and the table under it."""
    tables = {way.weighted: way.principles() for way in ways}
    if len(tables) == 1:
        return next(iter(tables.items()))
    if tables[True] == tables[False]:
        return None, tables[True]
    return not drawn, tables[not drawn]


def _read_labels(path: Path) -> Iterator[tuple[int, Label]]:
    votes = votes_of_run(path)
    people = None if votes is None else read_people(votes)
    for line, record in read_records(path):
        try:
            label = Label.model_validate_json(orjson.dumps(record))
        except TypeError:
            raise InputError("is not a row of labels.jsonl: it is not JSON", path, line) from None
        except ValidationError as error:
            raise InputError(f"is not a row of labels.jsonl ({first_fault(error)})", path, line) from None
        if people is not None:
            label = people.labelled(label)
        yield line, label


def _problem(first: Label, label: Label, ways: Sequence[_Way]) -> str | None:
    """Why a label cannot be counted, such as that it is of another judge or constitution than the first."""
    if label.protocol == "reward":
        return "a reward model gave this label: it reads no principle, so none can be left out"
    for name in ("protocol", "constitution", "templates"):
        if getattr(label, name) != getattr(first, name):
            return f"another {name} than in the first label: ablate the labels of one run"
    if not ways:
        return "z does not follow from the votes: the row was changed, or made by another version; label again"
    return None
