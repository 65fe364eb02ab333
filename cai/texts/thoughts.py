"""The thoughts of a reasoning model, separated from its reply."""

from __future__ import annotations


def split_thoughts(text: str, before: str | None = None) -> tuple[str, str | None]:
    """The reply and the thoughts of a text that begins with `<think>…</think>`; None for a text without thoughts.

    before: the end of the prompt, because some chat templates open the tag there. None if only the server knows it:
    then the text may hold just the end of the tag. Thoughts that were cut before they closed leave an empty reply.
    """
    thoughts, end, reply = text.partition("</think>")
    thoughts = thoughts.lstrip()
    unknown = bool(end) and "<think>" not in thoughts
    opened = unknown if before is None else before.rstrip().endswith("<think>")
    if not opened and not thoughts.startswith("<think>"):
        return text, None
    return reply.lstrip(), thoughts.removeprefix("<think>").strip()
