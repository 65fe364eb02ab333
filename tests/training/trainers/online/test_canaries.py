"""Private parts of TRL that online training is built on: a version without them shows here first."""

from __future__ import annotations

import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")


@pytest.mark.parametrize("kind", [trl.GRPOTrainer, trl.RLOOTrainer])
def test_rewards_come_from_a_method_that_we_replace(kind: Any) -> None:
    names = list(inspect.signature(kind._calculate_rewards).parameters)
    assert names == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert "self._calculate_rewards(" in inspect.getsource(kind._generate_and_score_completions)


@pytest.mark.parametrize("kind", [trl.GRPOTrainer, trl.RLOOTrainer])
def test_replies_are_written_anew_if_none_are_kept_as_after_a_resume(kind: Any) -> None:
    source = inspect.getsource(kind._prepare_inputs)
    assert "self._buffered_inputs is None" in source
    assert "self._step % generate_every == 0" in source
    assert hasattr(kind, "_maybe_log_save_evaluate")
    assert hasattr(kind, "_save_checkpoint")


@pytest.mark.parametrize("kind", [trl.GRPOTrainer, trl.RLOOTrainer])
def test_the_order_of_prompts_is_by_a_sampler_with_a_generator_and_a_seed(kind: Any) -> None:
    from trl.trainer.utils import RepeatSampler

    sampler = RepeatSampler(range(8), mini_repeat_count=2, batch_size=2, seed=3)
    assert sampler.seed == 3
    assert isinstance(sampler.generator, torch.Generator)
    assert "RepeatSampler(" in inspect.getsource(kind._get_train_sampler)


class Fixed(trl.GRPOTrainer):  # type: ignore[misc]
    """A trainer without a model, whose tokens have the log-probabilities that it is given."""

    def __init__(self, logps: Any) -> None:
        self.logps = logps
        self.model = SimpleNamespace(training=True)
        self.accelerator = SimpleNamespace(
            num_processes=1, reduce=lambda value, reduction: value, gather=lambda value: value
        )
        self.args = SimpleNamespace(delta=None, steps_per_generation=1)
        self.beta, self.epsilon_low, self.epsilon_high = 0.0, 0.2, 0.2
        self.loss_type, self.importance_sampling_level = "dapo", "token"
        self.top_entropy_quantile, self.off_policy_mask_threshold = 1.0, None
        self.aux_loss_enabled = self._entropy_bonus_enabled = False
        self.use_vllm = False
        self.current_gradient_accumulation_steps = 1
        self._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, *parts: Any, **named: Any) -> Any:
        return self.logps, torch.zeros_like(self.logps), None


def test_the_loss_of_trl_with_an_advantage_for_each_token_is_that_of_ppo() -> None:
    """Schulman et al. 2017, equation 7, as a mean over the tokens of a step; and its gradient."""
    torch.manual_seed(0)
    logps = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    old, credit = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    ids = torch.zeros(3, 4, dtype=torch.long)
    batch = {
        "prompt_ids": ids, "prompt_mask": mask, "completion_ids": ids, "completion_mask": mask,
        "old_per_token_logps": old, "advantages": credit, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = Fixed(logps)._compute_loss(None, batch)
    [gradient] = torch.autograd.grad(loss, logps)
    ratio = (logps - old).exp()
    gains = torch.minimum(ratio * credit, ratio.clamp(0.8, 1.2) * credit)
    expected = -(gains * mask).sum() / mask.sum()
    [wanted] = torch.autograd.grad(expected, logps)
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(gradient, wanted)
