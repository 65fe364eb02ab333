"""The settings of every run, with their ranges and what each does; options, keywords and their docs follow.

`json_schema_extra` of a field says what the command line cannot read from its type: `option`, the name of the option
if it is another; `short`, its one-letter form; `repeat`, that it may be given several times; `alone`, what it stands
for without a value, and `off`, what its --no- form does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.calls.again import reasons_of
from cai.calls.model import Connection, Serving
from cai.constitution.principles import Constitution
from cai.errors import UsageError
from cai.folder.shards.layout import Shard, shard_of
from cai.models.extra_body import check_extra_body
from cai.models.remote.failures import seconds_of
from cai.models.specs import without_address
from cai.records import Object, Sampling, Values
from cai.texts.wording import counted, option, words_of

WHOLE = 2**63 - 1  # the largest whole number that JSON writers and SQLite take
# Decide no row, or may hold keys.
UNWRITTEN = (
    "headers", "extra_body", "base_url", "out", "force", "concurrency", "rpm", "tpm", "batch", "batch_wait", "timeout",
    "server_command", "server_arg", "server_timeout", "keep_server", "shard",
    "workers", "ray",
)  # fmt: skip
MODELS = ("model", "critic", "reviser", "judge", "accept", "against", "harm")  # fields that hold model specs
CHANGEABLE = (
    "limit", "concurrency", "max_cost", "rpm", "tpm", "min_confidence", "agreement", "target", "max_candidates",
)  # fmt: skip
OF_CUT = (
    "min_confidence",
    "agreement",
    "sft_format",
    "sft_reasoning",
)  # decide which training rows there are, and nothing before
Count = Annotated[int, Field(ge=1, le=WHOLE)]


class RunSettings(BaseModel):
    """The settings of every run."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    templates: str | Path | None = Field(
        None,
        description="Template set: chat, quoted (critic and reviser see the conversation in one turn), fewshot (for "
        "base models), or a folder (default: the model's own if it has one, else chat).",
    )
    temperature: float = Field(
        1.0, ge=0, le=2, description="Sampling temperature; 0 is greedy. Some local models have their own default."
    )
    max_tokens: Count = Field(512, description="Longest answer in tokens; a reply that reaches it is dropped.")
    extra_body: Object = Field(
        {},
        repr=False,
        description="JSON object merged into every request, such as '{\"top_p\": 0.9}'; null removes a key.",
    )
    limit: Count | None = Field(None, description="Read at most this many prompts or pairs.")
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Most calls in flight at once (default: by model)."
    )
    rpm: Count | None = Field(None, description="Most calls per minute to one model.")
    tpm: Count | None = Field(None, description="Most tokens per minute to one model.")
    seed: Annotated[int, Field(ge=0, le=WHOLE)] = Field(
        0, description="Random seed; the same seed asks the same questions."
    )
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Stop before the run folder has cost more than this many USD."
    )
    price: str | None = Field(None, description="Price in USD per million tokens, IN,OUT; overrides a listed price.")
    base_url: str | None = Field(None, repr=False, description="Server of a hosted model, such as http://host:8000/v1.")
    headers: Mapping[str, str] = Field(
        {},
        repr=False,
        description="Extra HTTP header 'Name: value'; repeatable (in Python a dict).",
        json_schema_extra={"option": "--header", "repeat": True},
    )
    batch: bool = Field(
        False, description="Send calls as batches of the provider: half the price, answers within hours."
    )
    batch_wait: str | None = Field(
        None, description="With --batch: ask online what a batch has not answered after this time, such as 2h."
    )
    timeout: float = Field(600.0, gt=0, le=1e9, description="Seconds to wait for one call.")
    server_command: str | None = Field(
        None,
        repr=False,
        description="Command that starts the server of vllm:NAME or sglang:NAME (default: CAI_VLLM or CAI_SGLANG, else "
        "where it is installed).",
    )
    server_arg: str | Sequence[str] = Field(
        (),
        repr=False,
        description="Options for that server, such as '--data-parallel-size 4'; repeatable.",
        json_schema_extra={"repeat": True},
    )
    server_timeout: float = Field(1800.0, gt=0, le=1e9, description="Seconds until that server must be ready.")
    keep_server: bool = Field(False, description="Let that server run on for the next command with the same options.")
    out: str | Path | None = Field(
        None,
        description="Run folder (default: the one under runs that this command extends, else a new "
        "runs/<name>-<hash>; in Python nothing is kept without it).",
    )
    retry: str | Sequence[str] = Field(
        (),
        description="Retry rows that were dropped as truncated (with a higher --max-tokens), empty, content_filter or "
        "too_long; repeatable, or with commas. model_error is always retried.",
        json_schema_extra={"repeat": True},
    )
    reuse: str | Path | Sequence[str | Path] = Field(
        (),
        description="Copy answers to identical calls from this run folder instead of asking again; repeatable.",
        json_schema_extra={"repeat": True},
    )
    force: bool = Field(False, description="Start over in a folder that holds another run; its rows are deleted.")

    @model_validator(mode="after")
    def _check_body(self) -> RunSettings:
        check_extra_body(self.extra_body, capped=self.max_cost is not None)
        return self

    @model_validator(mode="after")
    def _check_batch(self) -> RunSettings:
        if self.batch_wait is not None:
            if not self.batch:
                raise UsageError("--batch-wait is about batches: add --batch, or leave it out")
            if self.patience is None:
                raise UsageError(f"--batch-wait {self.batch_wait!r} is not a time: write such as 2h, 30m or 0s")
        return self

    @model_validator(mode="after")
    def _check_retry(self) -> RunSettings:
        reasons_of(self.retry)
        return self

    @property
    def part(self) -> Shard | None:
        """Which part of the source is played; None: all of it."""
        return None

    @property
    def is_divided(self) -> bool:
        """Whether other processes play it."""
        return False

    @property
    def retried(self) -> tuple[str, ...]:
        """The reasons of drops that are tried again."""
        return reasons_of(self.retry)

    @property
    def reused(self) -> list[Path]:
        """The folders of runs whose answers are used."""
        folders = [self.reuse] if isinstance(self.reuse, str | Path) else self.reuse
        return list(map(Path, folders))

    @property
    def patience(self) -> float | None:
        """Seconds that a batch is waited for; None: until it is over."""
        return None if self.batch_wait is None else seconds_of(self.batch_wait, 1.0)

    @property
    def connection(self) -> Connection:
        """How hosted models are reached."""
        arguments = (self.server_arg,) if isinstance(self.server_arg, str) else tuple(self.server_arg)
        serving = Serving(self.server_command, arguments, self.keep_server, self.server_timeout)
        return Connection(self.base_url, self.headers, self.timeout, serving=serving)

    @property
    def sampling(self) -> Sampling:
        """How models draw."""
        return Sampling(self.temperature, self.max_tokens, dict(self.extra_body))

    def words(self, *left_out: str) -> list[str]:
        """The options of the command line for what is not at its default; without secrets, speed, and some fields."""
        values = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Constitution):
                value = value.source.removeprefix("built-in ") or value.name
            if name in MODELS:
                value = without_addresses(value)
            if value != field.default and name not in (*UNWRITTEN, *left_out):
                values[name] = value
        if self.base_url is not None:
            values["base_url"] = "URL"  # the address itself may hold a key
        return words_of(values)

    def changeable(self) -> Values:
        """What may change when a run is resumed; headers can hold keys and are left out."""
        return {name: getattr(self, name) for name in CHANGEABLE if hasattr(self, name)}


