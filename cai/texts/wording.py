"""Words for people: text that is safe to print, one line of it, counts, and hints at the right name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

# What a terminal would obey, or show in another place than it stands: control characters but line ends and tabs, halves
# of surrogate pairs, line and paragraph separators, changes of direction.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MOST_NAMES = 40
MOST_OF_AN_ERROR = 300  # characters; some libraries put whole files into their messages


def printable(text: str) -> str:
    """A text in which nothing moves the cursor, sets a colour or turns words round: such characters are spelled out."""
    return UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text)


def one_line(text: object) -> str:
    """The text with one blank for each run of white space."""
    return " ".join(str(text).split())


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters; its type if it says nothing."""
    return one_line(error)[:MOST_OF_AN_ERROR] or type(error).__name__


def counted(number: int, noun: str) -> str:
    """A number with its noun, to which more may be added: 1 row kept, 2 rows kept."""
    if number == 1:
        return f"1 {noun}"
    word, blank, rest = noun.partition(" ")
    return f"{number:,} {word}s{blank}{rest}"


def nearest(name: object, known: Iterable[object]) -> str:
    """What to type instead of a name that is not known: "did you mean 'x'?", or "known: x, y, z"."""
    names = list(map(str, known))
    close = close_to(str(name), names)
    if close is None:
        return f"known: {listed(names)}"
    return f"did you mean {close!r}?"


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, in lower or upper case; None if no name is like it."""
    names = {one.lower(): one for one in known}
    for close in get_close_matches(name.lower(), names, n=1):
        return names[close]
    return None


def listed(names: Sequence[str]) -> str:
    """The first 40 names, for a message."""
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"
