"""The preferences of a label run: pairs for DPO and reward models, single replies for KTO."""

from __future__ import annotations

import itertools
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from cai.errors import RunError
from cai.export.cut import FAULTS_FILE, JUDGE, PAIR, Cut, Spool, Texts, law_columns, line_of
from cai.export.options import ExportOptions, Filters, Pairing, filters_of
from cai.export.pairings import PAIRINGS, names_of, place_of
from cai.export.pairs import (
    ReadTexts,
    Reason,
    Row,
    Standing,
    are_labels,
    confidence,
    fault_of_texts,
    margin,
    reason,
    sides,
    standing_reason,
    standings,
)
from cai.folder.lines import BAD_ROW, PAIR_BITS, damage, lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.certify import calibration_for, threshold
from cai.sources.conversations import prompt_hash

PAIR_OVER_TARGET: Reason = "over_target", "enough pairs came before it"
NOT_EXTREME: Reason = "not_extreme", "the pairing takes another pair of the prompt"
REPLY_OVER_TARGET: Reason = "over_target", "every pair it is in comes after enough others"
DAMAGE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR")  # of the file: the last says that a table is not ours
FILES = {
    "dpo": {
        **PAIR, "margin": "number", "confidence": "number", "id": "text", "prompt_id": "text",
        "principles": "texts", **JUDGE, "chosen_model": "text", "rejected_model": "text", "chosen_from": "text",
        "rejected_from": "text", "human": "text",
    },
    "kto": {
        "prompt": "turns", "completion": "turns", "label": "flag", "p": "number", "id": "text",
        "prompt_id": "text", "labels": "texts", **JUDGE, "model": "text", "from": "text",
    },
}  # fmt: skip


class LabelCut(Cut):
    """A cut of labels.

    folder and binding: those of the label run, if it is not the run that is cut.
    """

    labels: Path

    def __init__(
        self, run: RunFolder, options: ExportOptions, folder: Path | None = None, binding: Row | None = None
    ) -> None:
        super().__init__(run, options)
        self.labels = (folder or run.path) / "labels.jsonl"
        if binding is not None:
            self.binding = binding
        if options.calibration is not None:
            self.calibration = calibration_for(self.binding, options.calibration)
        self.filters = replace(filters_of(options, self.calibration), asked=self.asked)
        if self.calibration is not None and options.agreement is not None:
            self.certified = threshold(self.calibration, options.agreement)
        self.met_benign = False  # whether a prompt is one of --benign
        self._unit: list[Row] = []  # the labels that were read last

    def units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another, in input order."""
        lines = lines_in_order(self.labels)
        with reading(self.labels):
            for _, unit in itertools.groupby(lines, key=lambda place: place[0] >> PAIR_BITS):
                self._unit = [orjson.loads(line) for _, line in unit]
                if self.filters.benign and not self.met_benign:
                    self.met_benign = prompt_hash(self._unit[0]["prompt"]) in self.filters.benign
                yield self._unit

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Raise RunError if a line of the last unit is not a label; errors of the code pass."""
        try:
            yield
        except BAD_ROW as error:
            if are_labels(self._unit):
                raise
            raise damage(self.labels) from error

    def count(self, row: Row) -> None:
        """Count a label: how sure the judge is, and how it votes."""
        facts = self.facts
        facts.rows += 1
        facts.count_models(row["models"])
        if row["z"] is None:
            facts.asked += len(row["votes"])
        else:
            facts.confidences.append(confidence(row, self.filters))
            facts.count_votes(row)


