"""One row whole, as a terminal shows it: its texts, each revision as what it changed, every vote, and its calls."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from cai.cli.terminal.console import LABEL, WIDEST, change, has_colour
from cai.records import (
    Candidates,
    Completion,
    Drop,
    Label,
    Object,
    Probed,
    Rating,
    Reading,
    Record,
    Revision,
    Turns,
    Values,
    Vote,
)
from cai.report.html.marks import visible
from cai.texts.wording import cell, columns, counted
from cai.training.report.samples import Sample
from cai.viewer.row import Call, Row

Line = tuple[str, str | Text]  # a label, and what stands beside it
UNKNOWN = "–"
LIKELIEST = 8  # alternatives of a token that are shown
WORDS = {"binding": "judge", "command": "typed"}  # for names of run.json
CHOICES = {"ab": {"first": "a", "second": "b"}, "ba": {"first": "b", "second": "a"}}  # what a place means


def show_row(row: Row, *, requests: bool) -> None:
    """Print a row to stdout: wrapped and coloured on a terminal, elsewhere each line of a text whole."""
    screen = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    width = max(20, min(screen.width, WIDEST) - LABEL)
    for label, shown in _lines(row, requests, marked=not has_colour(screen)):
        text = shown if isinstance(shown, Text) else Text(visible(shown))
        lines = text.wrap(screen, width, tab_size=4) if screen.is_terminal else text.split("\n", allow_blank=True)
        for line in lines:
            line.rstrip()
            screen.print(Text.assemble((f"{label:{LABEL}}" if line or label else "", "bold"), line))
            label = ""


def _lines(row: Row, requests: bool, *, marked: bool) -> Iterator[Line]:
    record: Any = row.record
    yield "row", f"{record.id if record.id is not None else 'without an id'}, of {row.kind} in {row.folder}"
    yield "", ""
    yield from _conversation(record.prompt)
    yield from BLOCKS[type(record)](record, marked)
    for place, reason in enumerate(row.left_out):
        yield "" if place else "left out", reason
    yield "", ""
    yield from _made_by(row.made_by)
    yield "", ""
    yield from _calls(row)
    if requests:
        for number, call in enumerate(row.calls, 1):
            yield "", ""
            yield from _exactly(call, number, len(row.calls))
    for note in (*row.notes, *filter(None, [row.another])):
        yield "", note


# The texts of each kind of row


def _conversation(prompt: Turns | str | None) -> Iterator[Line]:
    if isinstance(prompt, str):
        yield "prompt", prompt
        return
    turns = prompt or ()
    for turn in turns:
        yield ("prompt" if len(turns) == 1 and turn["role"] == "user" else turn["role"]), turn["content"]


def _revision(row: Revision, marked: bool) -> Iterator[Line]:
    reply = row.initial
    yield "reply", reply
    for number, turn in enumerate(row.rounds, 1):
        yield f"critique {number}", f"({turn.principle}) {turn.critique}"
        if turn.verdict is not None or turn.p_revise is not None:
            words = (turn.verdict or "not readable").replace("_", " ")
            yield "", f"gate: {words}, P(needs a change) {_number(turn.p_revise, '.3f')}"
        if turn.revision is not None:
            yield f"revision {number}", _diff(reply, turn.revision, marked)
            reply = turn.revision
    if row.final != reply:
        yield "final", _diff(reply, row.final, marked)


def _diff(before: str, after: str, marked: bool) -> Text:
    if before == after:
        return Text("unchanged", "dim")
    return change(visible(before), visible(after), marked=marked)


def _candidates(row: Candidates, marked: bool) -> Iterator[Line]:
    for number, reply in enumerate(row.replies):
        problem = "" if reply.problem is None else f"; cannot be used: {reply.problem}"
        yield f"reply {number}", f"(sample {reply.sample} of {reply.model}{problem})"
        yield "", reply.text


def _label(row: Label, marked: bool) -> Iterator[Line]:
    for side, text, origin, model in (("a", row.a, row.a_from, row.a_model), ("b", row.b, row.b_from, row.b_model)):
        yield f"reply {side}", f"({origin}{'' if model is None else f' of {model}'})"
        yield "", text
    yield "people", {"a": "prefer a", "b": "prefer b", "tie": "see a tie", None: "not asked"}[row.human]
    yield "verdict", _verdict(row)
    if row.rewards is not None:
        yield "rewards", "a {:+.4f}, b {:+.4f}".format(*row.rewards)
    if row.votes:
        yield "votes", _votes(row.votes)


def _verdict(row: Label) -> str:
    if row.p_a is None or row.confidence is None:
        return "no valid vote"
    better = "neither is" if row.p_a == 0.5 else f"{'a' if row.p_a > 0.5 else 'b'} is"
    scale = "not calibrated" if row.temperature is None else f"temperature {row.temperature:.3g}"
    return (
        f"{better} better, confidence {row.confidence:.3f}: P(a) {row.p_a:.3f}, z {_number(row.z, '+.3f')} "
        f"({row.protocol}, {scale})"
    )


def _votes(votes: Iterable[Vote]) -> str:
    """Both orders of every principle: natural log probabilities of the letters, their mass, and what follows."""
    table = "principle | order | log p(first) | log p(second) | mass | says | d | b\n"
    for vote in votes:
        wave = f", wave {vote.wave}" if vote.wave else ""
        names = (f"{vote.principle} (weight {vote.weight:g}{wave})", "")
        figures = ((_number(vote.d, "+.3f"), _number(vote.b, "+.3f")), ("", ""))
        for order, name, (d, b) in zip(("ab", "ba"), names, figures, strict=True):
            reading: Reading = getattr(vote, order)
            says = CHOICES[order].get(reading.choice or "", "neither")
            cells = (name, order, _number(reading.first, ".3f"), _number(reading.second, ".3f"))
            cells = (*cells, _number(reading.mass, ".3f"), says, d, b)
            remarks = ["a letter is below the list"] * reading.bounded + [reading.problem or ""]
            table += f"{' | '.join(map(cell, cells))} ||   {cell('; '.join(filter(None, remarks)))}\n"
    return columns(visible(table)).rstrip("\n")


def _rating(row: Rating, marked: bool) -> Iterator[Line]:
    yield "reply", f"(sample {row.sample} of {row.contestant}: {row.model})"
    yield "", row.reply
    value = f"not valid: {row.problem}" if row.value is None else f"{row.value:.3f}"
    yield "rating", f"{row.asked}: {value} ({row.protocol}, mass {_number(row.mass, '.3f')})"
    if row.p:
        yield "", ", ".join(f"P({level}) {p:.3f}" for level, p in row.p.items())


def _probed(row: Probed, marked: bool) -> Iterator[Line]:
    if row.text is not None:
        yield "context", row.text
    for place, (text, size) in enumerate(zip(row.continuations, row.sizes, strict=True)):
        yield f"text {place}", text
        for number, (model, values) in enumerate(zip(row.models, row.logprobs, strict=True)):
            if values is not None:
                yield "", f"{model or f'model {number}'}: log p {values[place]:.3f} of {counted(size, 'byte')}"
    for number, tokens in enumerate(row.tokens or ()):
        if tokens is not None:
            yield "tokens", f"of {row.models[number] or f'model {number}'}: {_tokens(tokens)}"


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


BLOCKS: dict[type[Record], Callable[[Any, bool], Iterator[Line]]] = {
    Revision: _revision,
    Candidates: _candidates,
    Label: _label,
    Rating: _rating,
    Probed: _probed,
    Drop: _drop,
    Sample: _sample,
}


# Where it comes from


def _made_by(facts: Object) -> Iterator[Line]:
    label = "made by"
    for name, value in facts.items():
        if value is not None:
            yield label, f"{WORDS.get(name, name)}: {_words(value)}"
            label = ""


def _words(value: Any) -> str:
    """A value of a JSON object in one line: text as it is, objects as their keys and values."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _calls(row: Row) -> Iterator[Line]:
    if not row.calls:
        return
    table = "call | key | tokens in | out | cost | ended | at\n"
    for number, call in enumerate(row.calls, 1):
        stored = call.stored
        if stored is None:
            table += f"{number} | {call.key} || not in calls.sqlite\n"
            continue
        done = stored.completion
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stored.at))
        cells = (number, call.key, _number(done.input_tokens, ","), _number(done.output_tokens, ","))
        table += f"{' | '.join(map(cell, (*cells, _cost(stored.cost_usd), done.finish, at)))} ||   {cell(done.model)}\n"
    yield "calls", columns(visible(table)).rstrip("\n")


