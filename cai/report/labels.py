"""What is counted of a label run: how sure the judge is, where it contradicts itself, and what it prefers to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cai.disk.reading import exists
from cai.evaluation.statistics.winrate import win_rate
from cai.judge.certify import FILE as CALIBRATION
from cai.judge.certify import load_calibration
from cai.judge.flows import count_flips, is_valid, winner
from cai.judge.metrics import BINS
from cai.judge.people import TRUTHS
from cai.records import Label, Values, Vote
from cai.report.annotators import annotator_tables, read_verdicts
from cai.report.folders import Reasons, RunRows
from cai.report.html import charts
from cai.report.html.samples import Strata
from cai.report.html.sections import Cell, Fact, Section, Table, columns, count, ends_of, name, percent
from cai.report.people import people_tables, thresholds
from cai.report.runs import Tally, bars, run_section, share_fact

SAMPLE = "sample "
LAST = ("initial", "rejected")  # what others are compared with
FLIPPED = "votes flip with the order"
AGAINST = "the judge disagrees with people"


class Labels(Tally[Label]):
    """Of a label run, or the test of a constitution."""

    row = Label
    kind = "label run"
    noun = "pairs judged"

    def __init__(self) -> None:
        self.pairs = self.valid = self.human = 0
        self.votes: Counter[str] = Counter()
        self.bins = [0] * BINS
        self.principles: dict[str, Counter[str]] = {}
        self.wins: dict[tuple[str, str], dict[str, list[float]]] = {}  # by what is compared, and by prompt

    def add(self, row: Label) -> None:
        """Count a label."""
        self.pairs += 1
        self.human += row.human is not None
        if row.z is not None and row.confidence is not None:
            self.valid += 1
            self.bins[in_bin(row.confidence)] += 1
            self._add_win(row, row.z)
        for vote in row.votes:
            for counts in (self.votes, self.principles.setdefault(name(vote.principle), Counter())):
                _add_vote(counts, row, vote)

    def _add_win(self, row: Label, z: float) -> None:
        a, b = sides(row)
        won = winner(z)
        if (a in LAST, a) > (b in LAST, b):
            a, b, won = b, a, 1 - won
        if a != b:
            self.wins.setdefault((a, b), {}).setdefault(row.prompt_id, []).append(won)

    def group_of(self, row: Label, reasons: Reasons) -> tuple[str, float]:
        """Those that people contradict, the surest first; those that flip; then by the reason."""
        if row.p_a is not None and row.human is not None:
            distance = abs(row.p_a - TRUTHS[row.human])
            if distance > 0.5:
                return AGAINST, distance
        if is_flipped(row):
            return FLIPPED, 0.0
        return super().group_of(row, reasons)

    def facts(self) -> Iterator[Fact]:
        """How many votes count, and how many flip."""
        if self.pairs:
            yield share_fact("with a valid vote", self.valid, self.pairs)
        if self.votes["valid"]:
            yield share_fact("votes that flip with the order", self.votes["flips"], self.votes["valid"])
            twice = f"{count(self.votes['first twice'])} · {count(self.votes['second twice'])}"
            yield Fact("flips to the first · to the second", twice, basis="votes in two orders")

    def tables(self) -> Iterator[Table]:
        """Win rates, confidences, and votes by principle."""
        yield from self._wins()
        if self.valid:
            width = 0.5 / BINS
            edges = [0.5 + place * width for place in range(BINS)]
            bins = {f"{edge:.2f} to {edge + width:.2f}": n for edge, n in zip(edges, self.bins, strict=True)}
            yield bars("How sure the labels are", "confidence", "pairs", bins)
        lines: list[list[Cell]] = []
        for each, counts in sorted(self.principles.items(), key=lambda item: -item[1]["votes"]):
            valid = counts["valid"]
            cells = charts.part_cells(each, counts["agree"], valid)
            flips = percent(counts["flips"] / valid) if valid else "–"
            lines.append([each, count(counts["votes"]), *cells, flips])
        if lines:
            heads = "=principle | votes | * | for the label, in both orders | 95 % interval | valid | flips"
            yield Table("Votes by principle", columns(heads, charts.axis(charts.SHARES)), lines)

    def _wins(self) -> Iterator[Table]:
        """How often the judge prefers what to what, each prompt a cluster."""
        lines: list[list[Cell]] = []
        for (first, second), outcomes in self.wins.items():
            rate = win_rate(outcomes)
            if rate.value is None:
                continue
            what = f"{first} over {second}"
            cells = charts.share_cells(what, rate.value, ends_of(rate.low, rate.high), rate.n, mark=0.5)
            lines.append([what, *cells, count(sum(map(len, outcomes.values())))])
        if lines:
            heads = columns("= | * | wins | 95 % interval | prompts | pairs", charts.axis(charts.SHARES))
            notes = ["The mean over prompts, each a cluster; ties count half, pairs without a valid vote do not count."]
            yield Table("Win rates, by the judge", heads, lines, notes)


def _add_vote(counts: Counter[str], row: Label, vote: Vote) -> None:
    counts["votes"] += 1
    if not is_valid(vote):
        return
    counts["valid"] += 1
    twice = vote.ab.choice == vote.ba.choice is not None
    counts["flips"] += twice
    counts[f"{vote.ab.choice} twice"] += twice
    counts["agree"] += agrees(row, vote)


def in_bin(confidence: float) -> int:
    """The place of a confidence among stretches of equal width from 0.5 to 1."""
    return min(BINS - 1, int((confidence - 0.5) * 2 * BINS))


def sides(row: Label) -> tuple[str, str]:
    """What the replies of a pair are known by: who wrote them, or what they are in their source; alike for samples."""
    if row.a_model != row.b_model and row.a_model is not None and row.b_model is not None:
        return name(row.a_model), name(row.b_model)
    if row.a_from.startswith(SAMPLE) and row.b_from.startswith(SAMPLE):
        return SAMPLE, SAMPLE
    return name(row.a_from), name(row.b_from)


def agrees(row: Label, vote: Vote) -> bool:
    """Whether a vote is for the same reply in both orders, and for the one that the label chooses."""
    if row.z is None:
        return False
    wanted = ("second", "first")
    if row.z > 0:
        wanted = ("first", "second")
    return (vote.ab.choice, vote.ba.choice) == wanted


def is_flipped(row: Label) -> bool:
    """Whether most valid votes choose the same place in both orders."""
    flips, count = count_flips(row.votes)
    return 2 * flips > count


def label_section(folder: Path, info: Values, strata: Strata) -> Section:
    """Of a label run, with its labels beside people's, or the calibration that it used."""
    tally = Labels()
    section = run_section(folder, info, strata, tally)
    run = RunRows(folder, info, Label)
    verdicts = read_verdicts(enumerate(record for record, _ in run.annotated()))
    lines = run.annotated() if verdicts else run.rows()
    if run.people is not None:
        verdicts.update(run.people.verdicts())
    facts, tables = annotator_tables(verdicts)
    if tally.human:
        rows = (row for _, row in lines)
        tables = [*people_tables(section, rows, info["identity"].get("binding"), run.people), *tables]
    elif exists(folder / CALIBRATION):
        tables.append(thresholds(load_calibration(folder / CALIBRATION)))
    section.facts += facts
    section.tables[:0] = tables
    return section
