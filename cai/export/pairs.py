"""From labels to preference data: which pairs are kept, which reply is chosen, and how each reply did.

A label is a row of labels.jsonl as a dict, so that 100,000 of them are cut in seconds. `checks` and then
`FAULTS_OF_TEXTS` list why a pair is left out, in the order of the table in docs/judging.md; the first one counts.
Faults of form count in the chosen reply alone, which training imitates; a rejected one may have any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import orjson
from pydantic import ValidationError

from cai.engine.letters import probability
from cai.errors import UsageError
from cai.export.options import Filters
from cai.judge.flows import CLAMP, belief
from cai.records import Label, Protocol, Values
from cai.sources.conversations import prompt_hash
from cai.texts.hygiene import LEARNED, faults_of, said_in
from cai.texts.likeness import Ngram, identical, near_identical
from cai.texts.refusals import refusal

Row = Values
Turns = Sequence[Mapping[str, str]]  # of a row
ReadTexts = Callable[[str, str, Turns, frozenset[Ngram]], str]
Name = tuple[int, str, str]  # of a reply among those to its prompt, in their order: number, what it is, model
Reason = tuple[str, str]  # why something is left out: a name, and the same in words


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
    odds: float = abs(row["z"]) / (filters.temperature or 1.0)
    if row["protocol"] == "reason" and filters.temperature is None:
        return min(odds, math.log(CLAMP / (1 - CLAMP)))
    return odds


def sides(row: Row) -> tuple[str, str]:
    """("a", "b") if a is chosen, else ("b", "a"); z must be neither None nor 0."""
    if row["z"] > 0:
        return "a", "b"
    return "b", "a"


def checks(row: Row, filters: Filters) -> Iterator[Reason]:
    """What is wrong with a pair before its texts are read for faults; the first reason counts.

    Raises UsageError if no uncalibrated belief after reasoning can reach the threshold.
    """
    a, b = row["a"], row["b"]
    if row["z"] is None:
        problems = (vote[order]["problem"] for vote in row["votes"] for order in ("ab", "ba"))
        yield "invalid_vote", next((str(problem) for problem in problems if problem is not None), "no vote was valid")
        return
    shorter, longer = sorted((len(a.strip()), len(b.strip())))
    if not shorter:
        yield "empty", "a reply has no text"
    # The first words take a tenth of the work, and are mostly enough.
    if a.split(None, 1)[:1] == b.split(None, 1)[:1] and identical(a, b):
        yield "identical", "the replies differ only in white space"
    most = filters.max_length_ratio
    if most is not None and longer > most * shorter:
        yield "length_ratio", f"{longer} characters against {shorter}: more than {most:g} to 1"
    if filters.order_flip:
        flips, count = flipped(row)
        if 2 * flips > count:
            yield "order_flip", f"{flips} of {count} votes prefer the same place in both orders"
    least = filters.min_confidence
    if row["protocol"] == "reason" and filters.temperature is None and least > CLAMP:
        raise UsageError(
            f"--min-confidence {least:g} keeps no label of --protocol reason: without a calibration its confidence is "
            f"at most {CLAMP}; set --min-confidence to {CLAMP} or less, or give --calibration"
        )
    p = confidence(row, filters)
    if p <= 0.5:
        yield "low_confidence", "the judge is at exactly one half"
    elif _is_below(row["z"], p, filters):
        yield "low_confidence", f"{p:.3f} is below {least:g}"


def _is_below(z: float, p: float, filters: Filters) -> bool:
    """Whether a label is less sure than it must be.

    A certified threshold is the confidence of a gold pair, and others may have the same: these are compared before the
    temperature, by which they would be told apart in the last digit.
    """
    if filters.certified is None:
        return p < filters.min_confidence
    return probability(abs(z)) < filters.certified


# What the texts of a pair show

FAULTS_OF_TEXTS = {  # in words, by name
    "near_duplicate": "the replies are nearly the same",
    **{name: f"the chosen reply {fault.words}" for name, fault in LEARNED.items()},
    "both_refused": "both replies refuse in full",
}


def fault_of_texts(chosen: str, rejected: str, prompt: Turns, asked: frozenset[Ngram] = frozenset()) -> str:
    """The first fault of the replies to a prompt, by name; "" if none."""
    # No threshold changes it; to find it takes most of the time of a cut.
    if near_identical(chosen, rejected):
        return "near_duplicate"
    for name in faults_of(chosen, said_in(prompt), asked):
        return name
    last_turn = prompt[-1]["content"]
    if refuses(chosen, last_turn) and refuses(rejected, last_turn):
        return "both_refused"
    return ""


@lru_cache(maxsize=256)  # a reply is in several pairs of its prompt, which are cut one after another
def refuses(text: str, last_turn: str) -> bool:
    """Whether a reply refuses in full."""
    return refusal(text, last_turn) == "full"


def refuses_benign(text: str, prompt: Sequence[Any], filters: Filters) -> bool:
    """Whether a reply refuses a prompt that must not be refused."""
    return bool(filters.benign) and prompt_hash(prompt) in filters.benign and refuses(text, prompt[-1]["content"])


def reason(row: Row, filters: Filters, read: ReadTexts = fault_of_texts) -> Reason | None:
    """Why a pair is left out; None: it is kept. read: `fault_of_texts`, or what remembers it."""
    for why in checks(row, filters):
        return why
    best, worst = sides(row)
    if filters.hygiene:
        fault = read(row[best], row[worst], row["prompt"], filters.asked)
        if fault:
            return fault, FAULTS_OF_TEXTS[fault]
    if refuses_benign(row[best], row["prompt"], filters):
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


def name_of(row: Row, side: str) -> Name:
    """How a reply of a pair is named and sorted among those to its prompt."""
    what = row[f"{side}_from"]
    return sample_number(what), what, row[f"{side}_model"] or ""


@lru_cache(maxsize=1024)
def sample_number(what: str) -> int:
    """3 for "sample 3", 2 for "round 2"; 0 for names without a number."""
    return int(re.findall(r"\d*$", what)[0] or 0)


# The replies of one prompt


@dataclass(slots=True)
class Standing:
    """A reply among those to its prompt."""

    position: int  # of the first pair it is in
    id: str  # of that pair, and what the reply is in it
    name: Name
    text: str
    won: list[float]  # per pair with another text: probability that this reply is the better one
    labels: list[str]  # ids of those pairs
    p: float | None = None  # mean of `won`; None: it was only compared with itself


def standings(rows: Sequence[Row], filters: Filters) -> list[Standing]:
    """The distinct replies among the pairs of one prompt whose vote is valid, in input order; empty ones are left out.

    Texts that are the same but for white space around them are one reply, under the name with the lowest number.
    """
    replies: dict[str, Standing] = {}
    for row in rows:
        if row["z"] is None:
            continue
        p = p_a(row, filters)
        a, b = row["a"].strip(), row["b"].strip()
        for side, text, wins in (("a", a, p), ("b", b, 1 - p)):
            if not text:
                continue
            name = name_of(row, side)
            reply = replies.setdefault(text, Standing(row["position"], row["id"], name, row[side], [], []))
            if name < reply.name:
                reply.name = name
                reply.text = row[side]
            if a != b:
                reply.won.append(wins)
                reply.labels.append(row["id"])
    for reply in replies.values():
        reply.id += f":{reply.name[1]}"
        if reply.won:
            reply.p = fmean(reply.won)
    return sorted(replies.values(), key=lambda reply: (reply.position, reply.name))


def standing_reason(reply: Standing, prompt: Sequence[Any], filters: Filters, upper: float) -> Reason | None:
    """Why a reply is no example: in the dead zone (1 - upper, upper), or desirable but not fit to be learned."""
    p = reply.p
    if p is None:
        return "identical", "it was only compared with itself"
    if 1 - upper < p < upper or p == 0.5:
        return "low_confidence", f"p {p:.3f} is in the dead zone"
    return None if p < 0.5 else unfit(reply.text, prompt, filters)


def unfit(text: str, prompt: Sequence[Any], filters: Filters) -> Reason | None:
    """Why a reply to a prompt is not fit to be learned: its form, or a refusal of a benign prompt; None: it is."""
    if filters.hygiene:
        for name in faults_of(text, said_in(prompt), filters.asked):
            return name, f"the reply {LEARNED[name].words}"
    if refuses_benign(text, prompt, filters):
        return "refused_benign", "the reply refuses a prompt that is listed as benign"
    return None


def are_labels(unit: Sequence[Row]) -> bool:
    """Whether rows are labels, so that an error in cutting them is not theirs."""
    try:
        return all(Label.model_validate_json(orjson.dumps(row)).prompt for row in unit)
    except ValidationError:
        return False
