"""The tokens of a prompt and its reply, and which of them the loss is computed on: the reply's, with its end of turn.

TRL can mask replies only for chat templates it knows, and trains on what a template puts after the end of turn, which
no model ever has to write. Here the template is rendered with and without the reply, whatever template it is, and the
difference is the reply; where that cannot be shown, there is an error. Knows nothing of files, models or trainers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cai.errors import UsageError
from cai.training.data.rows import Turns

AT_ONCE = 512  # texts in one call of a tokenizer, which works on them in parallel
STEP = 64  # tokens; sequence lengths are rounded up to it
COVERED = 0.99  # share of the rows that the chosen length holds whole


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as token ids; the loss is on `ids[start:]`."""

    id: str
    ids: list[int]
    start: int

    @property
    def labels(self) -> list[int]:
        """The ids, with -100 where there is no loss."""
        return [-100] * self.start + self.ids[self.start :]

    def cut(self, limit: int) -> Encoded | None:
        """The first `limit` tokens; None where no token of the reply is among them."""
        return Encoded(self.id, self.ids[:limit], self.start) if self.start < limit else None


@dataclass(frozen=True, slots=True)
class Unfit:
    """A row that cannot be told apart from its prompt in tokens, and why."""

    id: str
    why: str


class Masker:
    """Encodes rows with one tokenizer; `ends` are the token ids that end a reply.

    Raises UsageError, from the first row on, for a template that renders a conversation differently once the reply is
    there, or does not end the reply with one of `ends`: a model trained so would never learn to stop.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        self._tokenizer, self._ends = tokenizer, frozenset(ends)

    def encode(self, rows: Iterable[tuple[str, Turns | str, str]]) -> Iterator[Encoded | Unfit]:
        """The rows of (id, prompt, reply) in order."""
        left = iter(rows)
        while part := list(islice(left, AT_ONCE)):
            texts = [self._texts(prompt, reply) for _, prompt, reply in part]
            sound = [text for text in texts if isinstance(text, tuple)]
            chats = iter(self._ids([text[:2] for text in sound if not text[2]], special=False))
            plains = iter(self._ids([text[:2] for text in sound if text[2]], special=True))
            for (name, _, _), text in zip(part, texts, strict=True):
                if isinstance(text, str):
                    yield Unfit(name, text)
                    continue
                before, whole = next(plains if text[2] else chats)
                yield self._encoded(name, before, whole, text)

    def _texts(self, prompt: Turns | str, reply: str) -> tuple[str, str, bool] | str:
        """The text before the reply, the whole text, and whether they are plain; or what is wrong with the row."""
        if isinstance(prompt, str):
            return prompt, prompt + reply, True
        turns = [dict(turn) for turn in prompt]
        render = self._tokenizer.apply_chat_template
        try:
            before = render(turns, tokenize=False, add_generation_prompt=True)
            whole = render([*turns, {"role": "assistant", "content": reply}], tokenize=False)
        except Exception as error:  # of the template's own making: roles that it does not know, or not in that order
            return f"the chat template refuses the conversation: {' '.join(str(error).split())[:200]}"
        if not whole.startswith(before):
            at = next(i for i, (a, b) in enumerate(zip(before, whole + "\0", strict=False)) if a != b)
            raise UsageError(
                f"the chat template renders a conversation differently once its reply is there ({before[at:][:40]!r} "
                f"became {whole[at:][:40]!r}), so the reply cannot be told apart; name another with chat_template"
            )
        if reply.strip() not in whole[len(before) :]:
            return "the chat template does not give the reply as it is"
        return before, whole, False

    def _ids(self, texts: Sequence[tuple[str, str]], special: bool) -> list[tuple[list[int], list[int]]]:
        if not texts:
            return []
        before, whole = (self._words(list(side), special) for side in zip(*texts, strict=True))
        return list(zip(before, whole, strict=True))

    def _words(self, texts: list[str], special: bool) -> list[list[int]]:
        found = self._tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def _encoded(self, name: str, before: list[int], whole: list[int], text: tuple[str, str, bool]) -> Encoded | Unfit:
        plain = text[2]
        while plain and before and before[-1] in self._ends:  # some tokenizers end every text
            before = before[:-1]
        if whole[: len(before)] != before:
            # Tokens that span the border are none that the model meets when it answers: it has read the prompt alone.
            [rest] = self._words([text[1][len(text[0]) :]], special=False)
            if self._tokenizer.decode(before + rest) != self._tokenizer.decode(whole):
                return Unfit(name, "the tokens of the prompt and those of the reply cannot be told apart")
            whole = before + rest
        last = next((i for i in range(len(whole) - 1, len(before) - 1, -1) if whole[i] in self._ends), None)
        if last is not None:
            return Encoded(name, whole[: last + 1], len(before))
        if plain and self._tokenizer.eos_token_id is not None:
            return Encoded(name, [*whole, self._tokenizer.eos_token_id], len(before))
        ends = ", ".join(repr(self._tokenizer.decode([token])) for token in sorted(self._ends)) or "none is set"
        raise UsageError(
            f"the chat template ends a reply with {text[1][-20:]!r}, which holds no token that ends a reply ({ends}): "
            "the model would not learn to stop; name another with chat_template"
        )


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the rows are, in tokens, and how many a limit cuts."""

    limit: int
    rows: int
    longest: int
    over: int  # rows longer than the limit
    tokens: int  # of all rows
    cut: int  # of these, beyond the limit

    def __str__(self) -> str:
        if not self.over:
            return f"no row is longer than {self.limit:,} tokens; the longest has {self.longest:,}"
        share = f"{self.over:,} of {self.rows:,} rows ({self.over / self.rows:.1%})"
        lost = f"{self.cut / self.tokens:.1%} of all tokens"
        return f"{share} are longer than {self.limit:,} tokens, the longest has {self.longest:,}; {lost} are over"


def measure(lengths: Sequence[int], limit: int) -> Lengths:
    """What a limit in tokens does to rows of these lengths; raises ValueError for none."""
    over = [length for length in lengths if length > limit]
    return Lengths(limit, len(lengths), max(lengths), len(over), sum(lengths), sum(length - limit for length in over))


def choose_length(lengths: Sequence[int], cap: int) -> int:
    """The sequence length for rows of these lengths: holds 99 % of them whole, a multiple of 64, at most `cap`.

    A few long rows would otherwise decide the memory of every step.
    """
    ordered = sorted(lengths)
    held = ordered[max(0, math.ceil(COVERED * len(ordered)) - 1)]
    return min(cap, -(-held // STEP) * STEP)
