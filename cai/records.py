"""Every row and message the toolkit passes around; all frozen. A run makes millions of the slotted dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import TypedDict

Values = dict[str, Any]  # by name: keywords, or a JSON object in the making
Object = Mapping[str, Any]  # a JSON object that is read

OfPrompt = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]  # position of a prompt; 16 bits below it number pairs
OfPair = Annotated[int, Field(strict=True, ge=0, lt=1 << 48)]

Role = Literal["assistant", "screen", "critic", "gate", "reviser", "judge"]
Protocol = Literal["logprob", "score", "vote", "reason", "reward", "decide"]  # how a judge is asked
Finish = Literal["stop", "length", "content_filter", "unknown"]  # unknown: the server did not say, or in no known word
DropReason = Literal[
    "bad_input", "invalid_vote", "order_flip", "low_confidence", "identical", "duplicate_prompt", "near_duplicate",
    "empty", "truncated", "preamble_leak", "role_mixup", "refused_benign", "length_ratio", "both_refused",
    "content_filter", "model_error", "too_long", "not_extreme", "over_target",
    "thoughts",
]  # fmt: skip
DROP_REASONS: tuple[str, ...] = get_args(DropReason)


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Turns = tuple[Message, ...]  # a conversation


class Record(BaseModel):
    """Base of every row: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)


def _without_unset(record: BaseModel, row: Values, *names: str) -> Values:
    """A row without those of its columns that its run does not have."""
    for name in names:
        if name not in record.model_fields_set:
            row.pop(name, None)
    return row


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


class Usage(Record):
    """Tokens of one call or a sum of calls; `None` if a server did not report them."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None  # the part of `input_tokens` served from a prefix cache
    cache_write_tokens: int | None = None  # the part of `input_tokens` billed for writing a prefix cache


class Reading(Record):
    """What was read from the judge's answer to one question: one principle, one order of the two replies."""

    first: float | None = None  # natural log probability of the letter of the reply that was shown first
    second: float | None = None  # and of the other; None: the judge gives no probabilities
    mass: float | None = None  # probability of both letters together, in [0, 1]; None: not known, as of decisions
    bounded: bool = False  # a letter is at most as likely as this: it is below the listed tokens, or was clipped
    choice: Literal["first", "second"] | None = None  # the likelier letter, or the one that was named; None: neither
    problem: str | None = None  # why it does not count; None: it does


class Vote(Record):
    """What the judge said of a pair under one principle, asked in both orders; both readings must count, or none."""

    principle: str  # id
    weight: float
    wave: int = 0  # n-th time that the same was asked, from 0; only the protocol `vote` has further waves
    ab: Reading  # a is shown first
    ba: Reading  # b is shown first
    d: float | None = None  # preference for a: half the difference of the two log ratios; None: invalid, or no logprobs
    b: float | None = None  # position bias towards the first: half their sum


class Acceptance(Record):
    """Whether a judge prefers a revision to the reply that it would replace, under several principles.

    In its votes the revision is `a`.
    """

    accepted: bool
    fault: str | None  # of the revision's text, a name in `texts.hygiene.FAULTS`, so that no judge was asked
    protocol: Protocol
    votes: tuple[Vote, ...]  # under the principle of the round, and one of helpfulness
    helpfulness: Literal["constitution", "built-in"]  # whose principle of helpfulness that is
    z: float | None  # log odds that the revision is better; None: no vote was valid
    p: float | None  # the same as a probability
    rejected: str | None  # the revision, if it was not accepted


class Round(Record):
    """One critique and revision under one principle."""

    principle: str  # id
    critique: str
    verdict: Literal["revise", "nothing_to_fix"] | None  # None: no gate, or its answer cannot be read
    p_revise: float | None = None  # that the reply needs a change, says the gate; None: as of the verdict, or of 0.1.0
    revision: str | None  # None: the reply stands, as the gate found nothing to fix or a judge rejected the revision
    changed: bool
    acceptance: Acceptance | None = None  # None: a judge was not asked, or there was nothing to compare

    @model_serializer(mode="wrap")
    def _row(self, write: SerializerFunctionWrapHandler) -> Values:
        return _without_unset(self, write(self), "acceptance")


class Screened(Record):
    """What the critic said of a reply under one principle, before any critique."""

    principle: str  # id
    against: float | None  # log odds of Yes to whether the reply goes against it
    keeps: float | None  # and to whether it keeps to it; None: the answer cannot be read
    baseline: float | None  # half the difference of both, on average for ordinary replies
    p: float | None  # that the reply goes against it: of half the difference without the baseline; None: not read


