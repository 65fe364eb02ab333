"""The rows that runs write, and what they are made of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from cai.records.base import DropReason, OfPair, OfPrompt, Protocol, Record, Turns, Values


def _without_unset(record: BaseModel, row: Values, *names: str) -> Values:
    """A row without those of its columns that its run does not have."""
    for name in names:
        if name not in record.model_fields_set:
            row.pop(name, None)
    return row


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


EVERY = "*"  # in place of the id of a principle: the constitution as a whole


class Round(Record):
    """One critique and revision under one principle; or the reply to the same prompt under all of them."""

    principle: str  # id, or EVERY
    critique: str  # "" if none was asked for
    verdict: Literal["revise", "nothing_to_fix"] | None  # None: no gate, or its answer cannot be read
    p_revise: float | None = None  # that the reply needs a change, says the gate; None: as of the verdict, or of 0.1.0
    revision: str | None  # None: the reply stands, as the gate found nothing to fix or a judge rejected the revision
    changed: bool
    acceptance: Acceptance | None = None  # None: a judge was not asked, or there was nothing to compare
    reasoning: str | None = None  # what a thinking model wrote before the revision

    @model_serializer(mode="wrap")
    def _row(self, write: SerializerFunctionWrapHandler) -> Values:
        return _without_unset(self, write(self), "acceptance", "reasoning")


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
    reasoning: str | None = None  # what a thinking model wrote before the first reply
    problem: DropReason | None = None  # why the first reply is no side of a pair, such as truncated; None: it can be

    @model_serializer(mode="wrap")
    def _row(self, write: SerializerFunctionWrapHandler) -> Values:
        return _without_unset(self, write(self), "screens", "reasoning", "problem")


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
