"""Whether replies have degenerated: repetition, sameness, boilerplate, length, truncation, and distance from BASE."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from cai.engine.revise import Ask
from cai.engine.templates.sets import load_templates
from cai.evaluation.arena.arena import EMBEDDED
from cai.evaluation.arena.figures import Line, Result
from cai.evaluation.arena.probe import ProbeRun, read_probed
from cai.evaluation.arena.suite import Suite
from cai.evaluation.suites.drift import drift_lines, reply_probes, scored
from cai.evaluation.suites.reply_texts import ReplyTexts
from cai.folder.identity import identity_hash
from cai.models import open_models
from cai.records import Candidates, Place, Prompt
from cai.runs.run import Run
from cai.runs.settings import RunSettings
from cai.texts.wording import counted

LIKELIHOOD = "likelihood"
# What is warned of; docs/evaluating.md has the reasons.
REPEATED = 0.05  # rep-4: replies of people have 0.005
COMPRESSED = 1.15  # times BASE's: a phrase in a third of the replies makes it 1.17
FEWER = 0.91  # times BASE's distinct-2: the same phrase makes it 0.91
CUT = 0.1  # share of truncated replies: they are in no pair that is judged
LONGER = 1.5  # times BASE's words, or the inverse: judges prefer the longer reply
COMMON = 0.1  # share of the replies that hold a phrase: people who read ten of them meet it
RARE = 0.02  # and of BASE's, at most
FEWEST = 3  # replies with a phrase, at least
SHOWN = 10  # phrases of a contestant


class Degeneration(Suite):
    """Whether replies have degenerated."""

    name = "degeneration"
    title = "Degeneration"
    counted = True

    @cached_property
    def columns(self) -> dict[int, int]:
        """Contestants that give probabilities, by number, with their places in the run of probes; none without BASE."""
        settings = self.arena.settings
        specs = {str(number): spec for number, spec in enumerate(self.arena.specs)}
        models = open_models(specs, settings.connection).values()
        scorers = [number for number, model in enumerate(models) if model.can.scoring]
        return {number: place for place, number in enumerate(scorers)} if 0 in scorers else {}

    def sessions(self) -> Iterator[Run[Any]]:
        """BASE and the author of each reply say how probable it is."""
        if self.columns:
            places = [place for row, _ in self.arena.replies() for place in self._probes(row)]
            if places:
                yield self._run(places)

    def planned(self) -> Iterator[Run[Any]]:
        """The same run; what it asks follows from the replies."""
        if self.columns:
            yield self._planned

    def follow_ups(self, row: Candidates) -> Iterator[tuple[Run[Any], Place]]:
        """The replies to a prompt, to be scored."""
        if self.columns:
            yield from ((self._planned, place) for place in self._probes(row))

    @cached_property
    def _planned(self) -> ProbeRun:
        return self._run([])

    def _run(self, places: Sequence[Any]) -> ProbeRun:
        specs = [self.arena.specs[number] for number in self.columns]
        origin = {"replies": identity_hash(self.arena.replies_run().identity)}
        return ProbeRun(places, specs, self.arena.settings_of(RunSettings, LIKELIHOOD, limit=None), origin)

    @cached_property
    def _ask(self) -> Ask:
        settings = self.arena.settings
        return Ask(load_templates(settings.templates), None, system=settings.system)

    def _probes(self, row: Candidates) -> Iterator[Any]:
        asked = self._ask.respond(Prompt(id=row.id, messages=row.prompt))
        return reply_probes(row, self.arena.sides(row), self.columns, asked)

    # What came out

    def result(self) -> Result:
        """Measures of each contestant's replies, with warnings of those that have become worse than BASE's."""
        texts = ReplyTexts(self.arena)
        lines = list(texts.lines())
        phrases = {
            name: list(islice(texts.new_phrases(number, COMMON, RARE, FEWEST), SHOWN))
            for number, name in enumerate(texts.names)
        }
        new = [
            f"{name}: {share:.0%} of the replies say “{phrase}” (BASE {base:.0%}, warned of from {COMMON:.0%})"
            for name, each in phrases.items()
            for phrase, share, base in each
        ]
        if self.columns:
            rows = read_probed(self.arena.out / LIKELIHOOD)
            replies = scored(rows, self.columns, self.arena.settings.n)
            lines += drift_lines(self.arena.contestants, replies)
        return Result(
            suite=self.name,
            title=self.title,
            facts=tuple(self._facts(texts)),
            lines=tuple(lines),
            warnings=(*warnings(lines), *new),
            details={"new_phrases": phrases, "words_each": sum(map(len, texts.cut[0]))},
        )

    def _facts(self, texts: ReplyTexts) -> Iterator[str]:
        settings = self.arena.settings
        replies = sum(map(len, texts.texts[0]))
        yield (
            f"of {counted(len(texts.prompts), 'prompt')} and {counted(replies, 'text')} of each model; "
            f"distinct-n and compression are of the same number of words, {sum(map(len, texts.cut[0])):,} of each"
        )
        if texts.lost:
            yield f"{counted(texts.lost, 'prompt')} left out, for which at least one model has no text"
        if not self.columns:
            yield f"{self.arena.specs[0]} gives no probabilities of texts: no perplexity under BASE, and no KL"
        elif settings.temperature != 1 or settings.extra_body or EMBEDDED in self.arena.specs[1:]:
            yield (
                "the replies were not drawn at temperature 1 from the whole distribution: what is called KL is the "
                "mean log ratio of these replies"
            )


def warnings(lines: Iterable[Line]) -> Iterator[str]:
    """What is so much worse than in BASE's replies that they should be read."""
    by_measure: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_measure[line.measure].append(line)
    for measure, rule in RULES.items():
        base, *_ = measured = by_measure[measure]
        for line in measured:
            problem = None if line.figure.value is None else rule(line, base.figure.value or 0.0)
            if problem is not None:
                yield f"{line.model}: {problem}"


