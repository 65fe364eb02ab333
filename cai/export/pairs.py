"""From labels to preference data: which pairs are kept, and which side is chosen.

Pure. A label is a row of labels.jsonl as a dict, so that 100,000 of them are cut in seconds. Knows nothing of files,
judges or runs. A pair leaves for the first reason of this table that holds; the reading of texts, which takes the
longest, comes last and is done for pairs that would be kept:

| reason | runs with | the pair leaves because |
|---|---|---|
| invalid_vote | always | no vote was valid: nobody knows which reply is better |
| not_extreme | pairing other than all | another pair of the prompt is the one that counts |
| empty | always | a reply has no text |
| identical | always | the replies are the same but for white space |
| length_ratio | max_length_ratio | the longer reply has more than so many times the characters of the shorter |
| order_flip | order_flip | in more than half of the valid votes both orders prefer the same place |
| low_confidence | always | the judge is less sure than min_confidence, or at one half: neither is chosen |
| near_duplicate | hygiene (default) | the replies are nearly the same |
| preamble_leak | hygiene (default) | the chosen reply announces itself ("Here is a revised …") |
| role_mixup | hygiene (default) | the chosen reply goes on with turns that are not its own |
| both_refused | hygiene (default) | both replies refuse in full: the pair teaches how to refuse, not what is better |
| refused_benign | benign | the chosen reply refuses in full a prompt that is listed as benign |
| over_target | target | enough pairs came before it |

Faults of form count in the chosen reply alone: it is what training imitates. A rejected reply may have any fault, as
that is what training moves away from. Cut replies never get here: they are dropped before they are judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cai.errors import UsageError
from cai.judge.belief import CLAMP, belief
from cai.records import DropReason
from cai.sources.conversations import prompt_hash
from cai.texts import hygiene, repeats
from cai.texts.refusals import refusal

Row = dict[str, Any]
Pairing = Literal["all", "best-worst", "final"]
PAIRINGS: tuple[Pairing, ...] = ("all", "best-worst", "final")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a pair must be like to be kept.

    min_confidence: in [0.5, 1], on the scale of `confidence`; 0.7 certifies about 80 % agreement for the judges
    measured (DESIGN section 6) and nothing for others. temperature: as fitted on human labels; None: not calibrated.
    max_length_ratio: in characters, at least 1; None: any. order_flip: drop pairs whose votes follow the place.
    benign: `prompt_hash` of prompts that must not be refused. hygiene: read the texts for faults.
    """

    min_confidence: float = 0.7
    temperature: float | None = None
    max_length_ratio: float | None = None
    order_flip: bool = False
    benign: frozenset[str] = frozenset()
    hygiene: bool = True


# Beliefs


def confidence(row: Row, filters: Filters) -> float:
    """What thresholds are compared with, in [0.5, 1]: the larger of p and 1 - p; z must not be None."""
    p = p_a(row, filters)
    return max(p, 1.0 - p)


def p_a(row: Row, filters: Filters) -> float:
    """Probability that a is better, after the temperature; swapping the replies gives exactly 1 - p."""
    p = belief(row["z"], row["protocol"], filters.temperature)
    assert p is not None  # callers leave out rows without z
    return p


def margin(row: Row, filters: Filters) -> float:
    """Log odds of the chosen reply after the temperature, in nats; at least 0."""
    odds = abs(row["z"]) / (filters.temperature or 1.0)
    clamped = row["protocol"] == "reason" and filters.temperature is None
    return min(odds, math.log(CLAMP / (1 - CLAMP))) if clamped else float(odds)


def sides(row: Row) -> tuple[str, str]:
    """("a", "b") where a is chosen, else ("b", "a"); z must be neither None nor 0."""
    return ("a", "b") if row["z"] > 0 else ("b", "a")


# Checks of one pair: each gives its reason, or None


def invalid_vote(row: Row, _: Filters) -> DropReason | None:
    """No vote was valid."""
    return "invalid_vote" if row["z"] is None else None


def empty(row: Row, _: Filters) -> DropReason | None:
    """A reply has no text."""
    return "empty" if not row["a"].strip() or not row["b"].strip() else None


def identical(row: Row, _: Filters) -> DropReason | None:
    """The replies are the same but for white space."""
    a, b = row["a"], row["b"]
    begin_alike = a.split(None, 1)[:1] == b.split(None, 1)[:1]  # which is a tenth of the work, and mostly says no
    return "identical" if begin_alike and repeats.identical(a, b) else None


