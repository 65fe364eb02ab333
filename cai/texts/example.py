"""Which row of a run makes a good example to show."""

from __future__ import annotations

SHOWN = 600  # characters; the longest text that makes a good example to show
REPEATED = 0.5  # share of words from which on a revision says what its critique said


def telling(before: str, after: str, *critiques: str) -> tuple[bool, bool, bool, float]:
    """How well a row shows what a run does: its texts differ, are short, and share many words.

    And the second one does not say what a critique said, as the revisions of a small model do.
    """
    changed = before != after
    short = len(before) + len(after) <= 2 * SHOWN and len(after) <= 2 * len(before)
    if not (changed and short):
        return changed, short, False, 0.0
    fresh = all(overlap(critique, after) <= REPEATED for critique in critiques)
    return changed, short, fresh, overlap(before, after)


def overlap(a: str, b: str) -> float:
    """The share of the words of two texts that stand in both."""
    ours, theirs = set(a.split()), set(b.split())
    return len(ours & theirs) / max(1, len(ours | theirs))
