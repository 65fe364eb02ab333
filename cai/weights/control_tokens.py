"""Which added tokens of a tokenizer are control tokens, and where a text holds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

MARK = re.compile(r"[<\[{(|◁【].*\w.*[>\]})|▷】:]", re.DOTALL)


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The added tokens of a tokenizer of transformers that no text of a user may become, the longest first.

    All of them, whether they are marked as special or not, but those that change nothing: white space, single
    characters, and words of letters and digits that the chat template does not write.
    """
    template = str(tokenizer.chat_template or "")
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    tokens = {token for token in added if is_control(token, template)} | special_tokens(tokenizer)
    return tuple(sorted(tokens - {""}, key=lambda token: (-len(token), token)))


def special_tokens(tokenizer: Any) -> set[str]:
    """The tokens that are marked as special, which encoding splits by itself if it is told to."""
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}


def is_control(token: str, template: str) -> bool:
    """Whether an added token that is not marked as special can mark anything, as turns or roles."""
    if len(token) < 2 or token.isspace():
        return False
    return not token.isalnum() or token in template


def could_mark(token: str, template: str) -> bool:
    """Whether a token of which nothing else is known reads like a mark: a name in brackets, or of the template."""
    if MARK.fullmatch(token):
        return True
    return len(token) > 2 and token in template and not token.strip().isalnum() and re.search(r"\w", token) is not None


def apart(text: str, tokens: Sequence[str]) -> list[str]:
    """A text in parts of which none holds a token: each is cut behind its first character."""
    if not any(token in text for token in tokens):
        return [text]
    every = re.compile(f"(?={'|'.join(re.escape(token) for token in tokens if len(token) > 1)})")
    cuts = [found.start() + 1 for found in every.finditer(text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def normalizer(tokenizer: Any) -> Callable[[str], str]:
    """What a tokenizer does to a text before it looks for added tokens, as for full-width characters."""
    first = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    added = tokenizer.added_tokens_decoder.values()
    if first is None or not any(token.normalized for token in added):
        return str
    return cast(Callable[[str], str], first.normalize_str)
