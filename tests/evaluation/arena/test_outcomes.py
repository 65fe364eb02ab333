"""What became of the pairs of an evaluation: judged, the same, or the same as another pair."""

from __future__ import annotations

import math

import pytest

from cai.evaluation.arena.outcomes import contests_of, outcomes_of
from cai.records import Candidate, Candidates, ConstitutionRef, Contest, Label, Message, Usage

PROMPT = (Message(role="user", content="Question?"),)


def candidate(text: str) -> Candidate:
    return Candidate(text=text, model="m-1", sample=0)


def label_of(contest: Contest, position: int, z: float) -> Label:
    """A label that prefers a by z nats."""
    p = 1 / (1 + math.exp(-z))
    law = ConstitutionRef(name="hhh", version="1", hash="0")
    assert contest.a is not None and contest.b is not None
    return Label(
        id=contest.id, position=position, key=contest.key, prompt_id=contest.prompt_id, prompt=PROMPT, a=contest.a,
        b=contest.b, a_from=contest.a_from, b_from=contest.b_from, a_model=None, b_model=None, human=None,
        protocol="logprob", votes=(), z=z, temperature=None, p_a=p, confidence=max(p, 1 - p), constitution=law,
        templates="0", models={}, seed=0, usage=Usage(), calls=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("replies", "won"),
    [  # z is -1 for the first pair that is judged, which is always that of contestants 0 and 1: reply "x" is the worse
        (("x", "y", "y"), {(0, 1): 0, (0, 2): 0, (1, 2): 0.5}),
        (("x", "y", "x"), {(0, 1): 0, (0, 2): 0.5, (1, 2): 1}),  # the other way round: it is y's pair with x
        (("x", "x", "x"), {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}),
    ],
)
def test_a_pair_that_is_there_twice_is_judged_once_and_counts_for_both(
    replies: tuple[str, ...], won: dict[tuple[int, int], float]
) -> None:
    row = Candidates(
        id="q", position=3, prompt=PROMPT, replies=tuple(map(candidate, replies)), seed=0, usage=Usage(), calls=()
    )
    places = list(contests_of([(row, [[reply] for reply in row.replies])], 1))
    first = next(iter(places))
    assert isinstance(first[1], Contest)
    labels = {first[0]: label_of(first[1], first[0], -1.0)}  # as a run of labels keeps them: no pair twice
    outcomes = outcomes_of(places, labels, 1)
    assert {(each.first, each.second): each.won for each in outcomes} == won
    assert all(each.judged for each in outcomes)
