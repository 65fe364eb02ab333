"""Labels by hand: which pair a person is asked about next, what becomes of a vote, and how far the labels go.

A person is not shown which reply is which, nor what the judge says of a pair before the vote.
"""

from __future__ import annotations

import getpass
import hashlib
from pathlib import Path
from statistics import fmean
from threading import RLock

from cai.engine.letters import probability
from cai.errors import UsageError
from cai.judge.certify import first_tested
from cai.judge.gold import (
    FILE,
    RANDOM,
    SKIPPED,
    TAKEN_BACK,
    GoldVote,
    Side,
    append_vote,
)
from cai.judge.majority import agreements
from cai.judge.metrics import credit, wilson
from cai.judge.people import TRUTHS
from cai.records import Values
from cai.sources.labels import OTHER, Preference
from cai.texts.likeness import identical
from cai.viewer.pairs import Pair, Pairs
from cai.viewer.votes import Votes

MOST_SEED_BITS = 63  # of integers that every reader of JSON reads back
CHOICES = ("first", "second", "tie", "skip")


class Labelling:
    """One person's votes on the pairs of a run, beside those of others in the same file.

    gold: the file of votes; None: gold.jsonl of the run. annotator: who votes; None: the user of the system. agreement:
    of judge and people that is to be certified. seed: of the random order. May be used by several threads.
    Raises RunError or UsageError, and SourceError for a file that holds anything else than votes.
    """

    def __init__(
        self,
        run: Path,
        gold: Path | None = None,
        annotator: str | None = None,
        agreement: float = 0.85,
        seed: int = 0,
    ) -> None:
        self.path = gold or run / FILE
        self.annotator = _name(annotator)
        if seed.bit_length() > MOST_SEED_BITS:
            raise UsageError(f"--seed {seed} is too large to be kept with a vote: name a smaller one, such as 1")
        self.needed = first_tested(agreement)
        self._seed = seed
        self._pairs = Pairs(run, seed)
        self._lock = RLock()
        self._seen: set[str] = set()  # keys of pairs whose verdict was shown
        self._put_off: set[str] = set()  # and of those skipped, until another session
        self._asked: set[tuple[str, str]] = set()  # queue and key of what was asked about
        self._votes = Votes(self.path, self.annotator)
        self._follow()

    def _follow(self) -> None:
        """Read what was added to the run, and to the votes by whomever."""
        self._pairs.follow()
        self._votes.follow()

    @property
    def is_judged(self) -> bool:
        """Whether a judge has labelled the pairs."""
        return bool(self._pairs.is_judged)

    # For the page

    def ask(self, queue: str) -> Values | None:
        """The next pair of a queue: key, id, prompt, and the first and second reply; None: there is none to ask about.

        A pair that was skipped, or whose verdict this session has shown, is asked about in the next session; one whose
        label in the random queue was taken back is not asked about again.
        """
        with self._lock:
            self._follow()
            for key in self._pairs.order(queue):
                if key in self._put_off or self._is_seen(key) or self._is_labelled(key, queue):
                    continue
                pair = self._pairs.pair(key)
                if pair is not None and not identical(pair.a, pair.b):  # no judge is asked about those either
                    self._asked.add((queue, key))
                    return self.pair(key)
        return None

    def _is_labelled(self, key: str, queue: str) -> bool:
        if queue == RANDOM:  # in which only blind votes count
            return self._votes.people.words.get(key, {}).get(self.annotator) in OTHER
        return self._votes.mine.is_labelled(key)

    def pair(self, key: str) -> Values:
        """A pair as it is asked about; raises UsageError for a key that the run does not have."""
        pair = self._pair(key)
        texts = {"a": pair.a, "b": pair.b}
        first, second = self._sides(key)
        return {
            "key": key,
            "id": pair.id,
            "prompt": list(pair.prompt),
            "first": texts[first],
            "second": texts[second],
            "blind": not self._is_seen(key),
        }

    def _is_seen(self, key: str) -> bool:
        """Whether this person knows the verdict on a pair: from this session, or by a label that was taken back."""
        return key in self._seen or (self.is_judged and key in self._votes.shown)

    def _pair(self, key: str) -> Pair:
        with self._lock:
            pair = self._pairs.pair(key)
        if pair is None:
            raise UsageError(f"the run has no pair {key!r}")
        return pair

    def _sides(self, key: str) -> tuple[Side, Side]:
        """Which reply is shown first, and which second."""
        digest = hashlib.sha256(f"{key}:{self.annotator}".encode()).digest()
        return ("a", "b") if digest[0] % 2 == 0 else ("b", "a")

    def seen(self, key: str) -> None:
        """The verdict on a pair has been shown: a vote on it is no longer blind."""
        with self._lock:
            self._seen.add(key)

    def people(self, *keys: str) -> list[tuple[int, Preference | None]]:
        """Of pairs, by default all with votes: where the line of the row starts, and what this person or others say."""
        with self._lock:
            self._follow()
            every = keys or tuple({*self._votes.mine.words, *self._votes.people.words})
            starts = {key: start for key in every if (start := self._pairs.start(key)) is not None}
            return [(start, self._human(key)) for key, start in starts.items()]

    def _human(self, key: str) -> Preference | None:
        pair = self._pair(key)
        return self._votes.mine.human(key, pair.a, pair.b) or self._votes.people.human(key, pair.a, pair.b)

    def vote(self, key: str, queue: str, choice: str, seconds: float | None = None, blind: bool = True) -> Values:
        """Write a vote down: first, second, tie or skip. Returns what may be shown once it is on disk.

        That is key, choice, blind, and of a judged pair `judge` (first, second, tie, None) with its confidence.
        """
        if choice not in CHOICES:
            raise UsageError(f"choice {choice!r} must be one of {', '.join(CHOICES)}")
        with self._lock:
            pair = self._pair(key)
            if (queue, key) not in self._asked:  # a pair that somebody picks is not drawn
                raise UsageError(f"the queue {queue!r} has not asked about pair {key!r} in this session")
            blind = blind and not self._is_seen(key)
            first, second = self._sides(key)
            word = {"first": first, "second": second, "tie": "tie", "skip": SKIPPED}[choice]
            self._append(pair, word, queue, blind, seconds)
            if word == SKIPPED:  # it will be asked about again, so nothing of it is shown
                self._put_off.add(key)
                return {"key": key, "choice": choice, "blind": blind, "judge": None, "confidence": None}
            self._seen.add(key)
            return {"key": key, "choice": choice, "blind": blind, **self._verdict(pair)}

    def _append(
        self, pair: Pair, word: str, queue: str | None, blind: bool | None, seconds: float | None = None
    ) -> None:
        vote = GoldVote(
            key=pair.key,
            id=pair.id,
            prompt=pair.prompt,
            a=pair.a,
            b=pair.b,
            human=word if word in OTHER else None,
            skipped=word == SKIPPED,
            annotator=self.annotator,
            shown_first=self._sides(pair.key)[0],
            blind=blind,
            queue=queue,
            seed=self._seed,
            seconds=seconds,
        )
        append_vote(self.path, vote)
        self._follow()

    def _verdict(self, pair: Pair) -> Values:
        """What the judge says of a pair."""
        if pair.p_a is None:
            return {"judge": None, "confidence": None}
        names = dict(zip(self._sides(pair.key), CHOICES, strict=False))
        judge = "tie"
        if pair.p_a != 0.5:
            judge = names["a" if pair.p_a > 0.5 else "b"]
        return {"judge": judge, "confidence": max(pair.p_a, 1 - pair.p_a)}

    def undo(self) -> Values | None:
        """Take this person's last vote that stands back, also of an earlier session; returns its pair and queue."""
        with self._lock:
            self._follow()
            acts = (act for act in reversed(self._votes.standing) if self._pairs.start(act[0]) is not None)
            act = next(acts, None)  # the file may have votes on pairs of other runs
            if act is None:
                return None
            key, queue, blind = act
            if self._votes.by_queue[queue][key] != SKIPPED:  # then its verdict was shown, if not in this session
                self._seen.add(key)
            self._append(self._pair(key), TAKEN_BACK, queue, blind)
            self._asked.add((str(queue), key))
            return {**self.pair(key), "queue": queue}

    def standing(self, queue: str = RANDOM) -> Values:
        """How far the votes of a queue go.

        labels: pairs with a label, in the random queue of any person. needed: labels before a threshold is tried. lost:
        pairs that were drawn, and skipped by all who saw them. agreement: of the judge with people on those pairs, with
        its 95 % interval; people: of every two people, with Cohen's kappa.
        """
        with self._lock:
            self._follow()
            if queue != RANDOM:  # picked pairs say nothing of an agreement
                mine = self._votes.by_queue[queue].items()
                labels = sum(word in OTHER and self._pairs.start(key) is not None for key, word in mine)
                return {"queue": queue, "labels": labels, "needed": None, "lost": None, "agreement": None, "people": []}
            keys = [key for key in self._votes.people.words if self._pairs.start(key) is not None]
            credits = [right for key in keys if (right := self._credit(key)) is not None]
            return {
                "queue": queue,
                "labels": sum(map(self._votes.people.is_labelled, keys)),
                "needed": self.needed,
                "lost": sum(map(self._votes.people.is_lost, keys)),
                "agreement": _with_interval(credits),
                "people": [each._asdict() for each in agreements(self._votes.people.verdicts())],
            }

    def _credit(self, key: str) -> float | None:
        """How right the judge is on a pair; None if there is no label, or no verdict."""
        pair = self._pairs.pair(key)
        if pair is None or pair.z is None:
            return None
        human = self._votes.people.human(key, pair.a, pair.b)
        return None if human is None else credit(probability(pair.z), TRUTHS[human])


def _with_interval(credits: list[float]) -> Values | None:
    if not credits:
        return None
    share = fmean(credits)
    low, high = wilson(share * len(credits), len(credits))
    return {"value": share, "low": low, "high": high, "n": len(credits)}


def _name(annotator: str | None) -> str:
    if annotator is None:
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):
            raise UsageError("this user has no name: say who labels with --annotator NAME") from None
    name = annotator.strip()
    if not name.isprintable() or not name:
        raise UsageError(f"--annotator {annotator!r} must be a name in printable characters")
    return name
