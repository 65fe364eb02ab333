"""Whether a reply does what an instruction says, by checks that leave no room for opinion."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from cai.records import Object

SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")
FENCE = re.compile(r"```\w*\n(.*)\n```", re.DOTALL)
EDGES = ".!\"'“”*"  # that may stand around a single word


def follows(reply: str, checks: Object) -> bool:
    """Whether a reply passes all checks: names of `CHECKS`, each with what it asks for."""
    text = reply.strip()
    return bool(text) and all(CHECKS[name](text, wanted) for name, wanted in checks.items())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def _parsed(text: str) -> Any:
    """The JSON value that a text is, with or without a code fence; None if it is none."""
    fenced = FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None


# How many there are


def _has_lines(text: str, count: int) -> bool:
    return len(_lines(text)) == count


def _has_paragraphs(text: str, count: int) -> bool:
    return len(re.split(r"\n\s*\n", text)) == count


def _has_sentences(text: str, count: int) -> bool:
    return len(SENTENCE_END.findall(text)) == count


def _has_words(text: str, count: int) -> bool:
    return len(_words(text)) == count


def _has_words_at_most(text: str, count: int) -> bool:
    return len(_words(text)) <= count


def _has_words_at_least(text: str, count: int) -> bool:
    return len(_words(text)) >= count


# Which letters and words


def _is_lower_case(text: str, _: bool) -> bool:
    return text.lower() == text != text.upper()


def _is_upper_case(text: str, _: bool) -> bool:
    return text.upper() == text != text.lower()


def _lacks_letters(text: str, letters: str) -> bool:
    return set(letters).isdisjoint(text.lower())


def _begins_with_word(text: str, word: str) -> bool:
    return _words(text)[:1] == [word]


def _ends_with_word(text: str, word: str) -> bool:
    return _words(text)[-1:] == [word]


def _has_all_words(text: str, words: list[str]) -> bool:
    return set(words) <= set(_words(text))


def _has_word_times(text: str, wanted: tuple[str, int]) -> bool:
    word, times = wanted
    return _words(text).count(word) == times


def _is_one_of(text: str, words: list[str]) -> bool:
    return text.strip(EDGES).lower() in words


# Which form


def _is_bullets(text: str, count: int) -> bool:
    lines = _lines(text)
    return len(lines) == count and all(line.startswith("- ") for line in lines)


def _is_numbered(text: str, count: int) -> bool:
    lines = _lines(text)
    return len(lines) == count and all(line.startswith(f"{n}. ") for n, line in enumerate(lines, 1))


def _is_comma_list(text: str, count: int) -> bool:
    parts = text.split(",")
    return len(_lines(text)) == 1 and len(parts) == count and all(map(str.strip, parts))


def _is_object_with_keys(text: str, keys: list[str]) -> bool:
    value = _parsed(text)
    return isinstance(value, dict) and set(keys) <= value.keys()


def _is_list_of_texts(text: str, count: int) -> bool:
    value = _parsed(text)
    return isinstance(value, list) and len(value) == count and all(isinstance(each, str) for each in value)


def _is_quoted(text: str, _: bool) -> bool:
    return len(text) > 2 and text[0] in '"“' and text[-1] in '"”'


def _is_bracketed(text: str, _: bool) -> bool:
    return re.fullmatch(r"\[\[[^\[\]]+\]\]", text) is not None


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "lines": _has_lines,
    "paragraphs": _has_paragraphs,
    "sentences": _has_sentences,
    "words": _has_words,
    "words_at_most": _has_words_at_most,
    "words_at_least": _has_words_at_least,
    "lower_case": _is_lower_case,
    "upper_case": _is_upper_case,
    "without": _lacks_letters,
    "first_word": _begins_with_word,
    "last_word": _ends_with_word,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": _has_all_words,
    "times": _has_word_times,
    "json_keys": _is_object_with_keys,
    "json_list": _is_list_of_texts,
    "bullets": _is_bullets,
    "numbered": _is_numbered,
    "comma_list": _is_comma_list,
    "one_of": _is_one_of,
    "quoted": _is_quoted,
    "bracketed": _is_bracketed,
}
