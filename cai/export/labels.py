"""What the cuts of a label run share, its labels prompt by prompt; and the cut of the best replies.

Every label is read once, or twice if a target bounds the pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import orjson
from pydantic import ValidationError

from cai.export.cut import LAW, Cut, Judged, Lines, Row, line_of
from cai.export.options import ExportOptions, calibration_of, filters_of
from cai.export.pairs import confidence, flipped
from cai.export.standings import Standing, best_of, standings, unfit
from cai.folder.run import PAIR_BITS, RunFolder
from cai.judge.certify import threshold
from cai.records import Label, Record

BAD_ROW = (LookupError, TypeError, AttributeError, ValueError)  # what a row that is not a label leads to
MANY_FLIPS = 0.5  # of the valid votes: then the place decides more often than the reply
JUDGE = {**LAW, "judge": "text", "protocol": "text"}


class LabelCut(Cut):
    """A cut of a label run."""

    rows_file = "labels.jsonl"
    judged: Judged

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        self.calibration = calibration_of(options, run.identity["binding"])
        self.filters = filters_of(options, self.calibration)
        self.judged = Judged()

    def units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another."""
        try:
            yield from read_units(self._run.path / self.rows_file)
        except BAD_ROW as error:  # raised by the reading; what fails while the rows are cut is `blaming`'s
            raise self.damaged() from error

    @contextmanager
    def blaming(self, unit: Sequence[Row]) -> Iterator[None]:
        """Raise RunError for a line that is not a label; errors of the code pass."""
        try:
            yield
        except BAD_ROW as error:
            if are_labels(unit):
                raise
            raise self.damaged() from error

    def count(self, row: Row) -> None:
        """Count a label: how sure the judge is, and how it votes."""
        facts, judged = self.facts, self.judged
        facts.rows += 1
        facts.count_models(row["models"])
        judged.asked += len(row["votes"])
        if row["z"] is None:
            return
        judged.confidences.append(confidence(row, self.filters))
        flips, votes = flipped(row)
        judged.flips += flips
        judged.votes += votes
        for vote in row["votes"]:
            facts.used[vote["principle"]] += 1
            if vote["b"] is not None:
                judged.biases += 1
                judged.bias += vote["b"]

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        calibration, least = self.calibration, self.filters.min_confidence
        if calibration is None:
            yield (
                f"not calibrated: how often confidence-{least:g} labels agree with people is unknown; calibrate on "
                "pairs with human labels: cai judge calibrate"
            )
            return
        if self.options.agreement is None:
            yield f"--min-confidence {least:g} guarantees no agreement with people; --agreement chooses one that does"
        else:
            at = threshold(calibration, self.options.agreement)
            yield (
                f"labels of confidence {at.calibrated:.4g} or more agree with people in at least {at.target:.0%} of "
                f"the cases: certified on {at.n:,} gold pairs; {calibration.promise}"
            )
        for note in calibration.notes:
            yield f"of the gold pairs: {note}"

    def why_empty(self) -> str:
        """Why no pair is kept, from how sure the judge is."""
        least = self.filters.min_confidence
        middle, most = median(self.judged.confidences), max(self.judged.confidences)
        empty = f"no pair is kept at confidence {least:g}, so dpo.jsonl is empty"
        if most <= 0.5:
            return f"{empty}: every label is at exactly one half, so this judge decides nothing; use a stronger judge"
        hint = "dropped.jsonl says why"
        if self.facts.dropped["pairs", "low_confidence"] and least > 0.5:
            hint = f"set --min-confidence between 0.5 and {most:.3f}, or use a stronger judge"
        return f"{empty}: the median confidence is {middle:.3f}, the highest {most:.3f}; {hint}"


# Rows of labels.jsonl


def read_units(path: Path) -> Iterator[list[Row]]:
    """The labels of one prompt after another, in input order.

    As `lines_in_order` does, but a line is parsed once: its position is searched for, which saves a tenth of the time.
    """
    places = []  # position and offset in one integer
    with open(path, "rb", buffering=2**18) as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                places.append(_position(line) << 48 | start)
            start += len(line)
        places.sort()
        for _, unit in itertools.groupby(places, key=lambda place: place >> 48 + PAIR_BITS):
            rows = []
            for place in unit:
                file.seek(place & (1 << 48) - 1)
                rows.append(orjson.loads(file.readline()))
            yield rows