def length_ratio(row: Row, filters: Filters) -> DropReason | None:
    """One reply is too many times as long as the other, in characters without space around them."""
    most = filters.max_length_ratio
    if most is None:
        return None
    shorter, longer = sorted((len(row["a"].strip()), len(row["b"].strip())))
    return "length_ratio" if longer > most * shorter else None


def order_flip(row: Row, filters: Filters) -> DropReason | None:
    """More than half of the valid votes prefer the same place in both orders, that is |b| > |d|."""
    if not filters.order_flip:
        return None
    flips, count = flipped(row)
    return "order_flip" if 2 * flips > count else None


def low_confidence(row: Row, filters: Filters) -> DropReason | None:
    """The judge is less sure than it must be, or at one half.

    Raises UsageError where no uncalibrated belief after reasoning can be as sure as that.
    """
    if row["protocol"] == "reason" and filters.temperature is None and filters.min_confidence > CLAMP:
        raise UsageError(
            f"--min-confidence {filters.min_confidence:g} keeps no label of --protocol reason: without a calibration "
            f"its confidence ends at {CLAMP}; set --min-confidence to at most {CLAMP}, or give --calibration"
        )
    sure = confidence(row, filters)
    return "low_confidence" if sure < filters.min_confidence or sure <= 0.5 else None


def near_duplicate(row: Row, filters: Filters) -> DropReason | None:
    """The replies are nearly the same."""
    return "near_duplicate" if filters.hygiene and read_texts(row) & NEAR else None


def preamble_leak(row: Row, filters: Filters) -> DropReason | None:
    """The chosen reply announces itself."""
    return "preamble_leak" if filters.hygiene and faults(row, sides(row)[0]) & LEAK else None


def role_mixup(row: Row, filters: Filters) -> DropReason | None:
    """The chosen reply goes on with turns that are not its own."""
    return "role_mixup" if filters.hygiene and faults(row, sides(row)[0]) & MIXUP else None


def both_refused(row: Row, filters: Filters) -> DropReason | None:
    """Both replies refuse in full."""
    refused = filters.hygiene and faults(row, "a") & faults(row, "b") & REFUSES
    return "both_refused" if refused else None


def refused_benign(row: Row, filters: Filters) -> DropReason | None:
    """The chosen reply refuses in full what is listed as benign."""
    if not filters.benign or prompt_hash(row["prompt"]) not in filters.benign:
        return None
    return "refused_benign" if faults(row, sides(row)[0]) & REFUSES else None


Check = Callable[[Row, Filters], DropReason | None]
CHEAP_CHECKS: tuple[Check, ...] = (invalid_vote, empty, identical, length_ratio, order_flip, low_confidence)
TEXT_CHECKS: tuple[Check, ...] = (near_duplicate, preamble_leak, role_mixup, both_refused, refused_benign)
CHECKS = CHEAP_CHECKS + TEXT_CHECKS


def reason(row: Row, filters: Filters) -> DropReason | None:
    """Why a pair is not kept: the first of `CHECKS` that holds; None: it is kept."""
    for check in CHEAP_CHECKS:
        if (found := check(row, filters)) is not None:
            return found
    if not (filters.hygiene or filters.benign) or not read_texts(row):  # without a bit no check of texts can hold
        return None
    return next((found for check in TEXT_CHECKS if (found := check(row, filters)) is not None), None)


def detail(why: DropReason, row: Row, filters: Filters) -> str:
    """A reason in words, with the numbers of this pair."""
    if why == "low_confidence":
        sure = confidence(row, filters)
        return "the judge is at exactly one half" if sure <= 0.5 else f"{sure:.3f} is below {filters.min_confidence:g}"
    if why == "length_ratio":
        return (
            f"{len(row['a'].strip())} and {len(row['b'].strip())} characters, at most {filters.max_length_ratio:g} to 1"
        )
    if why == "order_flip":
        flips, count = flipped(row)
        return f"{flips} of {count} votes prefer the same place in both orders"
    if why == "invalid_vote":
        problems = (vote[order]["problem"] for vote in row["votes"] for order in ("ab", "ba"))
        return next((problem for problem in problems if problem is not None), "no vote was valid")
    return DETAILS[why]