def _repeats(line: Line, base: float) -> str | None:
    value = line.figure.value or 0.0
    if value <= REPEATED or not _is_beyond(line, 1):
        return None
    return f"replies repeat themselves: rep-4 is {value:.1%} (BASE {base:.1%}, warned of from {REPEATED:.0%})"


def _compresses(line: Line, base: float) -> str | None:
    value = line.figure.value or 0.0
    if value <= COMPRESSED * base or not _is_beyond(line, 1):
        return None
    return f"replies are alike: compression is {value:.2f} (BASE {base:.2f}, warned of from {COMPRESSED:g} times)"


def _narrows(line: Line, base: float) -> str | None:
    value = line.figure.value or 0.0
    if value >= FEWER * base or not _is_beyond(line, -1):
        return None
    return f"fewer different words: distinct-2 is {value:.3f} (BASE {base:.3f}, warned of below {FEWER:g} times)"


def _is_cut(line: Line, base: float) -> str | None:
    value = line.figure.value or 0.0
    if value <= CUT:
        return None
    return f"{value:.0%} of the replies are truncated (warned of from {CUT:.0%}): raise --max-tokens, or look for loops"


def _lengthens(line: Line, base: float) -> str | None:
    value = line.figure.value or 0.0
    if not base or 1 / LONGER <= value / base <= LONGER or not (_is_beyond(line, 1) or _is_beyond(line, -1)):
        return None
    return f"replies have {value:.0f} words, and BASE's {base:.0f}: add --length-control, as judges prefer the longer"


def _is_beyond(line: Line, sign: int) -> bool:
    """Whether the interval of a difference is above 0, or with sign -1 below; without one, whether all differ alike."""
    gap = line.difference
    if gap is None or gap.value is None or gap.n < 2:
        return False
    ends = (gap.value,) if gap.low is None or gap.high is None else (gap.low, gap.high)
    return all(end * sign > 0 for end in ends)


RULES: dict[str, Callable[[Line, float], str | None]] = {  # by measure
    "rep-4": _repeats,
    "compression": _compresses,
    "distinct-2": _narrows,
    "truncated": _is_cut,
    "length in words": _lengthens,
}