def _position(line: bytes) -> int:
    """The position of a row; the first key of that name is the row's own: a text before it has its quotes escaped."""
    start = line.find(b'"position":') + 11
    digits = line[start : line.find(b",", start)]
    if start > 10 and digits.strip().isdigit():
        return int(digits)
    return int(orjson.loads(line)["position"])


def are_labels(unit: Sequence[Row]) -> bool:
    """Whether rows are labels, so that an error in cutting them is not theirs."""
    try:
        return all(Label.model_validate_json(orjson.dumps(row)).prompt for row in unit)
    except ValidationError:
        return False


def provenance(row: Row) -> Row:
    """Whose label a row is."""
    law = row["constitution"]
    return {
        "constitution": f"{law['name']}@{law['version']}",
        "constitution_hash": law["hash"],
        "judge": row["models"].get("judge"),
        "protocol": row["protocol"],
    }


# Best of N


FILES = {
    "sft": {
        "messages": "turns", "id": "text", "best_of": "count", "p": "number", "labels": "texts", **JUDGE,
        "model": "text", "from": "text",
    }
}  # fmt: skip


class BestSummary(Record):
    """What choosing the best replies came to."""

    prompts: int  # with labels
    mean_p: float | None  # of the best replies: mean probability of being better than the others
    longest_won: float | None  # share of the prompts with one longest reply in which that one is the best
    longest_chance: float | None  # what that share would be if length did not count: the mean of 1 / replies

    def lines(self) -> Iterator[str]:
        """The summary in words, for people."""
        if self.mean_p is not None:
            yield f"mean probability that the best reply is better than another: {self.mean_p:.3f}"
        if self.longest_won is not None:
            yield f"the longest reply is the best in {self.longest_won:.0%}; {self.longest_chance:.0%} by chance"


class BestCut(LabelCut):
    """The best reply to each prompt, by its mean probability of being better than the others: `sft`.

    A prompt whose two best replies have the same mean leaves as low_confidence, one without a valid vote as
    invalid_vote. Replies that could not be used, and prompts with only one reply, are in no pair.
    """

    files = FILES
    stages = ("sft",)
    kind = "best replies"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        self._sum = self._chances = 0.0
        self._longest = self._uneven = 0

    def lines(self) -> Lines:
        """The prompts without a best reply."""
        for unit in self.units():
            with self.blaming(unit):
                drop = self._cut(unit)
            if drop is not None:
                yield drop

    def _cut(self, unit: Sequence[Row]) -> tuple[int, bytes] | None:
        for row in unit:
            self.count(row)
        self.read["sft"] += 1
        first = unit[0]
        replies = standings(unit, self.filters)
        best = best_of(replies)
        if isinstance(best, Standing):
            why = unfit(best.text, first["prompt"], self.filters)
            if why is None:
                self._keep(best, replies, first)
                return None
            best = why
        return self.drop("sft", best, first["prompt_id"], first["position"])

    def _keep(self, best: Standing, replies: Sequence[Standing], row: Row) -> None:
        self.add("sft", self.side(row["prompt"]), line_of(best_row(best, len(replies), row)))
        self.kept["sft"] += 1
        self._sum += best.p or 0.0
        lengths = [len(reply.text.strip()) for reply in replies]
        if lengths.count(max(lengths)) == 1:
            self._uneven += 1
            self._chances += 1 / len(lengths)
            self._longest += len(best.text.strip()) == max(lengths)

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        if self.calibration is None:
            yield "not calibrated: how often people would choose the same reply is unknown"
        flips = self.judged.flip_rate
        if flips is not None and flips > MANY_FLIPS:
            yield f"{flips:.0%} of the votes flip with the reply order: position bias outweighs most preferences"

    def summary(self) -> BestSummary:
        """What was counted."""
        kept, uneven = self.kept["sft"], self._uneven
        return BestSummary(
            prompts=self.read["sft"],
            mean_p=self._sum / kept if kept else None,
            longest_won=self._longest / uneven if uneven else None,
            longest_chance=self._chances / uneven if uneven else None,
        )


def best_row(best: Standing, count: int, row: Row) -> Row:
    """The row of sft.jsonl that the best of `count` replies becomes; `row` is any label of its prompt."""
    return {
        "messages": [*row["prompt"], {"role": "assistant", "content": best.text}],
        "id": row["prompt_id"],
        "best_of": count,
        "p": best.p,
        "labels": best.labels,
        **provenance(row),
        "model": best.name[2] or None,
        "from": best.name[1],
    }
