"""The calls of a row, as a terminal shows them: what each cost, and with what exactly was asked and answered."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from rich.text import Text

from cai.records import Completion, Object, Values
from cai.report.html.marks import visible
from cai.texts.wording import cell, columns, number
from cai.viewer.terminal.calls import Call
from cai.viewer.terminal.row import Row

Line = tuple[str, str | Text]  # a label, and what stands beside it
LIKELIEST = 8  # alternatives of a token that are shown


def in_words(value: Any) -> str:
    """A value of a JSON object in one line: text as it is, objects as their keys and values."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(inner)}" for name, inner in value.items() if inner not in (None, {}, []))
    if isinstance(value, list):
        return "; ".join(map(in_words, value))
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def calls_of(row: Row) -> Iterator[Line]:
    if not row.calls:
        return
    table = "call | in | out | USD | ended ||   key\n"
    for place, call in enumerate(row.calls, 1):
        cells: tuple[object, ...] = ("not there", "", "", "")
        if call.stored is not None:
            done = call.stored.completion
            tokens = (number(count, ",") for count in (done.input_tokens, done.output_tokens))
            cells = (*tokens, _cost(call.stored.cost_usd), done.finish)
        table += f"{' | '.join(map(cell, (place, *cells)))} ||   {call.key}\n"
    yield "calls", columns(visible(table)).rstrip("\n")


def _cost(cost: float | None) -> str:
    if cost == 0:
        return "free"
    return number(cost, ",.6f")


def call_whole(call: Call, place: int, count: int) -> Iterator[Line]:
    """What was asked, and what came back."""
    if call.stored is None:
        yield f"call {place}", f"of {count} is not in calls.sqlite: {call.key}"
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(call.stored.at))
    yield f"call {place}", f"of {count}, {call.key}, answered by {call.stored.completion.model} at {at}"
    request = dict(call.stored.request)
    payload: Values = dict(request.pop("payload"))
    messages = payload.get("messages", payload.get("input"))
    if isinstance(messages, list) and all(
        isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in messages
    ):
        payload = {key: value for key, value in payload.items() if value is not messages}
        for turn in messages:
            yield f"→ {turn['role']}", in_words(turn["content"])
    elif isinstance(payload.get("prompt"), str):
        yield "→ prompt", payload.pop("prompt")
    yield "→ with", f"{in_words(request)}: {_json(payload)}"
    yield from _answer(call.stored.completion)


def _answer(done: Completion) -> Iterator[Line]:
    if done.reasoning is not None:
        yield "← thinks", done.reasoning
    yield "← answer", done.text
    if done.logprobs is not None:
        yield "← log p", tokens_in_words(done.logprobs)
    if done.scores is not None:
        yield "← scores", ", ".join(f"{score:.4f}" for score in done.scores)


def tokens_in_words(tokens: Iterable[Object]) -> str:
    """Each token with the likeliest in its place, a line a token."""
    lines = []
    for alternatives in tokens:
        ranked = sorted(alternatives.items(), key=lambda item: -item[1])
        words = [f"{token!r} {value:.3f}" for token, value in ranked[:LIKELIEST]]
        if len(ranked) > LIKELIEST:
            words.append(f"and {len(ranked) - LIKELIEST} more")
        lines.append("  ".join(words))
    return "\n".join(lines)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
