"""The formulas of PPO against closed forms, and TRL's loss against the one that they are made for."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai.training.trainers.online.formulas import (
    advantages,
    explained_variance,
    token_rewards,
    value_losses,
    whiten,
)

NUMBERS = st.floats(-3, 3, width=32)


@st.composite
def replies(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of a few replies, of 1 to 5 tokens each."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    shape = len(lengths), 5

    def tensor() -> torch.Tensor:
        numbers = draw(st.lists(NUMBERS, min_size=5 * len(lengths), max_size=5 * len(lengths)))
        return torch.tensor(numbers, dtype=torch.float64).view(shape)

    mask = torch.tensor([[float(place < length) for place in range(5)] for length in lengths], dtype=torch.float64)
    return {"mask": mask, "rewards": tensor(), "values": tensor(), "logps": tensor(), "reference": tensor()}


@given(replies(), st.floats(0.1, 1), st.floats(0, 1))
def test_advantages_are_the_discounted_sum_of_temporal_differences(
    given_: dict[str, torch.Tensor], discount: float, decay: float
) -> None:
    mask, rewards, values = (given_[name] for name in ("mask", "rewards", "values"))
    found = advantages(rewards, values, mask, discount, decay)
    for row, length in enumerate(mask.sum(1).int().tolist()):
        ahead = [*values[row, :length].tolist(), 0.0]
        deltas = [float(rewards[row, t]) + discount * ahead[t + 1] - ahead[t] for t in range(length)]
        expected = [
            sum((discount * decay) ** (later - t) * deltas[later] for later in range(t, length)) for t in range(length)
        ]
        assert found[row].tolist() == pytest.approx(expected + [0.0] * (5 - length), abs=1e-9)


@given(replies())
def test_without_discount_and_decay_an_advantage_is_the_return_less_the_value(given_: dict[str, torch.Tensor]) -> None:
    mask, rewards, values = (given_[name] for name in ("mask", "rewards", "values"))
    returns = ((rewards * mask).flip(1).cumsum(1).flip(1)) * mask
    assert torch.allclose(advantages(rewards, values, mask, 1.0, 1.0), (returns - values) * mask)


@given(replies(), st.floats(0, 1))
def test_token_rewards_sum_to_the_reward_less_beta_times_the_log_ratio(
    given_: dict[str, torch.Tensor], beta: float
) -> None:
    mask, logps, reference = (given_[name] for name in ("mask", "logps", "reference"))
    whole = given_["rewards"][:, 0]
    found = token_rewards(whole, logps, reference, mask, beta)
    ratio = ((logps - reference) * mask).sum(1)
    assert torch.allclose(found.sum(1), whole - beta * ratio)
    assert not (found * (1 - mask)).any()
    alone = token_rewards(whole, logps, logps, mask, beta)
    for row, length in enumerate(mask.sum(1).int().tolist()):
        assert alone[row, length - 1] == whole[row]


def test_a_masked_reply_earns_nothing() -> None:
    none = torch.zeros(1, 3)
    assert not token_rewards(torch.tensor([5.0]), torch.ones(1, 3), none, none, 0.1).any()


@given(replies())
def test_whitened_values_have_mean_0_and_variance_1(given_: dict[str, torch.Tensor]) -> None:
    mask, values = given_["mask"], given_["values"]
    kept = values[mask.bool()]
    found = whiten(values, mask)
    assert not (found * (1 - mask)).any()
    assert float(found.sum()) == pytest.approx(0, abs=1e-6)
    variance = float(kept.var(correction=0))
    assert float(found.square().sum() / mask.sum()) == pytest.approx(variance / (variance + 1e-8), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (1.1, 0.5 * (1.1 - 3) ** 2),  # within the clip: the squared error
        (2.0, 0.5 * (1.2 - 3) ** 2),  # moved further towards the return: no more is gained
        (0.0, 0.5 * (0.0 - 3) ** 2),  # moved away: the whole error counts
    ],
)
def test_a_value_gains_nothing_by_moving_further_than_the_clip(value: float, loss: float) -> None:
    old, returns = torch.tensor([1.0]), torch.tensor([3.0])
    assert float(value_losses(torch.tensor([value]), old, returns, 0.2)) == pytest.approx(loss)


def test_explained_variance_is_1_for_foresight_and_0_for_a_constant() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert float(explained_variance(returns, returns, mask)) == 1
    assert float(explained_variance(torch.zeros(1, 3), returns, mask)) == 0
    assert explained_variance(returns, torch.ones(1, 3), mask).isnan()
