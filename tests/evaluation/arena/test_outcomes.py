"""What became of the pairs of an evaluation: judged, the same, or the same as another pair."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluation.arena.outcomes import by_prompt, contests_of, outcomes_of, owners_of
from cai.records import Candidate, Candidates, ConstitutionRef, Contest, DropReason, Label, Message, Usage
from cai.runs.kinds.pairs import read_pairs

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


def reply(text: str, problem: DropReason | None = None) -> Candidate:
    return Candidate(text=text, model="m", sample=0, problem=problem)


def row(replies: list[Candidate], position: int = 3) -> Candidates:
    return Candidates(
        id="p",
        position=position,
        prompt=(Message(role="user", content="Hi?"),),
        replies=tuple(replies),
        seed=0,
        usage=Usage(),
        calls=(),
    )


@given(st.integers(2, 6), st.integers(1, 5))
def test_the_place_of_a_pair_names_its_contestants(models: int, each: int) -> None:
    replies = [reply(f"{number}") for number in range(models * each)]
    sides = [replies[at : at + each] for at in range(0, len(replies), each)]
    places = list(contests_of([(row(replies), sides)], each))
    assert len(places) == models * (models - 1) // 2 * each == len({position for position, _ in places})
    for position, contest in places:
        assert isinstance(contest, Contest) and contest.a is not None and contest.b is not None
        assert owners_of(position, each) == (int(contest.a) // each, int(contest.b) // each)
        assert int(contest.a) % each == int(contest.b) % each


def test_pairs_have_the_places_that_cai_label_gives_them() -> None:
    """So a label run over the same replies has the same rows."""
    replies = [reply(f"{number}") for number in range(4)]
    record = row(replies, position=0).model_dump()
    for number, each in enumerate(record["replies"]):
        each["model"] = f"m{number // 2}"
    ours = list(contests_of([(row(replies, position=0), [replies[:2], replies[2:]])], 2))
    theirs = list(read_pairs([record], "models"))
    assert [position for position, _ in ours] == [position for position, _ in theirs]
    assert [getattr(item, "key", None) for _, item in ours] == [getattr(item, "key", None) for _, item in theirs]


def test_the_same_text_is_a_tie_and_what_is_not_judged_has_no_outcome() -> None:
    replies = [reply("yes"), reply("yes "), reply("no")]
    places = list(contests_of([(row(replies), [[each] for each in replies])], 1))
    same, first, second = outcomes_of(places, {}, 1)
    assert (same.won, same.same, same.judged) == (0.5, True, True)
    assert [(each.won, each.judged) for each in (first, second)] == [(None, False)] * 2
    assert by_prompt([same, first, second], 1, 0) == {3: [0.5]}
    assert by_prompt([same, first, second], 2, 0) == {}


@pytest.mark.parametrize("problem", ["truncated", "empty", "content_filter"])
def test_a_reply_that_cannot_be_used_is_in_no_pair(problem: DropReason) -> None:
    replies = [reply("a"), reply("b", problem), reply("c")]
    places = list(contests_of([(row(replies), [[each] for each in replies])], 1))
    assert [owners_of(position, 1) for position, _ in places] == [(0, 2)]
