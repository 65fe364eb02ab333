"""How alike two texts are: the same, or nearly so, by their words."""

from __future__ import annotations

import re
from collections.abc import Sequence

NEAR = 0.9  # Jaccard similarity of word shingles from which on two replies are the same but for a word or two
SHINGLE = 3  # words
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SEPARATORS = {code: " " for code in range(128) if not chr(code).isalnum() and chr(code) != "'"}
LOOSE = re.compile(r"(?<![a-z0-9])'|'(?![a-z0-9])")  # apostrophes that join no letters
Ngram = tuple[str, ...]  # consecutive words


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    text = text.casefold()
    if not text.isascii():
        return WORD.findall(text)
    if "'" in text:
        text = LOOSE.sub(" ", text)
    return text.translate(SEPARATORS).split()  # the same in a third of the time


def ngrams(sequence: Sequence[str], size: int) -> set[Ngram]:
    """All runs of `size` words; none of a shorter sequence."""
    return set(zip(*(sequence[start:] for start in range(size)), strict=False))


def shingles(sequence: Sequence[str]) -> set[Ngram]:
    """Runs of three words; of a shorter text, the text."""
    return ngrams(sequence, SHINGLE) or {tuple(sequence)}


def identical(a: str, b: str) -> bool:
    """Whether two texts are the same but for white space."""
    return a == b or a.split() == b.split()


def near_identical(a: str, b: str) -> bool:
    """Whether two texts share nine of ten three-word shingles (Jaccard), case and punctuation apart."""
    ours, theirs = words(a), words(b)
    if ours == theirs:
        return bool(ours) or identical(a, b)
    one, other = shingles(ours), shingles(theirs)
    shared = len(one & other)
    return shared >= NEAR * (len(one) + len(other) - shared)
