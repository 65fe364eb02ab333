"""How far a judge's probabilities can be trusted: metrics, temperature, and thresholds with a promise.

Pure arithmetic on two columns: `ps`, the probability that reply a is better, and `truths`, whether people say that it
is. A probability of exactly 0.5 names neither reply: where labels are counted it is half right and half wrong, and
where errors are bounded (`certify`) it is an error. Knows nothing of files, judges or replies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from cai.errors import UsageError
from cai.records import ConstitutionRef, Protocol, Record

TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # agreements with people that are tried to be certified
DELTA = 0.1
COLDEST, HOTTEST = 0.05, 100.0  # temperatures; the likelihood of separable data has no maximum between 0 and infinity
FURTHEST = 53 * math.log(2)  # log odds of 1 - 2**-53, about 36.7: the float next to 1
LEAST = 30  # pairs at the first threshold that is tried
Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
PROMISE = "holds for pairs drawn like the gold pairs"


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


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Inside = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Confidence = Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False)]


class Threshold(Record):
    """Labels of at least this confidence agree with people in at least `target` of the cases."""

    target: Inside
    confidence: Confidence  # on the raw scale: of sigma(z), before any temperature
    calibrated: Confidence  # the same point after the temperature it is stored with; `confidence` where there is none
    coverage: Share  # of the gold pairs at or above it
    upper_bound: Share  # of errors among them, at the confidence 1 - delta
    n: int = Field(ge=1)  # gold pairs at or above it
    errors: int = Field(ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.errors > self.n:
            raise ValueError(f"{self.errors} errors among {self.n} pairs")
        return self


class Binding(Record):
    """Whose labels a calibration speaks of; under another judge, template, constitution or K it says nothing."""

    judge: str  # model spec, provider:name
    protocol: Protocol
    templates: str  # hash
    constitution: ConstitutionRef
    principles: int  # K, of each pair


class Calibration(Record):
    """A `calibration.json`: a temperature, thresholds, and the judge that they hold for."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    binding: Binding | None  # None: the rows do not say which judge they are of
    n: int = Field(ge=1)  # gold pairs it was made from
    temperature: float = Field(ge=COLDEST, le=HOTTEST, allow_inf_nan=False)
    delta: Inside
    thresholds: dict[str, Threshold | None]  # by str(target); None: it cannot be certified
    before: Metrics | None  # on held-out folds, at temperature 1; None: too few pairs for folds
    after: Metrics | None  # on the same folds, at the temperature fitted on the others
    promise: str = PROMISE
    notes: tuple[str, ...] = ()  # what speaks against trusting it

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for name, at in self.thresholds.items():
            if at is not None and str(at.target) != name:
                raise ValueError(f"the threshold for {name} is one for {at.target}")
            if at is not None and at.n > self.n:
                raise ValueError(f"the threshold for {name} keeps {at.n} of {self.n} pairs")
        return self


class Bin(NamedTuple):
    """The pairs whose confidence lies in one stretch: how many, how sure, how often right."""

    n: int
    confidence: float
    accuracy: float


def probability(z: float, temperature: float = 1.0) -> float:
    """sigma(z / temperature); `probability(-z)` is `1 - probability(z)` to the last bit: swapped pairs mirror."""
    larger = 1 / (1 + math.exp(-abs(z / temperature)))  # in [0.5, 1], where 1 - larger is exact
    return larger if z >= 0 else 1 - larger


def log_odds(p: float) -> float:
    """ln(p / (1 - p)), the inverse of `probability`.

    Held within plus and minus 36.7 (`FURTHEST`), the last that a float next to 1 can tell, so that a 0 or 1 in data is
    finite and swapped pairs stay mirrored.
    """
    if p > 0.5:
        return -log_odds(1 - p)
    return max(-FURTHEST, math.log(p) - math.log1p(-p)) if p > 0 else -FURTHEST


def confidence(p: float) -> float:
    """How sure a probability is of its label: the larger of p and 1 - p, from 0.5 to 1."""
    return max(p, 1 - p)


def credit(p: float, truth: bool) -> float:
    """1 where the label is right, 0 where it is wrong, a half where p names neither reply."""
    return 0.5 if p == 0.5 else float((p > 0.5) == truth)


