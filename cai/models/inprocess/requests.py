"""What models in this process read of a request, and of what they wrote: question, settings, stops and thoughts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cai.errors import UsageError
from cai.records import Request, Values
from cai.texts.thoughts import PROMPT_END, split_thoughts
from cai.texts.wording import nearest


def question(request: Request) -> Values:
    """The part of a payload that says what is asked, without how the answer is sampled."""
    if request.text is None:
        body: Values = {"messages": [dict(message) for message in request.messages]}
    else:
        body = {"text": request.text}
    if request.prefill:
        body["prefill"] = request.prefill
    if request.score:
        body["score"] = list(request.score)
        if request.top_logprobs:
            body["top_logprobs"] = 1
    return body


def check_settings(names: Iterable[str], known: Sequence[str], model: str) -> None:
    """Raise UsageError for the first of `names` that is not a sampling setting of `model`."""
    for name in names:
        if name not in known:
            raise UsageError(f"{model} has no setting {name!r} (extra body); {nearest(name, known)}")


def first_stop(stops: Iterable[str], text: str) -> int | None:
    """Where the earliest of `stops` begins in `text`; None if none occurs."""
    return min((at for at in map(text.find, stops) if at >= 0), default=None)


def reply_of(
    payload: Values, text: str, ids: list[int], prompt: list[int], show: Callable[[list[int]], str]
) -> tuple[str, str | None]:
    """The reply to a payload up to its first stop string, and the thoughts before it; None: there are none.

    text: the generated ids without control tokens. show: writes ids with them, as they part thoughts from replies in
    many models.
    """
    stops = payload.get("stop", ())
    if "messages" in payload:
        shown = show(ids)
        reply, thoughts = split_thoughts(shown[: first_stop(stops, shown)], show(prompt[-PROMPT_END:]))
        if thoughts is not None:
            return reply, thoughts
    return text[: first_stop(stops, text)], None
