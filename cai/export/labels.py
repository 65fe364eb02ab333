"""The cut of a label run: pairs for DPO and reward models, single replies for KTO.

What is kept and why is told by `cai.export.pairs`; this module makes the rows, keeps the order and counts. Every label
is read once, or twice where a target bounds the pairs.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from statistics import median
from typing import Any, NamedTuple

import orjson

from cai.export.card import Judged
from cai.export.cut import Cut, Lines, Spool
from cai.export.label_rows import BAD_ROW, Texts, are_labels, read_units
from cai.export.pairs import (
    Filters,
    Pairing,
    Row,
    confidence,
    detail,
    extra_pass,
    flipped,
    margin,
    p_a,
    reasons,
    sides,
)
from cai.export.standings import Standing, edge, standing_reason, standings
from cai.export.tables import line_of
from cai.folder.run import RunFolder
from cai.records import DropReason


class Choice(NamedTuple):
    """What a cut of labels keeps."""

    filters: Filters
    pairing: Pairing = "all"
    dead_zone: float | None = None  # upper edge, from 0.5 to 1; None: where a pair at min_confidence lies
    target: int | None = None  # pairs kept at most
    samples: int | None = None  # replies per prompt that the source was first asked for; None: it has no passes


class LabelCut(Cut):
    """The cut of a label run: `dpo` and `reward` of pairs, `kto` of single replies.

    kto has as many desirable rows as undesirable ones on each side of a split; where there are more of one kind, those
    leave whose p is nearest to one half, of equal ones the later.
    """

    rows_file = "labels.jsonl"
    files = ("dpo", "kto", "reward")
    stages = ("pairs", "kto")

    def __init__(self, run: RunFolder, choice: Choice, split: float | None, columns: Mapping[str, Any]) -> None:
        super().__init__(run, split, columns)
        self.judged = self.facts.judged = Judged(min_confidence=choice.filters.min_confidence)
        self._choice, self._upper = choice, edge(choice.dead_zone, choice.filters)
        self._last: tuple[int, int] | None = None  # the place of the last pair within the target; None: no end
        self._standing = {(side, label): array("d") for side in ("", ".eval") for label in (False, True)}
        reads = choice.filters.hygiene or choice.filters.benign
        self._texts = Texts(run.path) if reads else None
        self._kinds = array("b")  # of the examples, in order: which of `_standing` they are in

    def lines(self) -> Lines:
        """The drops of pairs and replies; all rows are on their way when the first one comes."""
        self._drops, self._surplus, self._examples = (Spool(self._run.path) for _ in range(3))
        try:
            if self._choice.target is not None:
                self._last = self._end(self._choice.target)
            for unit in self._units():
                try:
                    self._cut(unit)
                except BAD_ROW as error:
                    if are_labels(unit):
                        raise
                    raise self.damaged() from error
            self._balance()
            if self._texts is not None:
                self._texts.save()
            yield from heapq.merge(self._drops, self._surplus, key=itemgetter(0))
        finally:
            for spool in (self._drops, self._surplus, self._examples):
                spool.close()

    def _units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another, with what is known of their texts."""
        try:
            for rows in read_units(self._run.path / self.rows_file):
                if self._texts is not None:
                    for row in rows:
                        if row["z"] is not None:
                            self._texts.add_to(row)
                yield rows
        except BAD_ROW as error:  # of the reading alone: what fails where the rows are wanted does not come by here
            raise self.damaged() from error

    def _place(self, row: Row) -> tuple[int, int]:
        """Where a pair stands in line for the target: what needed no further samples comes first."""
        return extra_pass(row, self._choice.samples), row["position"]

    def _end(self, target: int) -> tuple[int, int] | None:
        """The place of the last pair within the target; None where there are no more."""
        filters, pairing = self._choice.filters, self._choice.pairing
        kept = array("Q")
        for unit in self._units():
            try:
                whys = reasons(unit, filters, pairing)
            except BAD_ROW as error:
                if are_labels(unit):
                    raise
                raise self.damaged() from error
            for row, why in zip(unit, whys, strict=True):
                if why is None:
                    extra, position = self._place(row)
                    kept.append(extra << 48 | position)
        if len(kept) <= target:
            return None
        last = sorted(kept)[target - 1]
        return last >> 48, last & (1 << 48) - 1

    def _cut(self, unit: Sequence[Row]) -> None:
        side = self.side(unit[0]["prompt"])
        whys, counted = self._reasons(unit), unit
        if self._last is not None:
            late = [self._place(row) > self._last for row in unit]
            whys = ["over_target" if over and why is None else why for over, why in zip(late, whys, strict=True)]
            counted = [row for over, row in zip(late, unit, strict=True) if not over]
        left = []
        for row, why in zip(unit, whys, strict=True):
            self._count(row)
            if why is None:
                self._keep_pair(row, side)
            else:
                told = detail(why, row, self._choice.filters)
                left.append(self.drop("pairs", why, row["id"], row["position"], told))
        left += self._cut_replies(unit, counted, side)
        left.sort(key=itemgetter(0))
        for position, line in left:
            self._drops.add(position, line)

    def _reasons(self, unit: Sequence[Row]) -> list[DropReason | None]:
        return reasons(unit, self._choice.filters, self._choice.pairing)

    def _keep_pair(self, row: Row, side: str) -> None:
        line = line_of(pair_row(row, self._choice.filters))
        self.add("dpo", side, line)
        self.add("reward", side, line)
        self.kept["pairs"] += 1
        best, worst = (len(row[which].strip()) for which in sides(row))
        self.judged.longer += best > worst
        self.judged.uneven += best != worst

    def _cut_replies(self, unit: Sequence[Row], counted: Sequence[Row], side: str) -> Lines:
        """Put the replies of one prompt in line for kto; those that are no examples come back.

        counted: the labels within the target, which alone say how a reply did.
        """
        filters, upper, prompt = self._choice.filters, self._upper, unit[0]["prompt"]
        found = standings(counted, filters)
        if len(counted) < len(unit):
            known = {reply.text.strip() for reply in found}
            for reply in standings(unit, filters):
                if reply.text.strip() not in known:
                    self.read["kto"] += 1
                    yield self.drop("kto", "over_target", reply.id, reply.position, REPLY_DETAILS["over_target"])
        for reply in found:
            self.read["kto"] += 1
            why = standing_reason(reply, prompt, filters, upper)
            if why is None:
                row = reply_row(reply, unit[0])
                self._examples.add(reply.position, line_of(row))
                self._kinds.append(2 * (side == ".eval") + row["label"])
                self._standing[side, row["label"]].append(row["p"])
            else:
                told = f"p {reply.p:.3f} is in the dead zone" if why == "low_confidence" else REPLY_DETAILS[why]
                yield self.drop("kto", why, reply.id, reply.position, told)

    def _balance(self) -> None:
        """Write the examples, but for what one kind has more than the other."""
        leaving, number = {}, Counter[int]()
        for (side, label), ps in self._standing.items():
            more = max(0, len(ps) - len(self._standing[side, not label]))
            nearest = sorted(range(len(ps)), key=lambda n: (abs(ps[n] - 0.5), -n)) if more else []
            leaving[2 * (side == ".eval") + label] = set(nearest[:more])
        for kind, (position, line) in zip(self._kinds, self._examples, strict=True):
            if number[kind] in leaving[kind]:
                row = orjson.loads(line)
                told = f"p {row['p']:.3f}: there are more {'' if row['label'] else 'un'}desirable replies than others"
                self._surplus.add(*self.drop("kto", "low_confidence", row["id"], position, told))
            else:
                self.add("kto", ".eval" if kind >= 2 else "", line)
                self.kept["kto"] += 1
            number[kind] += 1

    def _count(self, row: Row) -> None:
        facts, judged = self.facts, self.judged
        facts.rows += 1
        self.read["pairs"] += 1
        facts.count_models(row["models"])
        judged.asked += len(row["votes"])
        if row["z"] is None:
            return
        judged.confidences.append(confidence(row, self._choice.filters))
        flips, votes = flipped(row)
        judged.flips += flips
        judged.votes += votes
        used = facts.used
        for vote in row["votes"]:
            used[vote["principle"]] += 1
            if (bias := vote["b"]) is not None:
                judged.biases += 1
                judged.bias += bias

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        judged, least = self.judged, self._choice.filters.min_confidence
        if judged.calibration is None:
            yield (
                f"uncalibrated: nobody knows how often labels of confidence {least:g} agree with people; "
                "calibrate on pairs with human labels: cai judge calibrate"
            )
        elif judged.agreement is None:
            yield f"--min-confidence {least:g} promises no agreement with people: --agreement chooses one that does"
        elif (at := judged.calibration.thresholds[str(judged.agreement)]) is not None:
            yield (
                f"labels of confidence {at.calibrated:.4g} or more agree with people in at least {at.target:.0%} of "
                f"the cases: certified on {at.n:,} gold pairs; {judged.calibration.promise}"
            )
        for note in judged.calibration.notes if judged.calibration is not None else ():
            yield f"of the gold pairs: {note}"
        if judged.confidences and not self.kept["pairs"]:
            yield self._why_empty(least)

    def _why_empty(self, least: float) -> str:
        middle, most = median(self.judged.confidences), max(self.judged.confidences)
        told = f"no pair is kept at confidence {least:g}, so dpo.jsonl is empty"
        if most <= 0.5:
            return f"{told}: every label is at exactly one half, this judge decides nothing; take a stronger one"
        hint = (
            f"choose --min-confidence between 0.5 and {most:.3f}, or a stronger judge"
            if self.facts.dropped["pairs", "low_confidence"] and least > 0.5
            else "dropped.jsonl says why"
        )
        return f"{told}: the median confidence is {middle:.3f}, the highest {most:.3f}; {hint}"


