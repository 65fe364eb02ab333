"""What the rewards of an online training would ask and cost, before any model is loaded or asked."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.records import Record, Turns
from cai.rewards.judge import JudgeReward
from cai.rewards.plan import Asked, estimate
from cai.rewards.reward import Weighted
from cai.rewards.settings import RewardSettings
from cai.sources.yamlfile import make_settings
from cai.texts.wording import counted, nearest
from cai.training.data.dataset import check_there, load_rows
from cai.training.data.rows import TrainingRow
from cai.training.setup.config import load_config
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import evaluations
from cai.training.trainers.online.prompts import DEFAULTS, REPLY
from cai.training.trainers.online.rating import key_of, open_rewards


class RewardPlan(Record):
    """What the rewards of a training would ask, if all replies are as long as they may be."""

    method: str
    steps: int
    batches: int  # of replies, from each of which one step learns or several
    prompts: int  # of a batch
    replies: int  # to each prompt
    reply_length: int  # tokens
    held_out: int  # prompts
    evaluations: int
    rewards: dict[str, Asked]  # by name; those that ask no model are left out

    @property
    def cost_usd(self) -> float | None:
        """Of all rewards; None: a price is not known."""
        costs = [asked.cost_usd for asked in self.rewards.values()]
        return None if None in costs else math.fsum(cost or 0.0 for cost in costs)

    def lines(self) -> list[str]:
        """In words, for people."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        batches = f"{counted(self.steps, 'step')} on {counted(self.batches, 'batch')}"
        replies = f"{self.replies} replies to each of {counted(self.prompts, 'prompt')}"
        yield f"{self.method}: {batches} of {replies}, of up to {self.reply_length:,} tokens"
        if self.held_out:
            yield f"{counted(self.evaluations, 'evaluation')} on {counted(self.held_out, 'prompt')} held out"
        if not self.rewards:
            yield "no model is asked for rewards"
        for name, asked in self.rewards.items():
            yield (
                f"  {name}: {asked.calls:,} calls, {asked.input_tokens:,} tokens in, {asked.output_tokens:,} out, "
                f"{_money(asked.cost_usd)}"
            )
        if len(self.rewards) > 1:
            yield f"  in all {_money(self.cost_usd)}"


def _money(cost: float | None) -> str:
    return "price unknown" if cost is None else f"${cost:,.2f}"


def plan_rewards(
    method: str,
    data: Any,
    *,
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    eval_data: str | Path | None = None,
    reward: Any = None,
    judging: Mapping[str, Any] | None = None,
) -> RewardPlan:
    """What `cai.train` with the same arguments would ask for rewards; raises UsageError for a method without rewards.

    Prompts that turn out to be too long, once they are tokens, ask for nothing.
    """
    online = [name for name, each in METHODS.items() if each.online]
    if method not in online:
        raise UsageError(f"{method!r} asks for no rewards; {nearest(method, online)}")
    check_there(data)
    loaded = load_config(config, {**(flags or {}), **key_of(reward)})
    loaded.check(method)
    settings = make_settings(RewardSettings, {"seed": loaded.config.seed, **(judging or {})})
    with tempfile.TemporaryDirectory() as empty:
        rewards, watch = open_rewards(method, loaded.config, reward, None, settings, Path(empty))
    rows = load_rows(data, method, eval_data=eval_data, split=loaded.config.split)
    shape = _shape(method, loaded.config, len(rows.train), len(rows.eval))
    trained = islice(cycle(_prompts(rows.train)), shape["batches"] * shape["prompts"])
    held = list(chain.from_iterable(repeat(_prompts(rows.eval), shape["evaluations"])))
    alone = [each for each in rewards if not _compares(each, settings)]  # a held-out reply is alone
    asked = estimate(rewards, trained, shape["replies"], shape["reply_length"])
    for name, more in estimate(alone, held, 1, shape["reply_length"]).items():
        asked[name] = _sum(asked[name], more)
    if watch is not None:
        asked |= estimate([Weighted(1.0, watch)], held, 1, shape["reply_length"])
    return RewardPlan(method=method, held_out=len(rows.eval), rewards=asked, **shape)


def _shape(method: str, config: TrainConfig, rows: int, held: int) -> dict[str, int]:
    """How often how many replies are rated; the arithmetic of `Prompts.sequences` and `Plan.schedule`."""
    replies = config.generations or DEFAULTS[method]["generations"]
    iterations = config.iterations or DEFAULTS[method]["iterations"]
    prompts = config.batch_size // replies
    if config.batch_size % replies or rows < prompts:
        raise UsageError(
            f"batch_size {config.batch_size} is not made of groups of {replies} replies to some of the "
            f"{counted(rows, 'prompt')}"
        )
    steps = math.ceil(rows // prompts * iterations * config.epochs)
    limit = config.trl.get("max_steps")
    if isinstance(limit, int) and limit > 0:
        steps = limit
    times = 0
    if held:
        every = config.eval_every or math.ceil(steps / evaluations(steps, config.batch_size, held))
        times = 1 + math.ceil(steps / every)
    return {
        "steps": steps,
        "batches": math.ceil(steps / iterations),
        "prompts": prompts,
        "replies": replies,
        "reply_length": config.reply_length or REPLY,
        "evaluations": times,
    }


def _prompts(rows: Sequence[TrainingRow]) -> list[Turns]:
    return [row.prompt for row in rows if not isinstance(row.prompt, str)]


def _compares(each: Weighted, settings: RewardSettings) -> bool:
    return isinstance(each.reward, JudgeReward) and settings.scoring == "group"


def _sum(one: Asked, other: Asked) -> Asked:
    cost = None
    if one.cost_usd is not None and other.cost_usd is not None:
        cost = one.cost_usd + other.cost_usd
    tokens = one.input_tokens + other.input_tokens, one.output_tokens + other.output_tokens
    return Asked(one.calls + other.calls, *tokens, cost)
