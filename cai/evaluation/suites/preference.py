"""The suite `preference`: which contestant's replies a judge prefers, pair by pair, against BASE and all together."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from cai.disk.writing import write_atomically
from cai.evaluation.arena.arena import REPLIES, Arena
from cai.evaluation.arena.figures import Contestant, Evaluator, Line, Result
from cai.evaluation.arena.gold import FILE, read_gold
from cai.evaluation.arena.outcomes import Outcome, contests_of, outcomes_of, read_labels
from cai.evaluation.arena.suite import Suite
from cai.evaluation.statistics import stopping
from cai.evaluation.suites import verdicts
from cai.folder.identity import identity_hash
from cai.folder.info import find_info
from cai.folder.lines import DROPPED, read_rows
from cai.judge.gold import random_order
from cai.models import open_models
from cai.records import Candidate, Candidates, Contest, Drop, Place
from cai.runs.kinds.calibration import check_human_labels
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import VERDICT, LabelSettings, SampleSettings
from cai.runs.run import Run
from cai.texts.likeness import identical
from cai.texts.wording import counted

FIRST = 32  # prompts before the first look whether it is decided
GROWTH = 1.25  # of the prompts from look to look: at most a fifth of the calls come too late to count
NOT_ASKED = {  # why records of the source were not asked, for people to read
    "bad_input": "record of the prompts could not be read",
    "duplicate_prompt": "prompt occurs a second time and is not asked again",
}
LABELLED = 1_000  # pairs that are written down for people to label


def dropped_in(folder: Path) -> set[int]:
    """The positions of what a run has dropped."""
    return {drop.position for drop in read_rows(folder / DROPPED, Drop)}


class Preference(Suite):
    """Pairs of contestants' replies to one prompt, judged as `cai label` does."""

    name = "preference"
    title = "which replies the judge prefers"
    counted = True
    evaluator: Evaluator | None = None  # what is known of the judge

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        settings = arena.settings
        if settings.gold is not None:
            check_human_labels(settings.gold, "--gold")
        self.each = settings.n
        self.judge = open_models({"judge": settings.judge}, settings.connection)
        self.labels = self._labelling([])  # checks all that can be checked
        self.best = None if settings.best_of is None else self._best_of()
        self.contestants = list(arena.contestants)
        if settings.best_of is not None:
            name = f"{arena.contestants[0].name}, best of {settings.best_of}"
            self.contestants.append(Contestant(name=name, spec=arena.contestants[0].spec))

    # What is asked

    def _labelling(self, pairs: list[Place]) -> LabelRun:
        settings = self.arena.settings_of(
            LabelSettings, "labels", pairing="models", min_confidence=0.5, max_tokens=VERDICT, limit=None, gold=None,
            temperature=1.0,
        )  # fmt: skip
        replies = self.arena.replies_run()
        origin: dict[str, Any] = {"command": "sample", "run": identity_hash(replies.identity), "n": replies.replies}
        if self.arena.settings.best_of is not None:
            origin["best_of"] = self.arena.settings.best_of
        run = LabelRun(self.arena.out / "replies", settings, players=self.judge, pairs=pairs, origin=origin)
        run.cuts = False
        run.may_be_unusable = True
        return run

    def _best_of(self) -> SampleRun:
        """BASE's further replies, drawn with another seed, of which the judge picks the best."""
        settings = self.arena.settings
        values = {"model": self.arena.specs[0], "n": None, "seed": settings.seed + 1}
        if self.labels.protocol == "reward":  # it reads no principles
            values |= {"constitution": None, "principles": None}
        return SampleRun(self.arena.source, self.arena.settings_of(SampleSettings, "best-of", **values))

    def sessions(self) -> Iterator[Run[Any]]:
        """The best of N; then the labels, or, until it is decided, a few replies and their labels in turn."""
        if self.best is not None:
            yield from self.best.sessions()
        if not self.arena.settings.stop_when_decided:
            yield self._labelling(self._pairs())
            return
        limit = self._limit_before() or FIRST
        while not self._is_decided():
            replies = self.arena.replies_run(limit)
            yield replies
            yield self._labelling(self._pairs())
            if replies.total is not None and replies.total < limit:
                return
            limit = math.ceil(limit * GROWTH)

    def _limit_before(self) -> int | None:
        """How many prompts an earlier session had come to; None: there was none, or it is started over."""
        info = None if self.arena.settings.force else find_info(self.arena.out / REPLIES)
        return None if info is None else info.get("settings", {}).get("limit")

    def planned(self) -> Iterator[Run[Any]]:
        """The best of N, and the labels of the replies that are there already."""
        if self.best is not None:
            yield from self.best.parts()
        yield self._labelling(self._pairs())

    def follow_ups(self, row: Candidates) -> Iterator[tuple[Run[Any], Place]]:
        """The pairs of replies to a prompt."""
        for place in contests_of([(row, self.arena.sides(row))], self.each):
            yield self.labels, place

    def _rows(self) -> Iterator[tuple[Candidates, list[list[Candidate]]]]:
        """The rows of all replies; the best of N, if wanted, as those of one more contestant."""
        best = self._best_replies()
        for row, sides in self.arena.replies():
            if self.best is not None:
                picked = best.get(row.id)
                sides = [*sides, [picked] if picked is not None else []]
            yield row, sides

    def _pairs(self) -> list[Place]:
        return list(contests_of(self._rows(), self.each))

    def _best_replies(self) -> dict[str, Candidate]:
        path = self.arena.out / "best-of" / "sft.jsonl"
        if self.best is None or not path.exists():
            return {}
        replies = {}
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            replies[row["id"]] = Candidate(text=row["completion"][-1]["content"], model=str(row["model"]), sample=0)
        return replies

    # What follows

    def outcomes(self) -> list[Outcome]:
        """What became of every pair whose replies are there."""
        return outcomes_of(self._pairs(), read_labels(self.arena.out / "labels" / "labels.jsonl"), self.each)

    def result(self) -> Result:
        """Win rates against BASE, and what can be said of them."""
        settings = self.arena.settings
        outcomes = self.outcomes()
        names = [contestant.name for contestant in self.contestants]
        others = range(1, len(names))
        details: dict[str, Any] = {"pairs": {names[one]: verdicts.counts_of(outcomes, one, 0) for one in others}}
        if settings.stop_when_decided:
            in_order = self._in_order()
            lines = [verdicts.decided_line(names[one], in_order, one, self.alpha) for one in others]
        else:
            lines = [verdicts.win_line(names[one], outcomes, one) for one in others]
        compared = min((line.figure.n for line in lines if line.figure.n), default=0)  # of the model with the fewest
        if settings.gold is not None:
            corrected, details["bias"] = self._corrected(outcomes, settings.gold)
            lines += corrected
        if settings.length_control:
            lines += [verdicts.length_line(names[one], outcomes, one) for one in others]
        facts = list(verdicts.detectable_facts(compared, self.evaluator))
        if settings.stop_when_decided:
            facts[:1] = [
                f"stops at an e-value of {1 / self.alpha:g}, which a model as good as BASE reaches in at most 5 % of "
                "evaluations"
            ]
        else:  # these intervals hold only at an end that was fixed before
            lines += verdicts.differences(names, outcomes)
            if len(names) > 2:
                rated, groups = verdicts.rating_lines(names, outcomes, settings.seed)
                lines += rated
                facts += [f"{', '.join(group)} met no other contestant: no rating" for group in groups[1:]]
        self._write_to_label()
        return Result(
            suite=self.name,
            title=self.title,
            facts=tuple(facts),
            lines=tuple(lines),
            warnings=tuple(self._warnings(outcomes)),
            details=details,
        )

    @property
    def alpha(self) -> float:
        """The chance of a false stop for each model, so that for all together it is at most 5 %."""
        return stopping.ALPHA / (len(self.contestants) - 1)

    def _in_order(self) -> list[Outcome]:
        """The outcomes of the prompts before the first one that waits for a reply or a label.

        Prompts that merely finish first are not a random sample.
        """
        folder = self.arena.out
        answered = {row.position for row, _ in self.arena.replies()} | dropped_in(folder / REPLIES)
        end = next(position for position in itertools.count() if position not in answered)
        outcomes = self.outcomes()
        gone = dropped_in(folder / "labels")
        for (position, _), outcome in zip(self._pairs(), outcomes, strict=True):
            if not outcome.judged and position not in gone:
                end = min(end, outcome.prompt)
        return [outcome for outcome in outcomes if outcome.prompt < end]

    def _is_decided(self) -> bool:
        outcomes = self._in_order()
        others = range(1, len(self.contestants))
        return all(verdicts.decision_of(outcomes, one, self.alpha) is not None for one in others)

    def _corrected(self, outcomes: list[Outcome], path: str | Path) -> tuple[list[Line], dict[str, float | None]]:
        """The win rates without the judge's bias, and the bias of each; the judge's accuracy is then that on gold."""
        differing = [outcome for outcome in outcomes if not outcome.same]
        replies = {outcome.key: outcome.a for outcome in differing}
        gold = verdicts.both_ways(differing, replies, read_gold(path, replies, self.arena.settings.seed))
        accuracy = verdicts.accuracy_on(outcomes, gold)
        if accuracy is not None and self.evaluator is not None:
            self.evaluator = self.evaluator.model_copy(update={"accuracy": accuracy, "source": str(path)})
        lines, biases = [], {}
        for number, contestant in enumerate(self.contestants[1:], 1):
            line, biases[contestant.name] = verdicts.corrected_line(contestant.name, outcomes, number, gold)
            lines.append(line)
        return lines, biases

    def _warnings(self, outcomes: list[Outcome]) -> Iterator[str]:
        replies = Counter[str]()
        unusable = Counter[str]()
        for _, sides in self._rows():
            for contestant, side in zip(self.contestants, sides, strict=True):
                for reply in side:
                    replies[contestant.name] += 1
                    unusable[contestant.name] += reply.problem is not None
        for name, count in unusable.items():
            if count:
                share = f"{count:,} of {counted(replies[name], 'reply')}"
                yield f"{share} of {name} cannot be used (truncated, filtered or empty) and are not compared"
        info = find_info(self.arena.out / REPLIES)
        dropped = dict(info["dropped"]) if info is not None else {}
        for reason, what in NOT_ASKED.items():
            if dropped.get(reason):
                yield f"{counted(dropped.pop(reason), what)}: see {self.arena.out / REPLIES / DROPPED}"
        if dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
            yield f"prompts to which no model has a usable reply are left out: {reasons}"
        if self.best is not None:
            yield f"{self.contestants[-1].name} is picked by this judge itself: its win rate is an upper bound"

    def _write_to_label(self) -> None:
        """Write the first pairs of the random order for people to label, without saying who wrote what."""
        items = [item for _, item in self._pairs() if isinstance(item, Contest)]
        contests = {item.key: item for item in items if not identical(str(item.a), str(item.b))}
        order = random_order(contests, self.arena.settings.seed)[:LABELLED]
        lines = []
        for key in order:
            contest = contests[key]
            texts = [contest.a, contest.b]
            if hashlib.sha256(f"{self.arena.settings.seed}:side:{key}".encode()).digest()[0] % 2:
                texts.reverse()
            pair = {"prompt": contest.messages, "a": texts[0], "b": texts[1], "human": None}
            lines.append(orjson.dumps({"key": key, "id": contest.prompt_id, **pair}) + b"\n")
        write_atomically(self.arena.out / FILE, b"".join(lines))
