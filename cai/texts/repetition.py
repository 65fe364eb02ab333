"""How much texts repeat themselves and each other.

Distinct-n falls, and compression rises, with the number of texts and their length alone: of texts from one source
distinct-2 is 0.79 for 50 and 0.46 for 1,000. Compare models on replies to the same prompts, cut by `equal_length`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence

Words = Sequence[str]
TOKEN = re.compile(r"\w+|[^\w\s]")
DIVERSE = 0.72  # type-token ratio at which a factor of MTLD ends (McCarthy and Jarvis 2010)


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, and each of its punctuation marks."""
    return TOKEN.findall(text.lower())


def equal_length(replies: Sequence[Sequence[Words]]) -> list[list[Words]]:
    """The words of each model's replies to the same prompts, each cut to those of the shortest reply to its prompt."""
    shortest = [min(map(len, row)) for row in zip(*replies, strict=True)]
    return [[words[:most] for words, most in zip(texts, shortest, strict=True)] for texts in replies]


def distinct(texts: Sequence[Words], size: int) -> float | None:
    """Distinct-n: the share of different runs of `size` words among all of the texts (Li et al. 2016).

    None if no text has so many words.
    """
    runs = [run for words in texts for run in _runs(words, size)]
    return len(set(runs)) / len(runs) if runs else None


def repeated(words: Words, size: int = 4) -> float | None:
    """The share of runs of words in one text that came before in it: rep-4 = 1 - different/all (Welleck et al. 2020).

    None if it has fewer words than one run.
    """
    share = distinct([words], size)
    return None if share is None else 1 - share


def compressed(texts: Sequence[str], compress: Callable[[bytes], bytes] = zlib.compress) -> float | None:
    """Bytes of the texts joined by lines, divided by those of what `compress` makes of them; None without any.

    zlib (Shaib et al. 2024, arXiv 2403.00553) looks 32 KB back, so it sees what texts repeat that stand close to each
    other; lzma sees the whole set, and takes ten times as long.
    """
    joined = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(joined) / len(compress(joined)) if joined else None


def mtld(words: Words) -> float | None:
    """How many words in a row keep a type-token ratio above 0.72, the mean of both directions (McCarthy, Jarvis 2010).

    None if there are no words.
    """
    if not words:
        return None
    return (_factor_length(words) + _factor_length(words[::-1])) / 2


def _factor_length(words: Words) -> float:
    """Words per factor; what is left at the end is the part of a factor that its ratio has come down."""
    factors = 0.0
    types: set[str] = set()
    tokens = 0
    for word in words:
        types.add(word)
        tokens += 1
        if len(types) / tokens <= DIVERSE:
            factors += 1
            types.clear()
            tokens = 0
    if tokens:
        factors += (1 - len(types) / tokens) / (1 - DIVERSE)
    return len(words) / factors if factors else float(len(words))


def _runs(words: Words, size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)
