"""Judges that read nothing, which a judge must beat."""

from __future__ import annotations

TRIVIAL = {  # judges that read nothing, as people are shown them
    "always_first": "always the first",
    "longer": "the longer reply",
    "shorter": "the shorter reply",
    "not_refusing": "the one not refusing",
}
# Deliberately plain: a judge to beat, not the detector of `cai audit`.
REFUSAL_WORDS = ("i cannot", "i can't", "i won't", "i'm sorry", "i am sorry", "unable to", "as an ai", "must decline")


def trivial_guesses(texts: tuple[str, str] | None) -> dict[str, float]:
    """What judges that read nothing say about a pair, by their name; 0.5 if one cannot decide."""
    guesses = {"always_first": 1.0}
    if texts is None:
        return guesses
    a, b = texts
    longer = 0.5 + ((len(a) > len(b)) - (len(a) < len(b))) / 2
    not_refusing = 0.5 + (_refuses(b) - _refuses(a)) / 2
    return {**guesses, "longer": longer, "shorter": 1 - longer, "not_refusing": not_refusing}


def _refuses(text: str) -> bool:
    plain = text.casefold().replace("’", "'")
    return any(words in plain for words in REFUSAL_WORDS)