class Screening(Record):
    """What a screen of one reply found."""

    principle: str | None  # id of the one that was drawn for the round; None: none was, and the reply stands
    of: tuple[Screened, ...]


class ConstitutionRef(Record):
    """Which constitution a row was made under."""

    name: str
    version: str
    hash: str


class Revision(Record):
    """A row of `revisions.jsonl`: a prompt, the first reply, and what the constitution made of it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    position: OfPrompt  # 0-based place in the input; exports are sorted by it
    prompt: Turns
    initial: str
    rounds: tuple[Round, ...]
    final: str
    constitution: ConstitutionRef
    templates: str  # hash
    models: dict[str, str]  # by role, as the server named them
    seed: int
    usage: Usage
    calls: tuple[str, ...]  # request hashes in the order asked; the keys of calls.sqlite
    screens: tuple[Screening, ...] | None = (
        None  # before each round; one more if the last found nothing; None: no screen
    )

    @model_serializer(mode="wrap")
    def _row(self, write: SerializerFunctionWrapHandler) -> Values:
        return _without_unset(self, write(self), "screens")


class Candidate(Record):
    """One of several replies to a prompt."""

    text: str
    model: str  # as the server named it
    sample: int  # n-th reply of its model to this prompt, from 0
    problem: DropReason | None = None  # why it cannot be used, such as truncated; None: it can


class Candidates(Record):
    """A row of `candidates.jsonl`: a prompt and several replies to it."""

    model_config = ConfigDict(extra="ignore")  # version 0.1.0 wrote a column `best`, too

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    position: OfPrompt
    prompt: Turns
    replies: tuple[Candidate, ...]
    seed: int
    usage: Usage
    calls: tuple[str, ...]


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


class Label(Record):
    """A row of `labels.jsonl`: two replies to one prompt, and what a judge believes of them."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    position: OfPair
    key: str  # names the conversation and the two replies
    prompt_id: str
    prompt: Turns
    a: str
    b: str
    a_from: str  # what it is in the source: initial, round 1, sample 0, chosen, …
    b_from: str
    a_model: str | None  # who wrote it; None: the source does not say
    b_model: str | None
    human: Literal["a", "b", "tie"] | None  # which one people prefer, if the source says so
    protocol: Protocol
    votes: tuple[Vote, ...]
    rewards: tuple[float, float] | None = None  # of a and b, with the protocol `reward`
    z: float | None  # log odds that a is better, before any temperature; None: no vote was valid
    temperature: float | None  # that z was divided by; None: not calibrated
    p_a: float | None  # probability that a is better, as this run saw it
    confidence: float | None  # the larger of p_a and 1 - p_a
    constitution: ConstitutionRef
    templates: str
    models: dict[str, str]
    seed: int
    usage: Usage
    calls: tuple[str, ...]


