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


def _bullets(text: str, count: int) -> bool:
    lines = _lines(text)
    return len(lines) == count and all(line.startswith("- ") for line in lines)


def _numbered(text: str, count: int) -> bool:
    lines = _lines(text)
    return len(lines) == count and all(line.startswith(f"{n}. ") for n, line in enumerate(lines, 1))


def _comma_list(text: str, count: int) -> bool:
    parts = text.split(",")
    return len(_lines(text)) == 1 and len(parts) == count and all(map(str.strip, parts))


def _json_keys(text: str, keys: list[str]) -> bool:
    value = _parsed(text)
    return isinstance(value, dict) and set(keys) <= value.keys()


def _json_list(text: str, count: int) -> bool:
    value = _parsed(text)
    return isinstance(value, list) and len(value) == count and all(isinstance(each, str) for each in value)


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "lines": lambda text, count: len(_lines(text)) == count,
    "paragraphs": lambda text, count: len(re.split(r"\n\s*\n", text)) == count,
    "sentences": lambda text, count: len(SENTENCE_END.findall(text)) == count,
    "words": lambda text, count: len(_words(text)) == count,
    "words_at_most": lambda text, count: len(_words(text)) <= count,
    "words_at_least": lambda text, count: len(_words(text)) >= count,
    "lower_case": lambda text, _: text.lower() == text != text.upper(),
    "upper_case": lambda text, _: text.upper() == text != text.lower(),
    "without": lambda text, letters: not set(letters) & set(text.lower()),
    "first_word": lambda text, word: _words(text)[:1] == [word],
    "last_word": lambda text, word: _words(text)[-1:] == [word],
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": lambda text, words: set(words) <= set(_words(text)),
    "times": lambda text, wanted: _words(text).count(wanted[0]) == wanted[1],
    "json_keys": _json_keys,
    "json_list": _json_list,
    "bullets": _bullets,
    "numbered": _numbered,
    "comma_list": _comma_list,
    "one_of": lambda text, words: text.strip(EDGES).lower() in words,
    "quoted": lambda text, _: len(text) > 2 and text[0] in '"“' and text[-1] in '"”',
    "bracketed": lambda text, _: re.fullmatch(r"\[\[[^\[\]]+\]\]", text) is not None,
}
