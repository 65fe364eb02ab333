"""The preferences of a label run: pairs for DPO and reward models, single replies for KTO."""

from __future__ import annotations

import hashlib
import heapq
import inspect
import itertools
import sqlite3
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import RunError, UsageError
from cai.export.cut import LAW, PAIR, Cut, Judged, Lines, Row, law_columns, line_of
from cai.export.options import ExportOptions
from cai.export.pairs import (
    MIN_CONFIDENCE,
    Filters,
    Reason,
    Standing,
    confidence,
    extra_pass,
    fault_of_texts,
    flipped,
    margin,
    reasons,
    sides,
    standing_reason,
    standings,
)  # fmt: skip
from cai.folder.rows import BAD_ROW, PAIR_BITS, damage, lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.calibration import binding_problems, load_calibration
from cai.judge.certify import Calibration, threshold
from cai.records import BadPrompt, Label
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.sources.yamlfile import first_fault
from cai.texts import hygiene

JUDGE = {**LAW, "judge": "text", "protocol": "text"}
PAIR_OVER_TARGET: Reason = "over_target", "enough pairs came before it"
FAULTS_FILE = "faults.sqlite"
REPLY_OVER_TARGET: Reason = "over_target", "every pair it is in comes after enough others"
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

    judged: Judged

    def __init__(
        self, run: RunFolder, options: ExportOptions, folder: Path | None = None, binding: Row | None = None
    ) -> None:
        super().__init__(run, options)
        self.labels = (folder or run.path) / "labels.jsonl"
        if binding is not None:
            self.binding = binding
        self.calibration = calibration_of(options, self.binding)
        self.filters = filters_of(options, self.calibration)
        self.judged = Judged()

    def units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another, in input order."""
        lines = lines_in_order(self.labels)
        for _, unit in itertools.groupby(lines, key=lambda place: place[0] >> PAIR_BITS):
            with reading(self.labels):
                labels = [orjson.loads(line) for _, line in unit]
            yield labels

    @contextmanager
    def blaming(self, unit: Sequence[Row]) -> Iterator[None]:
        """Raise RunError for a line that is not a label; errors of the code pass."""
        try:
            yield
        except BAD_ROW as error:
            if are_labels(unit):
                raise
            raise damage(self.labels) from error

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
        """What the user should know."""
        yield from super().notes()
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


def are_labels(unit: Sequence[Row]) -> bool:
    """Whether rows are labels, so that an error in cutting them is not theirs."""
    try:
        return all(Label.model_validate_json(orjson.dumps(row)).prompt for row in unit)
    except ValidationError:
        return False


def provenance(row: Row) -> Row:
    """Whose label a row is."""
    return {**law_columns(row["constitution"]), "judge": row["models"].get("judge"), "protocol": row["protocol"]}


# Filters


def filters_of(options: ExportOptions, calibration: Calibration | None) -> Filters:
    """What the options ask of a pair, under the calibration that `calibration_of` gives.

    Raises UsageError if the agreement is not certified, or --benign cannot be read.
    """
    least = options.min_confidence or MIN_CONFIDENCE
    temperature = None
    if calibration is not None:
        temperature = calibration.temperature
        if options.agreement is not None:
            least = threshold(calibration, options.agreement).calibrated
    elif options.agreement is not None:
        raise UsageError("--agreement needs --calibration FILE: it is certified on pairs with human labels")
    benign = set()
    if options.benign is not None:
        for prompt in read_prompts(options.benign):
            if isinstance(prompt, BadPrompt):
                problem = f"record {prompt.line} is not a prompt ({prompt.problem})"
                raise UsageError(f"--benign {options.benign}: {problem}")
            benign.add(prompt_hash(prompt.messages))
    return Filters(
        min_confidence=least,
        temperature=temperature,
        max_length_ratio=options.max_length_ratio,
        order_flip=options.order_flip,
        benign=frozenset(benign),
        hygiene=options.hygiene,
    )


def calibration_of(options: ExportOptions, binding: Mapping[str, Any]) -> Calibration | None:
    """The calibration of the options, if any; raises UsageError if it was made for another judge than the labels'."""
    source = options.calibration
    if source is None:
        return None
    if isinstance(source, str | Path):
        calibration = load_calibration(source)
    elif isinstance(source, Calibration):
        calibration = source
    else:
        try:
            calibration = Calibration.model_validate_json(orjson.dumps(source))
        except ValidationError as error:
            raise UsageError(f"the value of calibration is not a calibration ({first_fault(error)})") from None
        except TypeError as error:  # of values that JSON does not have
            raise UsageError(f"the value of calibration is not a calibration ({error})") from None
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(
            f"the calibration was made for a different judge: {'; '.join(problems)}; make one for this judge: "
            "cai judge calibrate"
        )
    return calibration


