"""Draws principles by their weights."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cai.constitution.principles import Principle


def draw(principles: Sequence[Principle], count: int, seed: int, row: str, *, stream: str) -> tuple[Principle, ...]:
    """Draw `count` principles by weight; none comes twice before all have come once.

    The draw depends on `stream`, seed and row id alone; draws of two streams, such as "judge", are independent.
    """
    chance = random.Random(f"{stream}\0{seed}\0{row}")
    drawn: list[Principle] = []
    left: list[Principle] = []
    for _ in range(count):
        left = left or list(principles)
        heaviest = max(principle.weight for principle in left)  # the sum of the largest floats is infinite
        [place] = chance.choices(range(len(left)), weights=[principle.weight / heaviest for principle in left])
        drawn.append(left.pop(place))
    return tuple(drawn)
