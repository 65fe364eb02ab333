"""The tokens of training rows, and which of them the loss is computed on: the reply's, with its end of turn.

TRL can mask replies only for chat templates it knows, and trains on what a template puts after the end of turn, which
no model ever has to write. Here the template is rendered with and without the reply, whatever template it is, and the
difference is the reply; if that cannot be shown, there is an error.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from cai.errors import UsageError
from cai.records import DropReason, Turns, Values
from cai.texts.wording import counted, reason_of
from cai.training.data.dataset import TrainingData
from cai.training.data.rows import Skipped, TrainingRow, named
from cai.training.setup.config import Loaded, Setting
from cai.training.setup.plan import Plan
from cai.weights.chat_templates import FOLDED, begins_with_system, folded, has_system
from cai.weights.control_tokens import control_tokens, normalizer

T = TypeVar("T")

AT_ONCE = 512  # rows in one call of a tokenizer, which works on their texts in parallel


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as token ids: those of the prompt, and those of each reply, on which the loss is."""

    row: TrainingRow
    prompt: list[int]
    replies: tuple[list[int], ...]

    @property
    def id(self) -> str:
        """The row's id."""
        return self.row.id

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest reply."""
        return len(self.prompt) + max(map(len, self.replies), default=0)

    @property
    def ids(self) -> list[int]:
        """The prompt with its first reply."""
        return self.prompt + self.replies[0]

    @property
    def labels(self) -> list[int]:
        """The ids, with -100 for those without a loss."""
        return [-100] * len(self.prompt) + self.replies[0]

    def cut(self, limit: int) -> Encoded:
        """The first `limit` tokens, which is more than the prompt has."""
        room = limit - len(self.prompt)
        return Encoded(self.row, self.prompt, tuple(reply[:room] for reply in self.replies))


class Masker:
    """Encodes rows with one tokenizer, each text once; `ends` are the token ids that end a reply.

    whole: give the ids of each whole text, as a reward model reads it: a reply keeps what the template puts after the
    end of turn, and begins where the ids leave those of the prompt, before a token that spans the border.
    Raises UsageError, from the first row on, for a template that renders a conversation differently once the reply is
    there, or does not end the reply with one of `ends`: a model trained so would never learn to stop.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int], *, whole: bool = False) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._whole = whole

    def encode(self, rows: Iterable[TrainingRow]) -> Iterator[Encoded | str]:
        """Each row in tokens, in order, or why its replies cannot be told apart from its prompt."""
        for plain, group in groupby(rows, lambda row: row.is_plain):
            while part := list(islice(group, AT_ONCE)):
                texts = [self._texts(row) for row in part]
                whole = [text for row in texts if isinstance(row, list) for text in row]
                tokens = self._tokens(whole, special=plain)
                for row, row_texts in zip(part, texts, strict=True):
                    if isinstance(row_texts, str):
                        yield row_texts
                    else:
                        yield self._encoded(row, row_texts, list(islice(tokens, len(row_texts))))

    def _texts(self, row: TrainingRow) -> list[str] | str:
        """The text of the prompt, and of the prompt with each reply; or what is wrong with the row."""
        if isinstance(row.prompt, str):
            replies, end = row.replies, self._tokenizer.eos_token
            if self._whole and end is not None:
                replies = [reply.removesuffix(end) + end for reply in replies]
            return [row.prompt, *(row.prompt + reply for reply in replies)]
        turns = [dict(turn) for turn in row.prompt]
        render = self._tokenizer.apply_chat_template
        try:
            prompt = render(turns, tokenize=False, add_generation_prompt=True)
            wholes = [render([*turns, {"role": "assistant", "content": one}], tokenize=False) for one in row.replies]
        except Exception as error:  # of the template's own making: roles that it does not know, or not in that order
            return f"the chat template refuses the conversation: {reason_of(error)[:200]}"
        for reply, whole in zip(row.replies, wholes, strict=True):
            if not whole.startswith(prompt):
                at = next(place for place, letter in enumerate(prompt) if whole[place : place + 1] != letter)
                raise UsageError(
                    "the chat template renders a conversation differently once its reply is there "
                    f"({prompt[at:][:40]!r} became {whole[at:][:40]!r}), so the reply cannot be told apart; name "
                    "another with chat_template"
                )
            if reply.strip() not in whole[len(prompt) :]:
                return "the chat template does not give the reply as it is"
        return [prompt, *wholes]

    def _tokens(self, texts: list[str], special: bool) -> Iterator[list[int]]:
        if texts:
            encoded = self._tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
            yield from map(list, encoded["input_ids"])

    def _encoded(self, row: TrainingRow, texts: list[str], tokens: list[list[int]]) -> Encoded | str:
        prompt, *wholes = tokens
        while row.is_plain and prompt and prompt[-1] in self._ends:  # some tokenizers end every text
            prompt = prompt[:-1]
        replies = []
        for content, text, ids in zip(row.replies, texts[1:], wholes, strict=True):
            reply = ids[len(prompt) :]
            if ids[: len(prompt)] != prompt:
                # The model that answers has read the prompt: it never meets tokens that span the border.
                [reply] = self._tokens([text[len(texts[0]) :]], special=False)
                if self._tokenizer.decode(prompt + reply) != self._tokenizer.decode(ids):
                    return "the tokens of the prompt and those of the reply cannot be told apart"
            replies.append(self._ended(reply, content, text, row.is_plain))
        if self._whole:
            from trl.data_utils import common_prefix_length

            shared = min(common_prefix_length(tokens[0], ids) for ids in wholes)
            return Encoded(row, tokens[0][:shared], tuple(ids[shared:] for ids in wholes))
        return Encoded(row, prompt, tuple(replies))

    def _ended(self, reply: list[int], content: str, text: str, plain: bool) -> list[int]:
        """The reply up to its end: the first end token after its content, where a model that answers stops."""
        decode, eos = self._tokenizer.decode, self._tokenizer.eos_token_id
        ends = [place for place, token in enumerate(reply) if token in self._ends]
        if ends and not plain:
            after = (place for place in ends[:-1] if content.strip() in decode(reply[:place]))
            return reply[: next(after, ends[-1]) + 1]
        if ends and not decode(reply[ends[-1] + 1 :]).strip():
            return reply[: ends[-1] + 1]
        if plain and eos is not None:
            return [*reply, eos]
        names = ", ".join(repr(self._tokenizer.decode([token])) for token in sorted(self._ends)) or "none is set"
        raise UsageError(
            f"the chat template ends a reply with {text[-20:]!r}, which holds no token that ends a reply ({names}): "
            "the model would not learn to stop; name another with chat_template, or a folder with a tokenizer and "
            "embeddings that have the template's tokens"
        )


