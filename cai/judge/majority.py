"""What all people together say of each pair, and how far they agree.

Only votes of the random queue that were cast blind may certify a threshold or correct an evaluation: pairs that are
picked, or labelled with the judge's verdict in view, say nothing about other pairs. Of those votes the last of a person
and a pair counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from cai.judge.gold import RANDOM, TAKEN_BACK, GoldVote, late_in, random_order, word_of
from cai.judge.metrics import cohen
from cai.records import Contest, Label
from cai.sources.conversations import prompt_hash
from cai.sources.labels import OTHER, Preference
from cai.sources.values import BadRecord, shown
from cai.texts.wording import counted

SAME: Mapping[str, Preference] = {"a": "a", "b": "b", "tie": "tie"}
SWAPPED: Mapping[str, Preference] = {str(word): other for word, other in OTHER.items()}


class Agreement(NamedTuple):
    """How far two people agree on the pairs that both labelled."""

    people: tuple[str, str]
    n: int
    share: float
    kappa: tuple[float, float, float] | None  # with its 95 % interval; None: chance alone would always agree


class People:
    """What people say of pairs; a pair is known by its key, and its replies by their texts, in whichever order.

    every: count votes that may not certify, too.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self.lines = 0  # votes read, those that may not certify among them
        self.torn = False  # whether a last line was left out that is not whole
        self.left_out: Counter[str] = Counter()  # votes that may not certify, by reason
        self.words: dict[str, dict[str | int, str]] = defaultdict(dict)  # by key and person; without one, by line
        self.draws: dict[int, set[str]] = defaultdict(set)  # keys of what was drawn, by the seed of the order
        self._pairs: dict[str, tuple[int, Contest]] = {}  # by key, as in the first line that has it

    def add(self, line: int, vote: GoldVote) -> None:
        """Count a vote; raises BadRecord if its key is that of another pair."""
        self.lines += 1
        meanings = self._meanings(line, _contest_of(vote))
        word = word_of(vote)
        reason = _objection(vote)
        if reason is not None and not self._every:
            if word != TAKEN_BACK:
                self.left_out[reason] += 1
            return
        self.words[vote.key][vote.annotator] = meanings.get(word, word)
        if vote.seed is not None:
            self.draws[vote.seed].add(vote.key)

    def add_pair(self, line: int, pair: Contest) -> None:
        """Count the label of a pair whose record names no person."""
        if pair.human is not None:
            self.words[pair.key][line] = self._meanings(line, pair)[pair.human]

    def _meanings(self, line: int, pair: Contest) -> Mapping[str, Preference]:
        """What a and b of a line mean for the replies of its key as they are in the first line."""
        first, known = self._pairs.setdefault(pair.key, (line, pair))
        meanings = _orders(known, pair.a, pair.b)
        if meanings is None:
            raise BadRecord(f"'key' is {shown(pair.key)}, that of line {first}, which has other replies")
        return meanings

    def knows(self, key: str, a: str, b: str) -> bool:
        """Whether there is a vote on these two replies."""
        return key in self._pairs and _orders(self._pairs[key][1], a, b) is not None

    def human(self, key: str, a: str, b: str) -> Preference | None:
        """Which of two replies most people prefer; a tie if several answers are the most frequent; None: no label."""
        counts = Counter(word for word in self.words.get(key, {}).values() if word in OTHER)
        if not counts:
            return None
        meanings = _orders(self._pairs[key][1], a, b)
        if meanings is None:
            return None
        most = max(counts.values())
        best = [word for word, count in counts.items() if count == most]
        return meanings[best[0]] if len(best) == 1 else "tie"

    def labelled(self, row: Label) -> Label:
        """A row with what people say of its pair."""
        return row.model_copy(update={"human": self.human(row.key, row.a, row.b)})

    def is_labelled(self, key: str) -> bool:
        """Whether anybody's label of a pair counts."""
        return any(word in OTHER for word in self.words.get(key, {}).values())

    def is_lost(self, key: str) -> bool:
        """Whether a pair was drawn and has no label: all who saw it skipped it, or took their label back."""
        return bool(self.words.get(key)) and not self.is_labelled(key)

    def late(self, keys: Set[str]) -> int:
        """How many of the drawn pairs among these would have been asked about later, had all of these been there."""
        return sum(late_in(random_order(keys, seed), drawn & keys) for seed, drawn in self.draws.items())

    def is_only_left_out(self, key: str) -> bool:
        """Whether a pair has votes, none of which may certify."""
        return key in self._pairs and not self.words.get(key)

    def pairs(self) -> Iterator[tuple[int, Contest]]:
        """Every pair with a vote, and the line that has it first, in that order."""
        for line, pair in self._pairs.values():
            assert pair.a is not None and pair.b is not None
            yield line, replace(pair, human=self.human(pair.key, pair.a, pair.b))

    def verdicts(self) -> dict[str, dict[str, str]]:
        """By pair, the label of every person who has a name."""
        verdicts = {}
        for key, words in self.words.items():
            labels = {who: str(word) for who, word in words.items() if isinstance(who, str) and word in OTHER}
            if labels:
                verdicts[key] = labels
        return verdicts

    def notes(self) -> Iterator[str]:
        """What to know of figures made from these votes."""
        if self.torn:
            yield "the last vote is not whole, as after a kill or while it is written: it is left out"
        if self.left_out:
            reasons = ", ".join(f"{counted(count, 'vote')} {reason}" for reason, count in self.left_out.items())
            yield f"left out: {reasons}; only pairs that are drawn at random and labelled blind may certify"
        for names, n, share, kappa in agreements(self.verdicts()):
            value = "undefined" if kappa is None else "{:.2f} (95 % interval {:.2f} to {:.2f})".format(*kappa)
            yield f"{' and '.join(names)} agree on {share:.1%} of {counted(n, 'pair')}, Cohen's kappa {value}"


def agreements(verdicts: Mapping[Any, Mapping[str, str]]) -> list[Agreement]:
    """Of every two people who labelled the same pairs, those with the most pairs first; verdicts: labels by pair."""
    both: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for labels in verdicts.values():
        for one, other in combinations(sorted(labels), 2):
            both[one, other].append((labels[one], labels[other]))
    compared = []
    for names, words in sorted(both.items(), key=lambda item: -len(item[1])):
        first, second = zip(*words, strict=True)
        share = sum(map(str.__eq__, first, second)) / len(first)
        compared.append(Agreement(names, len(first), share, cohen(first, second)))
    return compared


def _orders(pair: Contest, a: str | None, b: str | None) -> Mapping[str, Preference] | None:
    """What a and b mean if the replies of a pair are in this order; None: it has others."""
    if (pair.a, pair.b) == (a, b):
        return SAME
    return SWAPPED if (pair.a, pair.b) == (b, a) else None


def _contest_of(vote: GoldVote) -> Contest:
    return Contest(
        id=vote.id,
        position=0,
        key=vote.key,
        prompt_id=prompt_hash(vote.prompt),
        messages=vote.prompt,
        a=vote.a,
        b=vote.b,
        a_from="a",
        b_from="b",
    )


def _objection(vote: GoldVote) -> str | None:
    """Why a vote may not certify; None: it may."""
    if vote.queue is None:
        return "that name no queue"
    if vote.queue != RANDOM:
        return f"of the queue {vote.queue}"
    return None if vote.blind else "not blind"
