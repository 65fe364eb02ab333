"""`cai constitution ablate`: what each principle decides, and what leaving it out would change, from stored votes.

Reads labels and asks no model. The arithmetic is that of `judge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError, UsageError
from cai.export.pairs import Filters, confidence
from cai.judge.belief import count_votes, mean_preference, probability
from cai.judge.metrics import credit, wilson
from cai.records import Label, Record, Vote
from cai.sources.files import read_records


class Left(Record):
    """What a principle's votes are, and what leaving them out would change."""

    principle: str
    pairs: int  # in which it has a valid vote
    invalid_vote_rate: float  # of its votes
    win_rate: float | None  # how often the pair's verdict is its own; where it names neither reply, half
    agrees_with_rest: float | None  # how often the verdict of the other principles is its own
    rest: int  # pairs in which these have one
    strength: float | None  # mean |d| in nats; None: the judge gives no probabilities
    bias: float | None  # mean b in nats, towards the first
    turned: int  # pairs that would have another verdict
    gained: int  # pairs that would reach the threshold
    lost: int  # pairs that would fall below it
    alone: int  # pairs judged by no other valid vote: nobody would know
    people: float | None  # by how much agreement with people would change, where both are known
    people_pairs: int

    @property
    def changes(self) -> int:
        """Pairs of which something would be different, and crossings of those that turn."""
        return self.turned + self.gained + self.lost + self.alone


@dataclass(frozen=True, slots=True)
class Ablation:
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
        return {
            "source": self.source,
            "pairs": self.pairs,
            "protocol": self.protocol,
            "min_confidence": self.min_confidence,
            "weighted": self.weighted,
            "principles": [one.model_dump() for one in self.principles],
            "notes": list(self.notes()),
        }

    def lines(self) -> Iterator[str]:
        """The table for people to read."""
        counted = "" if self.weighted is None else f", principles count {'by weight' if self.weighted else 'alike'}"
        yield f"{self.source}: {self.pairs:,} pairs with a valid vote, protocol {self.protocol}{counted}"
        yield ""
        width = 2 + max(len(one.principle) for one in self.principles)
        at = f"≥{self.min_confidence:g}"
        yield f"{'':{width}}{'its votes':>40}{'without it':>25}"
        heads = ("pairs", "invalid", "wins", "rest", "|d|", "bias", "turn", f"+{at}", f"-{at}", "alone", "people")
        yield f"{'principle':{width}}" + "".join(map("{:>8}".format, heads))
        for one in self.principles:
            cells = (
                f"{one.pairs:,}", f"{one.invalid_vote_rate:.1%}", _told(one.win_rate, ".1%"),
                _told(one.agrees_with_rest, ".1%"), _told(one.strength, ".3f"), _told(one.bias, "+.3f"),
                f"{one.turned:,}", f"{one.gained:,}", f"{one.lost:,}", f"{one.alone:,}", _told(one.people, "+.1%"),
            )  # fmt: skip
            yield f"{one.principle:{width}}" + "".join(map("{:>8}".format, cells))
        yield ""
        yield "wins: the pair's verdict is its own; rest: that of the others is. Without it the others' votes decide;"
        yield "turn: another verdict; alone: none; people: change of agreement. A new run would draw another instead."
        yield from self.notes()


class _Tally:
    """Counts of one principle."""

    def __init__(self) -> None:
        self.votes = self.valid = self.pairs = self.turned = self.gained = self.lost = self.alone = 0
        self.won: list[float] = []
        self.with_rest: list[float] = []
        self.strengths: list[float] = []
        self.biases: list[float] = []
        self.people: list[float] = []

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


