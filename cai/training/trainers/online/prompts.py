"""The prompts of online training: how many make a step, and what TRL is told of the replies to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cai.errors import UsageError
from cai.models.specs import without_address
from cai.records import Values
from cai.texts.wording import counted, nearest
from cai.training.data.tokens import Encoded, Rows
from cai.training.setup.config import Setting
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Plan
from cai.training.trainers.online.rollouts import Rollouts

# β: RLOO's and PPO's is TRL's default for RLOO, GRPO's that of Shao et al. 2024 (arXiv 2402.03300), section 4.2.
# Replies: RLOO was measured with 2 and 4 (Ahmadian et al. 2024, arXiv 2402.14740); GRPO divides by a spread, of which
# few replies give a poor estimate; PPO compares none, and 2 is the fewest that TRL takes. PPO makes four steps from the
# same replies, each clipped, as Ziegler et al. 2019 (arXiv 1909.08593) do.
DEFAULTS: dict[str, Values] = {
    "rloo": {"beta": 0.05, "generations": 4, "iterations": 1},
    "grpo": {"beta": 0.04, "generations": 8, "iterations": 1},
    "ppo": {"beta": 0.05, "generations": 2, "iterations": 4},
}
REPLY = 256  # tokens


class Prompts(Rows):
    """Prompts, which the model answers itself."""

    hooks = Rollouts
    before = True

    def settle(self) -> Iterator[Setting]:
        method, config = METHODS[self.data.method], self.loaded.config
        if config.loss is not None and config.loss not in method.losses:
            raise UsageError(
                f"no loss of {self.data.method} is called {config.loss!r}; {nearest(config.loss, method.losses)}"
            )
        if config.watch is not None and not self.data.eval:
            spec = without_address(config.watch)
            raise UsageError(f"watch {spec} has no held-out replies to rate: set eval_data, or split below 1")
        if config.stop_on_goodhart and config.watch is None:
            raise UsageError("stop_on_goodhart needs watch, a judge that takes no part, such as reward:FOLDER")
        if config.rollouts is not None and (config.full or config.lora.embeddings):
            raise UsageError("rollouts hands over a LoRA adapter and nothing else: leave out full and lora.embeddings")
        if method.loss:
            yield self.loaded.setting("loss", method.loss)
        for name, value in DEFAULTS[self.data.method].items():
            yield self.loaded.setting(name, value)
        yield self.loaded.setting("reply_length", REPLY)
        yield self.loaded.setting("temperature", 1.0)
        yield self.loaded.setting("mask_truncated", False)

    @property
    def lengths(self) -> list[int]:
        return [len(row.prompt) + self.settled["reply_length"] for row in self._train]

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        reply = self.settled["reply_length"]
        if len(row.prompt) + reply > limit:
            return f"its prompt of {len(row.prompt):,} tokens and a reply of {reply:,} exceed {limit:,}"
        return row

    def sequences(self, plan: Plan) -> int:
        """The replies of an epoch: TRL leaves out the prompts of a last step that is not full, others in each epoch."""
        generations = self.settled["generations"]
        share = plan.rows_at_once * plan.accumulation  # of one process
        if share % generations:
            raise UsageError(
                f"batch_size {plan.rows_a_step} does not give each of {counted(plan.devices, 'process')} "
                f"whole groups of {generations} replies to a prompt: make it a multiple of {generations * plan.devices}"
            )
        prompts = plan.rows_a_step // generations
        steps = len(self.train) // prompts
        if not steps:
            raise UsageError(
                f"{counted(len(self.train), 'prompt')} cannot make a step of {prompts:,}: lower batch_size "
                f"(replies of a step, {plan.rows_a_step}), or add prompts"
            )
        return int(steps * plan.rows_a_step * self.settled["iterations"])

    def arguments(self, plan: Plan) -> Values:
        settled = self.settled
        own: Values = {
            "num_generations": settled["generations"],
            "num_generations_eval": 1,
            "max_completion_length": settled["reply_length"],
            "temperature": settled["temperature"],
            "num_iterations": settled["iterations"],
            "mask_truncated_completions": settled["mask_truncated"],
            "beta": settled["beta"],
            "disable_dropout": True,  # else the same reply has another probability in each pass
        }
        if "loss" in settled:
            own["loss_type"] = settled["loss"]
        return own

    def dataset(self, rows: Sequence[Encoded]) -> Any:
        from datasets import Dataset

        return Dataset.from_list([{"prompt": list(row.row.prompt)} for row in rows])
