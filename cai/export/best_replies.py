"""The best reply to each prompt (best of N), from the labels of its pairs: SFT rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from cai.errors import RunError
from cai.export.cut import Cut, Lines, Row, line_of
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, Standing, best_of, standings, unfit
from cai.export.preferences import JUDGE, LabelCut, provenance
from cai.folder.rows import PAIR_BITS, lines_in_order
from cai.folder.run import RunFolder, find_info
from cai.records import Record

MANY_FLIPS = 0.5  # of the valid votes: then the place decides more often than the reply
UNJUDGED: Reason = "invalid_vote", "no pair of its replies was judged"
FILES = {
    "sft": {
        "messages": "turns", "id": "text", "best_of": "count", "p": "number", "labels": "texts", **JUDGE,
        "model": "text", "from": "text",
    }
}  # fmt: skip


class BestSummary(Record):
    """What choosing the best replies came to."""

    prompts: int  # whose replies were read
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

    Of a label run, or of a sample run whose labels are in `labels/`. A prompt whose two best replies have the same mean
    leaves as low_confidence, one without a valid vote or without a pair as invalid_vote. Replies that could not be
    used, and prompts with only one reply, are in no pair.
    """

    files = FILES
    stages = ("sft",)
    kind = "best replies"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        self._of_samples = run.identity["command"] == "sample"
        if self._of_samples:
            super().__init__(run, options, run.path / "labels", _binding(run))
        else:
            super().__init__(run, options)
        self._sum = self._chances = 0.0
        self._longest = self._uneven = 0

    def lines(self) -> Lines:
        """The prompts without a best reply."""
        for unit in self._with_unjudged() if self._of_samples else self.units():
            if isinstance(unit, tuple):
                self.read["sft"] += 1
                yield self.drop("sft", UNJUDGED, *unit)
                continue
            with self.blaming(unit):
                drop = self._cut(unit)
            if drop is not None:
                yield drop

    def _with_unjudged(self) -> Iterator[list[Row] | tuple[str, int]]:
        """The labels of each prompt of a sample run; id and position of a prompt that has none."""
        units = self.units()
        unit = next(units, None)
        for position, line in lines_in_order(self._run.path / "candidates.jsonl"):
            if unit is not None and unit[0]["position"] >> PAIR_BITS == position:
                yield unit
                unit = next(units, None)
            else:
                yield orjson.loads(line)["id"], position

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
        position = first["position"]
        if self._of_samples:
            position >>= PAIR_BITS
        return self.drop("sft", best, first["prompt_id"], position)

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
        """What the user should know."""
        yield from Cut.notes(self)
        if self.calibration is None:
            yield "not calibrated: how often people would choose the same reply is unknown"
        flips = self.judged.flip_rate
        if flips is not None and flips > MANY_FLIPS:
            yield f"{flips:.0%} of the votes flip with reply order: position bias outweighs most preferences"

    def figures(self) -> dict[str, Any]:
        """What was counted."""
        kept, uneven = self.kept["sft"], self._uneven
        summary = BestSummary(
            prompts=self.read["sft"],
            mean_p=self._sum / kept if kept else None,
            longest_won=self._longest / uneven if uneven else None,
            longest_chance=self._chances / uneven if uneven else None,
        )
        return {"best": summary}


def _binding(run: RunFolder) -> Row:
    """The judge of the labels of a sample run."""
    folder = run.path / "labels"
    info = find_info(folder)
    if info is None:
        raise RunError(f"{run.path} has no labels: run cai label {run.path} --out {folder}")
    if "binding" not in info["identity"]:
        raise RunError(f"{folder} is not a label run: move it away, and run cai label {run.path} --out {folder}")
    binding: Row = info["identity"]["binding"]
    return binding


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
