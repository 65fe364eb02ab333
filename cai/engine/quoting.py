"""Quotes what could pass for the frame of a question in the texts that it is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from cai.engine.templates.sets import Templates
from cai.records import Message
from cai.texts.lookalikes import careless
from cai.texts.turns import DRESSING, HEADED, HIDDEN, LINE_ENDS, MARKS, SHOTS, SPEAKERS, edited, loose

QUOTES = {"<": "&lt;", "[": "&#91;", "]": "&#93;", "◁": "&#9665;"}  # for what looks like one


class Quoting:
    """Quotes texts, of replies and conversations, for one template.

    A tag counts anywhere (`<reply_b>` becomes `&lt;reply_b>`), another label at the start of a line (`> Assistant:`),
    whatever its case, spacing, accents and script; and so does what a server could take for the end of a turn
    (`&lt;|im_end|>`). So only the template can write the frame of a question.
    """

    def __init__(self, templates: Templates, frame: Sequence[str]) -> None:
        self._tags, self._starts = frame_patterns(templates, frame)
        self.quoted = lru_cache(maxsize=32)(self._quote)  # the questions about a pair come one after the other

    def _quote(self, text: str) -> str:
        seen = careless(text)
        edits = {tag.start(): (QUOTES[tag[0][0]], 1) for tag in self._tags.finditer(seen)}
        for start in self._starts.finditer(seen):
            edits.setdefault(start.end(), ("> ", 0))
        return edited(text, edits)

    def turns(self, prompt: Sequence[Message]) -> list[Message]:
        """A conversation as it is shown."""
        return [Message(role=turn["role"], content=self.quoted(turn["content"])) for turn in prompt]


def before(text: str, *tags: str) -> str:
    """What a text says before the first of some tags, which a model may misspell (`</new_ Reply>`) or escape."""
    for tag in filter(None, tags):
        found = _tag(tag).search(careless(text))
        if found is not None:
            text = text[: found.start()]
    return text.strip()


def after(text: str, tag: str) -> str:
    """A text without a tag at its start, which a model may misspell or escape."""
    found = _tag(tag).match(careless(text))
    return text.strip() if found is None else text[found.end() :].strip()


@cache
def _tag(tag: str) -> re.Pattern[str]:
    """A pattern for a tag in a careless text; what is no tag is found as it is written."""
    if not tag.startswith("<"):
        return re.compile(re.escape(careless(tag)))
    name = loose(tag).removeprefix("<")
    return re.compile(rf"\s*(?:<|&[l|!]t;){name}\s*(?:>|&gt;)?")


def frame_patterns(templates: Templates, frame: Sequence[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What could pass for the frame of a question in a careless text: tags and marks, and the starts of labels.

    A tag counts anywhere, a label at the start of a line; a match of the second pattern ends where its label begins.
    """
    labels = {*frame, *SPEAKERS.split("|")}
    if templates.completes:  # what a set stops at is how its layout begins a part
        stops = [stop.strip() for texts in templates.stop.values() for stop in texts]
        labels |= {*SHOTS.split("|"), *stops} - {""}
    tags = [loose(label) for label in frame if label.startswith("<")]
    others = sorted(label for label in labels if not label.startswith("<"))
    words = [loose(label) for label in others if loose(label)]
    rules = [re.escape(label) for label in others if not loose(label)]  # such as ---
    headed = rf"#{HIDDEN}#[\s{DRESSING}]*+(?:{'|'.join(map(loose, HEADED.split('|')))})"
    space = rf"(?:^|[{LINE_ENDS}])[^\S{LINE_ENDS}]*+"
    line = rf"(?:^|[{LINE_ENDS}])(?:[^\S{LINE_ENDS}]|[{DRESSING}])*+"
    starts = f"{line}(?={'|'.join(words)})|{space}(?={'|'.join([headed, *rules])})"
    return re.compile("|".join([*tags, MARKS])), re.compile(starts)
