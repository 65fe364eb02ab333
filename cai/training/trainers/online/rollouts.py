"""What is put before TRL's trainers of online methods: rewards of ours, a stop that loses nothing, and measures.

A step's replies are written before it, in one batch; `iterations` steps learn from each batch, and only after the last
of these does a checkpoint hold all that a resumed training needs. Some hooks are private ones of TRL 1.16.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from pathlib import Path
from typing import Any

from cai.errors import CaiError, ModelStopped
from cai.records import Object, Values
from cai.training.trainers.loop import Guarded
from cai.training.trainers.online.goodhart import HeldOut
from cai.training.trainers.online.measures import text_measures
from cai.training.trainers.online.rating import Numbers, Rater
from cai.training.trainers.online.served import RolloutServer

OF_RLOO = 2  # arguments of TRL's `_generate_single_turn` behind the prompts; GRPO's has one more
ALIKE = "frac_reward_zero_std"  # TRL's name; its RLOO counts what is left of rewards after the KL
UNRATED = 20  # batches of replies without one reward after which a training stops: nothing can be learnt from them


class Rollouts(Guarded):
    """TRL's RLOOTrainer or GRPOTrainer, whose rewards come from a `Rater`.

    If a reward fails, the state after the last step is saved before the error is raised, and `kept` is its checkpoint.
    compares: whether the replies to a prompt are compared with each other.
    """

    compares = True

    def __init__(self, *, rater: Rater, settled: Object, server: RolloutServer | None = None, **parts: Any) -> None:
        self.rater = rater
        self.server = server  # writes the replies; None: this process does
        self.settled = settled  # the settings of the method
        self.kept: Path | None = None
        self._after_step: Any = None  # the random state, from which the next replies are drawn
        self._unrated = 0  # batches in a row
        self._known: Any = None  # of the replies of the batch that is being written, which rewards are known
        self._alike = 0.0  # share of its groups without two rewards that differ
        parts["args"].reward_weights = [weight for weight, _ in rater.rewards]
        # TRL wants functions, of which only the names are used: `_calculate_rewards` asks the rater.
        names = [_named(reward.name) for _, reward in rater.rewards]
        super().__init__(reward_funcs=names, **parts)
        folder = Path(self.args.output_dir).parent
        self._held_out = HeldOut(folder, writes=self.accelerator.is_main_process)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's, whose order depends on the epoch: TRL's own would begin with that of the first one after a resume."""
        sampler = super()._get_train_sampler(dataset)
        if not self.shuffle_dataset:
            return sampler
        return _Epochs(sampler, lambda: int((self.state.epoch or 0) + 1e-6))

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """The reward of each reply from each function, of all processes; NaN in a whole row is an unknown one."""
        import torch

        replies = [turns[0]["content"] for turns in completions]
        columns = self._rated(prompts, replies)
        weights = [weight for weight, _ in self.rater.rewards]
        columns, watched = columns[: len(weights)], columns[len(weights) :]
        metrics = self._metrics[self._mode()]
        for (_, reward), numbers in zip(self.rater.rewards, columns, strict=True):
            metrics[f"rewards/{reward.name}/unknown"].append(self._mean([number is None for number in numbers]))
        for name, values in text_measures(replies).items():
            metrics[name].append(self._mean(values))
        rows = [numbers_of(row, weights) for row in zip(*columns, strict=True)]
        rewards = self.accelerator.gather(torch.tensor(rows, device=self.accelerator.device))
        self._known = ~rewards.isnan().all(dim=1)
        if self.model.training:
            self._alike = alike((rewards * self.reward_weights.to(rewards.device)).sum(dim=1), self.num_generations)
        if self.model.training:
            self._count_unrated(bool(rewards.isnan().all()))
        elif watched:
            sums = [math.fsum(map(mul, row, weights)) for row in rows]
            self._held_out.add(self._gathered(sums), self._gathered(watched[0]))
        return rewards

    def _gathered(self, numbers: Sequence[float | None]) -> Numbers:
        """The numbers of all processes; NaN is None."""
        from accelerate.utils import gather_object

        return [None if number is None or math.isnan(number) else number for number in gather_object(list(numbers))]

    def log(self, *rest: Any, **named: Any) -> None:
        if not self.model.training:
            first = self.state.global_step == 0
            for name, number in self._held_out.measures(first=first).items():
                self._metrics["eval"][name].append(number)
        super().log(*rest, **named)

    def _rated(self, prompts: Any, replies: Sequence[str]) -> list[Numbers]:
        """The numbers for the replies of this process; if a reward fails in one process, all of them stop."""
        from accelerate.utils import gather_object

        numbers, error = list[Numbers](), None
        try:
            numbers = self.rater.rate(prompts, replies, held_out=not self.model.training)
        except CaiError as failure:
            error = failure
        failures = [text for text in gather_object([error and str(error)]) if text]
        if error is not None:
            raise error
        if failures:
            raise ModelStopped(failures[0])
        return numbers

    def _replace_alike(self, metrics: dict[str, list[float]]) -> None:
        """Put our share of groups without differences in place of TRL's; there is none if nothing is compared."""
        metrics[ALIKE].pop()
        if self.compares and self.model.training:
            metrics[ALIKE].append(self._alike)
        if not metrics[ALIKE]:
            del metrics[ALIKE]

    def _count_unrated(self, unrated: bool) -> None:
        self._unrated = self._unrated + 1 if unrated else 0
        if self._unrated == UNRATED:
            raise ModelStopped(
                f"{UNRATED} batches of replies in a row got no reward at all from {self.rater.names}: ask another "
                "judge, or try the question on a few replies first"
            )

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _mean(self, values: Sequence[float]) -> float:
        """The mean over the replies of all processes."""
        import torch

        return float(self.accelerator.gather(torch.tensor(values, device=self.accelerator.device).float()).mean())

    # Replies by a server

    def _generate_single_turn(self, prompt_ids: Any, *rest: Any) -> Any:
        """The replies to prompts in tokens; GRPO's trainer is told their log-probabilities, too: None, not known."""
        if self.server is None:
            return super()._generate_single_turn(prompt_ids, *rest)
        import torch

        seed = int(torch.randint(2**31, ()))
        replies = self.server.replies(prompt_ids, self.state.global_step, self._save_adapter, self._sampling(), seed)
        return (replies, None) if len(rest) > OF_RLOO else replies

    def _save_adapter(self, folder: Path) -> None:
        """Write the policy's adapter; of several processes, the first one does."""
        model = self.accelerator.unwrap_model(self.model)
        if self.accelerator.is_main_process:
            model.save_pretrained(folder, selected_adapters=["default"])
        self.accelerator.wait_for_everyone()

    def _sampling(self) -> Values:
        """How the server draws, in its words."""
        args = self.args
        sampling = {"temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k or -1}
        more = {"min_p": args.min_p, "repetition_penalty": args.repetition_penalty}
        ends = {"max_tokens": args.max_completion_length, "stop_token_ids": list(self.eos_token_ids)}
        return {name: value for name, value in {**sampling, **more, **ends}.items() if value is not None}

    # Stopping and resuming

    def _maybe_log_save_evaluate(self, *rest: Any, **named: Any) -> None:
        super()._maybe_log_save_evaluate(*rest, **named)
        self._after_step = random_state()

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        from torch import ones_like

        tokens = self.state.num_input_tokens_seen
        metrics = self._metrics[self._mode()]
        before = {name: len(values) for name, values in metrics.items()}
        try:
            batch = super()._generate_and_score_completions(inputs)
        except CaiError:
            if self.model.training:
                self.state.num_input_tokens_seen = tokens
                self._keep(self._after_step)
            raise
        self._replace_alike(metrics)
        counts = self._counts[self._mode()]
        for name, values in metrics.items():
            if len(values) > before.get(name, 0):
                over = self._known if name.startswith("reward") else ones_like(self._known)
                counts[name].append(over.sum())
        return batch

    def evaluate(self, *rest: Any, **named: Any) -> Any:
        """TRL's, which draws replies, and leaves the training the random state that it found."""
        state = random_state()
        try:
            return super().evaluate(*rest, **named)
        except CaiError:
            if self.state.global_step % self.num_iterations == 0:
                self._keep(state if self.state.global_step else None)
            raise
        finally:
            set_random_state(state)

    def _keep(self, after_step: Any) -> None:
        """Save the state after the last step, as if no reply had been written; None: there is none before the first.

        after_step: the random state.
        """
        from accelerate.utils import gather_object

        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        is_there = gather_object([folder.exists()])[0]  # as the first process sees it, before it makes the folder
        if after_step is not None and not is_there:
            set_random_state(after_step)
            self._save_checkpoint(self.model, None)
            self.accelerator.wait_for_everyone()
        if folder.exists():
            self.kept = folder

    # Means over a step

    def counts(self, inputs: Object) -> Mapping[str, Any]:
        return {"": inputs["completion_mask"].sum().clamp(min=1)}

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        import torch

        loss = super().compute_loss(model, inputs, *rest, **named)
        if not self.model.training:
            amounts = self.amounts(inputs).double()
            self.sums.append(torch.stack([loss.detach().double() * amounts, amounts]))
        return loss

    def rows_within(self, inputs: Object) -> tuple[int, ...]:
        return ()


class _Epochs:
    """A sampler that shuffles by seed and epoch."""

    def __init__(self, sampler: Any, epoch: Callable[[], int]) -> None:
        self._sampler = sampler
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Any:
        self._sampler.generator.manual_seed(self._sampler.seed + self._epoch())
        return iter(self._sampler)


def numbers_of(rewards: Sequence[float | None], weights: Sequence[float]) -> list[float]:
    """The rewards of one reply; all are NaN if one that counts is unknown, since a sum of the others has it as 0."""
    nan = float("nan")
    if any(reward is None and weight for reward, weight in zip(rewards, weights, strict=True)):
        return [nan] * len(rewards)
    return [nan if reward is None else reward for reward in rewards]


def alike(rewards: Any, generations: int) -> float:
    """The share of groups of so many rewards of which no two known ones differ: nothing is learnt from them."""
    groups = rewards.view(-1, generations)
    most = groups.nan_to_num(nan=-math.inf).max(dim=1).values
    least = groups.nan_to_num(nan=math.inf).min(dim=1).values
    return float((most <= least).double().mean())


def _named(name: str) -> Callable[..., Any]:
    """A function that TRL calls by that name, and never calls."""

    def reward(**_: Any) -> list[float]:
        raise AssertionError("TRL asks rewards by itself: its _calculate_rewards is not ours")

    reward.__name__ = name
    return reward


def random_state() -> tuple[Any, ...]:
    """The states of all generators that a checkpoint keeps."""
    import numpy as np
    import torch

    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def set_random_state(state: tuple[Any, ...]) -> None:
    """Put all generators back to where they were."""
    import numpy as np
    import torch

    python, numbers, cpu, gpus = state
    random.setstate(python)
    np.random.set_state(numbers)
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)
