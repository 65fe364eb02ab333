"""What can be counted in the replies of contestants: repetition, sameness, phrases, length and truncation."""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

from cai.evaluation.arena.arena import REPLIES, Arena
from cai.evaluation.arena.figures import Line, Unit, line_of
from cai.evaluation.statistics.estimates import Estimate, mean_of
from cai.evaluation.statistics.jackknife import jackknife, leave_out
from cai.evaluation.statistics.paired import difference
from cai.evaluation.statistics.quantiles import quantile
from cai.evaluation.suites.drift import READABLE
from cai.folder.lines import read_drops
from cai.texts.likeness import words
from cai.texts.repeats import Phrases
from cai.texts.repetition import Words, compressed, distinct, equal_length, mtld, repeated, tokens

QUANTILES = (0.1, 0.5, 0.9)
MOST_PHRASES = 200  # of a contestant that are looked for in BASE's replies; it may have learned most of them there
Column = Mapping[int, float]  # of one contestant, by the position of a prompt


class ReplyTexts:
    """The replies to prompts that every contestant has answered; truncated ones are among them, as loops end so.

    Lists are by contestant, BASE first. texts: by prompt, its replies. cut: their words, all replies after each other,
    each as long as the shortest reply to its prompt. owners: the index of the prompt of each. truncated: the share of
    the replies to each prompt.
    """

    def __init__(self, arena: Arena) -> None:
        self.names = [each.name for each in arena.contestants]
        self.prompts: list[int] = []  # positions
        self.texts: list[list[list[str]]] = [[] for _ in self.names]
        self.truncated: list[dict[int, float]] = [{} for _ in self.names]
        self.lost = 0  # prompts to which a contestant has no text
        for row, sides in arena.replies():
            shared = []
            for place in range(arena.settings.n):
                replies = [side[place] for side in sides]
                if all(reply.problem in READABLE and reply.text.strip() for reply in replies):
                    shared.append(place)
            if shared:
                self.prompts.append(row.position)
            self.lost += not shared
            for number, side in enumerate(sides):
                self.truncated[number][row.position] = fmean(reply.problem == "truncated" for reply in side)
                if shared:
                    self.texts[number].append([side[place].text for place in shared])
        for drop in read_drops(arena.out / REPLIES):
            self.lost += drop.stage != "source"
            if drop.reason == "truncated":
                for column in self.truncated:
                    column[drop.position] = 1.0
        self.owners = [prompt for prompt, replies in enumerate(self.texts[0]) for _ in replies]
        self.cut = equal_length([[tokens(text) for replies in texts for text in replies] for texts in self.texts])

    # Lines

    def lines(self) -> Iterator[Line]:
        """Each measure of every contestant, with its difference to BASE."""
        for size in (1, 2, 3):
            yield from self._of_sets(f"distinct-{size}", "share", partial(distinct, size=size))
        yield from self._of_sets("compression", "number", _zlib)
        yield from self._of_prompts("rep-4", [self._means(texts, _rep_4) for texts in self.texts], 1)
        yield from self._of_prompts("MTLD", [self._means(texts, _mtld) for texts in self.texts])
        lengths = [self._means(texts, _length) for texts in self.texts]
        notes = list(map(_quantiles, self.texts))
        yield from self._of_prompts("length in words", lengths, notes=notes)
        yield from self._of_prompts("truncated", self.truncated, 1)
        yield from map(self._phrase_line, range(len(self.names)))

    def _phrase_line(self, number: int) -> Line:
        """How many replies hold the commonest phrase of a contestant; the difference is that of the same phrase."""
        phrase = self.commonest(number)
        own, base = (self._means(self.texts[side], partial(_holds, phrase)) for side in (number, 0))
        value, gap = _estimates(own, base, 1)
        if not phrase:
            note = "no five words come twice" if self.prompts else ""
            return line_of(self.names[number], "commonest phrase", "share", value, None, note)
        note = f"“{phrase}”"
        if number:
            note += f", in {fmean(base.values()):.1%} of BASE's"
        return self._line(number, "commonest phrase", "share", value, gap, note)

    def _of_sets(self, measure: str, unit: Unit, of: Callable[[Sequence[Words]], float | None]) -> Iterator[Line]:
        """A measure that only all replies together have."""
        count = len(self.prompts)
        parts = [leave_out(count, partial(self._measured, cut, of)) for cut in self.cut]
        for number, own in enumerate(parts):
            gaps = [_minus(value, before) for value, before in zip(own, parts[0], strict=True)]
            note = ""
            if measure == "compression" and own[0] is not None:
                note = f"zlib; over the whole set (lzma) {compressed(_joined(self.cut[number]), lzma.compress):.2f}"
            most = 1 if unit == "share" else math.inf
            estimates = jackknife(own, count, 0, most), jackknife(gaps, count, -most, most)
            yield self._line(number, measure, unit, *estimates, note)

    def _measured(
        self, cut: Sequence[Words], of: Callable[[Sequence[Words]], float | None], kept: Sequence[int]
    ) -> float | None:
        wanted = set(kept)
        return of([one for one, owner in zip(cut, self.owners, strict=True) if owner in wanted])

    def _of_prompts(
        self, measure: str, columns: Sequence[Column], reach: float = math.inf, notes: Sequence[str] = ()
    ) -> Iterator[Line]:
        """A measure that each reply has; reach: the largest."""
        unit: Unit = "number" if math.isinf(reach) else "share"
        for number, column in enumerate(columns):
            note = notes[number] if notes else ""
            yield self._line(number, measure, unit, *_estimates(column, columns[0], reach), note)

    def _means(self, texts: Sequence[Sequence[str]], of: Callable[[str], float | None]) -> Column:
        """The mean over the replies to each prompt; none for a prompt whose replies are too short."""
        values = [[value for value in map(of, replies) if value is not None] for replies in texts]
        return {prompt: fmean(each) for prompt, each in zip(self.prompts, values, strict=True) if each}

    def _line(self, number: int, measure: str, unit: Unit, value: Estimate, gap: Estimate, note: str) -> Line:
        return line_of(self.names[number], measure, unit, value, gap if number else None, note)

    # Phrases

    def commonest(self, number: int) -> str:
        """The words that most replies of a contestant hold, five or more; "" if there are none in two."""
        return next((phrase for phrase, _ in self._phrases(number).top(0, most=1)), "")

    def new_phrases(self, number: int, least: float, most: float, fewest: int) -> Iterator[tuple[str, float, float]]:
        """Phrases in `least` of the replies and `fewest` of them, and in `most` of BASE's: with both shares."""
        for phrase, _ in self._phrases(number).top(least, most=MOST_PHRASES):
            own, base = self._holding(number, phrase), self._holding(0, phrase)
            if fmean(own) >= least and fmean(base) <= most and sum(own) >= fewest:
                yield phrase, fmean(own), fmean(base)

    def _holding(self, number: int, phrase: str) -> list[bool]:
        return [bool(_holds(phrase, text)) for replies in self.texts[number] for text in replies]

    def _phrases(self, number: int) -> Phrases:
        phrases = Phrases()
        for replies in self.texts[number]:
            for text in replies:
                phrases.add(text)
        return phrases


