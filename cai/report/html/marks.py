"""Characters that a page would not show, or that would move others, as visible marks.

A browser shows texts in the order that they ask for: a text with U+202E reads backwards, one with U+E0041 hides words.
"""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode: controls, formats, halves of pairs, separators
BLANK = "\u115f\u1160\u3164\uffa0\u2800"  # letters that look like nothing


def visible(text: str) -> str:
    """The text with every such character as ⟨U+202E⟩."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in HIDDEN and character not in KEPT
    return f"⟨U+{ord(character):04X}⟩" if hidden or character in BLANK else character
