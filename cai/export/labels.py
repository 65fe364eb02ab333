"""The labels of a run, prompt by prompt: how sure the judge is, how each reply did, and how far to trust that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import UsageError
from cai.export.cut import LAW, Cut, Judged, Row, law_columns
from cai.export.options import ExportOptions
from cai.export.pairs import (
    MIN_CONFIDENCE,
    Filters,
    Name,
    Reason,
    confidence,
    flipped,
    is_benign,
    name_of,
    p_a,
    refuses,
)
from cai.folder.rows import BAD_ROW, PAIR_BITS, damage, lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.certify import Calibration, binding_problems, load_calibration, threshold
from cai.records import BadPrompt, Label, Object
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.sources.yamlfile import first_fault
from cai.texts.hygiene import LEARNED, faults_of

JUDGE = {**LAW, "judge": "text", "protocol": "text"}


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
        self._unit: list[Row] = []  # the labels that were read last

    def units(self) -> Iterator[list[Row]]:
        """The labels of one prompt after another, in input order."""
        lines = lines_in_order(self.labels)
        with reading(self.labels):
            for _, unit in itertools.groupby(lines, key=lambda place: place[0] >> PAIR_BITS):
                self._unit = [orjson.loads(line) for _, line in unit]
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
        if self.facts.dropped["pairs"]["low_confidence"] and least > 0.5:
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


def calibration_of(options: ExportOptions, binding: Object) -> Calibration | None:
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


# The replies of one prompt


@dataclass(slots=True)
class Standing:
    """A reply among those to its prompt."""

    position: int  # of the first pair it is in
    id: str  # of that pair, and what the reply is in it
    name: Name
    text: str
    won: list[float]  # per pair with another text: probability that this reply is the better one
    labels: list[str]  # ids of those pairs
    p: float | None = None  # mean of `won`; None: it was only compared with itself


def standings(rows: Sequence[Row], filters: Filters) -> list[Standing]:
    """The distinct replies among the pairs of one prompt whose vote is valid, in input order; empty ones are left out.

    Texts that are the same but for white space around them are one reply, under the name with the lowest number.
    """
    replies: dict[str, Standing] = {}
    for row in rows:
        if row["z"] is None:
            continue
        p = p_a(row, filters)
        a, b = row["a"].strip(), row["b"].strip()
        for side, text, wins in (("a", a, p), ("b", b, 1 - p)):
            if not text:
                continue
            name = name_of(row, side)
            reply = replies.setdefault(text, Standing(row["position"], row["id"], name, row[side], [], []))
            if name < reply.name:
                reply.name = name
                reply.text = row[side]
            if a != b:
                reply.won.append(wins)
                reply.labels.append(row["id"])
    for reply in replies.values():
        reply.id += f":{reply.name[1]}"
        if reply.won:
            reply.p = math.fsum(reply.won) / len(reply.won)
    return sorted(replies.values(), key=lambda reply: (reply.position, reply.name))


def standing_reason(reply: Standing, prompt: Sequence[Any], filters: Filters, upper: float) -> Reason | None:
    """Why a reply is no example: in the dead zone (1 - upper, upper), or desirable but not fit to be learned."""
    p = reply.p
    if p is None:
        return "identical", "it was only compared with itself"
    if 1 - upper < p < upper or p == 0.5:
        return "low_confidence", f"p {p:.3f} is in the dead zone"
    if p < 0.5:
        return None
    return unfit(reply.text, prompt, filters)


def unfit(text: str, prompt: Sequence[Any], filters: Filters) -> Reason | None:
    """Why a reply to a prompt is not fit to be learned: its form, or a refusal of a benign prompt; None: it is."""
    if filters.hygiene:
        for name in faults_of(text):
            return name, f"the reply {LEARNED[name].words}"
    if is_benign(prompt, filters) and refuses(text, prompt[-1]["content"]):
        return "refused_benign", "the reply refuses a prompt that is listed as benign"
    return None


def best_of(replies: Sequence[Standing]) -> Standing | Reason:
    """The reply with the highest mean probability of being better, or why there is none."""
    if not replies:
        return "invalid_vote", "no vote was valid"
    ranked = sorted((reply for reply in replies if reply.p is not None), key=attrgetter("p"), reverse=True)
    if not ranked:
        return "identical", "all replies have the same text"
    if len(ranked) > 1 and ranked[0].p == ranked[1].p:
        return "low_confidence", f"two replies share the highest p, {ranked[0].p:.3f}"
    return ranked[0]