def sift(
    data: TrainingData,
    sides: Iterable[Sequence[Any]],
    make: Callable[[Sequence[Any]], Iterable[T | str]],
    reason: DropReason,
    drops: list[Skipped],
) -> list[list[T]]:
    """What `make` gives for the rows that train, and for those to evaluate.

    A row for which it gives a text, why that row cannot train, is added to `drops`.
    """
    usable: list[list[T]] = [[], []]
    for place, rows in zip((0, -1), sides, strict=True):
        for row, result in zip(rows, make(rows), strict=True):
            if isinstance(result, str):
                drops.append(Skipped(data.files[place][0], 0, reason, f"{named(row.id)}: {result}"))
            else:
                usable[place].append(result)
    return usable


class Rows(ABC):
    """The rows of a training in tokens, and what is special about its method; `drops` are rows that no length saves.

    folder: where TRL's copy of the rows is kept. A subclass has the losses and TRL's trainer of its method.
    """

    hooks: ClassVar[type]  # what is put before TRL's trainer
    before: ClassVar[bool] = False  # whether the loss before the first step means anything
    whole: ClassVar[bool] = False  # whether the model reads whole texts, and learns no reply

    def __init__(self, data: TrainingData, loaded: Loaded, tokenizer: Any, ends: Iterable[int], folder: Path) -> None:
        self.data = data
        self.loaded = loaded
        self.folder = folder
        self.settings = tuple(self.settle())
        self.settled = {setting.name: setting.value for setting in self.settings}
        self.drops: list[Skipped] = []
        self.train: list[Encoded] = []
        self.eval: list[Encoded] = []
        masker = Masker(tokenizer, ends, whole=self.whole)
        self._train, self._eval = sift(data, (data.train, data.eval), masker.encode, "bad_input", self.drops)

    def settle(self) -> Iterator[Setting]:
        """The settings of the loss; raises UsageError for a loss that the method or its rows do not have."""
        yield from ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that trains, with its longest reply."""
        return [row.longest for row in self._train]

    def cut(self, limit: int) -> list[Skipped]:
        """Put the rows that fit `limit` tokens into `train` and `eval`; the others are dropped."""
        drops: list[Skipped] = []

        def fitting(rows: Iterable[Encoded]) -> list[Encoded | str]:
            return [self.fit(row, limit) for row in rows]

        self.train, self.eval = sift(self.data, (self._train, self._eval), fitting, "too_long", drops)
        return drops

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        """The row as it trains in `limit` tokens, or why it cannot: no token of a reply would be left."""
        if len(row.prompt) >= limit:
            return f"its prompt of {len(row.prompt):,} tokens leaves no room in {limit:,}"
        return row

    def sequences(self, plan: Plan) -> int:
        """How many sequences an epoch puts through the optimiser: raises UsageError if it can make no step of them."""
        return len(self.train)

    @abstractmethod
    def arguments(self, plan: Plan) -> Values:
        """The arguments of TRL's trainer that only this method has."""

    def own_parts(self) -> Values:
        """What the hooks of this method take besides the arguments of TRL's trainer."""
        return {}

    @abstractmethod
    def dataset(self, rows: Sequence[Encoded]) -> Any:
        """The rows as TRL's trainer takes them."""


