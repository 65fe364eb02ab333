"""The rewards that a text such as "1.0:judge,0.5:length" names, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cai.calls.model import spec_of
from cai.errors import UsageError
from cai.models import open_model
from cai.models.specs import without_address
from cai.rewards.calls import RewardCalls
from cai.rewards.completions import Completions
from cai.rewards.functions import FUNCTION, FunctionReward, format_penalty, function_of, length_penalty
from cai.rewards.judge import JudgeReward
from cai.rewards.model import ModelReward
from cai.rewards.reward import Reward, Weighted
from cai.texts.wording import close_to

MOST_DIGITS = 9  # of a number of characters
EXAMPLE = 'write such as "1.0:judge,0.5:length"'


def read_rewards(text: str, calls: RewardCalls, completions: Completions) -> list[Weighted]:
    """The rewards of a text, in order; what models answer is kept by the calls, what they gave by the completions.

    Each part is NAME or WEIGHT:NAME, and NAME one of: judge, or judge:LAW for a constitution of its own; reward:PATH;
    length, or length:CHARACTERS; format; module:function. Raises UsageError for a part that cannot be.
    """
    rewards = []
    for weight, name in weighted_names(text):
        rewards.append(Weighted(weight, _reward(name, calls, completions)))
    return rewards


def read_watch(spec: str, rewards: Sequence[Weighted], calls: RewardCalls, completions: Completions) -> Reward:
    """A model that takes no part, to rate replies that the rewards rate: a reward model, or a judge point by point.

    Raises UsageError if a reward asks the same model, which would be pleased whenever that is.
    """
    watch: JudgeReward | ModelReward
    can = open_model(spec, calls.settings.connection).can
    if can.reward and can.condition is None:
        watch = ModelReward("watch", calls, completions, spec)
    else:
        changed = {"judge": spec, "scoring": "point", "protocol": None}
        watch = JudgeReward("watch", calls, completions, settings=calls.settings.model_copy(update=changed))
    for _, reward in rewards:
        if isinstance(reward, JudgeReward | ModelReward) and spec_of(reward.model) == spec_of(watch.model):
            raise UsageError(f"watch {without_address(spec)} gives the rewards itself: name a model that takes no part")
    return watch


def weighted_names(text: str) -> list[tuple[float, str]]:
    """The names in a text with their weights, 1 if none is stated; UsageError for one that cannot be."""
    pairs = list(map(_weighted, text.split(",")))
    names = [name for _, name in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--reward {text!r} names {name} twice: add up its weights")
        if not _is_known(name):
            raise UsageError(f"--reward {name!r} is not a reward; {_hint(name)}")
    return pairs


def most_calls(rewards: list[Weighted], replies: int) -> int:
    """How many calls the rewards of so many replies to one prompt take at most."""
    return sum(_calls_of(reward, replies) for _, reward in rewards)


def _calls_of(reward: Reward, replies: int) -> int:
    if isinstance(reward, JudgeReward):
        return reward.most_calls(replies)
    return replies * isinstance(reward, ModelReward)


def _weighted(part: str) -> tuple[float, str]:
    head, colon, rest = part.strip().partition(":")
    weight, name = 1.0, part.strip()
    if colon and _is_number(head):
        weight, name = float(head), rest.strip()
    if not name:
        raise UsageError(f"--reward has an empty part; {EXAMPLE}")
    if not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"--reward {part.strip()!r}: a weight must be a finite number above 0; {EXAMPLE}")
    return weight, name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_known(name: str) -> bool:
    return name.partition(":")[0] in BUILT_IN or FUNCTION.fullmatch(name) is not None


def _hint(name: str) -> str:
    close = close_to(name.partition(":")[0], BUILT_IN)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"name judge, reward:PATH, length, format or module:function; {EXAMPLE}"


def _reward(name: str, calls: RewardCalls, completions: Completions) -> Reward:
    head, _, rest = name.partition(":")
    if head in BUILT_IN:
        return BUILT_IN[head](name, rest, calls, completions)
    return FunctionReward(name, function_of(name))


def _judge(name: str, law: str, calls: RewardCalls, completions: Completions) -> Reward:
    return JudgeReward(name, calls, completions, law or None)


def _model(name: str, path: str, calls: RewardCalls, completions: Completions) -> Reward:
    if not path:
        raise UsageError("--reward reward names no model: write reward:PATH, the folder of a cai train reward")
    return ModelReward(name, calls, completions, name)


def _length(name: str, free: str, calls: RewardCalls, completions: Completions) -> Reward:
    if not free:
        return FunctionReward(name, length_penalty())
    if not free.isdecimal() or len(free) > MOST_DIGITS or int(free) < 1:
        raise UsageError(f"--reward {name}: write how many characters are free, such as length:800")
    return FunctionReward(name, length_penalty(int(free)))


def _format(name: str, rest: str, calls: RewardCalls, completions: Completions) -> Reward:
    if rest:
        raise UsageError(f"--reward {name}: format takes nothing after it")
    return FunctionReward(name, format_penalty)


BUILT_IN: dict[str, Callable[[str, str, RewardCalls, Completions], Reward]] = {
    "judge": _judge,
    "reward": _model,
    "length": _length,
    "format": _format,
}
