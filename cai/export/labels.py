"""What the cuts of a label run share: its labels prompt by prompt, and how far to trust them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import orjson
from pydantic import ValidationError

from cai.export.cut import LAW, Cut, Judged, Row
from cai.export.options import ExportOptions, calibration_of, filters_of
from cai.export.pairs import confidence, flipped
from cai.folder.rows import PAIR_BITS, damage
from cai.folder.run import RunFolder
from cai.judge.certify import threshold
from cai.records import Label

BAD_ROW = (LookupError, TypeError, AttributeError, ValueError)  # what a row that is not a label leads to
JUDGE = {**LAW, "judge": "text", "protocol": "text"}


class LabelCut(Cut):
    """A cut of labels.

    folder and binding: those of the label run, if it is not the run that is cut.
    """

    rows_file = "labels.jsonl"
    judged: Judged

    def __init__(
        self, run: RunFolder, options: ExportOptions, folder: Path | None = None, binding: Row | None = None
    ) -> None:
        super().__init__(run, options)
        self.folder = run.path if folder is None else folder
        self.binding = run.identity["binding"] if binding is None else binding
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
