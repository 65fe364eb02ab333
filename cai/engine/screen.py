"""The screen: under which principles a reply may be wanting, asked in a word before any critique.

Raw probabilities are not comparable between principles: a small model says Yes to some of them whatever the reply is.
So each is asked both ways, whether the reply goes against it and whether it keeps to it, and half the difference of the
log odds counts; and what the same questions give on average for ordinary good replies, which come with the package, is
taken out. That baseline is asked once per run, in a fixed order, and decides how the run asks.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import orjson

from cai.constitution.draw import draw
from cai.constitution.principles import Constitution, Principle
from cai.engine.gate import NO, SAID, YES, YesNo, read_word
from cai.engine.letters import LEAST_MASS, log_ratio, probability, read_letters
from cai.engine.quoting import Quoting
from cai.engine.templates.sets import Templates
from cai.errors import RowDropped, Unreadable
from cai.records import Completion, Message, Prompt, Request, Round, Screened, Screening, Turns, Values
from cai.sources.files import folder

SCREEN = 0.6  # a principle is drawn from those that a reply goes against with at least this probability
MOST = 16  # principles that a reply is screened under; of more, so many are drawn by weight
BASELINE = "screen baseline"  # in place of the id of a row
OF_WORDS: dict[float | None, float] = {p: math.log(p) - math.log1p(-p) for p in SAID.values()}
# The most that words can say: all against a reply, and all for ordinary ones.
MOST_IN_WORDS = probability(2 * OF_WORDS[SAID[YES]])
Odds = float | None  # log odds of Yes against No; None: the answer cannot be read
Scores = Generator[list[Request], list[Completion], list[tuple[Odds, Odds]]]


class AskScreen:
    """The questions of a screen about one reply, in the words of screen.jinja; texts are quoted as a judge's are."""

    def __init__(self, templates: Templates, law: Constitution) -> None:
        templates.need("screen")
        self._templates = templates
        self._quoting = Quoting(templates, templates.frame["screen"])
        self._numbers = {principle.id: 2 * number for number, principle in enumerate(law.principles)}
        self._examples = law.examples or templates.examples

    @property
    def identity(self) -> Values:
        """What decides its answers."""
        pairs = hashlib.sha256(orjson.dumps(ordinary())).hexdigest()[:16]
        return {"templates": self._templates.screen_hash, "baseline": pairs}

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError if the template needs what a principle does not have."""
        list(self._questions((Message(role="user", content="Trial."),), "Trial.", principles))

    def scores(self, prompt: Turns, reply: str, principles: Sequence[Principle], how: YesNo, turn: int = 0) -> Scores:
        """For each principle the log odds that the reply goes against it, and that it keeps to it.

        turn: tells the replies of one row apart, by which its questions are numbered.
        """
        questions = self._questions(prompt, reply, principles, turn)
        if how.protocol == "vote":
            answers = yield [how.word(question) for question in questions]
            odds = [_odds_of_word(answer) for answer in answers]
        else:
            answers = yield [how.letters(question) for question in questions]
            odds = [_odds_of_letters(answer) for answer in answers]
        return list(zip(odds[::2], odds[1::2], strict=True))

    def _questions(
        self, prompt: Turns, reply: str, principles: Iterable[Principle], turn: int = 0
    ) -> Iterator[Request]:
        """Both questions of every principle; what they share comes first, so that it is computed once."""
        turns, quoted = self._quoting.turns(prompt), self._quoting.quoted(reply.strip())
        for principle in principles:
            for against in (True, False):
                text = self._templates.render(
                    "screen",
                    prompt=turns,
                    reply=quoted,
                    principle=principle,
                    against=against,
                    examples=self._examples,
                ).strip()
                # By reply and principle, not by round: a reply that stands is asked about once.
                index = 2 * len(self._numbers) * turn + self._numbers[principle.id] + (not against)
                if self._templates.completes:
                    yield Request("screen", text=text, index=index)
                else:
                    yield Request("screen", (Message(role="user", content=text),), index=index)


def _odds_of_letters(answer: Completion) -> Odds:
    return log_ratio(read_letters(answer, (YES, NO)))


def _odds_of_word(answer: Completion) -> Odds:
    return OF_WORDS.get(read_word(answer))


def _half(pair: tuple[Odds, Odds]) -> Odds:
    """Half the difference of both log odds, in which what a model says to everything cancels; None if one lacks."""
    against, keeps = pair
    if against is None or keeps is None:
        return None
    return (against - keeps) / 2


# The baseline


@cache
def ordinary() -> tuple[tuple[Turns, str], ...]:
    """Prompts with good replies, the same in every run."""
    lines = (folder("prompts") / "ordinary.jsonl").read_bytes().splitlines()
    records = map(orjson.loads, lines)
    return tuple(((Message(role="user", content=record["prompt"]),), record["reply"]) for record in records)


@dataclass(frozen=True, slots=True)
class Baseline:
    """How a run asks, and what each principle's questions give for ordinary replies, if that can be read."""

    how: YesNo
    odds: Mapping[str, float]