def fit_temperature(zs: Sequence[float], truths: Sequence[bool]) -> float:
    """The temperature at which finite log odds `zs` make the human labels likeliest (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T; its derivative is bisected to 1e-10. The result stays within 0.05 and 100: z that separate
    the labels get 0.05, z that point away from them 100. Where every z is 0 no temperature changes anything: 1.
    Raises UsageError without rows.
    """
    if not zs:
        raise UsageError("no temperature can be fitted without a pair that has a human label")
    towards = [z if truth else -z for z, truth in zip(zs, truths, strict=True)]
    if not any(towards):
        return 1.0

    def too_hot(log_t: float) -> bool:  # the NLL still falls as 1/T grows
        t = math.exp(log_t)
        return math.fsum(s * probability(-s, t) for s in towards) >= 0

    low, high = math.log(COLDEST), math.log(HOTTEST)
    if too_hot(low):
        return COLDEST
    if not too_hot(high):
        return HOTTEST
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if too_hot(middle) else (middle, high)
    return math.exp((low + high) / 2)


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


def certify(ps: Sequence[float], truths: Sequence[bool], target: float, delta: float = DELTA) -> Threshold | None:
    """The lowest confidence at which labels agree with people in `target` of the cases; None: not even the highest.

    Fixed-sequence testing, as in Jung et al. 2024 (arXiv 2407.18370, section 2): the gold pairs are walked from the
    surest down; at each confidence that occurs, from `first_tested` pairs on, it is tested whether the error among the
    pairs at or above it may exceed 1 - target, and the walk ends at the first test that fails. A test passes where the
    exact upper bound of that error at level delta (`upper_bound`) is at most 1 - target. As the order of the tests is
    fixed by the confidences alone, before any human label is looked at, the chance that the confidence returned keeps
    more errors than 1 - target is at most delta, however many are tested. Every pair is a step: steps
    of 1 % keep 0 to 2 points of coverage more, steps of 10 % up to 5 less (simulated, 100 to 1,000 pairs).
    The promise is for this target alone, and for pairs drawn like these, independently. Raises UsageError for a target
    or delta outside (0, 1).
    """
    if not (0 < target < 1 and 0 < delta < 1):
        raise UsageError(f"target {target} and delta {delta} must both lie between 0 and 1, as in 0.85 and 0.1")
    rows = sorted(((confidence(p), credit(p, truth) < 1) for p, truth in zip(ps, truths, strict=True)), reverse=True)
    first, errors, passed = first_tested(target, delta), 0, -1
    found: tuple[float, int, int] | None = None
    for n, (sure, wrong) in enumerate(rows, 1):
        errors += wrong
        if n < first or (n < len(rows) and rows[n][0] == sure):  # a threshold keeps all pairs of one confidence
            continue
        if errors != passed and binomial_cdf(errors, n, 1 - target) > delta:
            break
        passed, found = errors, (sure, n, errors)  # more pairs without a further error cannot fail
    if found is None:
        return None
    sure, n, errors = found
    return Threshold(
        target=target,
        confidence=sure,
        calibrated=sure,
        coverage=n / len(rows),
        upper_bound=upper_bound(errors, n, delta),
        n=n,
        errors=errors,
    )


def certify_all(
    ps: Sequence[float],
    truths: Sequence[bool],
    temperature: float = 1.0,
    delta: float = DELTA,
    targets: Sequence[float] = TARGETS,
) -> dict[str, Threshold | None]:
    """`certify` for each target, by its str; each promise holds by itself, not all of them together."""
    found = {str(target): certify(ps, truths, target, delta) for target in targets}
    return {target: at and at_temperature(at, temperature) for target, at in found.items()}


def at_temperature(threshold: Threshold, temperature: float) -> Threshold:
    """The same threshold, which also says where it lies after `temperature`; that changes no order, so no coverage."""
    calibrated = probability(log_odds(threshold.confidence), temperature)
    return threshold.model_copy(update={"calibrated": calibrated})


def first_tested(target: float, delta: float = DELTA) -> int:
    """How many pairs the first test needs: 30, and twice those that pass without an error (ln delta / ln target)."""
    return max(LEAST, math.ceil(2 * math.log(delta) / math.log(target)))


def upper_bound(errors: int, n: int, delta: float = DELTA) -> float:
    """The exact one-sided upper bound of an error rate (Clopper and Pearson 1934), to 1e-12.

    The rate u at which `errors` or fewer among n have the chance delta: P(Bin(n, u) <= errors) = delta.
    """
    low, high = errors / n, 1.0
    if errors == n:
        return 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(errors, n, middle) > delta else (low, middle)
    return high


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k) for 0 < p < 1, by adding the terms of the shorter tail from its largest outwards."""
    if k >= n:
        return 1.0
    if k > n * p:
        return 1 - math.fsum(_terms(n - k - 1, n, 1 - p))
    return math.fsum(_terms(k, n, p))


def _terms(k: int, n: int, p: float) -> Iterable[float]:
    """P(Bin(n, p) = i) for i from k down, until they no longer count."""
    odds = (1 - p) / p
    term = first = math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    while term > first * 1e-17 and k >= 0:
        yield term
        term *= odds * k / (n - k + 1)
        k -= 1
