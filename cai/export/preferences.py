"""The preferences of a label run: pairs for DPO and reward models, single replies for KTO."""

from __future__ import annotations

import heapq
import itertools
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import UsageError
from cai.export.cut import LAW, PAIR, Cut, Judged, Lines, Row, law_columns, line_of
from cai.export.options import ExportOptions
from cai.export.pairs import (
    MIN_CONFIDENCE,
    Filters,
    Reason,
    Standing,
    confidence,
    edge,
    extra_pass,
    flipped,
    margin,
    p_a,
    reasons,
    sides,
    standing_reason,
    standings,
)  # fmt: skip
from cai.folder.rows import PAIR_BITS, damage
from cai.folder.run import RunFolder
from cai.judge.calibration import binding_problems, load_calibration
from cai.judge.certify import Calibration, threshold
from cai.records import BadPrompt, Label
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.sources.yamlfile import first_fault

BAD_ROW = (LookupError, TypeError, AttributeError, ValueError)  # what a row that is not a label leads to
JUDGE = {**LAW, "judge": "text", "protocol": "text"}
PAIR_OVER_TARGET: Reason = "over_target", "enough pairs came before it"
KINDS = [(side, label) for side in ("", ".eval") for label in (False, True)]  # of examples
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
        self.folder = run.path if folder is None else folder
        if binding is not None:
            self.binding = binding
        self.calibration = calibration_of(options, self.binding)
        self.filters = filters_of(options, self.calibration)
        self.judged = Judged()

    def units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another."""
        try:
            yield from read_units(self.folder / "labels.jsonl")
        except BAD_ROW as error:  # raised by the reading; what fails while the rows are cut is `blaming`'s
            raise damage(self.folder / "labels.jsonl") from error

    @contextmanager
    def blaming(self, unit: Sequence[Row]) -> Iterator[None]:
        """Raise RunError for a line that is not a label; errors of the code pass."""
        try:
            yield
        except BAD_ROW as error:
            if are_labels(unit):
                raise
            raise damage(self.folder / "labels.jsonl") from error

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
    return {
        **law_columns(row["constitution"]),
        "judge": row["models"].get("judge"),
        "protocol": row["protocol"],
    }


# Filters


def filters_of(options: ExportOptions, calibration: Calibration | None) -> Filters:
    """What the options ask of a pair, under the calibration that `calibration_of` gives.

    Raises UsageError if the agreement is not certified, or --benign cannot be read.
    """
    least = options.min_confidence
    if options.agreement is not None:
        if calibration is None:
            raise UsageError("--agreement needs --calibration FILE: it is certified on pairs with human labels")
        least = threshold(calibration, options.agreement).calibrated
    return Filters(
        min_confidence=MIN_CONFIDENCE if least is None else least,
        temperature=None if calibration is None else calibration.temperature,
        max_length_ratio=options.max_length_ratio,
        order_flip=options.order_flip,
        benign=frozenset() if options.benign is None else _hashes(options.benign),
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
        calibration = _read_calibration(source)
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(
            f"the calibration was made for a different judge: {'; '.join(problems)}; make one for this judge: "
            "cai judge calibrate"
        )
    return calibration


def _read_calibration(values: Mapping[str, Any]) -> Calibration:
    try:
        return Calibration.model_validate_json(orjson.dumps(dict(values)))
    except ValidationError as error:
        raise UsageError(f"the value of calibration is not a calibration ({first_fault(error)})") from None
    except TypeError as error:  # of values that JSON does not have
        raise UsageError(f"the value of calibration is not a calibration ({error})") from None


def _hashes(path: str | Path) -> frozenset[str]:
    """The hashes of the prompts of a file; raises UsageError for a record that is not a prompt."""
    hashes = set()
    for prompt in read_prompts(path):
        if isinstance(prompt, BadPrompt):
            raise UsageError(f"--benign {path}: record {prompt.line} is not a prompt ({prompt.problem})")
        hashes.add(prompt_hash(prompt.messages))
    return frozenset(hashes)


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
        self._samples = source.get("n") if isinstance(source, Mapping) else None  # replies per prompt at first
        self._target = options.target or run.info.get("settings", {}).get("target")
        self._last: tuple[int, int] | None = None  # the place of the last pair within the target; None: no end
        self._upper = edge(options.dead_zone, self.filters)
        self._standing = {kind: array("d") for kind in KINDS}
        self._kinds = array("b")  # of the examples, in order: places in KINDS

    def lines(self) -> Lines:
        """The drops of pairs and replies; all rows are on their way when the first one comes."""
        self._drops, self._surplus, self._examples = (Spool(self._run.path) for _ in range(3))
        try:
            if self._target is not None:
                self._last = self._end(self._target)
            for unit in self.units():
                with self.blaming(unit):
                    self._cut(unit)
            self._balance()
            yield from heapq.merge(self._drops, self._surplus, key=itemgetter(0))
        finally:
            for spool in (self._drops, self._surplus, self._examples):
                spool.close()

    def _place(self, row: Row) -> tuple[int, int]:
        """Where a pair is in the order of the target: pairs that needed no further samples come first."""
        return extra_pass(row, self._samples), row["position"]

    def _end(self, target: int) -> tuple[int, int] | None:
        """The place of the last pair within the target; None if there are no more."""
        kept = array("Q")  # pass and position in one integer
        for unit in self.units():
            with self.blaming(unit):
                whys = reasons(unit, self.filters, self.options.pairing)
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
        within, drops = [], []
        whys = reasons(unit, self.filters, self.options.pairing)
        for row, why in zip(unit, whys, strict=True):
            self.count(row)
            self.read["pairs"] += 1
            if self._last is None or self._place(row) <= self._last:
                within.append(row)
            elif why is None:
                why = PAIR_OVER_TARGET
            if why is None:
                self._keep_pair(row, side)
            else:
                drops.append(self.drop("pairs", why, row["id"], row["position"]))
        drops += self._cut_replies(unit, within, side)
        drops.sort(key=itemgetter(0))
        for position, line in drops:
            self._drops.add(position, line)

    def _keep_pair(self, row: Row, side: str) -> None:
        self.add("dpo", side, line_of(pair_row(row, self.filters)))
        self.kept["pairs"] += 1
        best, worst = (len(row[which].strip()) for which in sides(row))
        self.judged.longer += best > worst
        self.judged.uneven += best != worst

    def _cut_replies(self, unit: Sequence[Row], within: Sequence[Row], side: str) -> Lines:
        """Put the replies of one prompt in line for kto; those that are no examples come back.

        within: the labels within the target; how a reply did is counted over these.
        """
        prompt = unit[0]["prompt"]
        replies = standings(within, self.filters)
        if len(within) < len(unit):
            texts = {reply.text.strip() for reply in replies}
            for reply in standings(unit, self.filters):
                if reply.text.strip() not in texts:
                    self.read["kto"] += 1
                    yield self.drop("kto", REPLY_OVER_TARGET, reply.id, reply.position)
        for reply in replies:
            self.read["kto"] += 1
            why = standing_reason(reply, prompt, self.filters, self._upper)
            if why is not None:
                yield self.drop("kto", why, reply.id, reply.position)
                continue
            row = reply_row(reply, unit[0])
            kind = (side, row["label"])
            self._examples.add(reply.position, line_of(row))
            self._kinds.append(KINDS.index(kind))
            self._standing[kind].append(row["p"])

    def _balance(self) -> None:
        """Write the examples, except the surplus of the kind that has more."""
        leaving: dict[tuple[str, bool], set[int]] = {}
        for (side, label), ps in self._standing.items():
            more = len(ps) - len(self._standing[side, not label])
            nearest = sorted(range(len(ps)), key=lambda n: (abs(ps[n] - 0.5), -n)) if more > 0 else []
            leaving[side, label] = set(nearest[: max(0, more)])
        number = Counter[tuple[str, bool]]()
        for place, (position, line) in zip(self._kinds, self._examples, strict=True):
            kind = side, label = KINDS[place]
            if number[kind] in leaving[kind]:
                row = orjson.loads(line)
                which = "desirable" if label else "undesirable"
                why = "low_confidence", f"p {row['p']:.3f}: there are more {which} replies than others"
                self._surplus.add(*self.drop("kto", why, row["id"], position))
            else:
                self.add("kto", side, line)
                self.kept["kto"] += 1
            number[kind] += 1

    def notes(self) -> Iterator[str]:
        """What the user should know."""
        yield from super().notes()
        if self.judged.confidences and not self.kept["pairs"]:
            yield self.why_empty()

    def figures(self) -> dict[str, Any]:
        """The number of kept pairs."""
        return {"pairs": self.kept["pairs"]}


def pair_row(row: Row, filters: Filters) -> Row:
    """The row of dpo.jsonl that a label becomes; one of its replies must be chosen."""
    best, worst = sides(row)
    p = p_a(row, filters)
    valid = (vote for vote in row["votes"] if vote["ab"]["problem"] is None and vote["ba"]["problem"] is None)
    human = row["human"]
    if human is not None:
        human = "chosen" if human == best else "rejected"
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
    """Lines that wait on disk for what comes after them, with their positions; gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115
        self._positions = array("q")

    def add(self, position: int, line: bytes) -> None:
        """Write a line."""
        self._file.write(line)
        self._positions.append(position)

    def __iter__(self) -> Lines:
        self._file.seek(0)
        return zip(self._positions, self._file, strict=True)

    def close(self) -> None:
        """Remove the lines."""
        self._file.close()
