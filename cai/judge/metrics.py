"""How far a judge's probabilities can be trusted: metrics, temperature, and thresholds with a promise.

Pure arithmetic on two columns: `ps`, the probability that reply a is better, and `truths`, whether people say that it
is. A probability of exactly 0.5 names neither reply: where labels are counted it is half right and half wrong, and
where errors are bounded (`certify`) it is an error. Knows nothing of files, judges or replies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from cai.errors import UsageError
from cai.records import Record

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class Metrics(Record):
    """What a judge's probabilities are worth on pairs with human labels."""

    n: int
    accuracy: float
    interval: tuple[float, float]  # of the accuracy: Wilson, 95 %
    kappa: float | None
    ece: float
    brier: float
    nll: float
    auroc: float | None


class Bin(NamedTuple):
    """The pairs whose confidence lies in one stretch: how many, how sure, how often right."""

    n: int
    confidence: float
    accuracy: float


def confidence(p: float) -> float:
    """How sure a probability is of its label: the larger of p and 1 - p, from 0.5 to 1."""
    return max(p, 1 - p)


def credit(p: float, truth: bool) -> float:
    """1 where the label is right, 0 where it is wrong, a half where p names neither reply."""
    return 0.5 if p == 0.5 else float((p > 0.5) == truth)


def measure(ps: Sequence[float], truths: Sequence[bool]) -> Metrics:
    """All metrics at once; raises UsageError without rows."""
    if not ps:
        raise UsageError("nothing can be measured without a pair that has a human label")
    right = accuracy(ps, truths)
    return Metrics(
        n=len(ps),
        accuracy=right,
        interval=wilson(right * len(ps), len(ps)),
        kappa=kappa(ps, truths),
        ece=ece(ps, truths),
        brier=brier(ps, truths),
        nll=nll(ps, truths),
        auroc=auroc(ps, truths),
    )


def accuracy(ps: Sequence[float], truths: Sequence[bool]) -> float:
    """Share of right labels."""
    return math.fsum(map(credit, ps, truths)) / len(ps)


def reliability(ps: Sequence[float], truths: Sequence[bool], bins: int = 10) -> list[Bin | None]:
    """The pairs in `bins` equal stretches of confidence from 0.5 to 1; None for an empty one."""
    places: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, truth in zip(ps, truths, strict=True):
        sure = confidence(p)
        places[min(bins - 1, int((sure - 0.5) * 2 * bins))].append((sure, credit(p, truth)))
    return [
        Bin(len(rows), *(math.fsum(c) / len(rows) for c in zip(*rows, strict=True))) if rows else None
        for rows in places
    ]


def ece(ps: Sequence[float], truths: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over `reliability` (Guo et al. 2017, eq. 3).

    Biased upwards by about 0.05 at 300 pairs: compare calibrators by NLL or Brier.
    """
    gaps = (b.n * abs(b.confidence - b.accuracy) for b in reliability(ps, truths, bins) if b)
    return math.fsum(gaps) / len(ps)


def brier(ps: Sequence[float], truths: Sequence[bool]) -> float:
    """Mean squared distance of the chosen label's probability from 1 where it is right, from 0 where it is wrong."""
    return math.fsum((p - truth) ** 2 for p, truth in zip(ps, truths, strict=True)) / len(ps)


def nll(ps: Sequence[float], truths: Sequence[bool]) -> float:
    """Mean negative log likelihood of the human labels, in nats; no pair counts for more than 36.7 (`FURTHEST`)."""
    likelihoods = (p if truth else 1 - p for p, truth in zip(ps, truths, strict=True))
    return math.fsum(-math.log(max(q, 2.0**-53)) for q in likelihoods) / len(ps)


def auroc(ps: Sequence[float], truths: Sequence[bool]) -> float | None:
    """How often a right label is surer than a wrong one, ties counting half; None where all are right, or all wrong."""
    rows = sorted((confidence(p), credit(p, truth)) for p, truth in zip(ps, truths, strict=True))
    area = rights = wrongs = 0.0
    for _, group in groupby(rows, key=lambda row: row[0]):
        credits = [right for _, right in group]
        right, wrong = math.fsum(credits), math.fsum(1 - c for c in credits)
        area += right * (wrongs + wrong / 2)
        rights, wrongs = rights + right, wrongs + wrong
    return area / (rights * wrongs) if rights and wrongs else None


def kappa(ps: Sequence[float], truths: Sequence[bool]) -> float | None:
    """Cohen's kappa of the labels with the human ones (Cohen 1960); None where chance alone would agree always."""
    n = len(ps)
    said = math.fsum(credit(p, True) for p in ps) / n
    meant = sum(truths) / n
    chance = said * meant + (1 - said) * (1 - meant)
    return (accuracy(ps, truths) - chance) / (1 - chance) if chance < 1 else None


def risk_coverage(ps: Sequence[float], truths: Sequence[bool]) -> list[tuple[float, float, float]]:
    """Per confidence that occurs, surest first: (confidence, share of pairs at or above it, their accuracy)."""
    rows = sorted(((confidence(p), credit(p, truth)) for p, truth in zip(ps, truths, strict=True)), reverse=True)
    curve, kept, right = [], 0, 0.0
    for sure, group in groupby(rows, key=lambda row: row[0]):
        credits = [c for _, c in group]
        kept, right = kept + len(credits), right + math.fsum(credits)
        curve.append((sure, kept / len(rows), right / kept))
    return curve


def at_least(ps: Sequence[float], truths: Sequence[bool], sure: float) -> tuple[float, float | None]:
    """Share of pairs of at least this confidence, and their accuracy; None where there is none."""
    kept = [credit(p, truth) for p, truth in zip(ps, truths, strict=True) if confidence(p) >= sure]
    return len(kept) / len(ps), math.fsum(kept) / len(kept) if kept else None


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, room = successes / n, Z95**2 / n
    half = Z95 * math.sqrt(share * (1 - share) / n + room / (4 * n))
    centre = share + room / 2
    return max(0.0, (centre - half) / (1 + room)), min(1.0, (centre + half) / (1 + room))
