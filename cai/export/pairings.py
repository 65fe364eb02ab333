"""Pairings: which pair of the replies to a prompt is taken if not all are, and what a further sample was drawn for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from cai.errors import UsageError
from cai.export.pairs import Name, Row, name_of


def names_of(row: Row) -> set[Name]:
    """The replies of a pair."""
    return {name_of(row, "a"), name_of(row, "b")}


def _of_rounds(row: Row) -> bool:
    return "initial" in (row["a_from"], row["b_from"])


def last_round(rows: Sequence[Row]) -> set[Name]:
    """The replies of the pair of the last round."""
    if not all(map(_of_rounds, rows)):
        raise UsageError("--pairing final is for labels of a generate run: these have no rounds; choose all")
    return max(map(names_of, rows), key=lambda names: max(number for number, _, _ in names))


def best_and_worst(rows: Sequence[Row]) -> set[Name]:
    """The replies with the highest and the lowest mean z; of equal ones the first counts."""
    if any(map(_of_rounds, rows)):
        raise UsageError("--pairing best-worst is for labels of samples: these are of rounds; choose all or final")
    odds = defaultdict[Name, list[float]](list)
    for row in rows:
        if row["z"] is not None:
            odds[name_of(row, "a")].append(row["z"])
            odds[name_of(row, "b")].append(-row["z"])
    mean = {name: fmean(values) for name, values in sorted(odds.items())}
    if not mean:
        return set()
    best = max(mean, key=mean.__getitem__)
    others = [name for name in mean if name != best]
    return {best, min(others, key=mean.__getitem__, default=best)}


PAIRINGS: dict[str, Callable[[Sequence[Row]], set[Name]]] = {"final": last_round, "best-worst": best_and_worst}


POSITION = 48  # bits of a place for the position of a pair, which has 32 for the prompt and 16 for its number


def place_of(row: Row, n: int | None) -> int:
    """The place of a pair in the order of a target: pairs that needed no further samples come first, by position."""
    place: int = extra_pass(row, n) << POSITION | row["position"]
    return place


def extra_pass(row: Row, n: int | None) -> int:
    """Which further sample of its prompt a pair had to wait for: 0 if the first `n` were enough."""
    if n is None:
        return 0
    last = max(number for number, _, _ in names_of(row))
    return max(0, last - n + 1)
