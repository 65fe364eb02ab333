"""Several replies to one prompt: candidates for a judge to choose from."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from cai.engine.ask import Ask
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


def _candidate(done: Completion, number: int) -> Candidate:
    return Candidate(text=done.text.strip(), model=done.model, sample=number, problem=_problem(done))


def _problem(done: Completion) -> DropReason | None:
    if done.finish == "content_filter":
        return "content_filter"
    if done.finish == "length":
        return "truncated"
    return None if done.text.strip() else "empty"