def with_system_text(data: TrainingData, tokenizer: Any) -> TrainingData:
    """The data with system texts before the first turn of the user if the chat template has no system role."""
    count = sum(_has_system_text(row) for row in (*data.train, *data.eval))
    if not count or has_system(lambda turns: str(tokenizer.apply_chat_template(turns, tokenize=False))):
        return data
    note = f"{FOLDED} ({counted(count, 'row')})"
    train, held = (tuple(map(_system_in_user_turn, rows)) for rows in (data.train, data.eval))
    return dataclasses.replace(data, train=train, eval=held, run_notes=(*data.run_notes, note))


def _has_system_text(row: TrainingRow) -> bool:
    return not isinstance(row.prompt, str) and begins_with_system(row.prompt)


def _system_in_user_turn(row: TrainingRow) -> TrainingRow:
    if not _has_system_text(row):
        return row
    turns: Any = folded(cast(Turns, row.prompt))
    return dataclasses.replace(row, prompt=tuple(turns))


def without_forged_turns(data: TrainingData, tokenizer: Any) -> TrainingData:
    """The data without conversations whose text holds a control token; plain text, which brings its own, stays.

    A trainer's tokenizer reads such text as the token itself, so that a reply could open turns of its own, and a reward
    model would learn from other tokens than a judge is shown, for whom it is spelled out. Raises InputError if too few
    rows are left.
    """
    tokens = control_tokens(tokenizer)
    if not tokens:
        return data
    normalize = normalizer(tokenizer)
    control = re.compile("|".join(map(re.escape, [*tokens, *map(normalize, tokens)])))

    def checked(rows: Iterable[TrainingRow]) -> Iterator[TrainingRow | str]:
        for row in rows:
            token = None
            if not isinstance(row.prompt, str):
                text = "\0".join([*(turn["content"] for turn in row.prompt), *row.replies])
                token = control.search(text) or control.search(normalize(text))
            if token is None:
                yield row
            else:
                yield f"its text holds {token[0]!r}, a control token, and could open turns of its own"

    drops: list[Skipped] = []
    train, held = sift(data, (data.train, data.eval), checked, "role_mixup", drops)
    if not drops:
        return data
    return dataclasses.replace(data, train=tuple(train), eval=tuple(held), dropped=(*data.dropped, *drops))