REPLY_DETAILS = {
    "over_target": "every pair it is in comes after enough others",
    "identical": "it was compared with itself alone",
    "preamble_leak": "the reply announces itself",
    "role_mixup": "the reply goes on with turns that are not its own",
    "refused_benign": "the reply refuses a prompt that is listed as benign",
}


def pair_row(row: Row, filters: Filters) -> Row:
    """The row of dpo.jsonl and reward.jsonl that a label becomes; one of its replies must be chosen."""
    best, worst = sides(row)
    p = p_a(row, filters)
    human = row["human"]
    valid = (vote for vote in row["votes"] if vote["ab"]["problem"] is None and vote["ba"]["problem"] is None)
    return {
        "prompt": row["prompt"],
        "chosen": [{"role": "assistant", "content": row[best]}],
        "rejected": [{"role": "assistant", "content": row[worst]}],
        "p_chosen": max(p, 1 - p),
        "judged": True,
        "margin": margin(row, filters),
        "confidence": confidence(row, filters),
        "id": row["id"],
        "prompt_id": row["prompt_id"],
        "principles": list(dict.fromkeys(vote["principle"] for vote in valid)),
        **_provenance(row),
        "chosen_model": row[f"{best}_model"],
        "rejected_model": row[f"{worst}_model"],
        "chosen_from": row[f"{best}_from"],
        "rejected_from": row[f"{worst}_from"],
        "human": None if human is None else "chosen" if human == best else "rejected",
    }


def reply_row(reply: Standing, row: Row) -> Row:
    """The row of kto.jsonl that a reply becomes; `row` is any label of its prompt."""
    p = reply.p
    assert p is not None  # it would be no example
    return {
        "prompt": row["prompt"],
        "completion": [{"role": "assistant", "content": reply.text}],
        "label": p > 0.5,
        "p": p,
        "id": reply.id,
        "prompt_id": row["prompt_id"],
        "labels": reply.labels,
        **_provenance(row),
        "model": reply.name[2] or None,
        "from": reply.name[1],
    }


def _provenance(row: Row) -> Row:
    law = row["constitution"]
    return {
        "constitution": f"{law['name']}@{law['version']}",
        "constitution_hash": law["hash"],
        "judge": row["models"].get("judge"),
        "protocol": row["protocol"],
    }
