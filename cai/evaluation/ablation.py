"""`cai constitution ablate`: what each principle decides, and what leaving it out would change, from stored votes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError, UsageError
from cai.export.pairs import MIN_CONFIDENCE
from cai.judge.flows import belief, is_valid, mean_preference, odds_of_votes, probability
from cai.judge.metrics import confidence, credit, wilson
from cai.records import Label, Record, Vote
from cai.sources.files import read_records
from cai.sources.yamlfile import first_fault
from cai.texts.wording import columns, number

LEGEND = (
    "wins: the pair's verdict is its own; rest: that of the others is. Without it the others' votes decide;",
    "turn: another verdict; alone: none; people: change of agreement. A new run would draw another instead.",
)


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

    def summary(self) -> dict[str, Any]:
        """The table as JSON."""
        return {**self.model_dump(), "notes": list(self.notes())}

    def lines(self) -> Iterator[str]:
        """The table for people to read."""
        counting = {None: "", True: ", principles count by weight", False: ", principles count alike"}
        how = f"protocol {self.protocol}{counting[self.weighted]}"
        yield f"{self.source}: {self.pairs:,} pairs with a valid vote, {how}"
        yield ""
        at = f"≥{self.min_confidence:g}"
        heads = ("pairs", "invalid", "wins", "rest", "|d|", "bias", "turn", f"+{at}", f"-{at}", "alone", "people")
        yield from columns([("principle", *heads), *map(_cells, self.principles)])
        yield ""
        yield from LEGEND
        yield from self.notes()


def _cells(one: Left) -> list[str]:
    return [
        one.principle,
        f"{one.pairs:,}",
        *(number(share, ".1%") for share in (one.invalid_vote_rate, one.win_rate, one.agrees_with_rest)),
        number(one.strength, ".3f"),
        number(one.bias, "+.3f"),
        *(f"{count:,}" for count in (one.turned, one.gained, one.lost, one.alone)),
        number(one.people, "+.1%"),
    ]


@dataclass
class _Tally:
    """Counts of one principle; lists have a value for each pair or vote that they are a mean over."""

    votes: int = 0
    valid: int = 0
    pairs: int = 0
    turned: int = 0
    gained: int = 0
    lost: int = 0
    alone: int = 0
    won: list[float] = field(default_factory=list)
    with_rest: list[float] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    biases: list[float] = field(default_factory=list)
    people: list[float] = field(default_factory=list)

    def left(self, principle: str) -> Left:
        return Left(
            principle=principle,
            pairs=self.pairs,
            invalid_vote_rate=1 - self.valid / self.votes,
            win_rate=_mean(self.won),
            agrees_with_rest=_mean(self.with_rest),
            rest=len(self.with_rest),
            strength=_mean(self.strengths),
            bias=_mean(self.biases),
            turned=self.turned,
            gained=self.gained,
            lost=self.lost,
            alone=self.alone,
            people=_mean(self.people),
            people_pairs=len(self.people),
        )


@dataclass
class _Way:
    """One way to weigh votes, and the counts of every principle under it."""

    weighted: bool
    tallies: dict[str, _Tally] = field(default_factory=dict)

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
        for principle in dict.fromkeys(vote.principle for vote in label.votes):
            tally = self.tallies.setdefault(principle, _Tally())
            own = [vote for vote in label.votes if vote.principle == principle]
            tally.votes += len(own)
            tally.valid += sum(map(is_valid, own))
            mine = self.odds(own, label.protocol)
            if mine is None or label.z is None:
                continue
            tally.pairs += 1
            tally.strengths += [abs(vote.d) for vote in own if vote.d is not None]
            tally.biases += [vote.b for vote in own if vote.b is not None]
            if label.z:
                tally.won.append(credit(probability(mine), label.z > 0))
            rest = self.odds([vote for vote in label.votes if vote.principle != principle], label.protocol)
            if rest is None:
                tally.alone += 1
                continue
            if rest:
                tally.with_rest.append(credit(probability(mine), rest > 0))
            _count_change(tally, label, label.z, rest, least)

    def principles(self) -> list[Left]:
        """What was counted, those first whose absence would change most."""
        rows = [tally.left(name) for name, tally in self.tallies.items()]
        return sorted(rows, key=lambda one: (-one.changes, -one.turned, one.principle))


def _count_change(tally: _Tally, label: Label, z: float, rest: float, least: float) -> None:
    """Count what is different if the log odds of a label are `rest`, without a principle, rather than z."""
    tally.turned += _sign(z) != _sign(rest)
    before = _confidence(label, z) >= least
    after = _confidence(label, rest) >= least
    tally.gained += after and not before
    tally.lost += before and not after
    if label.human is not None:
        truth = label.human == "a"
        tally.people.append(credit(probability(rest), truth) - credit(probability(z), truth))


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
    path = _file_of(source) if isinstance(source, str | Path) else None
    ways = [_Way(False), _Way(True)]
    first: Label | None = None
    pairs = 0
    drawn = False
    for line, label in _read_labels(source if path is None else path):
        first = first or label
        _check_same_run(first, label, path, line)
        ways = [way for way in ways if way.explains(label)]
        if not ways:
            problem = "z does not follow from the votes: the row was changed, or made by another version; label again"
            raise InputError(problem, path, line)
        pairs += label.z is not None
        drawn = drawn or {vote.principle for vote in label.votes} != {vote.principle for vote in first.votes}
        for way in ways:
            way.count(label, min_confidence)
    if first is None:
        raise InputError("there is no label in it", path)
    weighted, principles = _decided(ways, drawn)
    return Ablation(
        source="labels" if path is None else str(source),
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


def _file_of(source: str | Path) -> Path:
    """The labels.jsonl that a path means."""
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / "labels.jsonl").is_file():
        raise InputError("is a folder without a labels.jsonl; name the --out of a cai label", path)
    return path / "labels.jsonl"


def _read_labels(source: Path | Iterable[Any]) -> Iterator[tuple[int, Label]]:
    if not isinstance(source, Path):
        yield from enumerate(source, 1)
        return
    for line, record in read_records(source):
        try:
            yield line, Label.model_validate_json(orjson.dumps(record))
        except TypeError:
            raise InputError("is not a row of labels.jsonl: it is not JSON", source, line) from None
        except ValidationError as error:
            raise InputError(f"is not a row of labels.jsonl ({first_fault(error)})", source, line) from None


def _check_same_run(first: Label, label: Label, path: Path | None, line: int) -> None:
    """Raise InputError if a label is of another judge or constitution than the first, or has no votes."""
    if label.protocol == "reward":
        problem = "a reward model gave this label: it reads no principle, so none can be left out"
        raise InputError(problem, path, line)
    for name in ("protocol", "constitution", "templates"):
        if getattr(label, name) != getattr(first, name):
            raise InputError(f"another {name} than in the first label: ablate the labels of one run", path, line)


def _sign(z: float) -> int:
    return (z > 0) - (z < 0)


def _confidence(label: Label, z: float) -> float:
    p = belief(z, label.protocol, label.temperature)
    assert p is not None
    return confidence(p)


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return math.fsum(values) / len(values)
