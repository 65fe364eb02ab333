"""What a calibration holds, and how it is made: a temperature is fitted, thresholds are certified to keep a promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
from pydantic import Field, ValidationError, model_validator

from cai.engine.letters import probability
from cai.errors import InputError, UsageError
from cai.folder.identity import differences
from cai.judge.metrics import Metrics, binomial_cdf, confidence, credit, log_odds
from cai.records import ConstitutionRef, Object, Protocol, Record
from cai.sources.yamlfile import first_fault, read_regular

FILE = "calibration.json"
FORMAT = 1
TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # agreements with people to certify, if possible
DELTA = 0.1
COLDEST, HOTTEST = 0.05, 100.0  # temperatures; the likelihood of separable data has no maximum between 0 and infinity
FEW = 50  # pairs: 25 leave a temperature at random, 50 to 100 suffice (three judges, 200 splits each)
LEAST = 30  # pairs at the first threshold that is tried
PROMISE = "holds for pairs drawn like the gold pairs"
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Inside = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Confidence = Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False)]


class Threshold(Record):
    """Labels of at least this confidence agree with people in at least `target` of the cases."""

    target: Inside
    confidence: Confidence  # on the raw scale: of sigma(z), before any temperature
    calibrated: Confidence  # the same point after the temperature it is stored with; `confidence` if there is none
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
    """Whose labels a calibration is for; it does not hold for another judge, template, constitution or K."""

    judge: str  # model spec, provider:name
    protocol: Protocol
    templates: str  # hash
    constitution: ConstitutionRef
    principles: int  # K, of each pair


class Calibration(Record):
    """A `calibration.json`: a temperature, thresholds, and the judge that they hold for."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    binding: Binding | None  # None: the rows do not name their judge
    n: int = Field(ge=1)  # gold pairs it was made from, those that people skipped among them
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
            if at is None:
                continue
            if str(at.target) != name:
                raise ValueError(f"the threshold for {name} is one for {at.target}")
            if at.n > self.n:
                raise ValueError(f"the threshold for {name} keeps {at.n} of {self.n} pairs")
        return self

    def promises(self) -> dict[str, dict[str, float] | None]:
        """The thresholds as reports have them, by target; their confidence is called lambda."""
        return {
            target: {"lambda": at.confidence, **at.model_dump(exclude={"target", "confidence"})} if at else None
            for target, at in self.thresholds.items()
        }


def load_calibration(path: str | Path) -> Calibration:
    """The calibration that a file, or the folder it was saved in, holds; raises InputError."""
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    again = "make it again with cai judge calibrate"
    try:
        content = orjson.loads(read_regular(file))
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}): name a {FILE} of cai judge calibrate", file) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error}); {again}", file) from None
    match content:
        case {"schema": int(schema)} if schema > FORMAT:
            problem = f"was made by a newer cai (schema {schema}, this one reads {FORMAT}): upgrade cai-toolkit"
            raise InputError(problem, file)
    try:
        return Calibration.model_validate_json(orjson.dumps(content))
    except ValidationError as error:
        raise InputError(f"is not a calibration, or damaged ({first_fault(error)}); {again}", file) from None


def binding_problems(calibration: Calibration, binding: Object) -> list[str]:
    """Why a calibration does not hold for labels of a `binding` (the fields of `Binding`); empty if it does."""
    if calibration.binding is None:
        return ["it was made from rows that do not name their judge; calibrate a label run of this judge"]
    return differences(calibration.binding.model_dump(), {name: binding[name] for name in Binding.model_fields})


def calibration_for(binding: Object, source: str | Path | Calibration | Object) -> Calibration:
    """A calibration for labels of a `binding`, from its file or value; raises UsageError if it is another judge's."""
    if isinstance(source, str | Path):
        calibration = load_calibration(source)
    elif isinstance(source, Calibration):
        calibration = source
    else:
        try:
            calibration = Calibration.model_validate_json(orjson.dumps(source))
        except (ValidationError, TypeError) as error:  # TypeError: of values that JSON does not have
            problem = first_fault(error) if isinstance(error, ValidationError) else error
            raise UsageError(f"the value of calibration is not a calibration ({problem})") from None
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(
            f"the calibration was made for a different judge: {'; '.join(problems)}; make one for this judge: "
            "cai judge calibrate"
        )
    return calibration


def weaknesses(calibration: Calibration) -> Iterator[str]:
    """Why a temperature means nothing, so that no label should be corrected by it; nothing if it can be used."""
    labelled = calibration.n
    if calibration.before is not None:
        labelled = calibration.before.n  # without those that people skipped
    if labelled < FEW:
        yield f"{labelled} pairs are too few for a temperature: 50 to 100 suffice, thresholds need 100 to 500"
    bound = f"the temperature is at the bound of what is tried ({calibration.temperature:g})"
    if calibration.temperature == HOTTEST:
        yield f"{bound}: its confidences say nothing here"
    elif calibration.temperature == COLDEST:
        yield f"{bound}: the labels are right far more often than their confidences say"