class PreferenceCut(LabelCut):
    """The preferences of a label run: `dpo` of pairs, `kto` of single replies.

    kto has as many desirable rows as undesirable ones on each side of a split; if there are more of one kind, those
    leave whose p is nearest to one half, of equal ones the later.
    """

    files = FILES
    stages = ("pairs", "kto")
    kind = "preferences"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        source = run.identity.get("source")
        self._samples = source.get("n") if isinstance(source, Mapping) else None  # replies per prompt at first
        self._target = options.target or run.info.get("settings", {}).get("target")
        self._last: int | None = None  # the place of the last pair within the target; None: no end
        self._upper = options.dead_zone or self.filters.min_confidence

    def cut(self) -> None:
        """Cut the pairs, and then the replies, since all must be known to balance them."""
        folder = self._run.path
        try:
            with (
                closing(Texts(folder, self.asked)) as self._texts,
                closing(Spool(folder)) as train,
                closing(Spool(folder)) as test,
            ):
                self._examples = {"": train, ".eval": test}
                with self.blaming():
                    if self._target is not None:
                        self._last = self._end(self._target)
                    for unit in self.units():
                        self._cut(unit)
                for side, examples in self._examples.items():
                    self._balance(side, examples)
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorname", "").startswith(DAMAGE)
            advice = "delete it" if damaged else "see to the folder and its disk"
            problem = f"cannot be used: {error}; {advice}, and run the same command again"
            raise RunError(f"{folder / FAULTS_FILE} {problem}") from error

    def _reasons(self, unit: Sequence[Row]) -> Iterator[tuple[Row, Reason | None]]:
        """The labels of one prompt, each with the reason for which it is left out."""
        return zip(unit, reasons(unit, self.filters, self.options.pairing, self._texts.fault), strict=True)

    def _end(self, target: int) -> int | None:
        """The place of the last pair within the target; None if there are no more."""
        kept = array("Q")
        for unit in self.units():
            kept.extend(place_of(row, self._samples) for row, why in self._reasons(unit) if why is None)
        if len(kept) <= target:
            return None
        return sorted(kept)[target - 1]

    def _cut(self, unit: Sequence[Row]) -> None:
        """Write the pairs of one prompt, and put its replies in line for kto."""
        side = self.side(unit[0]["prompt"])
        within = []  # the labels within the target; how a reply did is counted over these
        for row, why in self._reasons(unit):
            self.count(row)
            self.read["pairs"] += 1
            if self._last is None or place_of(row, self._samples) <= self._last:
                within.append(row)
            elif why is None:
                why = PAIR_OVER_TARGET
            if why is None:
                self.keep("dpo", side, line_of(pair_row(row, self.filters)), stage="pairs")
                best, worst = (len(row[which].strip()) for which in sides(row))
                self.facts.longer += best > worst
                self.facts.uneven += best != worst
            else:
                self.drop("pairs", why, row["id"], row["position"])
        replies = standings(within, self.filters)
        if len(within) < len(unit):
            texts = {reply.text.strip() for reply in replies}
            for reply in standings(unit, self.filters):
                if reply.text.strip() not in texts:
                    self.read["kto"] += 1
                    self.drop("kto", REPLY_OVER_TARGET, reply.id, reply.position)
        for reply in replies:
            self.read["kto"] += 1
            why = standing_reason(reply, unit[0]["prompt"], self.filters, self._upper)
            if why is None:
                self._examples[side].add(reply.position, line_of(reply_row(reply, unit[0])), reply.p or 0.0)
            else:
                self.drop("kto", why, reply.id, reply.position)

    def _balance(self, side: str, examples: Spool) -> None:
        """Write the examples of one side of a split, without the surplus."""
        leaving = surplus(examples.ps)
        for number, (position, line) in enumerate(examples):
            if number not in leaving:
                self.keep("kto", side, line)
                continue
            row = orjson.loads(line)
            which = "desirable" if row["label"] else "undesirable"
            why = "low_confidence", f"p {row['p']:.3f}: there are more {which} replies than others"
            self.drop("kto", why, row["id"], position)


def reasons(
    rows: Sequence[Row], filters: Filters, pairing: Pairing = "all", read: ReadTexts = fault_of_texts
) -> list[Reason | None]:
    """`reason` for each pair of one prompt, in input order, and `not_extreme` for those that `pairing` leaves out.

    all: every pair. best-worst: the pair of the replies with the highest and the lowest mean z; of equal ones the first
    counts. final: of a generate run, the pair of the last round. Raises UsageError if the pairing does not fit.
    """
    if pairing == "all":
        return [reason(row, filters, read) for row in rows]
    names = PAIRINGS[pairing](rows)
    taken = [row["z"] is None or names_of(row) == names for row in rows]
    return [reason(row, filters, read) if take else NOT_EXTREME for row, take in zip(rows, taken, strict=True)]


def provenance(row: Row) -> Row:
    """Whose label a row is."""
    return {**law_columns(row["constitution"]), "judge": row["models"].get("judge"), "protocol": row["protocol"]}


def surplus(ps: Sequence[float]) -> set[int]:
    """Which replies leave, by place, so that as many are desirable (p above one half) as not."""
    desirable = [place for place, p in enumerate(ps) if p > 0.5]
    others = [place for place, p in enumerate(ps) if p < 0.5]
    more = max(desirable, others, key=len)
    more.sort(key=lambda place: (abs(ps[place] - 0.5), -place))
    return set(more[: abs(len(desirable) - len(others))])


def pair_row(row: Row, filters: Filters) -> Row:
    """The row of dpo.jsonl that a label becomes; one of its replies must be chosen."""
    best, worst = sides(row)
    p = confidence(row, filters)
    valid = (vote for vote in row["votes"] if vote["ab"]["problem"] is None and vote["ba"]["problem"] is None)
    return {
        "prompt": row["prompt"],
        "chosen": [{"role": "assistant", "content": row[best]}],
        "rejected": [{"role": "assistant", "content": row[worst]}],
        "p_chosen": p,
        "judged": True,
        "margin": margin(row, filters),
        "confidence": p,
        "id": row["id"],
        "prompt_id": row["prompt_id"],
        "principles": list(dict.fromkeys(vote["principle"] for vote in valid)),
        **provenance(row),
        "chosen_model": row[f"{best}_model"],
        "rejected_model": row[f"{worst}_model"],
        "chosen_from": row[f"{best}_from"],
        "rejected_from": row[f"{worst}_from"],
        "human": {best: "chosen", worst: "rejected", "tie": "tie", None: None}[row["human"]],
    }


def reply_row(reply: Standing, row: Row) -> Row:
    """The row of kto.jsonl that a reply becomes; `row` is any label of its prompt."""
    p = reply.p
    assert p is not None  # a reply without p is no example
    return {
        "prompt": row["prompt"],
        "completion": [{"role": "assistant", "content": reply.text}],
        "label": p > 0.5,
        "p": p,
        "id": reply.id,
        "prompt_id": row["prompt_id"],
        "labels": reply.labels,
        **provenance(row),
        "model": reply.name[2] or None,
        "from": reply.name[1],
    }
