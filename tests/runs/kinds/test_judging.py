"""Which protocol a judge is asked by, when it is known whether it can be read, and what becomes of pairs that wait."""

from __future__ import annotations

import asyncio
import math

import pytest

from cai.calls.protocols import choose_protocol
from cai.engine.letters import read_letters
from cai.engine.readability import CHECKED, JudgeCheck, readability
from cai.errors import Unreadable, UsageError
from cai.judge.flows import read_choice
from cai.records import Abilities, Completion, Condition, Protocol, Reading, Vote

ADVICE = "take another judge"


def votes(mass: float) -> tuple[Vote, ...]:
    reading = Reading(mass=mass, problem=None if mass >= 0.5 else "it wrote a poem")
    return (Vote(principle="p", weight=1.0, ab=reading, ba=reading),)


async def waiting(check: JudgeCheck, count: int) -> list[asyncio.Task[None]]:
    """So many pairs, as far as the check lets them through."""
    tasks = [asyncio.ensure_future(check.admitted(number)) for number in range(count)]
    await asyncio.sleep(0.01)
    return tasks


def test_the_first_pairs_are_admitted_and_the_others_when_those_could_be_read() -> None:
    async def play() -> None:
        check = JudgeCheck(ADVICE)
        tasks = await waiting(check, 3 * CHECKED)
        assert sum(task.done() for task in tasks) == CHECKED
        for _ in range(CHECKED - 1):
            check.watch(votes(0.9))
        await asyncio.sleep(0.01)
        assert sum(task.done() for task in tasks) == CHECKED
        check.watch(votes(0.9))
        await asyncio.wait_for(asyncio.gather(*tasks), 1)
        check.watch(votes(0.0))  # later ones do not matter

    asyncio.run(play())


def test_a_pair_without_a_verdict_makes_room_for_another() -> None:
    async def play() -> None:
        check = JudgeCheck(ADVICE)
        tasks = await waiting(check, CHECKED + 1)
        assert sum(task.done() for task in tasks) == CHECKED
        check.leave(0)
        await asyncio.wait_for(asyncio.gather(*tasks), 1)
        assert all(task.done() for task in tasks)

    asyncio.run(play())


def test_an_unreadable_judge_is_told_once_and_to_all_who_wait() -> None:
    async def play() -> None:
        check = JudgeCheck(ADVICE)
        tasks = await waiting(check, 2 * CHECKED)
        for _ in range(CHECKED - 1):
            check.watch(votes(0.1))
        message = "median letter mass 0.10 of the first 20 pairs, such as: it wrote a poem; take another judge"
        with pytest.raises(Unreadable, match=message):
            check.watch(votes(0.1))
        result = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
        assert result[:CHECKED] == [None] * CHECKED
        assert all(isinstance(error, Unreadable) for error in result[CHECKED:])
        check.watch(votes(0.1))  # a pair that was on its way
        check.leave(0)
        with pytest.raises(Unreadable):
            await check.admitted(CHECKED)

    asyncio.run(play())


def test_a_judge_that_casts_no_votes_needs_no_check() -> None:
    async def play() -> None:
        check = JudgeCheck(ADVICE, needed=False)
        assert all(task.done() for task in await waiting(check, 2 * CHECKED))
        for _ in range(2 * CHECKED):
            check.watch(())

    asyncio.run(play())


def test_readability_is_the_letter_mass_and_for_words_whether_a_letter_was_named() -> None:
    even, unlikely = (Completion("", "length", "m", scores=(score, score)) for score in (-0.7, -3.0))
    named, unclear = (Completion(text, "stop", "m") for text in ("A", "?"))
    neither = Completion("A", "length", "m", logprobs=({"Hm": -0.1},))
    cast = [
        Vote(principle="p", weight=1.0, ab=read_letters(even), ba=read_letters(unlikely)),
        Vote(principle="p", weight=1.0, ab=read_choice(named, named=True), ba=read_choice(unclear, named=True)),
        Vote(principle="p", weight=1.0, ab=read_letters(neither), ba=Reading(problem="no reasons were given")),
    ]
    assert readability(cast) == pytest.approx([2 * math.exp(-0.7), 2 * math.exp(-3), 1, 0, 0, 0])


# Protocols

FULL = Abilities(logprobs=20, scoring=True)
SCORES = Abilities(scoring=True)
WORDS = Abilities()
REWARD = Abilities(chat=False, reward=True)
CONDITIONED = Abilities(chat=False, reward=True, condition=Condition("Rule: {principle}", ()))


@pytest.mark.parametrize(
    ("asked", "can", "chosen"),
    [
        (None, FULL, "logprob"), (None, SCORES, "score"), (None, WORDS, "vote"), (None, REWARD, "reward"),
        ("vote", FULL, "vote"), ("score", FULL, "score"), ("reason", FULL, "reason"), ("reason", SCORES, "reason"),
        ("logprob", FULL, "logprob"), ("reward", REWARD, "reward"),
        (None, CONDITIONED, "conditioned"), ("conditioned", CONDITIONED, "conditioned"),
    ],
)  # fmt: skip
def test_a_protocol_is_chosen_by_what_the_judge_can_do_and_can_be_overridden(
    asked: Protocol | None, can: Abilities, chosen: str
) -> None:
    assert choose_protocol(asked, can, "p:m") == chosen


@pytest.mark.parametrize(
    ("asked", "can", "message"),
    [
        ("logprob", SCORES, "--protocol logprob: p:m gives no such probabilities; use --protocol score"),
        ("score", WORDS, "--protocol score: p:m gives no such probabilities; use --protocol vote"),
        ("reason", WORDS, "--protocol reason: p:m gives no such probabilities; use --protocol vote"),
        ("decide", FULL, "--protocol decide: p:m takes no typed questions; use --protocol logprob"),
        ("decide", WORDS, "--protocol decide: p:m takes no typed questions; use --protocol vote"),
        ("reward", FULL, "p:m is not a reward model: use reward:PATH"),
        ("conditioned", FULL, "p:m is not a reward model: use reward:PATH"),
        ("vote", REWARD, "p:m is a reward model: its protocol is reward"),
        ("conditioned", REWARD, "p:m is a reward model: its protocol is reward"),
        ("reward", CONDITIONED, "p:m is a reward model: its protocol is conditioned"),
    ],
)
def test_a_protocol_that_the_judge_cannot_do_is_refused_with_what_to_do(
    asked: Protocol, can: Abilities, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        choose_protocol(asked, can, "p:m")
    assert str(refused.value) == message
