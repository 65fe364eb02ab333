"""The settings of rewards that a judge gives, with their ranges and what each does; options and their docs follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.calls.model import Connection
from cai.constitution.principles import Constitution
from cai.models import JUDGE_SPECS
from cai.models.extra_body import check_extra_body
from cai.records import Object, Protocol, Sampling

Law = str | Path | Constitution
Scoring = Literal["point", "group"]
WHOLE = 2**63 - 1  # the largest whole number that SQLite takes
Count = Annotated[int, Field(ge=1, le=WHOLE)]


class RewardSettings(BaseModel):
    """How a judge gives rewards, and how models are asked for them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    judge: str = Field("local", description=f"Judge: {JUDGE_SPECS}.")
    constitution: Law = Field(
        "harmless", description="Constitution: a built-in NAME or a PATH.", json_schema_extra={"short": "-c"}
    )
    scoring: Scoring = Field(
        "point",
        description="point: each reply by itself, the log odds that it keeps to the principles. group: the replies to "
        "a prompt against each other, in both orders.",
    )
    principles: Annotated[int, Field(ge=1, le=1_000)] = Field(
        3,
        description="Principles drawn for each prompt, the same for all replies to it.",
        json_schema_extra={"short": "-k"},
    )
    protocol: Protocol | None = Field(
        None,
        description="How to ask: logprob, score, vote or decide; with --scoring group also reason (default: the best "
        "the judge supports).",
    )
    templates: str | Path | None = Field(
        None, description="Template set: chat, quoted, or a folder (default: chat); --scoring point needs screen.jinja."
    )
    max_tokens: Count = Field(1024, description="Longest answer in tokens of a judge that answers in words.")
    extra_body: Object = Field(
        {}, repr=False, description="JSON object merged into every request, such as '{\"top_p\": 0.9}'."
    )
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Most calls in flight at once (default: by model)."
    )
    rpm: Count | None = Field(None, description="Most calls per minute to one model.")
    tpm: Count | None = Field(None, description="Most tokens per minute to one model.")
    seed: Annotated[int, Field(ge=0, le=WHOLE)] = Field(0, description="Seed of the draw of principles.")
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Stop before the folder has cost more than this many USD."
    )
    price: str | None = Field(None, description="Price in USD per million tokens, IN,OUT; overrides a listed price.")
    base_url: str | None = Field(None, repr=False, description="Server of a hosted model, such as http://host:8000/v1.")
    headers: Mapping[str, str] = Field(
        {},
        repr=False,
        description="Extra HTTP header 'Name: value'; repeatable (in Python a dict).",
        json_schema_extra={"option": "--header", "repeat": True},
    )
    timeout: float = Field(600.0, gt=0, le=1e9, description="Seconds to wait for one call.")

    @model_validator(mode="after")
    def _check_body(self) -> RewardSettings:
        check_extra_body(self.extra_body, capped=self.max_cost is not None)
        return self

    @property
    def connection(self) -> Connection:
        """How hosted models are reached."""
        return Connection(self.base_url, self.headers, self.timeout)

    @property
    def sampling(self) -> Sampling:
        """How a judge draws what is not asked for greedily."""
        return Sampling(max_tokens=self.max_tokens, extra_body=dict(self.extra_body))
