"""What runs play: prompts, pairs of replies, single replies, and texts that may follow a context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cai.records.base import DropReason, Record, Turns


class Prompt(Record):
    """The conversation so far that the assistant must answer; ends with the user."""

    id: str
    messages: Turns
    key: ClassVar[None] = None  # that of a `Contest` names its conversation and replies


class BadPrompt(Record):
    """A record of a prompt file that is not a prompt; it is dropped with its place in the file."""

    line: int  # 1-based line of a text file, 1-based row of a table
    problem: str
    reason: DropReason = "bad_input"


@dataclass(frozen=True, slots=True)
class Contest:
    """Two replies to one conversation, to be judged.

    a, b: texts; None if a reply has yet to be sampled, as the number that its `…_from` names.
    """

    id: str
    position: int
    key: str  # names the conversation and both replies; a reply that is not sampled yet counts by its number
    prompt_id: str
    messages: Turns
    a: str | None
    b: str | None
    a_from: str
    b_from: str
    a_model: str | None = None
    b_model: str | None = None
    human: Literal["a", "b", "tie"] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One reply to a conversation, to be rated.

    asked: what is rated, such as the name of a scale. sample: n-th reply of its contestant to this prompt, from 0.
    """

    id: str
    position: int
    key: str  # names the conversation, the reply, who wrote it and what is asked
    prompt_id: str
    messages: Turns
    reply: str
    contestant: str
    model: str  # who wrote it, as the server named it
    sample: int
    asked: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A context, and texts that may follow it, of which models say how probable they find each.

    messages: a conversation, or none if `text` is what comes before. by_token: also how probable each token is, of a
    probe with one continuation. models: the numbers of those that are asked; None: all.
    """

    id: str
    key: str  # names all of it
    messages: Turns
    text: str | None
    continuations: tuple[str, ...]
    by_token: bool = False
    models: tuple[int, ...] | None = None


Playable = Prompt | Contest | Entry | Probe
Item = Playable | BadPrompt
Place = tuple[int, Item]  # position in the input, and what is there
