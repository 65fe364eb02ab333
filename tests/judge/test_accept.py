"""Which revisions a judge's verdict accepts, and which replies it prefers."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution, Principle
from cai.judge.accept import HELPFULNESS, accept, helpfulness_of, prefers_reply
from cai.judge.flows import Verdict, mean_preference, odds_of_votes, votes_of
from cai.records import Acceptance, Completion, Protocol, Reading, Request, Vote

KIND = Principle.model_validate({"id": "kind", "text": "Be kind."})


def decided(verdict: Verdict, protocol: Protocol, least: float = 0.5) -> Acceptance:
    """What a verdict comes to; the flow asks nothing."""

    def flow() -> Generator[list[Request], list[Completion], Verdict]:
        yield []
        return verdict

    played = accept(flow(), "new", "built-in", protocol, least)
    next(played)
    with pytest.raises(StopIteration) as end:
        played.send([])
    acceptance: Acceptance = end.value.value
    return acceptance


def letters(*odds: float, bias: float = 0.0) -> tuple[Vote, ...]:
    """Votes with these preferences for the revision under two principles."""
    readings = [Reading(first=bias + z, second=0.0, mass=1.0) for z in odds]
    readings += [Reading(first=bias - z, second=0.0, mass=1.0) for z in odds]
    return votes_of((KIND, HELPFULNESS), readings)


@pytest.mark.parametrize(
    ("odds", "accepted", "reply"),
    [
        ((1.0, 1.0), True, False),
        ((1.0, -0.1), False, False),
        ((-0.1, 2.0), False, False),
        ((0.0, 0.0), False, False),
        ((-1.0, -0.1), False, True),
        ((0.5, 0.0), False, False),
    ],
)
@pytest.mark.parametrize("bias", [0.0, 3.0, -3.0])
def test_both_principles_must_prefer_a_text(
    odds: tuple[float, float], accepted: bool, reply: bool, bias: float
) -> None:
    votes = letters(*odds, bias=bias)
    acceptance = decided(Verdict(votes, mean_preference(votes, weighted=False)), "score")
    assert acceptance.accepted == accepted
    assert prefers_reply(acceptance, 0.5) == reply
    assert acceptance.rejected == (None if accepted else "new")


def test_a_vote_that_cannot_be_read_accepts_nothing() -> None:
    mute = Reading(problem="no letter")
    readings = [Reading(first=1.0, second=0.0, mass=1.0), mute, Reading(first=-1.0, second=0.0, mass=1.0), mute]
    votes = votes_of((KIND, HELPFULNESS), readings)
    acceptance = decided(Verdict(votes, mean_preference(votes, weighted=False)), "logprob")
    assert not acceptance.accepted and not prefers_reply(acceptance, 0.5)
    assert acceptance.p is not None and acceptance.p > 0.5  # of the one that could be read


@pytest.mark.parametrize(("named", "accepted"), [("aaaa", True), ("aaab", False), ("abab", False), ("bbbb", False)])
def test_in_words_the_revision_must_be_named_more_often_under_both(named: str, accepted: bool) -> None:
    """named: what is said under either principle with the revision first, and then with the reply first."""
    places = ["first" if side == "a" else "second" for side in named[:2]]
    places += ["second" if side == "a" else "first" for side in named[2:]]
    votes = votes_of((KIND, HELPFULNESS), [Reading.model_validate({"choice": place}) for place in places])
    acceptance = decided(Verdict(votes, odds_of_votes(votes)), "vote")
    assert acceptance.accepted == accepted
    assert prefers_reply(acceptance, 0.5) == (named == "bbbb")


@pytest.mark.parametrize(("difference", "accepted"), [(2.0, True), (0.0, False), (-2.0, False)])
def test_a_reward_model_is_asked_under_no_principle(difference: float, accepted: bool) -> None:
    acceptance = decided(Verdict((), difference, (difference, 0.0)), "reward")
    assert acceptance.accepted == accepted
    assert prefers_reply(acceptance, 0.5) == (difference < 0)


def test_the_bar_is_one_that_must_be_passed() -> None:
    votes = letters(1.0, 1.0)  # p is .731
    assert decided(Verdict(votes, 1.0), "score", 0.73).accepted
    assert not decided(Verdict(votes, 1.0), "score", 0.74).accepted


def test_helpfulness_is_the_constitutions_own_or_ours() -> None:
    assert helpfulness_of(load_constitution("harmless")) is HELPFULNESS
    own = Principle.model_validate({"id": "helpful", "text": "Be of use."})
    law = Constitution(name="law", version="1.0.0", principles=(KIND, own))
    assert helpfulness_of(law) is own
    mute = Principle.model_validate({"id": "helpful", "critique": "Is it of use?", "revise": "Make it so."})
    assert helpfulness_of(Constitution(name="law", version="1.0.0", principles=(KIND, mute))) is HELPFULNESS
