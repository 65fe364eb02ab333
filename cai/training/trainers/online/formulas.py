"""The formulas of PPO on tensors with a row for each reply and a column for each token; `mask` is 1 for real tokens."""

from __future__ import annotations

from typing import Any


def token_rewards(rewards: Any, logps: Any, reference_logps: Any, mask: Any, beta: float) -> Any:
    """What each token is worth: −β·(log π − log π_ref), and for the last one also the reward of the whole reply.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2. The mean of the penalty over replies is β times the KL
    divergence of the policy from the reference.
    """
    import torch

    penalties = -beta * (logps - reference_logps) * mask
    last = (mask.cumsum(1) == mask.sum(1, keepdim=True)) & mask.bool()
    return penalties + torch.where(last, rewards.unsqueeze(1), 0.0)


def advantages(rewards: Any, values: Any, mask: Any, discount: float, decay: float) -> Any:
    """Generalised advantage estimates, Â_t = δ_t + γλ·Â_{t+1} with δ_t = r_t + γ·V_{t+1} − V_t.

    Schulman et al. 2016 (arXiv 1506.02438), equation 16; discount is γ, decay λ. Nothing follows the last token. With
    γ = λ = 1, Â_t is the sum of all rewards from t on, less V_t.
    """
    import torch

    known = values * mask
    estimate = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(estimate)
    columns = []
    for place in reversed(range(values.shape[1])):
        delta = rewards[:, place] + discount * following - known[:, place]
        estimate = (delta + discount * decay * estimate) * mask[:, place]
        following = known[:, place]
        columns.append(estimate)
    return torch.stack(columns[::-1], dim=1)


def whiten(values: Any, mask: Any) -> Any:
    """The values with mean 0 and variance 1 over all tokens of all replies; 0 elsewhere.

    One of the details on which PPO depends: Huang et al. 2024 (arXiv 2403.17031).
    """
    count = mask.sum().clamp(min=1)
    centred = (values - (values * mask).sum() / count) * mask
    return centred * (centred.square().sum() / count + 1e-8).rsqrt()


def value_losses(values: Any, old_values: Any, returns: Any, clip: float) -> Any:
    """½·max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) of each token: values move by ε at most for one batch.

    Engstrom et al. 2020 (arXiv 2005.12729), section 3.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * (values - returns).square().maximum((clipped - returns).square())


def explained_variance(values: Any, returns: Any, mask: Any) -> Any:
    """1 − Var(R − V) / Var(R) over tokens: 1 for values that foresee every return, 0 for a constant.

    NaN, which logs leave out, if all returns are the same: there is nothing to foresee.
    """
    import torch

    left, whole = ((one[mask.bool()]).var(correction=0) for one in (returns - values, returns))
    return torch.where(whole > 0, 1 - left / whole, torch.nan)
