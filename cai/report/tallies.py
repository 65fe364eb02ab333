"""What is counted of the runs that write and rate: `cai generate`, `cai sample`, and ratings of single replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import fmean

from cai.evaluation.statistics.estimates import mean_of
from cai.folder.kinds import kind_of
from cai.records import Candidates, Rating, Record, Revision
from cai.report.folders import Reasons
from cai.report.html import charts
from cai.report.html.sections import Cell, Fact, Table, columns, count, decimal, decimals, ends_of, name
from cai.report.runs import Tally, bars, share_fact

NO_GATE = "not read, or no gate"


class Revisions(Tally[Revision]):
    """Of a generate run."""

    row = Revision
    kind = "generate run"

    def __init__(self) -> None:
        self.rows = self.changed = self.first = self.final = 0
        self.rounds: Counter[str] = Counter()  # by principle
        self.changes: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.screens = self.standing = 0  # screens, and those that found nothing
        self.compared: Counter[bool] = Counter()  # revisions by a judge, and whether they were accepted

    def add(self, row: Revision) -> None:
        """Count a row."""
        self.rows += 1
        self.changed += row.final != row.initial
        self.first += len(row.initial)
        self.final += len(row.final)
        for screening in row.screens or ():
            self.screens += 1
            self.standing += screening.principle is None
        for each in row.rounds:
            principle = name(each.principle)
            self.rounds[principle] += 1
            self.changes[principle] += each.changed
            self.verdicts[(each.verdict or NO_GATE).replace("_", " ")] += 1
            if each.acceptance is not None and each.acceptance.fault is None:
                self.compared[each.acceptance.accepted] += 1

    def facts(self) -> Iterator[Fact]:
        """How many replies changed, and in length."""
        if self.rows:
            yield share_fact("changed by a revision", self.changed, self.rows)
            if self.screens:
                yield share_fact("screens that found no principle", self.standing, self.screens)
            if self.compared:
                yield share_fact("revisions accepted by the judge", self.compared[True], self.compared.total())
            lengths = f"{self.first / self.rows:,.0f} → {self.final / self.rows:,.0f}"
            yield Fact("characters of a reply", lengths, basis="first → final, on average")

    def tables(self) -> Iterator[Table]:
        """What each principle changed, and what the gate said."""
        if self.rounds:
            heads = columns("=principle | * | changed the reply | 95 % interval | rounds", charts.axis(charts.SHARES))
            lines = [[each, *charts.part_cells(each, self.changes[each], n)] for each, n in self.rounds.most_common()]
            yield Table("What each principle changed", heads, lines)
        if self.verdicts.keys() - {NO_GATE}:
            yield bars("What the gate said", "verdict", "rounds", self.verdicts)


class Replies(Tally[Candidates]):
    """Of a sample run."""

    row = Candidates
    kind = "sample run"

    def __init__(self) -> None:
        self.replies: Counter[str] = Counter()  # by model
        self.usable: Counter[str] = Counter()
        self.lengths: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()

    def add(self, row: Candidates) -> None:
        """Count a row."""
        for reply in row.replies:
            model = name(reply.model)
            self.replies[model] += 1
            self.lengths[model] += len(reply.text)
            if reply.problem is None:
                self.usable[model] += 1
            else:
                self.problems[reply.problem] += 1

    def facts(self) -> Iterator[Fact]:
        """How many replies can be used."""
        if self.replies:
            yield share_fact("replies that can be used", self.usable.total(), self.replies.total())

    def tables(self) -> Iterator[Table]:
        """The replies of each model."""
        lines: list[list[Cell]] = []
        for model, number in self.replies.items():
            cells = charts.part_cells(model, self.usable[model], number)
            lines.append([model, *cells, f"{self.lengths[model] / number:,.0f}"])
        if lines:
            heads = "=model | * | can be used | 95 % interval | replies | characters, on average"
            yield Table("Replies by model", columns(heads, charts.axis(charts.SHARES)), lines)
        if self.problems:
            yield bars("Replies that cannot be used", "reason", "replies", self.problems)


class Others(Tally[Record]):
    """Of a run of any other kind: how many rows it has."""

    def __init__(self, command: str) -> None:
        self.row = kind_of(command).row
        self.kind = f"{command} run"

    def add(self, row: Record) -> None:
        """Count nothing more."""

    def facts(self) -> Iterator[Fact]:
        """None."""
        return iter(())

    def tables(self) -> Iterator[Table]:
        """None."""
        return iter(())


class Ratings(Tally[Rating]):
    """Of a run that rates single replies."""

    row = Rating
    kind = "ratings"
    noun = "replies rated"

    def __init__(self) -> None:
        self.rows = self.valid = 0
        self.values: dict[tuple[str, str], dict[str, list[float]]] = {}  # by contestant and scale, and by prompt

    def add(self, row: Rating) -> None:
        """Count a row."""
        self.rows += 1
        if row.value is not None:
            self.valid += 1
            prompts = self.values.setdefault((name(row.contestant), name(row.asked)), {})
            prompts.setdefault(row.prompt_id, []).append(row.value)

    def group_of(self, row: Rating, reasons: Reasons) -> tuple[str, float]:
        """By what was rated, and whether a level could be read."""
        if row.value is None:
            return f"{row.asked}: no level", 0.0
        return f"{row.asked}: rated", 0.0

    def facts(self) -> Iterator[Fact]:
        """How many levels could be read."""
        if self.rows:
            yield share_fact("with a level that can be read", self.valid, self.rows)

    def tables(self) -> Iterator[Table]:
        """The mean of each contestant on each scale, each prompt a cluster."""
        means = {names: mean_of([fmean(each) for each in prompts.values()]) for names, prompts in self.values.items()}
        if not means:
            return
        scale = charts.scale_of([end for mean in means.values() for end in mean[:3] if end is not None], charts.plain)
        lines: list[list[Cell]] = []
        for (contestant, asked), mean in means.items():
            ends = ends_of(mean.low, mean.high)
            title = f"{contestant}, {asked}: {decimal(mean.value)}, 95 % interval {decimals(ends)}"
            dot = charts.dot(scale, mean.value, ends, title)
            lines.append([contestant, asked, dot, decimal(mean.value), decimals(ends), count(mean.n)])
        heads = "=model | =rated | * | mean | 95 % interval | prompts"
        yield Table("Mean ratings", columns(heads, charts.axis(scale)), lines)
