r"""A judge's answer in one spelling, in which A and B are references to a reply, however they were written.

It is in lower case but for these ("Reply **a**", "[[A]]", full-width letters) and T, a reference to both or neither.
The article of "A kind reply" is not a reference, nor is the letter of "plan B".
"""

from __future__ import annotations

import re
import unicodedata

UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ue00a-\ue00c\ufe0f\ufeff]")  # and what HELD uses
SPELLINGS = [
    (re.compile(pattern), spelling)
    for pattern, spelling in (
        (r"[’‘ʼ´]", "'"),
        (r"[“”«»„]", '"'),
        (r"\\f?boxed\b", " verdict: "),
        (r"\\[a-zA-Z]+|[$#{}`]|\*+|(?<![^\W_])_+|_+(?![^\W_])", " "),  # what LaTeX and Markdown dress letters in
        (r"\[\[\s*(\w+)\s*]]", r". verdict: \1. "),  # as MT-bench asks
        (r"(?i)<(b|i)>(.*?)</\1>", r" \2 "),
        (r"(?i)</?[a-z]{2,12}>|\b(?:without (?:a )?|no |beyond )doubt\b", " "),
        (r"(?m)^[ \t]*>[ \t]", ""),
        (r"(?i)\b(vs|e\.g|i\.e)\.", r"\1"),
        (  # these letters name something else
            r"(?i)\b(appendix|block|category|class|exhibit|figure|grade|group|hepatitis|part|phase|plan|point|"
            r"section|series|table|theme|tier|type|vitamin|zone)\s+[ab]\b",
            r"\1",
        ),
        (r"(?i)(?<=[a-z])n't\b|(?<=\bcan)not\b", " not"),
        (r"(?i)(:|=|->|\bis|\bverdict)[ \t\"'(]*\n\s*", r"\1 "),  # a label, and its letter in the next line
    )
]

# References

NOUN = r"(?i:(?:the )?(?:reply|response|answer|option|choice|assistant|candidate|model|letter|text|completion))"
VERB = (  # what may follow an A that is no article
    r"(?i:(?:is|was|are|does|did|seems?|looks?|appears?|would|will|has|had|wins?|won|beats?|loses|gets|takes|comes|"
    r"edges|outperforms|prevails|deserves|feels|reads|stands|remains|performs|follows|keeps|or|and|nor|vs|over|than|"
    r"but|rather|instead|not|because|as|by|due|since|for|in|on|given|while|whereas|though|although|again|overall|"
    r"it is)\b)"
)
ENDS = rf"(?=\s*[^\w\s]|\s*$|\s*\n|\s+{VERB})"
WITHIN = r"(?![\w'+]|-\w|\.\w)"
REFERENCES = [
    re.compile(pattern)
    for pattern in (
        rf"\b{NOUN}[\s\"'(\[-]{{1,4}}(?:([AB])|([ab])(?={WITHIN}[\"')\]]*{ENDS})){WITHIN}(?:[\"')\]]+(?!\w))?",
        r"(?<![\w'])[\"'(\[]{1,4}\s{0,4}(?:([AB])|([ab]))\s{0,4}[\"')\]]{1,4}(?![\w'])",
        r"<\s?([ABab])\s?>",
        rf"(?<![\w'+.-])([AB])(?:'s\s+{NOUN}\b)",
        rf"(?<![\w'+.-])(?:(A){WITHIN}{ENDS}|(B)){WITHIN}",
    )
]
HELD = str.maketrans("\ue00a\ue00b\ue00c", "ABT")  # in the place of references until the rest is in lower case
ONE = "[\ue00a\ue00b]"
PAIRS = [  # what is said of both in one breath is a reference to one of them, or to neither
    (re.compile(pattern), reference)
    for pattern, reference in (
        (rf"\bnot\s+({ONE}),?\s*(?:but|rather)\s+({ONE})", r" \2"),
        (rf"({ONE})(?:,?\s*(?:and\s+)?not|\s+(?:over|rather than|instead of|before)|\s*[>≻≫]+)\s*{ONE}", r" \1"),
        (rf"\brather\s+({ONE})\s+than\s+{ONE}", r" \1"),
        (rf"{ONE}\s*[<≺≪]+\s*({ONE})", r" \1"),
        (rf"(?:\b(?:neither|both|either)\s+)?{ONE}\s*(?:,?\s*(?:or|and|nor|vs|versus)\s|[/&=≈~|]+)\s*{ONE}", "\ue00c"),
        (r"\b(?:neither|both|either)\b(?: of them| of the two)?(?: one| repl\w+| responses?| answers?)?", "\ue00c"),
        (r"\b(?:a )?(?:tie|tied|draw|toss-up|equal|undecided|inconclusive)\b", "\ue00c"),
    )
]


def one_spelling(text: str) -> str:
    """A text in lower case, in which A, B and T are references to a reply, to the other, and to both or neither."""
    text = UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    for pattern, spelling in SPELLINGS:
        text = pattern.sub(spelling, text)
    for pattern in REFERENCES:
        text = pattern.sub(_held, text)
    text = text.lower()
    for pattern, reference in PAIRS:
        text = pattern.sub(reference, text)
    return text.translate(HELD)


def _held(reference: re.Match[str]) -> str:
    letter = next(filter(None, reference.groups()))
    return "\ue00a" if letter in "Aa" else "\ue00b"
