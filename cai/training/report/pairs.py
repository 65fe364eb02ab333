"""What evaluations say of held-out pairs: how often the chosen reply wins, before and after, and how surely.

A reply is measured by its log probability in nats, summed over its tokens, or by its reward. Exact ties count half.
Pairs are taken as independent, so where several have one prompt the intervals are too narrow. Pure: lines of eval.jsonl
in, numbers out; knows nothing of files, models or trainers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cai.judge.metrics import Z95, wilson
from cai.records import Record


class Wins(Record):
    """How many of `n` pairs the chosen reply wins; each tie adds a half."""

    n: int
    won: float
    ties: int
    share: float
    interval: tuple[float, float]  # of the share: Wilson, 95 %

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.interval[0]:.1%} to {self.interval[1]:.1%}) of {self.n:,} pairs"


class PairAccuracy(Record):
    """What the last evaluation says of the held-out pairs."""

    measure: Literal["log probability", "reward"]
    step: int
    before: Wins | None  # under the reference; of a reward model at the first evaluation (None: there is but one)
    before_step: int | None  # of that evaluation; None: it is the reference
    after: Wins
    gained: int | None  # pairs that stand better for the chosen reply than before: lost is now won, or a tie is broken
    lost: int | None  # and worse
    p_value: float | None  # of `gained` and `lost` (`sign_test`)
    implicit: (
        Wins | None
    )  # log probability: pairs whose D, the gain of chosen over rejected since the reference, is > 0
    margin: float  # mean D in nats, or mean difference of the rewards
    margin_interval: tuple[float, float] | None  # normal, 95 %; None: a single pair
    unmeasured: int  # pairs of the last evaluation with a number that is none (null): in no count above

    def lines(self) -> Iterator[str]:
        """In words, for people."""
        yield f"chosen has the higher {self.measure} in {self.after}"
        if self.before is not None:
            when = "under the reference" if self.before_step is None else f"at step {self.before_step:,}"
            yield (
                f"{when} in {self.before}; since then {self.gained:,} turned to the chosen reply, {self.lost:,} away "
                f"from it (p {self.p_value:.2g})"
            )
        if self.implicit is not None:
            yield f"implicit reward prefers chosen in {self.implicit}"
        yield f"mean margin {self.told_margin()}"
        if self.unmeasured:
            yield f"not counted, for want of a number: {self.unmeasured:,} held-out pairs"

    def told_margin(self) -> str:
        """The mean margin with its interval and unit."""
        unit = " nats" if self.measure == "log probability" else ""
        between = "" if self.margin_interval is None else " ({:+.3g} to {:+.3g})".format(*self.margin_interval)
        return f"{self.margin:+.3g}{between}{unit}"


class _Pair(NamedTuple):
    """What one evaluation says of a pair, as chosen less rejected."""

    gap: float
    reference: float  # 0 for a reward model, which has none


def pair_accuracy(lines: Iterable[Mapping[str, Any]]) -> PairAccuracy | None:
    """What lines of eval.jsonl say of the last step, and of the state before it; None: no pair was measured.

    Lines have `step` and `id`, and of replies `logp_` and `ref_logp_`, or `reward_`, each with `chosen` and `rejected`.
    """
    steps: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        steps.setdefault(line["step"], []).append(line)
    first, last = min(steps, default=0), max(steps, default=0)
    now = _pairs(steps.get(last, ()))
    if not now:
        return None
    refers = "logp_chosen" in steps[last][0]
    then = {key: pair.reference for key, pair in now.items()}
    if not refers:
        then = {key: pair.gap for key, pair in _pairs(steps[first]).items()} if first < last else {}
    turns = [_credit(now[key].gap) - _credit(gap) for key, gap in then.items() if key in now]
    gained, lost = sum(turn > 0 for turn in turns), sum(turn < 0 for turn in turns)
    margins = [pair.gap - pair.reference for pair in now.values()]
    return PairAccuracy(
        measure="log probability" if refers else "reward",
        step=last,
        before=wins(list(then.values())) if then else None,
        before_step=first if then and not refers else None,
        after=wins([pair.gap for pair in now.values()]),
        gained=gained if then else None,
        lost=lost if then else None,
        p_value=sign_test(gained, lost) if then else None,
        implicit=wins(margins) if refers else None,
        margin=math.fsum(margins) / len(margins),
        margin_interval=_interval(margins),
        unmeasured=len(steps[last]) - len(now),
    )


def wins(gaps: Sequence[float]) -> Wins:
    """How often a gap is above 0, where one of exactly 0 is a half; raises ZeroDivisionError without gaps."""
    won = math.fsum(map(_credit, gaps))
    ties = sum(gap == 0 for gap in gaps)
    return Wins(n=len(gaps), won=won, ties=ties, share=won / len(gaps), interval=wilson(won, len(gaps)))


def sign_test(gained: int, lost: int) -> float:
    """How likely so uneven a split is by chance alone, both sides: McNemar's test, exact (1 where nothing turned)."""
    n, fewer = gained + lost, min(gained, lost)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def _pairs(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, int], _Pair]:
    """The measured pairs of one step by id, and by how many of that id came before."""
    seen: Counter[Any] = Counter()
    found = {}
    for line in lines:
        key = line["id"], seen[line["id"]]
        seen[line["id"]] += 1
        refers = "logp_chosen" in line
        gap, reference = _gap(line, "logp_" if refers else "reward_"), _gap(line, "ref_logp_") if refers else 0.0
        if gap is not None and reference is not None:
            found[key] = _Pair(gap, reference)
    return found


def _gap(line: Mapping[str, Any], name: str) -> float | None:
    """Chosen less rejected; None where either is no finite number, which JSON writes as null."""
    chosen, rejected = line[f"{name}chosen"], line[f"{name}rejected"]
    if chosen is None or rejected is None or not (math.isfinite(chosen) and math.isfinite(rejected)):
        return None
    return float(chosen - rejected)


def _credit(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean: normal, 95 %."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    half = Z95 * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean - half, mean + half
