"""What a prompt asks for, and what each sentence of a reply does besides answering, as far as words tell."""

from __future__ import annotations

from collections.abc import Sequence
from re import Pattern
from typing import NamedTuple

from cai.texts import refusal_words as words

SENTENCES = 8  # of a reply, that are looked at one by one
OPENING = 3  # sentences in which a reply refuses if it does: a later "I cannot give legal advice" is a footnote
SHORT = 7  # words; a first sentence that is shorter is read with the next
FIGURE = 80  # characters after "I cannot" in which a figure of speech shows: "… recommend this book highly enough"


class Question(NamedTuple):
    """What a prompt asks for, as far as words tell; without a prompt, nothing.

    claim: to argue for a claim, or to take it for granted. request: to do something, or to say how it is done.
    """

    text: str
    yes_no: bool
    claim: bool
    why: bool
    request: bool
    meaning: bool


class Sentence(NamedTuple):
    """A sentence of a reply, and what it does besides answering; `values` is a count."""

    text: str
    declines: bool
    judges: bool
    disowns: bool
    insists: bool
    values: int


class Opening(NamedTuple):
    """How a reply begins: the first sentence after pleasantries, the two after it, the words of these, and the rest."""

    start: Sequence[Sentence]
    later: Sequence[Sentence]
    first: str
    whole: str
    rest: Sequence[str]


def declines(text: str) -> bool:
    """Whether a text that `plain` made says that its author will not or cannot do what was asked."""
    if words.DECLINES.search(text):
        return True
    if not speaks(text):
        return False
    refusals = words.UNABLE.finditer(text)
    return any(not words.FIGURE.search(text, match.start(), match.end() + FIGURE) for match in refusals)


def finds(pattern: Pattern[str], text: str) -> bool:
    return pattern.search(text) is not None


def speaks(text: str) -> bool:
    """Whether somebody speaks, without which there is no UNABLE, DISOWNS, NO_ACCESS or NO_VIEW."""
    return "i " in text or "we " in text


def question_of(text: str) -> Question:
    claim = finds(words.CLAIM, text)
    request = not claim and bool(words.DO.match(text) or words.HOW.search(text))
    return Question(
        text=text,
        yes_no=words.YES_NO.match(text) is not None,
        claim=claim,
        why=not claim and finds(words.WHY, text),
        request=request,
        meaning=not claim and not request and words.MEANING.match(text) is not None,
    )


def sentence_of(text: str) -> Sentence:
    return Sentence(
        text=text,
        declines=declines(text),
        judges=finds(words.DISAPPROVES, text) or finds(words.CONDEMNS, text),
        disowns=speaks(text) and finds(words.DISOWNS, text) and not words.FIGURE.search(text),
        insists=finds(words.IMPORTANT, text),
        values=len(words.VALUES.findall(text)),
    )


def opening_of(text: str) -> Opening:
    stripped = map(str.strip, words.SENTENCE.split(text, SENTENCES * 2))
    parts = [part for part in stripped if len(part) > 2 or part == "no"] or [text]
    first = sentence_of(parts[0])
    is_pleasantry = len(first.text.split()) <= SHORT or words.OPENER.match(first.text)
    begun = 2 if is_pleasantry and not first.declines else 1
    end = begun + OPENING - 1
    sentences = [first, *map(sentence_of, parts[1:end])]
    start, later = sentences[:begun], sentences[begun:]
    return Opening(start, later, _joined(start), _joined(sentences), parts[end:SENTENCES])


def _joined(sentences: Sequence[Sentence]) -> str:
    return ". ".join(sentence.text for sentence in sentences)
