"""What a label run has to say: how sure the judge is, where it contradicts itself, and why pairs were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cai.evaluation.statistics.winrate import win_rate
from cai.folder.files import exists
from cai.judge.certify import FILE as CALIBRATION
from cai.judge.certify import load_calibration
from cai.judge.flows import is_valid
from cai.judge.metrics import BINS, wilson
from cai.judge.people import TRUTHS
from cai.records import Label, Values, Vote
from cai.report.folders import Reasons, RunRows
from cai.report.html import charts
from cai.report.html.sections import Cell, Column, Fact, Section, Table, count, name, percent, percents
from cai.report.people import people_tables, thresholds
from cai.report.rows import of_label
from cai.report.runs import about, bars, drops, group_of_reasons, head, share_dot, share_fact
from cai.report.samples import Strata

SAMPLE = "sample "
LAST = ("initial", "rejected")  # what others are compared with
FLIPPED = "votes flip with the order"
AGAINST = "the judge disagrees with people"


class Tally:
    """What passes by while the labels are read once."""

    def __init__(self) -> None:
        self.pairs = self.valid = self.human = 0
        self.votes: Counter[str] = Counter()
        self.bins = [0] * BINS
        self.principles: dict[str, Counter[str]] = {}
        self.cuts: Counter[str] = Counter()
        self.wins: dict[tuple[str, str], dict[str, list[float]]] = {}

    def add(self, row: Label) -> None:
        """Count a label."""
        self.pairs += 1
        self.human += row.human is not None
        if row.confidence is not None:
            self.valid += 1
            self.bins[min(BINS - 1, int((row.confidence - 0.5) * 2 * BINS))] += 1
        if row.z is not None:
            self._add_win(row, row.z)
        for vote in row.votes:
            self._add_vote(row, vote)

    def _add_win(self, row: Label, z: float) -> None:
        a, b = sides(row)
        won = 0.5 + ((z > 0) - (z < 0)) / 2
        if (a in LAST, a) > (b in LAST, b):
            a, b, won = b, a, 1 - won
        if a != b:
            self.wins.setdefault((a, b), {}).setdefault(row.prompt_id, []).append(won)

    def _add_vote(self, row: Label, vote: Vote) -> None:
        counts = self.principles.setdefault(name(vote.principle), Counter())
        for counter in (self.votes, counts):
            counter["votes"] += 1
            if not is_valid(vote):
                continue
            counter["valid"] += 1
            first = vote.ab.choice == vote.ba.choice
            counter["flips"] += first and vote.ab.choice is not None
            counter[f"{vote.ab.choice} twice"] += first
            counter["agree"] += agrees(row, vote)


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
    wanted = ("first", "second") if row.z > 0 else ("second", "first")
    return (vote.ab.choice, vote.ba.choice) == wanted


def is_flipped(row: Label) -> bool:
    """Whether most valid votes choose the same place in both orders."""
    valid = [vote for vote in row.votes if is_valid(vote)]
    return 2 * sum(vote.ab.choice == vote.ba.choice is not None for vote in valid) > len(valid)


def label_section(folder: Path, info: Values, strata: Strata) -> Section:
    """Of a label run, or the test of a constitution."""
    run = RunRows(folder, info, Label)
    kind = "label run" if info["identity"]["command"] == "label" else "test of a constitution"
    section = Section(name(folder), kind, about=about(info), warnings=run.notes)
    tally = Tally()
    for position, row in run.rows():
        run.lost.pop(position, None)
        tally.add(row)
        reasons = run.left_out.get(position, ())
        tally.cuts.update(f"{reason} (not in {stage})" for stage, reason in reasons)
        group, weight = group_of(row, reasons)
        strata.offer(group, position, weight)
    section.facts = [*head(tally.pairs, len(run.lost), "pairs judged"), *_facts(tally)]
    lost = run.offer_lost(strata)
    section.tables = [*_wins(tally), *_confidences(tally), *_principles(tally), *drops(lost, tally.cuts)]
    if tally.human:
        section.tables[:0] = people_tables(section, (row for _, row in run.rows()), info["identity"].get("binding"))
    elif exists(folder / CALIBRATION):
        section.tables.append(thresholds(load_calibration(folder / CALIBRATION)))
    section.sample = run.sample(strata, of_label)
    return section


def group_of(row: Label, reasons: Reasons) -> tuple[str, float]:
    """The group of a row in the sample, and its weight: the surest of those that people contradict come first."""
    if row.p_a is not None and row.human is not None:
        distance = abs(row.p_a - TRUTHS[row.human])
        if distance > 0.5:
            return AGAINST, distance
    if row.votes and is_flipped(row):
        return FLIPPED, 0.0
    return group_of_reasons(reasons), 0.0


def _facts(tally: Tally) -> Iterator[Fact]:
    if tally.pairs:
        yield share_fact("with a valid vote", tally.valid, tally.pairs)
    if tally.votes["valid"]:
        yield share_fact("votes that flip with the order", tally.votes["flips"], tally.votes["valid"])
        twice = tally.votes["first twice"], tally.votes["second twice"]
        yield Fact(
            "flips to the first · to the second",
            f"{count(twice[0])} · {count(twice[1])}",
            basis="of votes in two orders",
        )


def _wins(tally: Tally) -> Iterator[Table]:
    """How often the judge prefers what to what, each prompt a cluster."""
    lines: list[tuple[Cell, ...]] = []
    for (first, second), outcomes in tally.wins.items():
        rate = win_rate(outcomes)
        ends = None if rate.low is None or rate.high is None else (rate.low, rate.high)
        pairs = sum(map(len, outcomes.values()))
        title = f"{first} over {second}: {percent(rate.value)}, 95 % interval {percents(ends)}"
        dot = charts.dot(charts.SHARES, rate.value, ends, title, mark=0.5)
        lines.append((f"{first} over {second}", dot, percent(rate.value), percents(ends), count(rate.n), count(pairs)))
    if lines:
        columns = [Column("", "name"), Column(charts.axis(charts.SHARES), "picture"), Column("wins"),
                   Column("95 % interval"), Column("prompts"), Column("pairs")]  # fmt: skip
        notes = ["The mean over prompts, each a cluster; ties count half, pairs without a valid vote are left out."]
        yield Table("Win rates, by the judge", columns, lines, notes)


def _confidences(tally: Tally) -> Iterator[Table]:
    """How many labels have which confidence."""
    if tally.valid:
        width = 0.5 / BINS
        names = [f"{0.5 + place * width:.2f} to {0.5 + (place + 1) * width:.2f}" for place in range(BINS)]
        yield bars("How sure the labels are", "confidence", "pairs", dict(zip(names, tally.bins, strict=True)))


def _principles(tally: Tally) -> Iterator[Table]:
    """What each principle says, beside the label that all of them make."""
    lines = []
    for each, counts in sorted(tally.principles.items(), key=lambda item: -item[1]["votes"]):
        valid = counts["valid"]
        if not valid:
            lines.append((each, count(counts["votes"]), "0", "", "–", "–", "–"))
            continue
        lines.append(
            (
                each, count(counts["votes"]), count(valid), share_dot(counts["agree"], valid),
                percent(counts["agree"] / valid), percents(wilson(counts["agree"], valid)),
                percent(counts["flips"] / valid),
            )
        )  # fmt: skip
    if lines:
        columns = [Column("principle", "name"), Column("votes"), Column("valid"),
                   Column(charts.axis(charts.SHARES), "picture"), Column("for the label, in both orders"),
                   Column("95 % interval"), Column("flips")]  # fmt: skip
        yield Table("Votes by principle", columns, lines)
