"""What a flow asks of a model, what a model answers, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cai.records.base import Finish, Role, Turns


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
class Condition:
    """How a reward model is told by which principle it is to judge."""

    form: str  # a system text, in which {principle} stands for the principle
    principles: tuple[str, ...]  # that it was trained on, in words


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
    condition: Condition | None = None  # of a reward model: how it is told a principle; None: it reads none
    guard: bool = False  # says whether a reply is safe, and no words
    decisions: int = (
        0  # typed questions that it takes in one request, if its server answers such at all; 0: it takes none
    )
    decides: bool = False  # it is known to answer them, so that a judge is asked so
