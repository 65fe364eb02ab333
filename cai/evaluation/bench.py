"""`cai judge bench`: judges held against people, on pairs that people have labelled, side by side.

Every judge and protocol is a label run of its own, which goes on where it stopped. The comparison with people is
`calibration`'s; what both orders tell of a judge is counted here. Knows no formulas of its own, and prints nothing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from cai.constitution.principles import Constitution, load_constitution
from cai.errors import ModelStopped, SourceError, UsageError
from cai.evaluation.bench_report import BenchResult, Spent, VoteFigures
from cai.evaluation.trial import NOT_ASKED, Play, quietly
from cai.folder.rows import damage
from cai.judge.calibration import calibrate_rows
from cai.judge.calibration_report import CalibrationReport
from cai.judge.certify import Binding
from cai.judge.flows import is_valid, log_ratio, mean_preference, probability
from cai.judge.metrics import credit
from cai.models import open_models, spec_of
from cai.records import BadPrompt, Label, Place, Protocol, Vote
from cai.runs.label import LabelRun
from cai.runs.pairs import read_pairs
from cai.runs.settings import LabelSettings, make_settings
from cai.sources.files import Source


@dataclass(frozen=True)
class Bench:
    """A label run over pairs that people have labelled.

    named: the judge's spec as it was given. gold: the pairs, with the bad records among them. unlabelled: how many
    other pairs the source has.
    """

    run: LabelRun
    named: str
    gold: tuple[Place, ...]
    unlabelled: int


def judge_bench(
    gold: Source,
    judges: str | Sequence[str],
    constitution: str | Path | Constitution = "hhh",
    *,
    protocols: Sequence[str] = (),
    out: str | Path | None = None,
    **settings: Any,
) -> list[BenchResult]:
    """Hold judges against people; one result for each judge and protocol, in the order given.

    gold: pairs as `cai label` reads them, of which people's choice is known. judges: model specs. protocols: none: the
    best that each judge can do; a reward model is always asked by its own. out: a folder for the label runs, one
    in a folder each, which go on where they stopped; None: nothing is kept. settings: fields of `LabelSettings` such as
    `principles`, `limit` (of labelled pairs) and `max_cost` (of all runs together).
    A judge that cannot go on has a result with `stopped`. Raises what else keeps a label run from beginning.
    """
    named = [judges] if isinstance(judges, str) else judges
    law = load_constitution(constitution)
    with TemporaryDirectory(prefix="cai-") as scratch:
        found = run_bench(resolve_bench(gold, named, law, protocols, out or scratch, settings))
    return found if out else [replace(result, folder=None) for result in found]


def resolve_bench(
    gold: Source,
    judges: Sequence[str],
    law: Constitution,
    protocols: Sequence[str],
    out: str | Path,
    given: Mapping[str, Any],
) -> list[Bench]:
    """Check everything that can be checked before the first call; `given` are fields of `LabelSettings`."""
    for name in NOT_ASKED:
        if name in given:
            raise UsageError(f"{name!r} is for labels that are kept for training: a bench keeps none")
    # 0.5: beliefs after reasoning are looked at as they are, not filtered
    settings = make_settings(LabelSettings, {**given, "constitution": law, "min_confidence": 0.5})
    # Together, since no key may go to another's server.
    models = open_models({spec: spec for spec in judges}, settings.connection)
    places, unlabelled = _labelled(gold, settings.limit)
    benches: dict[tuple[str, Protocol], Bench] = {}
    folders: set[str] = set()
    for spec, model in models.items():
        for protocol in (None,) if model.can.reward else tuple(protocols) or (None,):
            values = settings.model_copy(update={"judge": spec, "protocol": protocol, "out": out})
            run = LabelRun(gold, values, pairs=places)
            if (spec, run.protocol) in benches:
                continue
            run.out = Path(out) / _slug(spec, run.protocol, folders)
            run.cuts = False
            benches[spec, run.protocol] = Bench(run, spec, places, unlabelled)
    return list(benches.values())


def run_bench(benches: Iterable[Bench], play: Play = quietly) -> list[BenchResult]:
    """Play every run to its end, or as far as its judge goes, and measure its labels."""
    spent, results = 0.0, []
    for bench in benches:
        bench.run.spent = spent
        stopped = None
        try:
            play(bench.run)
        except ModelStopped as error:
            stopped = str(error)
        spent += bench.run.info.get("cost_usd") or 0.0
        results.append(_measured(bench, stopped))
    return results


def _labelled(gold: Source, limit: int | None) -> tuple[tuple[Place, ...], int]:
    """The pairs of which people's choice is known, with the bad records among them, and how many were left out."""
    places: list[Place] = []
    unlabelled = labelled = 0
    for position, item in read_pairs(gold):
        if not isinstance(item, BadPrompt) and getattr(item, "human", None) is None:
            unlabelled += 1
            continue
        labelled += not isinstance(item, BadPrompt)
        places.append((position, item))
        if labelled == limit:
            break
    if not labelled:
        where = gold if isinstance(gold, str | Path) else None
        raise SourceError("no pair says which reply people prefer: chosen and rejected, or a label", where)
    return tuple(places), unlabelled


