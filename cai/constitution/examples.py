"""Examples in a constitution: the tests of a principle, and worked critiques and revisions for base models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from cai.records import Record, Turns

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class PrincipleTest(Record):
    """An executable example: a judge under the principle must prefer `better`, whichever is shown first."""

    prompt: Text = Field(description="What the user says.")
    better: Text = Field(description="The reply the principle prefers.")
    worse: Text = Field(description="The reply it must lose to.")


def _conversation(prompt: Any) -> Any:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt


def _ends_with_user(messages: Turns) -> Turns:
    if not messages or messages[-1]["role"] != "user":
        raise PydanticCustomError("bad_prompt", "'prompt' must end with the user's turn")
    return messages


Conversation = Annotated[
    Turns,
    AfterValidator(_ends_with_user),
    BeforeValidator(_conversation, json_schema_input_type=str | Turns),
]


class Example(Record):
    """A worked critique and revision, shown to base models before the real one."""

    prompt: Conversation = Field(description="A user's message, or a list of messages that ends with the user.")
    reply: Text
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text
