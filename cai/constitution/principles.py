"""A constitution: its principles and few-shot examples, from YAML files and from Python.

Finds files by path or built-in name, follows `extends`, and reports every problem of a file with its line. Text is
literal. Knows nothing of templates, models, or how a principle is put to a model.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cai.errors import ConstitutionError
from cai.records import ConstitutionRef, Message, Record

SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
Version = Annotated[str, StringConstraints(pattern=SEMVER)]


class PrincipleTest(Record):
    """An executable example: a judge under the principle must prefer `better`, whichever is shown first."""

    prompt: Text = Field(description="What the user says.")
    better: Text = Field(description="The reply the principle prefers.")
    worse: Text = Field(description="The reply it must lose to.")


class Principle(Record):
    """One rule, worded for up to three jobs; where a job has no wording of its own, `text` stands in for it."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["text"]}, {"required": ["critique", "revise"]}, {"required": ["choose"]}],
        }
    )

    id: Name = Field(description="Stable name; appears in every row made under this principle.")
    text: Text | None = Field(None, description="The principle in a sentence; words every job that has no own wording.")
    critique: Text | None = Field(None, description="What the critic is asked about a reply.")
    revise: Text | None = Field(None, description="What the reviser is asked to do with the reply.")
    choose: Text | None = Field(None, description="What the judge is asked: 'Choose the reply that …'")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, strict=True, description="Relative chance of being drawn.")
    tests: tuple[PrincipleTest, ...] = Field((), description="Executable examples of what a judge must prefer.")

    @model_validator(mode="after")
    def _has_a_job(self) -> Principle:
        if self.text is None and (self.critique is None) != (self.revise is None):
            there, lacking = ("critique", "revise") if self.revise is None else ("revise", "critique")
            message = "principle '{id}' has '{there}' but no '{lacking}'; add '{lacking}', or 'text' to stand in for it"
            raise PydanticCustomError("half_principle", message, {"id": self.id, "there": there, "lacking": lacking})
        if not (self.can_revise or self.can_judge):
            message = "principle '{id}' says nothing; give it 'text', or 'critique' and 'revise', or 'choose'"
            raise PydanticCustomError("empty_principle", message, {"id": self.id})
        return self

    @property
    def can_revise(self) -> bool:
        """Whether it words, or `text` can word, both the critique and the revision."""
        return self.text is not None or (self.critique is not None and self.revise is not None)

    @property
    def can_judge(self) -> bool:
        """Whether it words, or `text` can word, the choice between two replies."""
        return self.text is not None or self.choose is not None


def principle_id(sentence: str) -> str:
    """The id of a shorthand sentence: its first five words and six hex digits of its hash; spacing does not matter."""
    sentence = " ".join(sentence.split())
    ascii_text = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", ascii_text.replace("'", ""))[:5] or ["principle"]
    digest = hashlib.sha256(sentence.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{'-'.join(words)[:48].strip('-')}-{digest}"


def _principle(entry: Any) -> Any:
    if isinstance(entry, str) and entry.strip():
        return {"id": principle_id(entry), "text": entry}
    return entry


def _conversation(prompt: Any) -> Any:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt


def _ends_with_user(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1]["role"] != "user":
        raise PydanticCustomError("bad_prompt", "'prompt' must end with the user's turn")
    return messages


PrincipleEntry = Annotated[Principle, BeforeValidator(_principle, json_schema_input_type=str | Principle)]
Conversation = Annotated[
    tuple[Message, ...],
    AfterValidator(_ends_with_user),
    BeforeValidator(_conversation, json_schema_input_type=str | tuple[Message, ...]),
]


class Example(Record):
    """A worked critique and revision, shown to base models before the real one."""

    prompt: Conversation = Field(description="A user's message, or a list of messages that ends with the user.")
    reply: Text
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text


class _Head(Record):
    name: Name = Field(description="Names the constitution in rows and folders.")
    version: Version = Field(description="Semantic version, such as 1.0.0.")
    description: str = Field("", description="What it is for, and the source and licence of its wording.")
    examples: tuple[Example, ...] = Field((), description="Few-shot conversations for base models.")


class ConstitutionFile(_Head):
    """What a constitution file may hold."""

    model_config = ConfigDict(
        title="Constitution",
        json_schema_extra={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "anyOf": [{"required": ["principles"]}, {"required": ["extends"]}],
        },
    )

    extends: str | tuple[str, ...] = Field((), description="Constitutions to inherit from: names, or paths from here.")
    principles: tuple[PrincipleEntry, ...] = Field((), description="Sentences, or mappings with an id.")


class Constitution(_Head):
    """Principles and examples with everything inherited resolved; its principles have distinct ids."""

    principles: tuple[PrincipleEntry, ...] = Field(min_length=1)
    source: str = Field("", exclude=True)  # path, or "built-in NAME"; "" when made in Python

    @model_validator(mode="after")
    def _ids_differ(self) -> Constitution:
        ids = [principle.id for principle in self.principles]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"principle id {twice!r} occurs twice; ids name rows and must differ")
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over all that can reach a model or a row; comments, layout, description and tests do not."""
        content = self.model_dump(mode="json", exclude={"description": True, "principles": {"__all__": {"tests"}}})
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def lines(self) -> Iterator[str]:
        """The constitution for people to read."""
        yield f"{self.name} {self.version}  {self.hash}  {self.source}".rstrip()
        if self.description:
            yield " ".join(self.description.split())
        for principle in self.principles:
            weight = "" if principle.weight == 1 else f"  (weight {principle.weight:g})"
            yield f"\n{principle.id}{weight}"
            for job in ("text", "critique", "revise", "choose"):
                words = getattr(principle, job)
                if words is not None:
                    yield f"  {job:9} {words}"

    @property
    def ref(self) -> ConstitutionRef:
        """Its name, version and hash, as rows record them."""
        return ConstitutionRef(name=self.name, version=self.version, hash=self.hash)

    def principles_for(self, job: Literal["revise", "judge"]) -> tuple[Principle, ...]:
        """The principles worded for `job`, in order; raises `ConstitutionError` when there is none."""
        able = tuple(p for p in self.principles if (p.can_revise if job == "revise" else p.can_judge))
        if not able:
            need = "'critique' and 'revise'" if job == "revise" else "'choose'"
            where = self.source or None
            raise ConstitutionError(f"no principle of {self.name!r} can {job}: give them {need}, or 'text'", where)
        return able


def draw(principles: Sequence[Principle], count: int, seed: int, row: str, *, stream: str) -> tuple[Principle, ...]:
    """Draw `count` principles by weight; none comes twice before all have come once.

    The draw depends on `stream`, seed and row id alone; draws of two streams, such as "judge", are independent.
    """
    chance = random.Random(f"{stream}\0{seed}\0{row}")
    drawn: list[Principle] = []
    left: list[Principle] = []
    for _ in range(count):
        left = left or list(principles)
        heaviest = max(principle.weight for principle in left)  # the sum of the largest floats is infinite
        [principle] = chance.choices(left, weights=[principle.weight / heaviest for principle in left])
        left.remove(principle)
        drawn.append(principle)
    return tuple(drawn)