def _slug(spec: str, protocol: Protocol, taken: set[str]) -> str:
    """The name of a run's folder: provider, the end of the model's name, and protocol."""
    provider, _, name = spec.partition(":")
    name = re.sub(r"[^\w.]+", "-", name.rstrip("/").rpartition("/")[2])
    slug = numbered = "-".join(filter(None, (provider, name, protocol)))
    while numbered in taken:
        numbered = f"{slug}-{len(taken) + 1}"
    taken.add(numbered)
    return numbered


# What the labels say


def _measured(bench: Bench, stopped: str | None) -> BenchResult:
    run, info = bench.run, bench.run.info
    wanted = {position for position, item in bench.gold if not isinstance(item, BadPrompt)}
    # From the folder: an earlier session may have judged some of them.
    rows = [label for label in read_labels(run.out / "labels.jsonl") if label.position in wanted]
    rows.sort(key=lambda label: label.position)  # the same numbers in whatever order they were finished
    report = figures = longer = None
    if any(label.z is not None for label in rows):
        report = calibrate_rows(rows, binding=Binding.model_validate(run.judging.binding))
        longer = _longer(report)
    if run.protocol != "reward":
        figures = vote_figures(rows, weighted=run.judging.all)
    return BenchResult(
        judge=bench.named,
        model=spec_of(run.players["judge"]),
        protocol=run.protocol,
        folder=str(run.out),
        pairs=len(wanted),
        unlabelled=bench.unlabelled,
        judged=len(rows),
        dropped=dict(info.get("dropped", {})),
        report=report,
        figures=figures,
        longer=longer,
        spent=_spent(rows, info),
        stopped=stopped,
    )


def read_labels(path: Path) -> list[Label]:
    """The rows of a labels.jsonl; none if it is missing. Raises RunError for one that is damaged."""
    if not path.exists():
        return []
    try:
        return [Label.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except ValidationError as error:
        raise damage(path) from error


def vote_figures(rows: Iterable[Label], *, weighted: bool) -> VoteFigures:
    """What the votes of labels with a human verdict tell; weighted: principles count by weight, not alike."""
    votes = mine = flips = right = 0
    biases: list[float] = []
    masses: list[float] = []
    halves: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        truth = row.human == "a"
        valid = [vote for vote in row.votes if is_valid(vote)]
        votes, mine = votes + len(row.votes), mine + len(valid)
        for vote in row.votes:
            masses += [reading.mass for reading in (vote.ab, vote.ba) if reading.mass is not None]
        for vote in valid:
            flips += vote.ab.choice == vote.ba.choice is not None
            right += (vote.ab.choice, vote.ba.choice) == (("first", "second") if truth else ("second", "first"))
        biases += [vote.b for vote in valid if vote.b is not None]
        if valid:
            for half, p in zip(halves, one_order(valid, weighted=weighted), strict=True):
                half.append(credit(p, truth))
    first, second = (statistics.fmean(half) if half else None for half in halves)
    return VoteFigures(
        votes=votes,
        invalid_vote_rate=(votes - mine) / votes if votes else None,
        single_order_accuracy=None if first is None or second is None else (first + second) / 2,
        accuracy_a_first=first,
        accuracy_b_first=second,
        consistent_accuracy=right / mine if mine else None,
        position_consistency=1 - flips / mine if mine else None,
        flip_rate=flips / mine if mine else None,
        bias=statistics.fmean(biases) if biases else None,
        absolute_bias=statistics.fmean(map(abs, biases)) if biases else None,
        mass=statistics.median(masses) if masses else None,
    )


def one_order(votes: Sequence[Vote], *, weighted: bool) -> tuple[float, float]:
    """Probability that a is better by the valid votes of one order alone: with a shown first, and with b first.

    Of votes in words the share for a.
    """
    if any(vote.d is None for vote in votes):
        a_first = sum(vote.ab.choice == "first" for vote in votes) / len(votes)
        return a_first, sum(vote.ba.choice == "second" for vote in votes) / len(votes)
    halves = []
    for order, sign in (("ab", 1), ("ba", -1)):
        ratios = [(vote, log_ratio(getattr(vote, order)) or 0.0) for vote in votes]
        z = mean_preference([vote.model_copy(update={"d": sign * ratio}) for vote, ratio in ratios], weighted=weighted)
        halves.append(probability(z or 0.0))
    return halves[0], halves[1]


def _longer(report: CalibrationReport) -> tuple[float, float] | None:
    """How often the judge, and people, prefer the longer reply, among pairs whose lengths differ."""
    rows = [(row, row.guesses["longer"] == 1) for row in report.rows if row.guesses["longer"] != 0.5]
    if not rows:
        return None
    judge = statistics.fmean(credit(probability(row.z), first) for row, first in rows)
    return judge, statistics.fmean(row.truth == first for row, first in rows)


def _spent(rows: Sequence[Label], info: Mapping[str, Any]) -> Spent:
    made = info.get("rows") or 0
    cost = info.get("cost_usd")
    return Spent(
        calls=statistics.fmean(len(row.calls) for row in rows) if rows else None,
        input_tokens=_mean([row.usage.input_tokens for row in rows]),
        output_tokens=_mean([row.usage.output_tokens for row in rows]),
        cost_usd=cost / made if made and cost is not None else None,
        seconds=info["seconds"] / made if made else None,
    )


def _mean(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return statistics.fmean(known) if known and len(known) == len(counts) else None
