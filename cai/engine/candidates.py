"""Several replies to one prompt: candidates for a judge to choose from."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from cai.engine.revise import Ask
from cai.records import Candidate, Completion, DropReason, Prompt, Request


@dataclass(frozen=True, slots=True)
class Sampled:
    """Replies in the order of their numbers, the unusable ones with their problem."""

    replies: tuple[Candidate, ...]


def sample(prompt: Prompt, ask: Ask, numbers: Iterable[int]) -> Generator[list[Request], list[Completion], Sampled]:
    """Ask for the replies with these numbers, side by side; the same number is the same question, whenever it comes."""
    numbers = list(numbers)
    request = ask.respond(prompt)
    answers = yield [replace(request, sample=number, index=number) for number in numbers]
    return Sampled(tuple(map(_candidate, answers, numbers)))


def _candidate(answer: Completion, number: int) -> Candidate:
    return Candidate(text=answer.text.strip(), model=answer.model, sample=number, problem=_problem(answer))


def _problem(answer: Completion) -> DropReason | None:
    if answer.finish == "content_filter":
        return "content_filter"
    if answer.finish == "length":
        return "truncated"
    if not answer.text.strip():
        return "empty"
    return None
