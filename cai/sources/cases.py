"""All replies of a record in any shape, by role, with the conversation that they answer: what an audit looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.records import Message
from cai.sources.conversations import conversation_before, merged
from cai.sources.replies import PAIRS, answers_in, column_of_many, columns_of, cut_of, many_of
from cai.sources.threads import woven
from cai.sources.turns import HUMAN, ROLES, before_reply, held
from cai.sources.values import BadRecord, object_of

LONE: dict[type, str] = {str: "text", list: "messages"}  # what a record that is not an object is read as
MARKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": "\n\nAssistant:"}


@dataclass(frozen=True, slots=True)
class Case:
    """A record's replies by role, in order, and the turns of the conversation that they answer."""

    replies: tuple[tuple[str, str], ...]
    turns: Sequence[Message] = ()  # none: the record has no prompt
    cut: frozenset[int] = frozenset()  # replies of which the record says that they were cut, by index

    @property
    def prompt(self) -> str | None:
        """All of the conversation; None if the record has none."""
        return written(self.turns)

    @property
    def question(self) -> str | None:
        """The last turn of the user."""
        return next((turn["content"].strip() for turn in reversed(self.turns) if turn["role"] == "user"), None)


def read_case(record: Any, reply_field: str | None = None, prompt_field: str | None = None) -> Case:
    """The replies of a record in any shape; raises BadRecord.

    reply_field, prompt_field: columns of the reply and of the prompt, for shapes that are not known.
    """
    column = LONE.get(type(record))
    if column is not None and reply_field is None:
        record = {column: record}
    record = object_of(record, "a reply")
    if reply_field is None:
        record = woven(record)
    if ROLES.get(str(record.get("role")).lower()) in ("system", "user") and "text" in record:  # OpenAssistant
        raise BadRecord(f"the record is one message with the role {record['role']!r}, and no reply")
    many = column_of_many(record)
    if many is not None and not reply_field:
        listing = many_of(record, many)
        roles = ["reply"] * len(listing)
        texts = [reply.text for reply in listing]
        problems = [reply.problem for reply in listing]
        turns: Sequence[Message] = conversation_before(record, (), many, prompt_field)
    else:
        columns = (reply_field,) if reply_field else columns_of(record)
        roles = [name if columns in PAIRS else "reply" for name in columns]
        before, texts = answers_in(record, columns, prompt_field)
        problems = [cut_of(record)] * len(texts)
        turns = next(filter(None, before), [])
    if not texts:
        raise BadRecord(f"no reply; {held(record, ': name its column with --reply-field')}")
    cut = frozenset(number for number, problem in enumerate(problems) if problem == "truncated")
    return Case(tuple(zip(roles, texts, strict=True)), turns, cut)


def written(turns: Sequence[Message]) -> str | None:
    """A conversation in one form, so that it is the same prompt in whatever shape it comes; None: no turns."""
    conversation = before_reply(merged(turns))
    if not conversation:
        return None
    return "".join(f"{MARKERS[turn['role']]} {turn['content'].strip()}" for turn in conversation)
