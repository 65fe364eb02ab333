"""Which of several replies is the best: by numbers, and by comparisons of every two."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import RowDropped
from cai.judge.best_of import competitors, mean_wins, pairs_of, pick, rewards, unread
from cai.records import Candidate, Comparison, Completion, Message, Reading, Vote

PROMPT: tuple[Message, ...] = ({"role": "user", "content": "Hi?"},)


def reply(text: str, problem: str | None = None) -> Candidate:
    return Candidate.model_validate({"text": text, "model": "m", "sample": 0, "problem": problem})


def compared(a: int, b: int, z: float | None) -> Comparison:
    return Comparison(a=a, b=b, votes=(), z=z)


def test_replies_that_cannot_be_used_do_not_compete_and_equal_texts_are_one() -> None:
    replies = [reply("x"), reply("cut", "truncated"), reply("y  z"), reply(" x\n"), reply("y z")]
    assert competitors(replies) == {0: 0, 2: 2, 3: 0, 4: 2}
    assert list(pairs_of({4, 0, 2})) == [(0, 2), (0, 4), (2, 4)]


def test_a_score_is_the_mean_probability_of_beating_the_others() -> None:
    odds = {(0, 1): math.log(3), (0, 2): math.log(4), (1, 2): -math.log(9)}  # p = 0.75, 0.8 and 0.1
    scores = mean_wins([compared(a, b, z) for (a, b), z in odds.items()], "logprob")
    assert scores == pytest.approx({0: 0.775, 1: (0.25 + 0.1) / 2, 2: (0.2 + 0.9) / 2})
    assert pick(scores) == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.permutations(range(4)))
def test_the_winner_is_the_same_whatever_the_order_of_the_replies(odds: list[float], places: list[int]) -> None:
    pairs = list(pairs_of(range(4)))
    straight = mean_wins([compared(a, b, z) for (a, b), z in zip(pairs, odds, strict=True)], "score")
    turned = []
    for (a, b), z in zip(pairs, odds, strict=True):
        low, high = sorted((places[a], places[b]))
        turned.append(compared(low, high, z if low == places[a] else -z))
    moved = mean_wins(turned, "score")
    assert {places[number]: score for number, score in straight.items()} == pytest.approx(moved)
    top, second = sorted(straight.values())[:-3:-1]
    if top - second > 1e-6:
        assert places[pick(straight)] == pick(moved)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30), min_size=6, max_size=6))
def test_all_scores_together_are_one_half_for_each_reply(odds: list[float]) -> None:
    scores = mean_wins([compared(a, b, z) for (a, b), z in zip(pairs_of(range(4)), odds, strict=True)], "score")
    assert math.fsum(scores.values()) == pytest.approx(2.0)


def test_a_pair_without_a_valid_vote_counts_for_nobody() -> None:
    pairs = [compared(0, 1, 1.0), compared(0, 2, None), compared(1, 2, None)]
    assert sorted(mean_wins(pairs, "vote")) == [0, 1]
    assert mean_wins([compared(0, 1, None)], "vote") == {}


def test_a_shared_highest_score_has_no_winner() -> None:
    circle = mean_wins([compared(0, 1, 1.0), compared(1, 2, 1.0), compared(0, 2, -1.0)], "score")
    with pytest.raises(RowDropped, match=r"replies 0 and 1 and 2 share the highest score, 0\.5") as dropped:
        pick(circle)
    assert (dropped.value.reason, dropped.value.stage) == ("low_confidence", "judge")
    with pytest.raises(RowDropped, match="replies 0 and 1 share"):
        pick({0: 0.1 + 0.2, 1: 0.3})  # the same sum in another order
    assert pick({0: 0.2, 1: 0.2, 2: 0.6}) == 2


def test_a_reward_model_is_asked_for_each_reply() -> None:
    flow = rewards(PROMPT, ["one", "two"])
    asked = next(flow)
    assert [request.messages for request in asked] == [
        (*PROMPT, {"role": "assistant", "content": text}) for text in ("one", "two")
    ]
    assert {(request.role, request.score) for request in asked} == {("judge", ("",))}
    with pytest.raises(StopIteration) as stop:
        flow.send([Completion("", "stop", "r", scores=(value,)) for value in (-1.5, 2.0)])
    assert stop.value.value == (-1.5, 2.0)


@pytest.mark.parametrize("scores", [(math.nan,), (math.inf,), None, ()])
def test_a_reward_that_is_no_number_drops_the_prompt(scores: tuple[float, ...] | None) -> None:
    flow = rewards(PROMPT, ["one"])
    next(flow)
    with pytest.raises(RowDropped, match="no finite number"):
        flow.send([Completion("", "stop", "r", scores=scores)])


def test_why_nothing_could_be_read_is_told_in_the_words_of_the_first_vote() -> None:
    good, bad = Reading(choice="first"), Reading(problem="names no letter")
    vote = Vote(principle="p", weight=1.0, ab=good, ba=bad)
    assert unread([Comparison(a=0, b=1, votes=(vote,), z=None)]) == "names no letter"