def _estimates(values: Column, base: Column, reach: float) -> tuple[Estimate, Estimate]:
    """The mean over prompts, and the difference to BASE over those that both have."""
    shared = sorted(values.keys() & base.keys())
    gap = difference([values[prompt] for prompt in shared], [base[prompt] for prompt in shared], reach)
    mean = mean_of(list(values.values()), 0, reach)
    return mean if mean.low is None else mean._replace(low=max(0, mean.low)), gap


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _joined(texts: Sequence[Words]) -> list[str]:
    return [" ".join(text) for text in texts]


def _zlib(texts: Sequence[Words]) -> float | None:
    return compressed(_joined(texts))


def _rep_4(text: str) -> float | None:
    return repeated(tokens(text))


def _mtld(text: str) -> float | None:
    return mtld(tokens(text))


def _length(text: str) -> float:
    return len(words(text))


def _holds(phrase: str, text: str) -> float:
    return float(bool(phrase) and f" {phrase} " in f" {' '.join(words(text))} ")


def _quantiles(texts: Sequence[Sequence[str]]) -> str:
    lengths = [_length(text) for replies in texts for text in replies]
    if not lengths:
        return ""
    low, middle, high = (quantile(lengths, share) for share in QUANTILES)
    return f"a tenth has at most {low:.0f}, half {middle:.0f}, nine tenths {high:.0f}"
