"""Words for people: text that is safe to print."""

from __future__ import annotations

import re

# What a terminal would obey, or show in another place than it stands: control characters but line ends and tabs, halves
# of surrogate pairs, line and paragraph separators, changes of direction.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text in which nothing moves the cursor, sets a colour or turns words round: such characters are spelled out."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
