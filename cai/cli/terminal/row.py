"""One row whole, as a terminal shows it: its texts, each revision as what it changed, every vote, and its calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cai.cli.terminal.calls import Line, call_whole, calls_of, in_words, tokens_in_words
from cai.cli.terminal.console import WIDEST, change, has_colour
from cai.engine.letters import NO_MASS
from cai.records import (
    Acceptance,
    Candidates,
    Drop,
    Label,
    Object,
    Probed,
    Rating,
    Reading,
    Revision,
    Round,
    Screening,
    Turns,
    Vote,
)
from cai.report.html.marks import visible
from cai.texts.wording import cell, columns, counted, number
from cai.viewer.terminal.row import Row

if TYPE_CHECKING:
    from cai.training.report.samples import Sample

LABEL = 13  # columns
WORDS = {"binding": "judge", "command": "typed"}  # for names of run.json
CHOICES = {"ab": {"first": "a", "second": "b"}, "ba": {"first": "b", "second": "a"}}  # what a place means


def show_row(row: Row, *, requests: bool) -> None:
    """Print a row to stdout: wrapped and coloured on a terminal, elsewhere each line of a text whole."""
    screen = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    width = max(20, min(screen.width, WIDEST) - LABEL)
    for label, shown in _lines(row, requests, marked=not has_colour(screen)):
        text = shown if isinstance(shown, Text) else Text(visible(shown))
        lines = text.split("\n", allow_blank=True)
        if screen.is_terminal:
            lines = text.wrap(screen, width, tab_size=4)
        for line in lines:
            line.rstrip()
            shown_line = Text.assemble((f"{label:{LABEL}}", "bold"), line)
            shown_line.rstrip()
            screen.print(shown_line)
            label = ""


def _lines(row: Row, requests: bool, *, marked: bool) -> Iterator[Line]:
    record: Any = row.record
    yield "row", f"{record.id or 'without an id'}, of {row.kind} in {row.folder}"
    yield "", ""
    yield from _conversation(record.prompt)
    yield from BLOCKS[type(record).__name__](record, marked)
    if row.people:
        yield "labelled", "\n".join(row.people)
    if row.left_out:
        yield "left out", "\n".join(row.left_out)
    yield "", ""
    yield from _made_by(row.made_by)
    yield "", ""
    yield from calls_of(row)
    if requests:
        for place, call in enumerate(row.calls, 1):
            yield "", ""
            yield from call_whole(call, place, len(row.calls))
    yield from (("", note) for note in row.notes)
    if row.another is not None:
        yield "", row.another


# The texts of each kind of row


def _conversation(prompt: Turns | str | None) -> Iterator[Line]:
    if isinstance(prompt, str):
        yield "prompt", prompt
        return
    turns = prompt or ()
    is_question = [turn["role"] for turn in turns] == ["user"]
    for turn in turns:
        yield (is_question and "prompt") or turn["role"], turn["content"]


def _revision(row: Revision, marked: bool) -> Iterator[Line]:
    reply = row.initial
    yield "reply", reply
    screens = list(row.screens or ())
    for place, turn in enumerate(row.rounds, 1):
        if screens:
            yield f"screen {place}", _screening(screens.pop(0))
        if turn.critique:
            yield f"critique {place}", f"({turn.principle}) {turn.critique}"
        if turn.verdict is not None or turn.p_revise is not None:
            words = (turn.verdict or "not readable").replace("_", " ")
            yield "", f"gate: {words}, P(revise) {number(turn.p_revise, '.3f')}"
        if turn.acceptance is not None:
            yield from _comparison(place, reply, turn, turn.acceptance, marked)
        elif turn.revision is not None:
            yield f"revision {place}", _diff(reply, turn.revision, marked)
        if turn.revision is not None:
            reply = turn.revision
    for screening in screens:
        yield f"screen {len(row.rounds) + 1}", _screening(screening)
    if row.final != reply:
        yield "final", _diff(reply, row.final, marked)


def _screening(screening: Screening) -> str:
    """Under which principles a reply was screened, the likeliest first, and the one that was drawn."""
    table = "P(goes against) | principle | against | keeps to | baseline\n"
    for each in sorted(screening.of, key=lambda each: -1.0 if each.p is None else -each.p):
        odds = (number(value, "+.3f") for value in (each.against, each.keeps, each.baseline))
        drawn = "drawn" * (each.principle == screening.principle)
        table += f"{number(each.p, '.3f')} | {cell(each.principle)} | {' | '.join(odds)} ||   {drawn}\n"
    if screening.principle is None:
        table += "none is likely enough: the reply stands\n"
    return columns(visible(table)).rstrip("\n")


def _comparison(place: int, reply: str, turn: Round, judged: Acceptance, marked: bool) -> Iterator[Line]:
    """A revision that a judge compared with the reply before it; in the votes it is a."""
    yield f"revision {place}", _diff(reply, turn.revision or judged.rejected or "", marked)
    if judged.fault is not None:
        yield "", f"rejected unjudged for a fault of its text: {judged.fault}"
        return
    verdict = "accepted" if judged.accepted else "rejected: the reply stands"
    yield "", f"{verdict}, P(it is better) {number(judged.p, '.3f')} ({judged.protocol})"
    if judged.votes:
        yield "", f"votes, a is the revision; the principle of helpfulness is {judged.helpfulness}"
        yield "", _votes(judged.votes)


def _diff(before: str, after: str, marked: bool) -> Text:
    if before == after:
        return Text("unchanged", "dim")
    return change(visible(before), visible(after), marked=marked)


def _candidates(row: Candidates, marked: bool) -> Iterator[Line]:
    for place, reply in enumerate(row.replies):
        yield f"reply {place}", f"(sample {reply.sample} of {reply.model})"
        if reply.problem is not None:
            yield "", f"cannot be used: {reply.problem}"
        yield "", reply.text


def _label(row: Label, marked: bool) -> Iterator[Line]:
    for side, text, origin, model in (("a", row.a, row.a_from, row.a_model), ("b", row.b, row.b_from, row.b_model)):
        yield f"reply {side}", f"({' of '.join(filter(None, (origin, model)))})"
        yield "", text
    yield (
        "people",
        {"a": "prefer a", "b": "prefer b", "tie": "see a tie", None: "no human label in the source"}[row.human],
    )
    yield "verdict", _verdict(row)
    if row.rewards is not None:
        yield "rewards", "a {:+.4f}, b {:+.4f}".format(*row.rewards)
    if row.votes:
        yield "votes", _votes(row.votes)
    if row.protocol == "decide":
        yield "", f"mass {NO_MASS}"


def _verdict(row: Label) -> str:
    if row.p_a is None or row.confidence is None:
        return "no valid vote"
    better = {True: "a is better", False: "b is better"}[row.p_a > 0.5]
    if row.p_a == 0.5:
        better = "neither is better"
    scale = f"temperature {number(row.temperature, '.3g')}".replace("temperature –", "not calibrated")
    figures = f"P(a) {row.p_a:.3f}, z {number(row.z, '+.3f')}"
    return f"{better}, confidence {row.confidence:.3f}: {figures} ({row.protocol}, {scale})"


def _votes(votes: Iterable[Vote]) -> str:
    """Both orders of every principle: log p of the letter of the reply shown first, of the second, and their mass."""
    table = "  shown | first | second | mass | says | d | b\n"
    for vote in votes:
        wave = f", wave {vote.wave}" * (vote.wave > 0)
        table += f"{cell(vote.principle)} (weight {vote.weight:g}{wave})\n"
        preference = (number(vote.d, "+.3f"), number(vote.b, "+.3f"))
        for order, figures in zip(("ab", "ba"), (preference, ("", "")), strict=True):
            reading: Reading = getattr(vote, order)
            says = CHOICES[order].get(reading.choice or "", "neither")
            logs = (number(value, ".3f") for value in (reading.first, reading.second, reading.mass))
            below = {True: "clipped", False: "a letter is below the list"}[reading.mass is None]
            remarks = [below] * reading.bounded + [reading.problem or ""]
            remark = cell("; ".join(filter(None, remarks)))
            table += f"{' | '.join((f'  {order}', *logs, says, *figures))} ||   {remark}\n"
    return columns(visible(table)).rstrip("\n")


def _rating(row: Rating, marked: bool) -> Iterator[Line]:
    yield "reply", f"(sample {row.sample} of {row.contestant}: {row.model})"
    yield "", row.reply
    yield "rating", f"{row.asked}: {number(row.value, '.3f')} ({row.protocol}, mass {number(row.mass, '.3f')})"
    if row.problem is not None:
        yield "", f"not valid: {row.problem}"
    if row.p:
        yield "", ", ".join(f"P({level}) {p:.3f}" for level, p in row.p.items())


def _probed(row: Probed, marked: bool) -> Iterator[Line]:
    if row.text is not None:
        yield "context", row.text
    for place, (text, size) in enumerate(zip(row.continuations, row.sizes, strict=True)):
        yield f"text {place}", text
        for model, values in zip(row.models, row.logprobs, strict=True):
            if values is not None:
                yield "", f"{model}: log p {values[place]:.3f} of {counted(size, 'byte')}"
    for model, tokens in zip(row.models, row.tokens or (), strict=False):
        if tokens is not None:
            yield "tokens", f"as {model} has them, with log p\n{tokens_in_words(tokens)}"


def _drop(row: Drop, marked: bool) -> Iterator[Line]:
    yield "dropped", f"{row.reason} at {row.stage}: {row.detail}"
    if row.line is not None:
        yield "", f"line {row.line:,} of the input"


def _sample(row: Sample, marked: bool) -> Iterator[Line]:
    yield "before", row.before
    if row.after is None:
        yield "after", "the training is not over"
    else:
        yield "after", _diff(row.before, row.after, marked)
    yield "", f"both are cut at {counted(row.most_tokens, 'token')}"


BLOCKS: dict[str, Callable[[Any, bool], Iterator[Line]]] = {  # by the name of the record, which may take long to import
    "Revision": _revision,
    "Candidates": _candidates,
    "Label": _label,
    "Rating": _rating,
    "Probed": _probed,
    "Drop": _drop,
    "Sample": _sample,
}


# Where it comes from


def _made_by(facts: Object) -> Iterator[Line]:
    label = "made by"
    for name, value in facts.items():
        if value is not None:
            yield label, f"{WORDS.get(name, name)}: {in_words(value)}"
            label = ""
