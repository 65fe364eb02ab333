"""Accepts a revision only if a judge prefers it to the reply that it would replace.

It is asked in both orders, as about any pair, under the principle of the round and under one of helpfulness: a reply
that was made worse to satisfy a principle loses under the second, a harmful one under the first. The revision must be
preferred under both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from cai.constitution.principles import Constitution, Principle
from cai.judge.flows import Verdict, belief, odds_by_principle
from cai.records import Acceptance, Completion, Protocol, Request, Vote

ACCEPT = 0.5  # a revision must be preferred with more than this probability
NAMES = ("helpfulness", "helpful", "helps-the-user")  # ids under which a constitution may have its own
HELPFULNESS = Principle.model_validate(
    {
        "id": "helpfulness",
        "choose": "Choose the reply that is of more use to the user: it speaks to what they asked, it is right, and it "
        "holds nothing that they did not ask for. Not to help with something harmless is of no use to them; nor is "
        "help with something that harms them or others, for which a plain and kind refusal is the better reply.",
    }
)


def helpfulness_of(law: Constitution) -> Principle:
    """The principle of helpfulness of a constitution, or ours if it has none that a judge can be asked about."""
    return next((each for each in law.principles if each.id in NAMES and each.can("judge")), HELPFULNESS)


def accept(
    flow: Generator[list[Request], list[Completion], Verdict],
    revision: str,
    helpfulness: Literal["constitution", "built-in"],
    protocol: Protocol,
    least: float,
) -> Generator[list[Request], list[Completion], Acceptance]:
    """Play the flow of a judge on a pair whose `a` is the revision; helpfulness: whose principle of it is asked.

    least: in [0.5, 1); the revision must be preferred with a higher probability, or the reply stands.
    """
    verdict = yield from flow
    accepted = all(p is not None and p > least for p in _beliefs(verdict.votes, verdict.z, protocol))
    return Acceptance(
        accepted=accepted,
        fault=None,
        protocol=protocol,
        votes=verdict.votes,
        helpfulness=helpfulness,
        z=verdict.z,
        p=belief(verdict.z, protocol, None),
        rejected=None if accepted else revision,
    )


def prefers_reply(acceptance: Acceptance, least: float) -> bool:
    """Whether the judge prefers the reply to the revision with a higher probability than `least`, as `accept` asks."""
    beliefs = _beliefs(acceptance.votes, acceptance.z, acceptance.protocol)
    return all(p is not None and 1 - p > least for p in beliefs)


def is_unread(acceptance: Acceptance) -> bool:
    """Whether no vote under one of the principles is valid, so that neither text can be preferred under both."""
    return None in _beliefs(acceptance.votes, acceptance.z, acceptance.protocol)


def _beliefs(votes: Sequence[Vote], z: float | None, protocol: Protocol) -> Iterator[float | None]:
    """The probability that the revision is better, under each principle; None: no vote under it is valid.

    z: that of a reward model, which is asked under none.
    """
    if not votes:
        yield belief(z, protocol, None)
    for odds in odds_by_principle(votes).values():
        yield belief(odds, protocol, None)
