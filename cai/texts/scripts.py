"""Replies that slide into another script, as small models do; known for any language."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

CODE = re.compile(r"^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)|\Z)|`[^`\n]*`", re.MULTILINE | re.DOTALL)
# Brackets and quotes, in which names and words of other languages stand.
ASIDE = re.compile(r"\([^()\n]{0,80}\)|[\"“«„‘「『《][^\"”»“’」』》\n]{0,200}[\"”»“’」』》]")
WORD = re.compile(r"[^\W\d_]{2,}")
A_LATIN_LETTER = re.compile("[a-zA-Z]")
A_FAR_LETTER = re.compile(r"[^\W\d_\x00-\u024f]")  # beyond those of European languages in Latin script
IN_FORMULAS = {"GREEK"}
FEWEST = 12  # letters of another script that are more than a name
SHARE = 0.05  # of all letters
NO_SCRIPT = re.compile(
    "LATIN|FULLWIDTH|HALFWIDTH|MATHEMATICAL|MODIFIER|FEMININE|MASCULINE|MICRO|DOUBLE-STRUCK|SCRIPT|"
    "BLACK-LETTER|SUPERSCRIPT|SUBSCRIPT|CIRCLED|KELVIN|OHM|ANGSTROM|ALEF|PLANCK|COMBINING"
)
JAPANESE_AND_CHINESE = re.compile("CJK|HIRAGANA|KATAKANA|KATAKANA-HIRAGANA|IDEOGRAPHIC|BOPOMOFO")
LANGUAGES = re.compile(
    r"\b(?:translat\w*|language|alphabet|script|pronounc\w*|spell\w*|transliterat\w*|unicode|kanji|hiragana|katakana|pinyin|haiku|"
    r"chinese|mandarin|cantonese|japanese|korean|hangul|arabic|quran\w*|qur'an\w*|hebrew|yiddish|torah|persian|farsi|urdu|hindi|"
    r"sanskrit|bengali|tamil|telugu|punjabi|thai|khmer|lao|burmese|tibetan|mongolian|russian|cyrillic|ukrainian|bulgarian|"
    r"serbian|belarusian|kazakh|greek|georgian|armenian|amharic|foreign|bilingual|multilingual)\b",
    re.IGNORECASE,
)


def changes_script(reply: str, prompt: str = "") -> bool:
    """Whether a good part of a reply is in a script that the prompt is not written in, and does not ask for.

    A word that mixes Latin letters with it is enough. Code, quotations, what stands in brackets, and single letters as
    in formulas are left out. A reply in Latin letters to any prompt is not counted: names, code and English are
    everywhere.
    """
    if reply.isascii() or not A_FAR_LETTER.search(reply) or LANGUAGES.search(prompt):
        return False
    text = ASIDE.sub(" ", CODE.sub(" ", reply))
    own = scripts_of(prompt).keys()
    half_latin = " ".join(word for word in WORD.findall(text) if A_LATIN_LETTER.search(word))
    if scripts_of(half_latin).keys() - own - IN_FORMULAS:
        return True
    counts = scripts_of(text)
    foreign = sum(count for script, count in counts.items() if script not in own)
    letters = sum(map(len, WORD.findall(text)))
    return foreign >= FEWEST and foreign >= SHARE * letters


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script but Latin stand in words of a text."""
    letters = Counter[str]()
    if not text.isascii():
        letters.update(char for word in WORD.findall(text) for char in word if char > "\u024f" and char.isalpha())
    scripts = Counter[str]()
    for char, count in letters.items():
        script = _script(char)
        if not NO_SCRIPT.fullmatch(script):
            scripts[script] += count
    return scripts


@cache
def _script(char: str) -> str:
    first = unicodedata.name(char, "LATIN").split()[0]
    return "CJK" if JAPANESE_AND_CHINESE.fullmatch(first) else first
