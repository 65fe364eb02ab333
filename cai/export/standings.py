"""How each reply to a prompt did among the others: from the labels of its pairs to examples of single replies. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.export.pairs import Filters, Name, Reason, Row, is_benign, name_of, p_a
from cai.texts.hygiene import LEARNED, faults_of, refusal


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
            reply.p = math.fsum(reply.won) / len(reply.won)
    return sorted(replies.values(), key=lambda reply: (reply.position, reply.name))


def edge(dead_zone: float | None, filters: Filters) -> float:
    """Upper edge of the dead zone of `standing_reason`; None: the `min_confidence` of pairs."""
    return filters.min_confidence if dead_zone is None else dead_zone


def standing_reason(reply: Standing, prompt: Sequence[Any], filters: Filters, upper: float) -> Reason | None:
    """Why a reply is no example: in the dead zone (1 - upper, upper), or desirable but not fit to be learned."""
    p = reply.p
    if p is None:
        return "identical", "it was only compared with itself"
    if 1 - upper < p < upper or p == 0.5:
        return "low_confidence", f"p {p:.3f} is in the dead zone"
    if p < 0.5:
        return None
    return unfit(reply.text, prompt, filters)


def unfit(text: str, prompt: Sequence[Any], filters: Filters) -> Reason | None:
    """Why a reply to a prompt is not fit to be learned: its form, or a refusal of a benign prompt; None: it is."""
    if filters.hygiene:
        for name in faults_of(text):
            return name, f"the reply {LEARNED[name].words}"
    if is_benign(prompt, filters) and refusal(text, prompt[-1]["content"]) == "full":
        return "refused_benign", "the reply refuses a prompt that is listed as benign"
    return None


def best_of(replies: Sequence[Standing]) -> Standing | Reason:
    """The reply with the highest mean probability of being better, or why there is none."""
    if not replies:
        return "invalid_vote", "no vote was valid"
    ranked = sorted((reply for reply in replies if reply.p is not None), key=lambda reply: -(reply.p or 0.0))
    if not ranked:
        return "identical", "all replies have the same text"
    if len(ranked) > 1 and ranked[0].p == ranked[1].p:
        return "low_confidence", f"two replies share the highest p, {ranked[0].p:.3f}"
    return ranked[0]
