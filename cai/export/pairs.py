"""From labels to preference data: which pairs are kept, and which reply is chosen.

Pure. A label is a row of labels.jsonl as a dict, so that 100,000 of them are cut in seconds. `CHECKS` and then
`FAULTS_OF_TEXTS` list why a pair is left out, in the order of the table in docs/judging.md; the first one counts.
Faults of form count in the chosen reply alone, which training imitates; a rejected one may have any.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cai.errors import UsageError
from cai.judge.flows import CLAMP, belief
from cai.records import Protocol, Values
from cai.sources.conversations import prompt_hash
from cai.texts import hygiene
from cai.texts.hygiene import LEARNED, faults_of, near_identical, refusal

Row = Values
Check = Callable[["Row", "Filters"], str | None]
ReadTexts = Callable[[str, str, str], str]
Name = tuple[int, str, str]  # of a reply among those to its prompt, in their order: number, what it is, model
Reason = tuple[str, str]  # why something is left out: a name, and the same in words
Pairing = Literal["all", "best-worst", "final"]
NOT_EXTREME: Reason = "not_extreme", "the pairing takes another pair of the prompt"
MIN_CONFIDENCE = 0.7  # about 80 % agreement for the judges measured in docs/judging.md; promises nothing for others


@dataclass(frozen=True, slots=True)
class Filters:
    """What a pair must be like to be kept.

    min_confidence: in [0.5, 1], on the scale of `confidence`. temperature: as fitted on human labels; None: not
    calibrated. max_length_ratio: in characters, at least 1; None: any. order_flip: drop pairs whose votes flip with
    the order. benign: `prompt_hash` of prompts that must not be refused. hygiene: read the texts for faults.
    """

    min_confidence: float = MIN_CONFIDENCE
    temperature: float | None = None
    max_length_ratio: float | None = None
    order_flip: bool = False
    benign: frozenset[str] = frozenset()
    hygiene: bool = True


def confidence(row: Row, filters: Filters) -> float:
    """What thresholds are compared with, in [0.5, 1]: the larger of p and 1 - p; z must not be None."""
    p = p_a(row, filters)
    return max(p, 1.0 - p)


def p_a(row: Row, filters: Filters) -> float:
    """Probability that a is better, after the temperature; swapping the replies gives exactly 1 - p."""
    return _p_a(row["z"], row["protocol"], filters.temperature)


@lru_cache(maxsize=256)  # a cut asks for that of each label several times
def _p_a(z: float, protocol: Protocol, temperature: float | None) -> float:
    p = belief(z, protocol, temperature)
    assert p is not None  # callers leave out rows without z
    return p


def margin(row: Row, filters: Filters) -> float:
    """Log odds of the chosen reply after the temperature, in nats; at least 0."""
    odds = abs(row["z"]) / (filters.temperature or 1.0)
    if row["protocol"] == "reason" and filters.temperature is None:
        return min(float(odds), math.log(CLAMP / (1 - CLAMP)))
    return float(odds)


def sides(row: Row) -> tuple[str, str]:
    """("a", "b") if a is chosen, else ("b", "a"); z must be neither None nor 0."""
    if row["z"] > 0:
        return "a", "b"
    return "b", "a"


# Checks of one pair: each says in words why it is left out, or returns None


def invalid_vote(row: Row, _: Filters) -> str | None:
    """No vote was valid."""
    if row["z"] is not None:
        return None
    problems = (vote[order]["problem"] for vote in row["votes"] for order in ("ab", "ba"))
    return next((str(problem) for problem in problems if problem is not None), "no vote was valid")


def empty(row: Row, _: Filters) -> str | None:
    """A reply has no text."""
    if row["a"].strip() and row["b"].strip():
        return None
    return "a reply has no text"


def identical(row: Row, _: Filters) -> str | None:
    """The replies are the same except for white space."""
    a, b = row["a"], row["b"]
    if a.split(None, 1)[:1] != b.split(None, 1)[:1]:  # a tenth of the work, and mostly enough
        return None
    if hygiene.identical(a, b):
        return "the replies differ only in white space"
    return None


def length_ratio(row: Row, filters: Filters) -> str | None:
    """One reply is too many times as long as the other, in characters without space around them."""
    most = filters.max_length_ratio
    if most is None:
        return None
    shorter, longer = sorted((len(row["a"].strip()), len(row["b"].strip())))
    if longer <= most * shorter:
        return None
    return f"{longer} characters against {shorter}: more than {most:g} to 1"


def order_flip(row: Row, filters: Filters) -> str | None:
    """More than half of the valid votes prefer the same place in both orders, that is |b| > |d|."""
    if not filters.order_flip:
        return None
    flips, count = flipped(row)
    if 2 * flips <= count:
        return None
    return f"{flips} of {count} votes prefer the same place in both orders"


def low_confidence(row: Row, filters: Filters) -> str | None:
    """The judge's confidence is below the threshold, or exactly one half.

    Raises UsageError if no uncalibrated belief after reasoning can reach the threshold.
    """
    least = filters.min_confidence
    if row["protocol"] == "reason" and filters.temperature is None and least > CLAMP:
        raise UsageError(
            f"--min-confidence {least:g} keeps no label of --protocol reason: without a calibration its confidence is "
            f"at most {CLAMP}; set --min-confidence to {CLAMP} or less, or give --calibration"
        )
    p = confidence(row, filters)
    if p <= 0.5:
        return "the judge is at exactly one half"
    if p < least:
        return f"{p:.3f} is below {least:g}"
    return None


CHECKS: dict[str, Check] = {
    "invalid_vote": invalid_vote,
    "empty": empty,
    "identical": identical,
    "length_ratio": length_ratio,
    "order_flip": order_flip,
    "low_confidence": low_confidence,
}


# What the texts of a pair show


FAULTS_OF_TEXTS = {  # in words, by name
    "near_duplicate": "the replies are nearly the same",
    **{name: f"the chosen reply {fault.words}" for name, fault in LEARNED.items()},
    "both_refused": "both replies refuse in full",
}


def fault_of_texts(chosen: str, rejected: str, last_turn: str) -> str:
    """The first fault of the replies to a prompt that ends with `last_turn`, by name; empty if they have none.

    No threshold changes it, and finding it takes most of the time of a cut.
    """
    if near_identical(chosen, rejected):
        return "near_duplicate"
    for name in faults_of(chosen):
        return name
    if refuses(chosen, last_turn) and refuses(rejected, last_turn):
        return "both_refused"
    return ""


@lru_cache(maxsize=256)  # a reply is in several pairs of its prompt, which are cut one after another
def refuses(text: str, last_turn: str) -> bool:
    """Whether a reply refuses in full."""
    return refusal(text, last_turn) == "full"


def is_benign(prompt: Sequence[Any], filters: Filters) -> bool:
    """Whether a prompt is among those that must not be refused."""
    return bool(filters.benign) and prompt_hash(prompt) in filters.benign


def reason(row: Row, filters: Filters, read: ReadTexts = fault_of_texts) -> Reason | None:
    """Why a pair is left out; None: it is kept. read: `fault_of_texts`, or what remembers it."""
    for name, check in CHECKS.items():
        words = check(row, filters)
        if words is not None:
            return name, words
    best, worst = sides(row)
    last_turn = row["prompt"][-1]["content"]
    if filters.hygiene:
        fault = read(row[best], row[worst], last_turn)
        if fault:
            return fault, FAULTS_OF_TEXTS[fault]
    if is_benign(row["prompt"], filters) and refuses(row[best], last_turn):
        return "refused_benign", "the chosen reply refuses a prompt that is listed as benign"
    return None


def flipped(row: Row) -> tuple[int, int]:
    """Valid votes that prefer the same place in both orders, and all valid votes.

    With log probabilities that is |b| > |d|: the bias is larger than the preference. A vote that is even in one order
    does not flip.
    """
    flips = count = 0
    for vote in row["votes"]:
        ab, ba = vote["ab"], vote["ba"]
        if ab["problem"] is None and ba["problem"] is None:
            count += 1
            flips += ab["choice"] == ba["choice"] is not None
    return flips, count


# The pairs of one prompt


def reasons(
    rows: Sequence[Row], filters: Filters, pairing: Pairing = "all", read: ReadTexts = fault_of_texts
) -> list[Reason | None]:
    """`reason` for each pair of one prompt, in input order, and `not_extreme` for those that `pairing` leaves out.

    all: every pair. best-worst: the pair of the replies with the highest and the lowest mean z; of equal ones the first
    counts. final: of a generate run, the pair of the last round. Raises UsageError if the pairing does not fit.
    """
    if pairing == "all":
        return [reason(row, filters, read) for row in rows]
    names = {"final": _last_round, "best-worst": _best_and_worst}[pairing](rows)
    whys: list[Reason | None] = []
    for row in rows:
        if row["z"] is None or _names(row) == names:
            whys.append(reason(row, filters, read))
        else:
            whys.append(NOT_EXTREME)
    return whys


def name_of(row: Row, side: str) -> Name:
    """How a reply of a pair is named and sorted among those to its prompt."""
    what = row[f"{side}_from"]
    return sample_number(what), what, row[f"{side}_model"] or ""


def _names(row: Row) -> set[Name]:
    return {name_of(row, "a"), name_of(row, "b")}


@lru_cache(maxsize=1024)
def sample_number(what: str) -> int:
    """3 for "sample 3", 2 for "round 2"; 0 for names without a number."""
    return int(re.findall(r"\d*$", what)[0] or 0)


def _of_rounds(row: Row) -> bool:
    return "initial" in (row["a_from"], row["b_from"])


def _last_round(rows: Sequence[Row]) -> set[Name]:
    if not all(map(_of_rounds, rows)):
        raise UsageError("--pairing final is for labels of a generate run: these have no rounds; choose all")
    return max(map(_names, rows), key=lambda names: max(number for number, _, _ in names))


def _best_and_worst(rows: Sequence[Row]) -> set[Name]:
    if any(map(_of_rounds, rows)):
        raise UsageError("--pairing best-worst is for labels of samples: these are of rounds; choose all or final")
    odds = defaultdict[Name, list[float]](list)
    for row in rows:
        if row["z"] is not None:
            odds[name_of(row, "a")].append(row["z"])
            odds[name_of(row, "b")].append(-row["z"])
    mean = {name: math.fsum(values) / len(values) for name, values in sorted(odds.items())}
    if not mean:
        return set()
    best = max(mean, key=mean.__getitem__)
    others = [name for name in mean if name != best]
    return {best, min(others, key=mean.__getitem__, default=best)}


def extra_pass(row: Row, n: int | None) -> int:
    """Which further sample of its prompt a pair had to wait for: 0 if the first `n` were enough."""
    if n is None:
        return 0
    last = max(number for number, _, _ in _names(row))
    return max(0, last - n + 1)