def baseline(
    ask: AskScreen, principles: Sequence[Principle], how: YesNo
) -> Generator[list[Request], list[Completion], Baseline]:
    """Ask about the ordinary replies, under each principle.

    A model that lists no probabilities, or whose server refuses to, is asked in words from here on. Raises Unreadable
    if most answers cannot be read.
    """
    every: list[list[tuple[Odds, Odds]]] = []
    for number, (prompt, reply) in enumerate(ordinary()):
        try:
            scores = yield from ask.scores(prompt, reply, principles, how, number)
        except RowDropped as refusal:
            if refusal.reason == "content_filter":  # as it will be when the run is resumed
                continue
            if number or how.protocol == "vote" or refusal.reason != "model_error":
                raise
            scores = []
        if not number and how.protocol != "vote" and all(_half(pair) is None for pair in scores):
            how = YesNo("vote", how.prefix)
            scores = yield from ask.scores(prompt, reply, principles, how)
        every.append(scores)
    halves = {
        principle.id: [half for scores in every if (half := _half(scores[place])) is not None]
        for place, principle in enumerate(principles)
    }
    read = sum(map(len, halves.values())) / (len(ordinary()) * len(principles))
    if read < LEAST_MASS:
        raise Unreadable(
            f"the critic does not answer Yes or No: {read:.0%} of the screen's answers about ordinary replies can be "
            "read; use --draw uniform, another --critic, or word screen.jinja for it"
        )
    return Baseline(how, {name: statistics.fmean(values) for name, values in halves.items() if values})


# A reply


@dataclass(slots=True)
class Screen:
    """How a run screens replies, and draws the principle of a round.

    least: in [0, 1]; a principle is drawn from those that a reply goes against with at least this probability.
    baseline: None before it is known.
    """

    ask: AskScreen
    principles: Sequence[Principle]
    least: float
    seed: int
    baseline: Baseline | None = None

    def look(
        self, prompt: Prompt, reply: str, rounds: Sequence[Round]
    ) -> Generator[list[Request], list[Completion], tuple[Principle | None, Screening]]:
        """The principle of the next round, None if the reply goes against none, and what was asked.

        rounds: those before, of whose principles none comes again before all others that the reply goes against.
        Raises RowDropped if no answer can be read.
        """
        used = [turn.principle for turn in rounds]
        changes = sum(turn.changed for turn in rounds)
        assert self.baseline is not None
        principles = self._screened(prompt.id)
        scores = yield from self.ask.scores(prompt.messages, reply, principles, self.baseline.how, changes)
        screened = []
        for principle, pair in zip(principles, scores, strict=True):
            usual, odds, p = self.baseline.odds.get(principle.id), _half(pair), None
            if odds is not None and usual is not None:
                p = probability(odds - usual)
            screened.append(Screened(principle=principle.id, against=pair[0], keeps=pair[1], baseline=usual, p=p))
        if all(each.p is None for each in screened):
            raise RowDropped("invalid_vote", "screen", "no answer of the screen can be read as Yes or No")
        wanting = [
            principle
            for principle, each in zip(principles, screened, strict=True)
            if each.p is not None and each.p >= self.least
        ]
        fresh = [principle for principle in wanting if principle.id not in used]
        if not wanting:
            return None, Screening(principle=None, of=tuple(screened))
        [drawn] = draw(fresh or wanting, 1, self.seed, prompt.id, stream=f"screen {len(used)}")
        return drawn, Screening(principle=drawn.id, of=tuple(screened))

    def _screened(self, row: str) -> Sequence[Principle]:
        """The principles that a reply is screened under."""
        if len(self.principles) <= MOST:
            return self.principles
        return draw(self.principles, MOST, self.seed, row, stream="screened")