DETAILS: dict[DropReason, str] = {
    "not_extreme": "another pair of the prompt is the one that counts",
    "empty": "a reply has no text",
    "identical": "the replies are the same but for white space",
    "near_duplicate": "the replies are nearly the same",
    "preamble_leak": "the chosen reply announces itself",
    "role_mixup": "the chosen reply goes on with turns that are not its own",
    "both_refused": "both replies refuse in full",
    "refused_benign": "the chosen reply refuses a prompt that is listed as benign",
    "over_target": "enough pairs came before it",
}


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


# What reading the texts finds: bits of a reply, which depend on no setting, so that they are worth remembering

LEAK, MIXUP, REFUSES = 1, 2, 4
NEAR = 64  # of a pair; below it are three bits of a, and above those three of b
KNOWN = "texts"  # key of the row under which they are remembered


def read_texts(row: Row) -> int:
    """The bits of a pair: `NEAR`, and those of both replies."""
    known: int | None = row.get(KNOWN)
    if known is None:
        a, b, asked = row["a"], row["b"], row["prompt"][-1]["content"]
        known = row[KNOWN] = NEAR * repeats.near_identical(a, b) | _text_faults(b, asked) << 3 | _text_faults(a, asked)
    return known


def faults(row: Row, side: str) -> int:
    """The bits of one reply of a pair."""
    return read_texts(row) >> (0 if side == "a" else 3) & 7


@lru_cache(maxsize=256)  # a reply is in several pairs of its prompt, which are cut one after another
def _text_faults(text: str, asked: str) -> int:
    form = LEAK * hygiene.preamble_leak(text) | MIXUP * hygiene.role_mixup(text)
    return form | REFUSES * (refusal(text, asked) == "full")


# The pairs of one prompt


def reasons(rows: Sequence[Row], filters: Filters, pairing: Pairing = "all") -> list[DropReason | None]:
    """`reason` for each pair of one prompt, in input order, and `not_extreme` for those that `pairing` leaves out.

    all: every pair. best-worst: the pair of the replies with the highest and the lowest mean z; of equal ones the first
    counts. final: of a generate run, the pair of the last round. Raises UsageError where the pairing does not fit.
    """
    if pairing == "all":
        return [reason(row, filters) for row in rows]
    chosen = _last_round(rows) if pairing == "final" else _best_and_worst(rows)
    return [reason(row, filters) if row["z"] is None or _names(row) == chosen else "not_extreme" for row in rows]


Name = tuple[int, str, str]  # of a reply among those to its prompt, in their order: number, what it is, model


def name_of(row: Row, side: str) -> Name:
    """How a reply of a pair is named and sorted among those to its prompt."""
    what = row[f"{side}_from"]
    return sample_number(what), what, row[f"{side}_model"] or ""


def _names(row: Row) -> set[Name]:
    return {name_of(row, "a"), name_of(row, "b")}


@lru_cache(maxsize=1024)
def sample_number(what: str) -> int:
    """3 for "sample 3", 2 for "round 2"; 0 for names without a number."""
    found = re.search(r"\d+$", what)
    return int(found[0]) if found else 0


def _of_rounds(row: Row) -> bool:
    return "initial" in (row["a_from"], row["b_from"])


def _last_round(rows: Sequence[Row]) -> set[Name]:
    if not all(map(_of_rounds, rows)):
        raise UsageError("--pairing final is for labels of a generate run: these have no rounds; choose all")
    return max(map(_names, rows), key=lambda names: max(number for number, _, _ in names))


def _best_and_worst(rows: Sequence[Row]) -> set[Name]:
    if any(map(_of_rounds, rows)):
        raise UsageError("--pairing best-worst is for labels of samples: these are of rounds; choose all or final")
    odds: dict[Name, list[float]] = {}
    for row in rows:
        if row["z"] is not None:
            odds.setdefault(name_of(row, "a"), []).append(row["z"])
            odds.setdefault(name_of(row, "b"), []).append(-row["z"])
    mean = {name: math.fsum(values) / len(values) for name, values in sorted(odds.items())}
    if not mean:
        return set()
    best = max(mean, key=lambda name: mean[name])
    return {best, min((name for name in mean if name != best), key=lambda name: mean[name], default=best)}


def extra_pass(row: Row, n: int | None) -> int:
    """Which further sample of its prompt a pair had to wait for: 0 where the first `n` were enough."""
    return 0 if n is None else max(0, max(number for number, _, _ in _names(row)) - n + 1)
