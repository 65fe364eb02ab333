"""`cai judge bench`: compares judges with people, on pairs that people have labelled, side by side.

Every judge and protocol has a label run of its own, which can be resumed. The comparison with people is
`calibration`'s; what the two orders of a pair say about a judge is counted here. It has no formulas of its own, and
prints nothing.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from cai.calls.model import spec_of
from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.engine.letters import log_ratio, probability
from cai.errors import ModelStopped, UsageError
from cai.evaluation.bench_report import BenchResult, LabelCost, VoteFigures
from cai.folder.lines import read_rows
from cai.judge.calibration import calibrate_judge
from cai.judge.certify import Binding
from cai.judge.flows import is_valid, mean_preference
from cai.judge.majority import People
from cai.judge.metrics import average, credit, share
from cai.judge.people import TRUTHS
from cai.judge.votes import votes_in
from cai.models import idle_servers_stopped, open_models
from cai.models.specs import parts_of, without_address
from cai.records import BadPrompt, Contest, Label, Object, Place, Protocol, Reading, Vote
from cai.runs.kinds.calibration import VOTES, without_labels
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.pairs import read_pairs
from cai.runs.kinds.settings import LabelSettings
from cai.runs.play import in_thread
from cai.runs.run import Run
from cai.runs.settings import without_addresses
from cai.sources.files import Source
from cai.sources.yamlfile import make_settings
from cai.texts.wording import printable, settings_as_keywords, words_of

NOT_ASKED = (
    "gold", "agreement", "calibration", "annotate", "target", "max_candidates", "model", "pairing", "min_confidence",
    "shard", "workers", "ray",
)  # fmt: skip
Play = Callable[[LabelRun], None]  # plays a run to its end


@dataclass(frozen=True)
class Bench:
    """A label run over pairs that people have labelled; unlabelled: how many other pairs the source has."""

    run: LabelRun
    unlabelled: int
    people: People  # those who voted, if the source has votes


def quietly(run: Run[Any]) -> None:
    """Play a run to its end, also inside a running event loop."""
    for _ in in_thread(run.rows):
        pass


@settings_as_keywords(LabelSettings, *NOT_ASKED, "judge", "protocol")
def judge_bench(
    gold: Source,
    judges: str | Sequence[str],
    constitution: str | Path | Constitution = "hhh",
    *,
    protocols: Sequence[str] = (),
    out: str | Path | None = None,
    **settings: Any,
) -> list[BenchResult]:
    """Compare judges with people; one result for each judge and protocol, in the order given.

    gold: pairs as `cai label` reads them; those that say which reply people prefer are judged. judges: model specs.
    protocols: if there are none, the best that each judge can do; a reward model is always asked by its own. out: a
    folder for the label runs, one in a folder each, which are resumed; None: nothing is kept. `limit` counts labelled
    pairs, and `max_cost` is for all runs together.
    If a judge stops early, its result says why in `stopped`. Raises whatever else keeps a label run from beginning.
    """
    specs = [judges] if isinstance(judges, str) else judges
    law = load_constitution(constitution)
    with TemporaryDirectory(prefix="cai-") as scratch, idle_servers_stopped():
        results = run_bench(resolve_bench(gold, specs, law, protocols, out or scratch, settings))
    if out:
        return results
    return [replace(result, folder=None) for result in results]


def resolve_bench(
    gold: Source,
    judges: Sequence[str],
    law: Constitution,
    protocols: Sequence[str],
    out: str | Path,
    options: Object,
) -> list[Bench]:
    """Check everything that can be checked before the first call; options: fields of `LabelSettings`."""
    settings = judging_settings("a bench", law, options)
    models = open_models(
        {spec: spec for spec in judges}, settings.connection
    )  # together: no key may go to another's server
    command = _command(gold, judges, protocols, settings)
    people = votes_in(gold)
    places, unlabelled = _labelled(gold, people, settings.limit)
    benches: dict[tuple[str, Protocol], Bench] = {}
    for spec, model in models.items():
        # A reward model has one protocol, whatever the others are asked by.
        choices: Sequence[str | None] = [None] if model.can.reward else protocols or [None]
        for protocol in choices:
            values = settings.model_copy(update={"judge": spec, "protocol": protocol, "out": out})
            run = LabelRun(gold, values, pairs=places, origin=VOTES if people.lines else None)
            if (spec, run.protocol) in benches:
                continue
            run.out = Path(out) / _slug(spec, run.protocol, {bench.run.out.name for bench in benches.values()})
            run.cuts = False
            run.be_part_of(Path(out), command)
            benches[spec, run.protocol] = Bench(run, unlabelled, people)
    return list(benches.values())


def _command(gold: Source, judges: Sequence[str], protocols: Sequence[str], settings: LabelSettings) -> str | None:
    """What makes this bench on the command line; None for pairs that are in memory."""
    if not isinstance(gold, str | Path):
        return None
    choices = {"gold": gold, "judge": without_addresses(judges), "protocol": protocols}
    words = words_of(choices) + settings.words("judge", "protocol", "gold", "min_confidence")
    return printable(shlex.join(["cai", "judge", "bench", *words]))


def run_bench(benches: Sequence[Bench], play: Play = quietly) -> list[BenchResult]:
    """Play every run to its end, or as far as its judge goes, and measure its labels."""
    results = []
    for bench in benches:
        bench.run.sharing = [other.run.out for other in benches if other is not bench]
        stopped = None
        try:
            play(bench.run)
        except ModelStopped as error:
            stopped = str(error)
        results.append(_measured(bench, stopped))
    return results


def judging_settings(what: str, law: Constitution, options: Object, **fixed: Any) -> LabelSettings:
    """The settings of a run whose labels do not train; raises UsageError for options that only matter in training."""
    for name in NOT_ASKED:
        if name in options:
            raise UsageError(f"{name!r} is for labels that are kept for training: {what} keeps none")
    # 0.5: beliefs after reasoning are looked at as they are, not filtered
    return make_settings(LabelSettings, {**options, **fixed, "constitution": law, "min_confidence": 0.5})


def _labelled(gold: Source, people: People, limit: int | None) -> tuple[list[Place], int]:
    """The pairs that people have labelled, with the bad records among them, and how many pairs were left out.

    Pairs that were drawn for people who then skipped them are among the first: thresholds take account of them.
    """
    places: list[Place] = []
    unlabelled = labelled = 0
    for position, item in read_pairs(gold):
        if isinstance(item, Contest) and item.human is None and not people.is_lost(item.key):
            unlabelled += 1
            continue
        places.append((position, item))
        labelled += isinstance(item, Contest) and item.human is not None
        if labelled == limit:
            break
    if not labelled:
        raise without_labels(gold, "--gold", people)
    return places, unlabelled


def _slug(spec: str, protocol: Protocol, taken: set[str]) -> str:
    """The name of a run's folder: provider, the end of the model's name, and protocol."""
    provider, name, _ = parts_of(spec)
    name = re.sub(r"[^\w.]+", "-", name.rstrip("/").rpartition("/")[2])
    slug = "-".join(filter(None, (provider, name, protocol)))
    return f"{slug}-{len(taken) + 1}" if slug in taken else slug


# What the labels say


def _measured(bench: Bench, stopped: str | None) -> BenchResult:
    run = bench.run
    pairs = {position for position, item in run.items() if not isinstance(item, BadPrompt)}
    # From the folder: an earlier session may have judged some of them.
    rows = [label for label in read_rows(run.out / "labels.jsonl", Label) if label.position in pairs]
    people = None
    if bench.people.lines:  # there may be more votes on a pair than when it was judged
        people = bench.people
        rows = list(map(people.labelled, rows))
    report = None
    if any(label.z is not None and label.human is not None for label in rows):
        report = calibrate_judge(rows, gold=people, binding=Binding.model_validate(run.judging.binding))
    figures = None
    if not run.judging.model.can.reward:  # which sees no order
        figures = vote_figures(rows, weighted=run.judging.all)
    return BenchResult(
        judge=without_address(run.settings.judge),
        model=spec_of(run.players["judge"]),
        protocol=run.protocol,
        folder=str(run.out),
        pairs=len(pairs),
        unlabelled=bench.unlabelled,
        judged=len(rows),
        dropped=dict(run.info.get("dropped", {})),
        report=report,
        figures=figures,
        spent=LabelCost(
            calls=average([len(row.calls) for row in rows]),
            input_tokens=_mean_count([row.usage.input_tokens for row in rows]),
            output_tokens=_mean_count([row.usage.output_tokens for row in rows]),
            cost_usd=share(run.info.get("cost_usd"), run.info.get("rows") or 0),
            seconds=share(run.info.get("seconds"), run.info.get("rows") or 0),
        ),
        stopped=stopped,
    )


def vote_figures(rows: Iterable[Label], *, weighted: bool) -> VoteFigures:
    """What the votes on pairs that people labelled say; weighted: principles count by weight, not alike."""
    votes: list[Vote] = []
    valid: list[Vote] = []
    a_first: list[float] = []  # the credit of each pair by one order
    b_first: list[float] = []
    right = 0.0
    for row in rows:
        if row.human is None:
            continue
        truth = TRUTHS[row.human]
        own = [vote for vote in row.votes if is_valid(vote)]
        votes += row.votes
        valid += own
        choices = [(vote.ab.choice, vote.ba.choice) for vote in own]
        right += truth * choices.count(("first", "second")) + (1 - truth) * choices.count(("second", "first"))
        if own:
            a_first.append(credit(by_order(own, "ab", weighted=weighted), truth))
            b_first.append(credit(by_order(own, "ba", weighted=weighted), truth))
    readings = [reading for vote in votes for reading in (vote.ab, vote.ba)]
    figures = VoteFigures(
        votes=len(votes),
        invalid_vote_rate=share(len(votes) - len(valid), len(votes)),
        mass=average([reading.mass for reading in readings if reading.mass is not None], statistics.median),
        clipped=sum(reading.bounded for reading in readings if reading.mass is None),
    )
    if not valid:
        return figures
    first = statistics.fmean(a_first)
    second = statistics.fmean(b_first)
    flips = sum(vote.ab.choice == vote.ba.choice is not None for vote in valid) / len(valid)
    biases = [vote.b for vote in valid if vote.b is not None]
    of_valid = {
        "single_order_accuracy": (first + second) / 2,
        "accuracy_a_first": first,
        "accuracy_b_first": second,
        "consistent_accuracy": right / len(valid),
        "position_consistency": 1 - flips,
        "flip_rate": flips,
        "bias": average(biases),
        "absolute_bias": average(list(map(abs, biases))),
    }
    return figures.model_copy(update=of_valid)


def by_order(votes: Sequence[Vote], order: Literal["ab", "ba"], *, weighted: bool = False) -> float:
    """Probability that a is better by the valid votes of one order; for votes in words, the share that is for a."""
    readings: list[Reading] = [getattr(vote, order) for vote in votes]
    place, sign = {"ab": ("first", 1), "ba": ("second", -1)}[order]  # where a is shown
    ratios = map(log_ratio, readings)
    in_order = [vote.model_copy(update={"d": ratio}) for vote, ratio in zip(votes, ratios, strict=True)]
    z = mean_preference(in_order, weighted=weighted)
    if z is None:  # votes in words
        return statistics.fmean(reading.choice == place for reading in readings)
    return probability(sign * z)


def _mean_count(counts: Sequence[int | None]) -> float | None:
    """The mean of counts of tokens; None unless all are known."""
    reported = [count for count in counts if count is not None]
    return None if len(reported) < len(counts) else average(reported)
