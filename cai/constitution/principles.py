"""Constitutions: principles and examples, read from YAML files with everything they extend, or made in Python."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from cai.constitution.examples import Example, PrincipleTest, Text
from cai.constitution.levels import Levels
from cai.errors import ConstitutionError
from cai.records import ConstitutionRef, Record

SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Job = Literal["revise", "judge"]
JOBS: dict[Job, tuple[str, ...]] = {"revise": ("critique", "revise"), "judge": ("choose",)}  # by the wordings it needs
OURS = ("principles", "extends")  # one of them is in every constitution
WORDINGS = ("text", "critique", "revise", "choose")


class Finding(Record):
    """One error or warning about a file; `line` is 1-based, `principle` an id, each None if it concerns all of it."""

    level: Literal["error", "warning"] = "error"
    code: str
    message: str
    file: str | None = None
    line: int | None = None
    principle: str | None = None


class Principle(Record):
    """One rule, worded for up to three jobs; `text` stands in for a wording that a job lacks."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": list(job)} for job in (["text"], *JOBS.values())]}
    )

    id: Name = Field(description="Stable name; appears in every row made under this principle.")
    text: Text | None = Field(None, description="The principle in a sentence; words every job that has no own wording.")
    critique: Text | None = Field(None, description="What the critic is asked about a reply.")
    revise: Text | None = Field(None, description="What the reviser is asked to do with the reply.")
    choose: Text | None = Field(None, description="What the judge is asked: 'Choose the reply that …'")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, strict=True, description="Relative chance of being drawn.")
    tests: tuple[PrincipleTest, ...] = Field((), description="Executable examples of what a judge must prefer.")
    scale: Levels | None = Field(None, description="Five levels, from 1, the worst, by which one reply is rated.")

    @model_validator(mode="after")
    def _has_a_job(self) -> Principle:
        if self.text is None and (self.critique is None) != (self.revise is None):
            there, lacking = sorted(JOBS["revise"], key=lambda name: name not in self.wordings)
            message = "principle '{id}' has '{there}' but no '{lacking}'; add '{lacking}', or 'text' to stand in for it"
            raise PydanticCustomError("half_principle", message, {"id": self.id, "there": there, "lacking": lacking})
        if not any(map(self.can, JOBS)):
            message = "principle '{id}' says nothing; give it 'text', or 'critique' and 'revise', or 'choose'"
            raise PydanticCustomError("empty_principle", message, {"id": self.id})
        return self

    @property
    def wordings(self) -> dict[str, str]:
        """What it says, by field."""
        return {name: text for name in WORDINGS if (text := getattr(self, name)) is not None}

    def can(self, job: Job) -> bool:
        """Whether it words all that a job needs, itself or by `text`."""
        return "text" in self.wordings or self.wordings.keys() >= {*JOBS[job]}

    can_revise = property(lambda self: self.can("revise"), doc="Whether it words what a reviser is asked.")
    can_judge = property(lambda self: self.can("judge"), doc="Whether it words what a judge is asked.")


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


PrincipleEntry = Annotated[Principle, BeforeValidator(_principle, json_schema_input_type=str | Principle)]


class _Head(Record):
    name: Name = Field(description="Names the constitution in rows and folders.")
    version: str = Field(pattern=SEMVER, description="Semantic version, such as 1.0.0.")
    description: str = Field("", description="What it is for, and the source and licence of its wording.")
    examples: tuple[Example, ...] = Field((), description="Few-shot conversations for base models.")
    scale: Levels | None = Field(None, description="Five levels, from 1, the worst, of the constitution as a whole.")
    gate: Text | None = Field(
        None,
        description="A question about a conversation and a reply, to be answered Yes or No, that decides whether the "
        "reply is revised; without one, the critic is asked whether its critique found something wrong.",
    )


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
    inherited_scales: dict[str, Levels] = Field({}, exclude=True)  # of the constitutions that it extends, by their name

    @model_validator(mode="after")
    def _ids_differ(self) -> Constitution:
        ids = [principle.id for principle in self.principles]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"principle id {name!r} occurs twice; ids name rows and must differ")
        return self

    @property
    def hash(self) -> str:
        """16 hex digits over all that can reach a model or a row; comments, layout, description and tests do not.

        Scales are left out, too: they reach a model only in ratings, which record the hash of each scale by itself. So
        a constitution that is given a scale keeps its runs, labels and calibrations. So is the question of the gate,
        which the runs that ask it record.
        """
        exclude: Any = {"description": True, "scale": True, "gate": True, "principles": {"__all__": {"tests", "scale"}}}
        content = self.model_dump(mode="json", exclude=exclude)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def ref(self) -> ConstitutionRef:
        """Its name, version and hash, as rows record them."""
        return ConstitutionRef(name=self.name, version=self.version, hash=self.hash)

    @property
    def title(self) -> str:
        """Name, version and where it is from, for people to read."""
        return f"{self.name} {self.version} ({self.source or 'made in Python'})"

    @property
    def whole_scales(self) -> dict[str, Levels]:
        """The scales of constitutions as a whole by their names: of those that it extends, then its own."""
        return self.inherited_scales | ({} if self.scale is None else {self.name: self.scale})

    def principles_for(self, job: Job) -> tuple[Principle, ...]:
        """The principles worded for `job`, in order; raises ConstitutionError if there are none."""
        able = tuple(principle for principle in self.principles if principle.can(job))
        if not able:
            need = " and ".join(map(repr, JOBS[job]))
            message = f"no principle of {self.name!r} can {job}: give them {need}, or 'text'"
            raise ConstitutionError(message, self.source or None)
        return able
