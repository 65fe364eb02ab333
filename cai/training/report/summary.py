"""What a training did: its metrics, and how often the chosen reply of held-out pairs wins, before and after.

A reply is measured by its log probability in nats, summed over its tokens or a mean of them, or by its reward. Exact
ties count half.
Pairs are taken as independent, so if several have one prompt the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from cai.judge.metrics import Z95, binomial_cdf, wilson
from cai.records import Object, Record, Values
from cai.texts.wording import report_lines
from cai.training.setup.methods import METHODS

# Metrics of every method that are shown, in words.
SHOWN = (("loss", "loss"), ("eval_loss_before", "held-out loss before"), ("eval_loss", "held-out loss"))

Line = Object  # of metrics.jsonl or eval.jsonl

# What replies are compared by, in words, by how its names in eval.jsonl begin; of several in a line, the first.
MEASURES = {"mean_logp": "log probability a token", "logp": "log probability", "reward": "reward"}
ONLINE = ("reward", "kl", "entropy", "completions/mean_length")  # of the last step of an online training
FIRST = ("eval_loss", "eval_reward")  # metrics that are shown beside those before the first step

# Metrics of an evaluation that say nothing of the model.
UNUSED = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens")


class Wins(Record):
    """How many of `n` pairs the chosen reply wins; each tie adds a half."""

    n: int
    won: float
    ties: int
    share: float
    interval: tuple[float, float]  # of the share: Wilson, 95 %


class PairAccuracy(Record):
    """What the last evaluation says of the held-out pairs."""

    measure: Literal["log probability", "log probability a token", "reward"]
    step: int
    before: Wins | None = None  # under the reference; without one at the first evaluation, if there is another
    before_step: int | None = None  # of that evaluation; None: it is the reference
    after: Wins
    gained: int | None = None  # pairs in which chosen does better than before: it lost and wins, or a tie is involved
    lost: int | None = None  # pairs in which it does worse
    p_value: float | None = None  # of `gained` and `lost` (`sign_test`)
    # Pairs whose D, the gain of chosen over rejected in log probability since the reference, is > 0.
    implicit: Wins | None = None
    margin: float  # mean D in nats; without a reference, mean difference of the measure
    margin_interval: tuple[float, float] | None  # normal, 95 %; None: a single pair
    unmeasured: int  # pairs of the last evaluation with a number that is not finite (null): not counted above

    def lines(self) -> list[str]:
        """In words, for people."""
        return report_lines(__file__, summary=None, pairs=self)


def pair_accuracy(lines: Iterable[Line]) -> PairAccuracy | None:
    """What lines of eval.jsonl say of the last step, and of the state before it; None: no pair was measured.

    Lines have `step` and `id`, and of replies `logp_` and `ref_logp_`, or one of `MEASURES`, each with `chosen` and
    `rejected`.
    """
    steps = defaultdict[int, list[Line]](list)
    for line in lines:
        steps[line["step"]].append(line)
    first, last = min(steps, default=0), max(steps, default=0)
    if not steps:
        return None
    measured = next((name for name in MEASURES if f"{name}_chosen" in steps[last][0]), "reward")
    facts: Values = {"measure": MEASURES[measured]}
    before: dict[tuple[Any, int], float] = {}
    after = _gaps(steps[last], measured)
    margins = list(after.values())
    relative = "ref_logp_chosen" in steps[last][0]
    if relative:
        references = _gaps(steps[last], "ref_logp")
        after = {key: gap for key, gap in after.items() if key in references}
        before = {key: references[key] for key in after}
        margins = [gap - before[key] for key, gap in after.items()]
    elif first < last:
        facts["before_step"] = first
        before = _gaps(steps[first], measured)
    if not after:
        return None
    if relative:
        facts["implicit"] = wins(margins)
    if before:
        turns = [_credit(after[key]) - _credit(gap) for key, gap in before.items() if key in after]
        gained, lost = sum(turn > 0 for turn in turns), sum(turn < 0 for turn in turns)
        p_value = sign_test(gained, lost)
        facts |= {"before": wins(before.values()), "gained": gained, "lost": lost, "p_value": p_value}
    return PairAccuracy(
        step=last,
        after=wins(after.values()),
        margin=fmean(margins),
        margin_interval=_interval(margins),
        unmeasured=len(steps[last]) - len(after),
        **facts,
    )


def _gaps(lines: Iterable[Line], measure: str) -> dict[tuple[Any, int], float]:
    """Chosen less rejected of the pairs of one step, by id and by how many of that id came before.

    A pair of which either is not a number, which JSON writes as null, is left out.
    """
    counts: Counter[Any] = Counter()
    gaps = {}
    for line in lines:
        counts[line["id"]] += 1
        chosen, rejected = line[f"{measure}_chosen"], line[f"{measure}_rejected"]
        if chosen is not None and rejected is not None and math.isfinite(chosen - rejected):
            gaps[line["id"], counts[line["id"]]] = float(chosen - rejected)
    return gaps


def wins(gaps: Iterable[float]) -> Wins:
    """How often a gap is above 0, a gap of exactly 0 counting half; raises ZeroDivisionError without gaps."""
    points = list(map(_credit, gaps))
    won, n = sum(points), len(points)
    return Wins(n=n, won=won, ties=points.count(0.5), share=won / n, interval=wilson(won, n))


def _credit(gap: float) -> float:
    """1 for a pair that the chosen reply wins, 0.5 for a tie."""
    return 0.5 if gap == 0 else float(gap > 0)


def sign_test(gained: int, lost: int) -> float:
    """The two-sided p-value of so uneven a split: McNemar's exact test (1 if no pair turned)."""
    return min(1.0, 2 * binomial_cdf(min(gained, lost), gained + lost, 0.5))


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean: normal, 95 %."""
    if len(values) < 2:
        return None
    mean, half = fmean(values), Z95 * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


# The whole


class TrainSummary(Record):
    """What a training did."""

    folder: Path
    method: str
    rows: int  # that trained
    eval_rows: int
    dropped: dict[str, int]  # rows by reason
    steps: int
    seconds: float  # all sessions together
    pairs: PairAccuracy | None  # of the pairs that were held out, before and after
    metrics: dict[str, float | None]  # at the end: loss and, with eval rows, those of the last evaluation
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        method = METHODS[self.method]
        shown = method.shown if method.online else (*SHOWN, *method.shown)  # of rewards the loss is no measure
        return report_lines(__file__, summary=self, pairs=self.pairs, shown=shown, metric_text=metric_text)


def metric_text(value: float | None) -> str:
    """A metric in words; JSON has null for one that is not a number."""
    return "not a number" if value is None else f"{value:.4g}"


def measures(evaluation: Iterable[str]) -> list[str]:
    """The names of what an evaluation measured."""
    return [name for name in evaluation if name.startswith("eval_") and name not in UNUSED]


def last_metrics(lines: Sequence[Line]) -> dict[str, float | None]:
    """Of the lines of metrics.jsonl the last loss and evaluation, and the loss of one before the first step, if any.

    Of an online training also those of the last step, and the reward of the evaluation before the first one.
    """
    metrics = {}
    losses = [line["loss"] for line in lines if "loss" in line]
    rates = [line for line in lines if "reward" in line]
    evals = [line for line in lines if "eval_loss" in line]
    if losses:
        metrics["loss"] = losses[-1]
    if rates:
        metrics |= {name: rates[-1][name] for name in ONLINE if name in rates[-1]}
    if len(evals) > 1 and evals[0]["step"] == 0:
        for name in FIRST:
            if name in evals[0]:
                metrics[f"{name}_before"] = evals[0][name]
    if evals:
        metrics |= {name: evals[-1][name] for name in measures(evals[-1])}
    return metrics
