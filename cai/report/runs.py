"""What a run of `cai generate` or `cai sample` has to say: what came out, what each principle changed, what dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from cai.evaluation.statistics.estimates import mean_of
from cai.judge.metrics import wilson
from cai.records import Candidates, Rating, Revision, Values
from cai.report.folders import Reasons, RunRows
from cai.report.html import charts
from cai.report.html.charts import scale_of
from cai.report.html.sections import Cell, Column, Fact, Section, Table, count, decimal, name, percent, percents
from cai.report.rows import of_candidates, of_rating, of_revision
from cai.report.samples import Strata

KEPT = "kept"


def generate_section(folder: Path, info: Values, strata: Strata) -> Section:
    """Of a generate run."""
    run = RunRows(folder, info, Revision)
    section = Section(name(folder), "generate run", about=about(info), warnings=run.notes)
    total = changed = 0
    lengths = [0, 0]
    by_principle: dict[str, list[int]] = {}
    verdicts: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    for position, row in run.rows():
        run.lost.pop(position, None)  # it was dropped, tried again, and is there now
        total += 1
        changed += row.final != row.initial
        lengths[0] += len(row.initial)
        lengths[1] += len(row.final)
        for each in row.rounds:
            uses = by_principle.setdefault(name(each.principle), [0, 0])
            uses[0] += 1
            uses[1] += each.changed
            verdicts[each.verdict or "not read, or no gate"] += 1
        cuts.update(f"{reason} (not in {stage})" for stage, reason in run.left_out.get(position, ()))
        strata.offer(group_of(run, position), position)
    section.facts = [*head(total, len(run.lost))]
    if total:
        section.facts += [
            share_fact("changed by a revision", changed, total),
            Fact(
                "characters of a reply",
                f"{lengths[0] / total:,.0f} → {lengths[1] / total:,.0f}",
                basis="first → final, on average",
            ),
        ]
    lost = run.offer_lost(strata)
    section.tables = [*principles(by_principle), *gates(verdicts), *drops(lost, cuts)]
    section.sample = run.sample(strata, of_revision)
    return section


def sample_section(folder: Path, info: Values, strata: Strata) -> Section:
    """Of a sample run."""
    run = RunRows(folder, info, Candidates)
    section = Section(name(folder), "sample run", about=about(info), warnings=run.notes)
    total = 0
    replies: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for position, row in run.rows():
        run.lost.pop(position, None)
        total += 1
        for reply in row.replies:
            model = name(reply.model)
            replies[model] += 1
            lengths[model] += len(reply.text)
            usable[model] += reply.problem is None
            if reply.problem is not None:
                problems[f"{reply.problem} (a reply)"] += 1
        strata.offer(group_of(run, position), position)
    section.facts = [*head(total, len(run.lost))]
    if replies:
        section.facts.append(share_fact("replies that can be used", usable.total(), replies.total()))
        lines = [
            (model, count(number), share_dot(usable[model], number), percent(usable[model] / number),
             f"{lengths[model] / number:,.0f}")
            for model, number in replies.items()
        ]  # fmt: skip
        columns = [Column("model", "name"), Column("replies"), Column(charts.axis(charts.SHARES), "picture"),
                   Column("can be used"), Column("characters, on average")]  # fmt: skip
        section.tables.append(Table("Replies by model", columns, lines))
    lost = run.offer_lost(strata)
    section.tables += drops(lost, problems)
    section.sample = run.sample(strata, of_candidates)
    return section


def rate_section(folder: Path, info: Values, strata: Strata) -> Section:
    """Of a run that rates single replies."""
    run = RunRows(folder, info, Rating)
    section = Section(name(folder), "ratings", about=about(info), warnings=run.notes)
    total = valid = 0
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for position, row in run.rows():
        run.lost.pop(position, None)
        total += 1
        strata.offer(f"{row.asked}: {'no level' if row.value is None else 'rated'}", position)
        if row.value is not None:
            valid += 1
            by_prompt = values.setdefault((name(row.contestant), name(row.asked)), {})
            by_prompt.setdefault(row.prompt_id, []).append(row.value)
    section.facts = [*head(total, len(run.lost), "replies rated")]
    if total:
        section.facts.append(share_fact("with a level that can be read", valid, total))
    lost = run.offer_lost(strata)
    section.tables = [*_ratings(values), *drops(lost, Counter())]
    section.sample = run.sample(strata, of_rating)
    return section


def _ratings(values: dict[tuple[str, str], dict[str, list[float]]]) -> Iterator[Table]:
    """The mean of each contestant on each scale, each prompt a cluster."""
    means = {names: mean_of([fmean(each) for each in prompts.values()]) for names, prompts in values.items()}
    if not means:
        return
    scale = scale_of([end for mean in means.values() for end in mean[:3] if end is not None], charts.plain)
    lines: list[tuple[Cell, ...]] = []
    for (contestant, asked), mean in means.items():
        ends = None if mean.low is None or mean.high is None else (mean.low, mean.high)
        text = "–" if ends is None else f"{decimal(ends[0])} to {decimal(ends[1])}"
        title = f"{contestant}, {asked}: {decimal(mean.value)}, 95 % interval {text}"
        dot = charts.dot(scale, mean.value, ends, title)
        lines.append((contestant, asked, dot, decimal(mean.value), text, count(mean.n)))
    columns = [Column("model", "name"), Column("rated", "name"), Column(charts.axis(scale), "picture"), Column("mean"),
               Column("95 % interval"), Column("prompts")]  # fmt: skip
    yield Table("Mean ratings", columns, lines)


def group_of(run: RunRows[Revision] | RunRows[Candidates], position: int) -> str:
    """Why a row was left out of the files of its run, by the first reason; or that it was kept."""
    return group_of_reasons(run.left_out.get(position, ()))


def group_of_reasons(reasons: Reasons) -> str:
    """The group of a row that was left out of files for these reasons."""
    if not reasons:
        return KEPT
    stage, reason = reasons[0]
    return f"not in {stage}: {reason}"


def head(rows: int, lost: int, noun: str = "rows") -> Iterator[Fact]:
    """How many inputs there were, and how many rows came of them."""
    detail = f"of {count(rows + lost)} inputs" if lost else ""
    yield Fact(noun, count(rows), basis=detail)
    if lost:
        yield share_fact("dropped before they were rows", lost, rows + lost)


def share_fact(what: str, part: int, whole: int) -> Fact:
    """A share with its interval (Wilson, 95 %) and what it is a share of."""
    return Fact(what, percent(part / whole), percents(wilson(part, whole)), f"{count(part)} of {count(whole)}")


def share_dot(part: int, whole: int) -> Markup:
    """A share as a dot on its interval."""
    title = f"{percent(part / whole)}, 95 % interval {percents(wilson(part, whole))}, {count(part)} of {count(whole)}"
    return charts.dot(charts.SHARES, part / whole, wilson(part, whole), title)


def principles(uses: dict[str, list[int]]) -> Iterator[Table]:
    """How often each principle led to a change."""
    if not uses:
        return
    columns = [Column("principle", "name"), Column("rounds"), Column(charts.axis(charts.SHARES), "picture"),
               Column("changed the reply"), Column("95 % interval")]  # fmt: skip
    lines = [
        (each, count(rounds), share_dot(changed, rounds), percent(changed / rounds), percents(wilson(changed, rounds)))
        for each, (rounds, changed) in sorted(uses.items(), key=lambda item: -item[1][0])
    ]
    yield Table("What each principle changed", columns, lines)


def gates(verdicts: Counter[str]) -> Iterator[Table]:
    """What the gate said of the replies."""
    if verdicts.keys() - {"not read, or no gate"}:
        yield bars(
            "What the gate said",
            "verdict",
            "rounds",
            {text.replace("_", " "): number for text, number in verdicts.items()},
        )


def drops(lost: Counter[str], cuts: Counter[str]) -> Iterator[Table]:
    """Why inputs did not become rows, and rows not training data."""
    reasons = Counter({f"{reason} (no row)": number for reason, number in lost.items()}) + cuts
    if reasons:
        notes = ["A row can be left out of several files: the lines do not add up to the rows that are missing."]
        yield bars("Drop reasons", "reason", "count", dict(reasons.most_common()), notes if cuts else [])


def bars(title: str, what: str, unit: str, counts: dict[str, int], notes: Iterable[str] = ()) -> Table:
    """Counts by name, each with a bar and its share of all."""
    largest, total = max(counts.values()), sum(counts.values())
    lines = [
        (name(each), charts.bar(number, largest, f"{each}: {count(number)}"), count(number), percent(number / total))
        for each, number in counts.items()
    ]
    columns = [Column(what, "name"), Column("", "picture"), Column(unit), Column("of all listed")]
    return Table(title, columns, lines, tuple(notes))


def about(info: Values) -> list[tuple[str, str]]:
    """The settings of a run that a reader asks for first."""
    return list(_about(info))


def _about(info: Values) -> Iterator[tuple[str, str]]:
    identity = info["identity"]
    law = identity.get("constitution") or identity.get("binding", {}).get("constitution")
    if law:
        yield "constitution", name(f"{law.get('name')} {law.get('version')} ({law.get('hash')})")
    models = identity.get("models") or {}
    if isinstance(models, dict):
        for model in dict.fromkeys(models.values()):
            yield "model", name(f"{model} ({', '.join(role for role, its in models.items() if its == model)})")
    else:
        yield "models", name(", ".join(models))
    if binding := identity.get("binding"):
        yield "judge", name(f"{binding.get('judge')}, protocol {binding.get('protocol')}")
    usage = info.get("usage") or {}
    if calls := usage.get("calls"):
        yield "calls", f"{calls:,}; {usage.get('input_tokens', 0):,} tokens in, {usage.get('output_tokens', 0):,} out"
    if info.get("cost_usd") is not None:
        yield "cost", f"${info['cost_usd']:,.4f}"
    if seed := identity.get("seed", 0):
        yield "seed", str(seed)
    if version := (info.get("versions") or {}).get("cai"):
        yield "made by", name(f"cai {version}")
