"""What a 200 answer holds, in the protocols of OpenAI and Anthropic: every field of it is read here, for both.

A server may leave a field out, or write it as another type. Then it is not known, which costs the answer only if it is
the text of the reply. A blocked prompt is an answer, too: one that the provider's filter ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from cai.errors import CallRejected, ModelFault
from cai.folder.journal.answers import added, count, log_probabilities, log_probability, words
from cai.models.remote.failures import complains, letters, shown
from cai.records import Completion, Finish, Object, Values
from cai.texts.thoughts import split_thoughts

# How servers say that a reply ended, in small letters without signs: "MAX_TOKENS", "FinishReason.STOP", "endTurn". The
# first pattern that is found counts: "ERROR_TOXIC" is a filter's, "stopped_limit" and "not_finished" are cuts.
FILTER = re.compile(
    "filter|safety|recitation|blocklist|blocked|prohibited|spii|refus|sensitive|guardrail|moderation|toxic|policy|violat"
    "|armor|^hate"
)
NO_TEXT = re.compile("tool|function|malformed|pauseturn|compaction")  # it goes on elsewhere, or is nothing that is read
CUT = re.compile("length|max(new|output|predicted)?tokens|limit|contextwindow|truncat|incomplete|notfinished")
GAVE_UP = re.compile(  # the server, not the model
    "abort|cancel|error|fail|timeout|userstop|interrupt|preempt|unloaded|insufficient|disconnect"
)
REASON = 60  # characters of a reason that are read; what follows may be an echo
WHOLE = re.compile("stop.*|eos.*|eot.*|end.*|completed?|finished|done")
THOUGHT = re.compile("think|thought|reason|summary")  # in the type of a part of a message
TEXTS = {"text", "output_text"}
REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # keys of a message
COLUMNS = ("tokens", "token_logprobs", "top_logprobs")  # of `/completions`: each a list with an item for each token
INPUT = ("prompttokens", "inputtokens", "prompttokencount")
OUTPUT = ("completiontokens", "outputtokens", "candidatestokencount")
CACHED = ("cachedtokens", "promptcachehittokens", "cachedcontenttokencount")
FILTERED = ("promptFeedback", "prompt_feedback", "prompt_filter_results", "content_filter_results")


def is_answer(body: Object, key: str) -> bool:
    """Whether a body is of the protocol that has replies under this key, or says that the prompt is blocked."""
    return key in body or _is_blocked(body)


def error_instead(body: Object, key: str) -> Object | None:
    """The error that a body holds in place of replies, or its first reply in place of a text; None if there is none."""
    replies = body.get(key)
    if not replies or (isinstance(replies, list) and not any(replies)):
        return body if complains(body) else None
    reply = known(replies[0]) if isinstance(replies, list) else {}
    if known(reply.get("message")).get("content") or reply.get("text"):
        return None
    return next((each for each in (reply, body) if complains(each.get("error"))), None)


def read_choice(body: Object, name: str, most: Any) -> Completion:
    """The answer of `/chat/completions` or `/completions`.

    name: the model's, if the server gives none. most: the tokens that the reply may have.
    """
    choices = body.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise _unreadable("`choices`", choices)
    choice = _table((choices or [None])[0], "its first choice")
    answer = choice.get("message") or choice.get("delta")  # a server that streams may send its only part as the whole
    chat = bool(answer) or "text" not in choice  # some servers put an empty text beside a message
    message = _table(answer, "`message`") if chat else choice
    text, thoughts, refused = _content(message.get("content" if chat else "text"))
    refusal = words(message.get("refusal")) or refused
    reasoning = thoughts
    if not message.keys().isdisjoint(REASONING):
        reasoning = next(filter(None, map(_thought, map(message.get, REASONING))), thoughts)
    if chat:
        text, reasoning = split_thoughts(text, thoughts=reasoning)
    tokens = tokens_in(body)
    blocked = _is_blocked(body) or _is_blocked(choice) or (chat and answer is None)
    finish: Finish = "content_filter"
    if refusal is None:
        reason = "tool_calls" if message.get("tool_calls") else choice.get("finish_reason")
        finish = finish_of(reason, text, blocked=blocked, full=_reached(most, tokens["output_tokens"]))
    return Completion(
        text=refusal or text,
        finish=finish,
        model=words(body.get("model")) or name,
        **tokens,
        reasoning=reasoning,
        logprobs=read_logprobs(choice.get("logprobs")),
    )


def read_message(body: Object, name: str, most: Any) -> Completion:
    """The answer of `/messages`."""
    text, thoughts, _ = _content(body.get("content"))
    text, reasoning = split_thoughts(text, thoughts=thoughts)
    usage = known(body.get("usage"))
    outputs = count(usage.get("output_tokens"))
    read, written = (usage.get(f"cache_{part}_input_tokens") for part in ("read", "creation"))
    inputs = [count(part) for part in (usage.get("input_tokens"), read or 0, written or 0)]
    return Completion(
        text=text,
        finish=finish_of(body.get("stop_reason"), text, blocked=_is_blocked(body), full=_reached(most, outputs)),
        model=words(body.get("model")) or name,
        input_tokens=None if None in inputs else sum(filter(None, inputs)),
        output_tokens=outputs,
        cached_tokens=count(read),
        cache_write_tokens=count(written),
        reasoning=reasoning,
    )


def finish_of(reason: Any, text: str, *, blocked: bool, full: bool) -> Finish:
    """How a reply ended: as the server says, else by what else is known of it; "unknown" for a text without a reason.

    blocked: the answer says in another way that a filter ended it. full: it has all the tokens that it may have.
    """
    kind = ""
    if isinstance(reason, str):
        kind = letters(reason[:REASON]).removeprefix("finishreason")
    if FILTER.search(kind):
        return "content_filter"
    if CUT.search(kind):
        return "length"
    if GAVE_UP.search(kind):
        raise ModelFault(f"the server gave the reply up: finish reason {shown(repr(reason))}", reached=True)
    if blocked and not text.strip():
        return "content_filter"
    if WHOLE.fullmatch(kind):
        return "stop"
    if NO_TEXT.search(kind) or not text.strip():
        problem = f"the server ended the reply with {shown(repr(reason))}: no text that can be used"
        raise CallRejected("model_error", problem, billed=True)
    return "length" if full else "unknown"


# Log probabilities


def read_logprobs(listed: Any) -> tuple[dict[str, float], ...] | None:
    """Per generated token those that were listed, or itself if none are; None if the answer has none.

    A drawn token that is not listed is left out if it is below the listed ones: a reader takes the lowest entry for the
    floor of the list. What is not a number becomes NaN, so that a reader sees which token it belongs to.
    """
    listed = known(listed)
    content = listed.get("content")
    if isinstance(content, list):
        return tuple(added(_entries(token)) for token in content)
    columns = [column for key in COLUMNS if isinstance(column := listed.get(key), list)]
    if columns:
        return tuple(_text_token(listed, place) for place in range(max(map(len, columns))))
    return None


def _entries(token: Any) -> Iterator[tuple[str, float]]:
    """Tokens and log probabilities that a chat lists at one place; the drawn token repeated counts once."""
    drawn = known(token)
    tops = drawn.get("top_logprobs")
    if isinstance(tops, dict):
        yield from log_probabilities(tops).items()
        return
    listed = [
        entry for entry in map(known, tops if isinstance(tops, list) else ()) if isinstance(entry.get("token"), str)
    ]
    met = False
    for entry in listed:
        is_drawn = _is_same(entry, drawn)
        if not (met and is_drawn):
            yield entry["token"], log_probability(entry.get("logprob"))
        met = met or is_drawn
    token, value = drawn.get("token"), log_probability(drawn.get("logprob"))
    floor = min((log_probability(entry.get("logprob")) for entry in listed), default=-math.inf)
    if isinstance(token, str) and value > floor and all(entry["token"] != token for entry in listed):
        yield token, value


def _is_same(entry: Object, drawn: Object) -> bool:
    """Whether two entries are one token: equal, and nothing else that is said of both says that they differ."""
    if any(entry.get(key) != drawn.get(key) for key in ("token", "logprob")):
        return False
    pairs = [(entry.get(key), drawn.get(key)) for key in ("id", "bytes")]
    return all(one is None or other is None or one == other for one, other in pairs)


def _text_token(listed: Object, place: int) -> dict[str, float]:
    """The tokens that COLUMNS list at one place; some servers give the only place by itself."""
    token, value, top = (_at(listed.get(key), place) for key in COLUMNS)
    top = listed["top_logprobs"] if place == 0 and isinstance(listed.get("top_logprobs"), dict) else top
    return log_probabilities(top) or log_probabilities({token: value} if isinstance(token, str) else None)


# Parts


def _content(content: Any) -> tuple[str, str | None, str | None]:
    """The text of a message, which may come in parts, with the thoughts and the refusal among them."""
    if content is None or isinstance(content, str):
        return content or "", None, None
    if not isinstance(content, list):
        content = [content]
    texts, thoughts, refusal = [], [], None
    for part in content:
        part = _table({"text": part} if isinstance(part, str) else part, "a text")
        kind = words(part.get("type")) or ("refusal" if "refusal" in part else "text")
        if THOUGHT.search(kind) or part.get("thought") is True:
            thoughts.append(_thought(part.get("thinking") or part.get("reasoning") or part.get("text")))
        elif kind in TEXTS:
            if not isinstance(part.get("text"), str):
                raise _unreadable("a text", part.get("text"))
            texts.append(part["text"])
        refusal = refusal or words(part.get("refusal"))
    return "".join(texts), "\n\n".join(filter(None, thoughts)) or None, refusal


def _thought(thought: Any) -> str | None:
    """A thought; Mistral's and OpenRouter's come in parts, too."""
    if isinstance(thought, list):
        return words("".join(words(known(part).get("text")) or "" for part in thought))
    return words(thought)


def _is_blocked(where: Object) -> bool:
    """Whether Gemini's or Azure's words beside a reply say that a filter withheld it."""
    if where.keys().isdisjoint(FILTERED):
        return False
    feedback = known(where.get("promptFeedback") or where.get("prompt_feedback"))
    prompts = where.get("prompt_filter_results")
    results = [where, *(map(known, prompts) if isinstance(prompts, list) else ())]
    filters = [each for result in results for each in known(result.get("content_filter_results")).values()]
    filtered = any(known(each).get("filtered") is True for each in filters)
    return filtered or words(feedback.get("blockReason") or feedback.get("block_reason")) is not None


def tokens_in(body: Object) -> Values:
    """The tokens that a body in OpenAI's protocols counts, as fields of a completion."""
    usage = known(body.get("usage"))
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    tokens = {"input_tokens": _tokens(usage, INPUT), "output_tokens": _tokens(usage, OUTPUT)}
    total, spoken = count(usage.get("total_tokens")), tokens["output_tokens"]
    if None not in (total, spoken, tokens["input_tokens"]):  # xAI and Gemini count thoughts in the total alone
        tokens["output_tokens"] = max(spoken or 0, (total or 0) - (tokens["input_tokens"] or 0))
    cached = _tokens(known(details) or usage, CACHED)
    if cached is not None and cached <= (tokens["input_tokens"] or 0):
        tokens["cached_tokens"] = cached
    return tokens


def _tokens(usage: Object, names: Sequence[str]) -> int | None:
    key = _key_of(names, tuple(usage))
    return None if key is None else count(usage[key])


@lru_cache(maxsize=64)  # a server writes the same keys in every answer
def _key_of(names: Sequence[str], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if letters(key) in names), None)


def _reached(most: Any, outputs: int | None) -> bool:
    return isinstance(most, int) and outputs is not None and outputs >= most


def known(value: Any) -> Values:
    """An object; empty for anything else."""
    return value if isinstance(value, dict) else {}


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _table(value: Any, what: str) -> Values:
    """An object of which the text is a part; empty for null."""
    if value is not None and not isinstance(value, dict):
        raise _unreadable(what, value)
    return value or {}


def _unreadable(what: str, value: Any) -> CallRejected:
    problem = f"the server answered 200 with {what} that is {type(value).__name__}: {shown(str(value)[:100])!r}"
    return CallRejected("model_error", problem, billed=True)