def _cost(cost: float | None) -> str:
    if cost is None:
        return UNKNOWN
    return f"${cost:,.6f}" if cost else "free"


def _exactly(call: Call, number: int, count: int) -> Iterator[Line]:
    """What was asked, and what came back."""
    yield f"call {number}", f"of {count}, {call.key}"
    if call.stored is None:
        yield "", "not in calls.sqlite"
        return
    request = dict(call.stored.request)
    payload: Values = dict(request.pop("payload"))
    messages = payload.get("messages")
    if isinstance(messages, list) and all(
        isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in messages
    ):
        del payload["messages"]
        for turn in messages:
            content = turn["content"]
            yield f"→ {turn['role']}", content if isinstance(content, str) else _json(content)
    elif isinstance(payload.get("prompt"), str):
        yield "→ prompt", payload.pop("prompt")
    yield "→ with", f"{_words(request)}: {_json(payload)}"
    yield from _answer(call.stored.completion)


def _answer(done: Completion) -> Iterator[Line]:
    if done.reasoning is not None:
        yield "← thinks", done.reasoning
    yield "← answer", done.text
    if done.logprobs is not None:
        yield "← log p", _tokens(done.logprobs)
    if done.scores is not None:
        yield "← scores", ", ".join(f"{score:.4f}" for score in done.scores)


def _tokens(tokens: Iterable[Object]) -> str:
    """Each token with the likeliest in its place, a line a token."""
    lines = []
    for alternatives in tokens:
        ranked = sorted(alternatives.items(), key=lambda item: -item[1])
        words = "  ".join(f"{token!r} {value:.3f}" for token, value in ranked[:LIKELIEST])
        more = len(ranked) - LIKELIEST
        lines.append(words if more <= 0 else f"{words}  and {more} more")
    return "\n".join(lines)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)