def ablate(source: str | Path | Iterable[Label], *, min_confidence: float = 0.7) -> Ablation:
    """Take each principle in turn out of stored labels; what the remaining votes say is the verdict without it.

    source: a label run, its labels.jsonl, or labels. min_confidence: the threshold whose crossings are counted, on the
    scale of `confidence`, at temperature 1. Raises InputError for rows that cannot be ablated.
    """
    if not 0.5 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence {min_confidence!r} must be a number from 0.5 to 1")
    # Whether votes count by weight is not written in a row: it follows from how many principles the constitution had.
    # So both ways are counted until one does not give a row's z. Where both always do, as where weights are equal, they
    # counted by weight if every pair was judged under the same principles: drawn ones would differ.
    where = _file_of(source) if isinstance(source, str | Path) else None
    ways: dict[bool, dict[str, _Tally]] = {False: {}, True: {}}
    first: Label | None = None
    pairs, drawn = 0, False
    for line, label in _read_labels(source if where is None else where):
        first = first or label
        _like(first, label, where, line)
        ways = {
            way: tallies
            for way, tallies in ways.items()
            if _same(label.z, _odds(label.votes, label.protocol, weighted=way))
        }
        if not ways:
            problem = "z does not follow from the votes: the row was changed, or made by another version; label again"
            raise InputError(problem, where, line)
        pairs += label.z is not None
        drawn = drawn or {vote.principle for vote in label.votes} != {vote.principle for vote in first.votes}
        for way, tallies in ways.items():
            _leave_out(label, tallies, min_confidence, weighted=way)
    if first is None:
        raise InputError("there is no label in it", where)
    tables = {way: [tally.left(name) for name, tally in tallies.items()] for way, tallies in ways.items()}
    weighted = not drawn if len(tables) == 2 else next(iter(tables))
    found = sorted(tables[weighted], key=lambda one: (-one.changes, -one.turned, one.principle))
    no_matter = all(table == tables[weighted] for table in tables.values()) and len(tables) == 2
    name = "labels" if where is None else str(source)
    return Ablation(name, pairs, first.protocol, min_confidence, None if no_matter else weighted, tuple(found))


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
        except (TypeError, ValidationError) as error:  # TypeError: a line that is no JSON
            told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "no JSON"}
            name = ".".join(map(str, told["loc"])) or "the line"
            raise InputError(f"is no row of labels.jsonl ({name}: {told['msg']})", source, line) from None


def _like(first: Label, label: Label, where: Path | None, line: int) -> None:
    """Raises InputError where a label is of another judge or constitution than the first, or without votes."""
    if label.protocol == "reward":
        problem = "a reward model gave this label: it reads no principle, so that none can be left out"
        raise InputError(problem, where, line)
    for name in ("protocol", "constitution", "templates"):
        if getattr(label, name) != getattr(first, name):
            raise InputError(f"another {name} than in the first label: ablate the labels of one run", where, line)


def _odds(votes: Sequence[Vote], protocol: str, *, weighted: bool) -> float | None:
    """Log odds that a is better by some votes, as the judge weighs them; None where none is valid."""
    if protocol != "vote":
        return mean_preference(votes, weighted=weighted)
    for_a, count = count_votes(votes)
    return math.log(for_a + 0.5) - math.log(count - for_a + 0.5) if count else None  # as `judge.by_votes` does


def _same(z: float | None, other: float | None) -> bool:
    return z is other is None or (None not in (z, other) and math.isclose(z or 0, other or 0, abs_tol=1e-9))


def _leave_out(label: Label, tallies: dict[str, _Tally], least: float, *, weighted: bool) -> None:
    """Count what a label says of each of its principles."""
    for principle in dict.fromkeys(vote.principle for vote in label.votes):
        tally = tallies.setdefault(principle, _Tally())
        own = [vote for vote in label.votes if vote.principle == principle]
        tally.votes, tally.valid = tally.votes + len(own), tally.valid + sum(vote.valid for vote in own)
        mine = _odds(own, label.protocol, weighted=weighted)
        if mine is None or label.z is None:
            continue
        tally.pairs += 1
        tally.strengths += [abs(vote.d) for vote in own if vote.d is not None]
        tally.biases += [vote.b for vote in own if vote.b is not None]
        if label.z:
            tally.won.append(credit(probability(mine), label.z > 0))
        others = [vote for vote in label.votes if vote.principle != principle]
        rest = _odds(others, label.protocol, weighted=weighted)
        if rest is None:
            tally.alone += 1
            continue
        if rest:
            tally.with_rest.append(credit(probability(mine), rest > 0))
        tally.turned += _sign(label.z) != _sign(rest)
        before, after = (_sure(label, z) >= least for z in (label.z, rest))
        tally.gained, tally.lost = tally.gained + (after and not before), tally.lost + (before and not after)
        if label.human is not None:
            truth = label.human == "a"
            tally.people.append(credit(probability(rest), truth) - credit(probability(label.z), truth))


def _sign(z: float) -> int:
    return (z > 0) - (z < 0)


def _sure(label: Label, z: float) -> float:
    return confidence({"z": z, "protocol": label.protocol}, Filters(temperature=label.temperature))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _told(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