class Divisible(RunSettings):
    """The settings of every run that can be divided into shards."""

    shard: str | None = Field(
        None, description="Play one of n shards, i/n from 0/n to n-1/n; cai export OUT reads all as one (needs --out)."
    )

    workers: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Play the run in this many processes, each a shard of it."
    )
    ray: str | None = Field(
        None,
        repr=False,
        description="Play the run as actors of this Ray cluster, HOST:PORT, auto, or local for one on this machine.",
    )

    @model_validator(mode="after")
    def _check_shard(self) -> Divisible:
        if self.part is None:
            return self
        if self.out is None:
            raise UsageError(f"--shard {self.part} needs the folder that all shards have in common: name it by --out")
        for name in OF_CUT:
            if getattr(self, name, None) is not None:
                raise UsageError(f"{option(name)} is for the cut, which shards leave to cai export: name it there")
        return self

    @property
    def is_divided(self) -> bool:
        """Whether other processes play shards of it."""
        return self.workers is not None or self.ray is not None

    @property
    def workers_in_words(self) -> str:
        """Who plays it, for people to read."""
        if self.ray is None:
            return f"{counted(self.workers or 1, 'worker')}, a process each"
        count = "one for each CPU" if self.workers is None else str(self.workers)
        return f"actors of a Ray cluster, {count}"

    @property
    def part(self) -> Shard | None:
        """Which part of the source is played; None: all of it."""
        return None if self.shard is None else shard_of(self.shard)


def without_addresses(specs: Any) -> Any:
    """A spec, several of them, or None, as files keep them."""
    if specs is None or isinstance(specs, str):
        return specs and without_address(specs)
    return list(map(without_address, specs))
