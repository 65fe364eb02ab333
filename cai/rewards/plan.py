"""What rewards would ask and cost: questions about replies of a length are worded and counted, and none is sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cai.calls.decisions import undecided
from cai.calls.prices import CHARACTERS_PER_TOKEN, TYPICAL_ANSWER, Price, count_tokens
from cai.calls.seats import Flow
from cai.errors import RowDropped
from cai.records import Completion, Request, Turns
from cai.rewards.judge import JudgeReward
from cai.rewards.model import ModelReward
from cai.rewards.reward import Weighted

EVEN = dict.fromkeys(("A", "B", "Yes", "No"), math.log(0.5))


@dataclass(frozen=True, slots=True)
class Asked:
    """What one reward asks; cost_usd: None if the price of its model is not known."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def estimate(rewards: Sequence[Weighted], prompts: Iterable[Turns], replies: int, tokens: int) -> dict[str, Asked]:
    """What is asked about so many replies to each prompt, of so many tokens each, by the names of the rewards.

    An answer in words is taken to have half of the tokens that it may have; rewards that ask nothing are left out.
    """
    asking = [reward for _, reward in rewards if isinstance(reward, JudgeReward | ModelReward)]
    counts = {reward.name: Counter[str]() for reward in asking}
    reply = "x" * round(tokens * CHARACTERS_PER_TOKEN)
    for prompt in prompts:
        for reward in asking:
            flow, times = reward.rehearsed(prompt, reply, replies)
            for request in _requests(flow):
                written = _written(request, reward.max_tokens)
                counts[reward.name].update(
                    calls=times, input_tokens=times * count_tokens(request), output_tokens=times * written
                )
    return {reward.name: _asked(counts[reward.name], reward.price) for reward in asking}


def _asked(counts: Counter[str], price: Price | None) -> Asked:
    inputs, outputs = counts["input_tokens"], counts["output_tokens"]
    return Asked(counts["calls"], inputs, outputs, None if price is None else price.cost(inputs, outputs))


def _requests(flow: Flow[object]) -> Iterator[Request]:
    """All that a flow asks if a judge finds everything equally likely, and in words always prefers the same reply."""
    try:
        requests = next(flow)
        while True:
            yield from requests
            half = len(requests) / 2
            requests = flow.send([_stand_in(request, number < half) for number, request in enumerate(requests)])
    except (StopIteration, RowDropped):
        return
    finally:
        flow.close()


def _stand_in(request: Request, first: bool) -> Completion:
    scores = tuple(EVEN.values())[: len(request.score)] or None
    if request.decisions:
        return Completion(undecided(request.decisions), "stop", "stand-in")
    return Completion("A" if first else "B", "stop", "stand-in", logprobs=(EVEN,), scores=scores)


def _written(request: Request, most: int) -> int:
    """How many tokens an answer has."""
    if request.score or request.decisions:
        return 0
    length = request.max_tokens or most
    return max(1, round(length * TYPICAL_ANSWER))