# Preferences


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
        self._samples: int | None = None  # replies per prompt at first
        if isinstance(source, Mapping):
            self._samples = source.get("n")
        self._target = options.target or run.info.get("settings", {}).get("target")
        self._last: tuple[int, int] | None = None  # the place of the last pair within the target; None: no end
        self._upper = options.dead_zone or self.filters.min_confidence

    def lines(self) -> Lines:
        """The drops of pairs and replies."""
        try:
            yield from self._lines()
        except sqlite3.Error as error:
            problem = f"cannot be used: {error}; delete it, and run the same command again"
            raise RunError(f"{self._run.path / FAULTS_FILE} {problem}") from error

    def _lines(self) -> Lines:
        with ExitStack() as stack:
            self._texts = stack.enter_context(closing(Texts(self._run.path)))
            drops, train, held_out = (stack.enter_context(closing(Spool(self._run.path))) for _ in range(3))
            self._examples = {"": train, ".eval": held_out}
            if self._target is not None:
                self._last = self._end(self._target)
            for unit in self.units():
                with self.blaming(unit):
                    for position, line in sorted(self._cut(unit), key=itemgetter(0)):
                        drops.add(position, line)
            surplus = (self._balance(side, examples) for side, examples in self._examples.items())
            yield from heapq.merge(drops, *surplus, key=itemgetter(0))

    def _place(self, row: Row) -> tuple[int, int]:
        """Where a pair is in the order of the target: pairs that needed no further samples come first."""
        return extra_pass(row, self._samples), row["position"]

    def _reasons(self, unit: Sequence[Row]) -> Iterator[tuple[Row, Reason | None]]:
        """The labels of one prompt, each with the reason for which it is left out."""
        return zip(unit, reasons(unit, self.filters, self.options.pairing, self._texts.fault), strict=True)

    def _end(self, target: int) -> tuple[int, int] | None:
        """The place of the last pair within the target; None if there are no more."""
        kept = array("Q")  # pass and position in one integer
        for unit in self.units():
            with self.blaming(unit):
                for row, why in self._reasons(unit):
                    if why is None:
                        extra, position = self._place(row)
                        kept.append(extra << 48 | position)
        if len(kept) <= target:
            return None
        last = sorted(kept)[target - 1]
        return last >> 48, last & (1 << 48) - 1

    def _cut(self, unit: Sequence[Row]) -> Lines:
        """Write the pairs of one prompt, and put its replies in line for kto; the drops come back."""
        side = self.side(unit[0]["prompt"])
        within = []  # the labels within the target; how a reply did is counted over these
        for row, why in self._reasons(unit):
            self.count(row)
            self.read["pairs"] += 1
            if self._last is None or self._place(row) <= self._last:
                within.append(row)
            elif why is None:
                why = PAIR_OVER_TARGET
            if why is None:
                self._keep_pair(row, side)
            else:
                yield self.drop("pairs", why, row["id"], row["position"])
        replies = standings(within, self.filters)
        if len(within) < len(unit):
            texts = {reply.text.strip() for reply in replies}
            for reply in standings(unit, self.filters):
                if reply.text.strip() not in texts:
                    self.read["kto"] += 1
                    yield self.drop("kto", REPLY_OVER_TARGET, reply.id, reply.position)
        for reply in replies:
            self.read["kto"] += 1
            why = standing_reason(reply, unit[0]["prompt"], self.filters, self._upper)
            if why is None:
                self._examples[side].add(reply.position, line_of(reply_row(reply, unit[0])), reply.p)
            else:
                yield self.drop("kto", why, reply.id, reply.position)

    def _keep_pair(self, row: Row, side: str) -> None:
        self.add("dpo", side, line_of(pair_row(row, self.filters)))
        self.kept["pairs"] += 1
        best, worst = (len(row[which].strip()) for which in sides(row))
        self.judged.longer += best > worst
        self.judged.uneven += best != worst

    def _balance(self, side: str, examples: Spool) -> Lines:
        """Write the examples of one side of a split, without the surplus; its drops come back."""
        leaving = surplus(examples.ps)
        for number, (position, line) in enumerate(examples):
            if number not in leaving:
                self.add("kto", side, line)
                self.kept["kto"] += 1
                continue
            row = orjson.loads(line)
            which = "desirable" if row["label"] else "undesirable"
            why = "low_confidence", f"p {row['p']:.3f}: there are more {which} replies than others"
            yield self.drop("kto", why, row["id"], position)

    def notes(self) -> Iterator[str]:
        """What the user should know."""
        yield from super().notes()
        if self.judged.confidences and not self.kept["pairs"]:
            yield self.why_empty()

    def figures(self) -> dict[str, Any]:
        """The number of kept pairs."""
        return {"pairs": self.kept["pairs"]}


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
    human = row["human"]
    if human is not None:
        human = {best: "chosen", worst: "rejected"}[human]
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
        "human": human,
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


