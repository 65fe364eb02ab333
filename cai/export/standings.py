"""How each reply to a prompt did among the others: from the labels of its pairs to examples of single replies.

Pure. Knows which reply is an example and why another is none; nothing of files, judges or runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.export.pairs import LEAK, MIXUP, REFUSES, Filters, Name, Row, faults, name_of, p_a
from cai.records import DropReason
from cai.sources.conversations import prompt_hash


@dataclass(slots=True)
class Standing:
    """A reply among those to its prompt."""

    position: int  # of the first pair it is in
    id: str  # of that pair, and what the reply is in it
    name: Name
    text: str
    faults: int  # bits of the text; 0 where nobody asked
    won: list[float]  # per pair with another text: probability that this reply is the better one
    labels: list[str]  # ids of those pairs
    p: float | None = None  # mean of `won`; None: it was compared with itself alone


def standings(rows: Sequence[Row], filters: Filters) -> list[Standing]:
    """The distinct replies among the pairs of one prompt whose vote is valid, in input order; empty ones are left out.

    Texts that are the same but for white space around them are one reply, under the name with the lowest number.
    """
    reads = filters.hygiene or filters.benign
    found: dict[str, Standing] = {}
    for row in rows:
        if row["z"] is None:
            continue
        p = p_a(row, filters)
        a, b = row["a"].strip(), row["b"].strip()
        for side, text, wins in (("a", a, p), ("b", b, 1 - p)):
            if not text:
                continue
            name = name_of(row, side)
            reply = found.get(text)
            if reply is None:
                bits = faults(row, side) if reads else 0
                reply = found[text] = Standing(row["position"], row["id"], name, row[side], bits, [], [])
            elif name < reply.name:
                reply.name, reply.text = name, row[side]
            if a != b:
                reply.won.append(wins)
                reply.labels.append(row["id"])
    for reply in found.values():
        reply.id += f":{reply.name[1]}"
        reply.p = math.fsum(reply.won) / len(reply.won) if reply.won else None
    return sorted(found.values(), key=lambda reply: (reply.position, reply.name))


def edge(dead_zone: float | None, filters: Filters) -> float:
    """Upper edge of the dead zone of `standing_reason`; None: the `min_confidence` of pairs."""
    return filters.min_confidence if dead_zone is None else dead_zone


def standing_reason(reply: Standing, prompt: Sequence[Any], filters: Filters, upper: float) -> DropReason | None:
    """Why a reply is no example: in the dead zone (1 - upper, upper), or a desirable one with a fault of form."""
    p = reply.p
    if p is None:
        return "identical"
    if 1 - upper < p < upper or p == 0.5:
        return "low_confidence"
    if p < 0.5:
        return None
    if filters.hygiene and reply.faults & (LEAK | MIXUP):
        return "preamble_leak" if reply.faults & LEAK else "role_mixup"
    benign = bool(reply.faults & REFUSES and filters.benign) and prompt_hash(prompt) in filters.benign
    return "refused_benign" if benign else None