def fit_temperature(zs: Sequence[float], truths: Sequence[float]) -> float:
    """The temperature at which finite log odds `zs` make the human labels likeliest (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T; its derivative is bisected to 1e-10. The result stays within 0.05 and 100: z that separate
    the labels get 0.05, z that point away from them 100. If every z is 0 no temperature changes anything: 1.
    Raises UsageError without rows.
    """
    if not zs:
        raise UsageError("no temperature can be fitted without a pair that has a human label")
    towards: list[tuple[float, float]] = []  # log odds of what people say, and how much of a pair says it
    for z, truth in zip(zs, truths, strict=True):
        towards += [(side, weight) for side, weight in ((z, truth), (-z, 1 - truth)) if weight]
    if not any(zs):
        return 1.0

    def too_hot(log_t: float) -> bool:  # the NLL still falls as 1/T grows
        t = math.exp(log_t)
        return math.fsum(weight * s * probability(-s, t) for s, weight in towards) >= 0

    if too_hot(math.log(COLDEST)):
        return COLDEST
    if not too_hot(math.log(HOTTEST)):
        return HOTTEST
    low, high = bisect(math.log(COLDEST), math.log(HOTTEST), 1e-10, too_hot)
    return math.exp((low + high) / 2)


def bisect(low: float, high: float, width: float, is_above: Callable[[float], bool]) -> tuple[float, float]:
    """The end of an interval, at most this wide, in which `is_above` turns from false to true."""
    while high - low > width:
        middle = (low + high) / 2
        if is_above(middle):
            high = middle
        else:
            low = middle
    return low, high


def certify(ps: Sequence[float], truths: Sequence[float], target: float, delta: float = DELTA) -> Threshold | None:
    """The lowest confidence at which labels agree with people in `target` of the cases; None: not even the highest.

    Fixed-sequence testing, as in Jung et al. 2024 (arXiv 2407.18370, section 2): the gold pairs are walked from the
    surest down; at each confidence that occurs, from `first_tested` pairs on, it is tested whether the error among the
    pairs at or above it may exceed 1 - target, and the walk ends at the first test that fails. A test passes if the
    exact upper bound of that error at level delta (`upper_bound`) is at most 1 - target. As the order of the tests is
    fixed by the confidences alone, before any human label is looked at, the chance that the confidence returned keeps
    more errors than 1 - target is at most delta, however many are tested. Every pair is a step: steps
    of 1 % keep 0 to 2 points of coverage more, steps of 10 % up to 5 less (simulated, 100 to 1,000 pairs).
    A tie, of the judge or of people, counts as an error: the promise then holds whether or not ties count half.
    The promise is for this target alone, and for pairs drawn like these, independently. Raises UsageError for a target
    or delta outside (0, 1).
    """
    if not (0 < target < 1 and 0 < delta < 1):
        raise UsageError(f"target {target} and delta {delta} must both lie between 0 and 1, as in 0.85 and 0.1")
    first = first_tested(target, delta)
    wrong = [(confidence(p), credit(p, truth) < 1) for p, truth in zip(ps, truths, strict=True)]
    n = errors = kept = kept_errors = 0
    lowest: float | None = None
    for sure, group in groupby(sorted(wrong, reverse=True), key=itemgetter(0)):  # all pairs of one confidence
        errors_there = [is_wrong for _, is_wrong in group]
        n += len(errors_there)
        errors += sum(errors_there)
        if n < first:
            continue
        more_errors = lowest is None or errors > kept_errors  # more pairs without a further error cannot fail
        if more_errors and binomial_cdf(errors, n, 1 - target) > delta:
            break
        lowest = sure
        kept = n
        kept_errors = errors
    if lowest is None:
        return None
    return Threshold(
        target=target,
        confidence=lowest,
        calibrated=lowest,
        coverage=kept / len(ps),
        upper_bound=upper_bound(kept_errors, kept, delta),
        n=kept,
        errors=kept_errors,
    )


def certify_all(
    ps: Sequence[float],
    truths: Sequence[float],
    temperature: float = 1.0,
    delta: float = DELTA,
    targets: Sequence[float] = TARGETS,
) -> dict[str, Threshold | None]:
    """`certify` for each target, by its str; each promise holds by itself, not all of them together."""
    thresholds = {str(target): certify(ps, truths, target, delta) for target in targets}
    for name, at in thresholds.items():
        if at is not None:  # the order of the pairs, so the coverage, is the same after a temperature
            calibrated = probability(log_odds(at.confidence), temperature)
            thresholds[name] = at.model_copy(update={"calibrated": calibrated})
    return thresholds


def threshold(calibration: Calibration, agreement: float) -> Threshold:
    """The threshold certified for an agreement with people; raises UsageError if none is."""
    at = calibration.thresholds.get(str(agreement))
    if at is None:
        certified = ", ".join(target for target, other in calibration.thresholds.items() if other is not None)
        raise UsageError(
            f"--agreement {agreement:g} is not certified on the {calibration.n:,} gold pairs (certified: "
            f"{certified or 'none'}): choose a certified agreement, a better judge or more gold pairs, or set "
            "--min-confidence, which guarantees no agreement"
        )
    return at


def first_tested(target: float, delta: float = DELTA) -> int:
    """How many pairs the first test needs: 30, and twice those that pass without an error (ln delta / ln target)."""
    return max(LEAST, math.ceil(2 * math.log(delta) / math.log(target)))


def upper_bound(errors: int, n: int, delta: float = DELTA) -> float:
    """The exact one-sided upper bound of an error rate (Clopper and Pearson 1934), to 1e-12.

    The rate u at which `errors` or fewer among n have the chance delta: P(Bin(n, u) <= errors) = delta.
    """
    if errors == n:
        return 1.0
    _, high = bisect(errors / n, 1.0, 1e-12, lambda rate: binomial_cdf(errors, n, rate) <= delta)
    return high