class Spool:
    """Lines that wait on disk for what comes after them; they are gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115
        self._positions = array("q")
        self.ps = array("d")  # of replies: the probability of each line
        self.close = self._file.close

    def add(self, position: int, line: bytes, p: float | None = None) -> None:
        """Write a line."""
        self._file.write(line)
        self._positions.append(position)
        if p is not None:
            self.ps.append(p)

    def __iter__(self) -> Lines:
        self._file.seek(0)
        return zip(self._positions, self._file, strict=True)


class Texts:
    """`fault_of_texts`, remembered in `faults.sqlite` from one cut to the next; to delete the file only costs time.

    Reading the texts takes longer than all else, and finds the same at every threshold. A pair is found by a hash of
    its texts. A version of cai that reads them differently starts anew.
    """

    def __init__(self, folder: Path) -> None:
        source = inspect.getsource(hygiene) + inspect.getsource(fault_of_texts)
        version = zlib.crc32(source.encode()) >> 1  # SQLite stores 31 bits
        self._db = sqlite3.connect(folder / FAULTS_FILE, isolation_level=None)
        if self._db.execute("PRAGMA user_version").fetchone() != (version,):
            self._db.executescript(f"DROP TABLE IF EXISTS pairs; PRAGMA user_version = {version}")
        self._db.execute("CREATE TABLE IF NOT EXISTS pairs(hash BLOB PRIMARY KEY, fault TEXT NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def fault(self, chosen: str, rejected: str, last_turn: str) -> str:
        """What `fault_of_texts` finds in these texts."""
        key = hashlib.blake2b(orjson.dumps((chosen, rejected, last_turn)), digest_size=8).digest()
        for (fault,) in self._db.execute("SELECT fault FROM pairs WHERE hash = ?", (key,)):
            return str(fault)
        fault = fault_of_texts(chosen, rejected, last_turn)
        self._db.execute("INSERT INTO pairs VALUES (?, ?)", (key, fault))
        return fault

    def close(self) -> None:
        """Write what is new."""
        self._db.execute("COMMIT")
        self._db.close()