class Rating(Record):
    """A row of `ratings.jsonl`: one reply to a prompt, and what a model makes of it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    position: OfPair
    key: str  # names the conversation, the reply, who wrote it and what was asked
    prompt_id: str
    prompt: Turns
    reply: str
    contestant: str
    model: str  # who wrote it, as the server named it
    sample: int
    asked: str  # what was rated: the name of a scale, such as the id of a principle
    protocol: Protocol
    p: dict[str, float]  # probability of each level in all that could be answered; lacks those that are not known
    mass: float | None  # of all levels together, in [0, 1]; None: the judge gives no probabilities
    value: float | None  # None: invalid, and `problem` says why
    problem: str | None
    constitution: ConstitutionRef | None  # None: none was shown
    templates: str | None
    models: dict[str, str]
    seed: int
    usage: Usage
    calls: tuple[str, ...]


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


class Probed(Record):
    """A row of `probes.jsonl`: how probable models find each continuation of a context."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    position: OfPair
    key: str
    prompt: Turns
    text: str | None  # the context, if it is not a conversation
    continuations: tuple[str, ...]
    sizes: tuple[int, ...]  # of the continuations, in bytes of UTF-8
    logprobs: tuple[tuple[float, ...] | None, ...]  # natural, by model and continuation; None: it was not asked
    tokens: tuple[tuple[dict[str, float], ...] | None, ...] | None = None  # by model, of the only continuation
    models: tuple[str | None, ...]  # as the servers named them
    usage: Usage
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is in the folders of one kind of run."""

    rows_file: str
    row: type[Record]
    training: tuple[str, ...] = ()  # names of the files that an export cuts, and of its stages
    pairs: bool = False  # whether several positions belong to a prompt: see PAIR_BITS in cai.folder.rows


KINDS = {  # by command
    "generate": Kind("revisions.jsonl", Revision, training=("sft", "dpo")),
    "sample": Kind("candidates.jsonl", Candidates, training=("sft",)),
    "label": Kind("labels.jsonl", Label, training=("sft", "dpo", "kto"), pairs=True),
    "test": Kind("labels.jsonl", Label, pairs=True),
    "rate": Kind("ratings.jsonl", Rating, pairs=True),
    "probe": Kind("probes.jsonl", Probed, pairs=True),
}


class Drop(Record):
    """A row of `dropped.jsonl`: what did not become a row or was left out of a file, at which stage, and why."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str | None  # None: the input record had no readable prompt
    position: OfPair
    stage: str  # source, assistant, critic, reviser, export, …
    reason: str  # a `DropReason`, or the name of a fault in `texts.hygiene.FAULTS`
    detail: str
    line: int | None = None
    prompt: Turns | None = None
    key: str | None = None  # of a pair: names its conversation and its two replies
    calls: tuple[str, ...] = ()  # that were answered before it was dropped; left out of the line if there are none

    @model_serializer(mode="wrap")
    def _line(self, write: SerializerFunctionWrapHandler) -> Values:
        line: Values = write(self)
        if not self.calls:  # as of what an export leaves out, which may be millions
            line.pop("calls", None)  # which `exclude` may have left out already
        return line


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model draws its reply; `temperature` 0 is greedy, `max_tokens` bounds the reply."""

    temperature: float = 1.0
    max_tokens: int = 512
    extra_body: dict[str, Any] = field(default_factory=dict)  # merged into the provider's payload as it is


@dataclass(frozen=True, slots=True)
class Decision:
    """One typed question, answered with probabilities: which of the choices; or if it has none, whether it is true."""

    name: str  # by which its answer is found
    instructions: str  # a predicate's is a statement
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["choice", "predicate"]:
        """What OpenAI's Decisions API calls a question of this kind."""
        if self.choices:
            return "choice"
        return "predicate"


@dataclass(frozen=True, slots=True)
class Request:
    """What a flow asks: `messages` for a chat model, or `text` for a base model to continue.

    prefill: the start of the assistant's reply, which the model continues (the completion holds only what follows).
    top_logprobs: how many alternatives per generated token to return; 0 for none.
    score: continuations whose log-probability is asked for instead of a reply; the completion's `scores` match them.
    Of a single one with `top_logprobs` the completion's `logprobs` are those of its own tokens.
    decisions: typed questions about the messages, asked instead of for a reply; the completion's text is a JSON list of
    their answers, in the shape of OpenAI's Decisions API.
    sample: tells equal questions apart if several answers are wanted.
    index: its number among the requests of its role in the row, from 0; None: counted as they come.
    optional: the flow can do without an answer, so that a refusal loses nothing.
    """

    role: Role
    messages: Turns = ()
    text: str | None = None
    stop: tuple[str, ...] = ()
    prefill: str = ""
    max_tokens: int | None = None  # None: as the run's sampling says
    temperature: float | None = None
    top_logprobs: int = 0
    score: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    sample: int = 0
    index: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered."""

    text: str
    finish: Finish
    model: str  # as the server named it
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning: str | None = None  # a thinking model's thoughts, kept apart from the reply
    logprobs: tuple[dict[str, float], ...] | None = None  # per generated token: token → natural log probability
    scores: tuple[float, ...] | None = None  # natural log probability of each continuation of `Request.score`


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do; asking for more raises `UsageError` before the first call."""

    chat: bool = True
    completion: bool = False  # continues raw text: base models, few-shot templates
    logprobs: int = 0  # alternatives per token it can list; 0: none
    scoring: bool = False  # log-probability of a given continuation
    prefill: bool = False  # continues a started assistant turn
    temperature: float | None = 2.0  # the highest that can be set; None: it is fixed at 1
    seed: bool = True  # can be sent one
    reward: bool = False  # gives a conversation a number, and no words
    guard: bool = False  # says whether a reply is safe, and no words
    decisions: int = (
        0  # typed questions that it takes in one request, if its server answers such at all; 0: it takes none
    )
    decides: bool = False  # it is known to answer them, so that a judge is asked so


Playable = Prompt | Contest | Entry | Probe
Item = Playable | BadPrompt
Place = tuple[int, Item]  # position in the input, and what is there
