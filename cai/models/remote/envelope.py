"""What a 200 answer holds, in the protocols of OpenAI and Anthropic: every field of it is read here, for both.

A server may leave a field out, or write it as another type. Then it is not known, which costs the answer only if it is
the text of the reply. A blocked prompt is an answer, too: one that the provider's filter ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cai.errors import CallRejected, ModelFault
from cai.folder.answers import added, count, log_probabilities, log_probability, words
from cai.models.remote.failures import shown
from cai.records import Completion, Finish, Object, Values
from cai.texts.thoughts import split_thoughts

# How servers say that a reply ended, reduced to lower case letters: "MAX_TOKENS", "FinishReason.STOP", "endTurn".
FINISH: dict[str, Finish] = {
    **dict.fromkeys(("stop", "stopsequence", "stoptoken", "eos", "eostoken", "eot", "endturn", "endofturn"), "stop"),
    **dict.fromkeys(("end", "complete", "completed", "finished", "done"), "stop"),
    **dict.fromkeys(("length", "maxtokens", "maxlength", "maxoutputtokens", "modellength", "tokenlimit"), "length"),
    "modelcontextwindowexceeded": "length",
}  # fmt: skip
FILTER = re.compile(
    "contentfilter|safety|imagesafety|recitation|blocklist|blocked|prohibitedcontent|spii|refus|sensitive|guardrail"
    "|moderation|errortoxic"
)
GAVE_UP = {  # the server, not the model (vLLM, DeepSeek, GLM, …)
    "abort", "aborted", "cancelled", "canceled", "error", "insufficientsystemresource", "networkerror", "timeout",
}  # fmt: skip
NO_TEXT = {"functioncall", "malformedfunctioncall", "pauseturn", "toolcall", "toolcalls", "tooluse"}
THOUGHTS = {"thinking", "reasoning"}  # types of the parts of a message
TEXTS = {"text", "output_text"}


def is_answer(body: Object, key: str) -> bool:
    """Whether a body is of the protocol that has replies under this key, or says that the prompt is blocked."""
    return key in body or _is_blocked(body)


def read_choice(body: Object, name: str, most: Any) -> Completion:
    """The answer of `/chat/completions` or `/completions`.

    name: the model's, if the server gives none. most: the tokens that the reply may have.
    """
    choices = body.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise _unreadable("`choices`", choices)
    choice = _table((choices or [None])[0], "its first choice")
    if not choice:
        _check_complaint(body)
    chat = bool(choice.get("message")) or "text" not in choice  # some servers put an empty text beside a message
    message = _table(choice.get("message"), "`message`") if chat else choice
    text, thoughts = _content(message.get("content" if chat else "text"))
    refusal = words(message.get("refusal"))
    reasoning = words(message.get("reasoning_content")) or words(message.get("reasoning")) or thoughts
    if chat:
        text, reasoning = split_thoughts(text, thoughts=reasoning)
    usage = known(body.get("usage"))
    inputs, outputs = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    cached = count(known(usage.get("prompt_tokens_details")).get("cached_tokens"))
    blocked = _is_blocked(body) or _is_blocked(choice) or (chat and choice.get("message") is None)
    finish: Finish = "content_filter"
    if refusal is None:
        finish = finish_of(choice.get("finish_reason"), text, blocked=blocked, full=_reached(most, outputs))
    return Completion(
        text=refusal or text,
        finish=finish,
        model=words(body.get("model")) or name,
        input_tokens=inputs,
        output_tokens=outputs,
        cached_tokens=None if cached is None or cached > (inputs or 0) else cached,
        reasoning=reasoning,
        logprobs=read_logprobs(choice.get("logprobs")),
    )


def read_message(body: Object, name: str, most: Any) -> Completion:
    """The answer of `/messages`."""
    text, thoughts = _content(body.get("content"))
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
        kind = _letters(reason).removeprefix("finishreason")
    if FILTER.match(kind):
        return "content_filter"
    if kind in GAVE_UP:
        raise ModelFault(f"the server gave the reply up: finish reason {shown(repr(reason))}", reached=True)
    if blocked and not text.strip() and FINISH.get(kind) != "length":
        return "content_filter"
    if kind in FINISH:
        return FINISH[kind]
    if kind in NO_TEXT or not text.strip():
        problem = f"the server ended the reply with {shown(repr(reason))}: no text that can be used"
        raise CallRejected("model_error", problem, billed=True)
    return "length" if full else "unknown"


# Log probabilities


def read_logprobs(listed: Any) -> tuple[dict[str, float], ...] | None:
    """Per generated token those that were listed, or itself if none are; None if the answer has none.

    A drawn token below the listed ones is left out: a reader takes the lowest entry for the floor of the list. What is
    no number is NaN, so that a reader sees which token it belongs to.
    """
    listed = known(listed)
    content, tokens = listed.get("content"), listed.get("tokens")
    if isinstance(content, list):
        return tuple(added(_entries(token)) for token in content)
    if isinstance(tokens, list):
        return tuple(_text_token(listed, place) for place in range(len(tokens)))
    return None


def _entries(token: Any) -> Iterator[tuple[str, float]]:
    """Tokens and log probabilities that a chat lists at one place; the drawn token repeated counts once."""
    drawn = known(token)
    tops = drawn.get("top_logprobs")
    if isinstance(tops, dict):
        yield from log_probabilities(tops).items()
        return
    met = False
    for entry in filter(None, map(known, tops if isinstance(tops, list) and tops else [drawn])):
        is_drawn = _is_same(entry, drawn)
        if isinstance(entry.get("token"), str) and not (met and is_drawn):
            yield entry["token"], log_probability(entry.get("logprob"))
        met = met or is_drawn


def _is_same(entry: Object, drawn: Object) -> bool:
    """Whether two entries are one token: equal, and nothing else that is said of both says that they differ."""
    if any(entry.get(key) != drawn.get(key) for key in ("token", "logprob")):
        return False
    pairs = [(entry.get(key), drawn.get(key)) for key in ("id", "bytes")]
    return all(one is None or other is None or one == other for one, other in pairs)


def _text_token(listed: Object, place: int) -> dict[str, float]:
    """The same of `/completions`, where each key has a list with an item for each token."""
    token, value, top = (_at(listed.get(key), place) for key in ("tokens", "token_logprobs", "top_logprobs"))
    return log_probabilities(top) or log_probabilities({token: value} if isinstance(token, str) else None)


# Parts


def _content(content: Any) -> tuple[str, str | None]:
    """The text of a message, which may come in parts, and the thoughts among them."""
    if content is None or isinstance(content, str):
        return content or "", None
    if not isinstance(content, list):
        content = [content]
    texts, thoughts = [], []
    for part in content:
        part = _table({"text": part} if isinstance(part, str) else part, "a text")
        kind = words(part.get("type")) or "text"
        if kind in THOUGHTS:
            thoughts.append(_thought(part.get("thinking") or part.get("reasoning") or part.get("text")))
        elif kind in TEXTS:
            if not isinstance(part.get("text"), str):
                raise _unreadable("a text", part.get("text"))
            texts.append(part["text"])
    return "".join(texts), "\n\n".join(filter(None, thoughts)) or None


def _thought(thought: Any) -> str | None:
    """A thought; Mistral's come in parts, too."""
    if isinstance(thought, list):
        return "".join(words(known(part).get("text")) or "" for part in thought)
    return words(thought)


def _is_blocked(where: Object) -> bool:
    """Whether Gemini's or Azure's words beside a reply say that a filter withheld it."""
    feedback = known(where.get("promptFeedback") or where.get("prompt_feedback"))
    prompts = where.get("prompt_filter_results")
    results = [where, *(map(known, prompts) if isinstance(prompts, list) else ())]
    filters = [each for result in results for each in known(result.get("content_filter_results")).values()]
    filtered = any(known(each).get("filtered") is True for each in filters)
    return filtered or words(feedback.get("blockReason") or feedback.get("block_reason")) is not None


def _check_complaint(body: Object) -> None:
    """Raise CallRejected for an answer without a reply that says in words why, and does not name a filter."""
    state = known(body.get("base_resp"))  # of MiniMax; with the code 0 all is well
    said = [body.get(key) for key in ("message", "msg", "detail", "error_msg")]
    complaint = next(filter(None, map(words, [*said, state.get("status_msg")])), None)
    if complaint is not None and not FILTER.search(_letters(complaint)):
        problem = f"the server answered 200 without a reply: {shown(complaint)}"
        raise CallRejected("model_error", problem)


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


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
