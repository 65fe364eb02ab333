"""The losses of preference training, and the numbers that go into them: soft labels, flip rates, weights of the mix.

D is the log-ratio difference of chosen and rejected between the policy and its reference, β·D the gap of their implicit
rewards (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7), p the probability that the chosen reply is the better one.
Losses that need no p are TRL's own, by name. Knows tensors and numbers; nothing of trainers, files or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cai.errors import InputError, UsageError
from cai.texts.wording import nearest

# What the losses of TRL 1.16 do. `difference`: they see D alone, so both replies may become less probable together
# (Razin et al. 2024, arXiv 2410.08847), and the mix with the chosen reply's NLL is on. The others hold the chosen reply
# itself in place, or lower it on purpose (apo_down).
DIFFERENCE = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "discopop", "aot")
ANCHORED = ("aot_unpaired", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft")
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # the only ones that read label_smoothing

# Weight of the chosen reply's NLL, a mean over tokens, beside a loss of differences. Llama 3 (arXiv 2407.21783,
# section 4.1.4) takes 0.2 at β = 0.1 for chat; Pang et al. (2404.19733), who train reasoning, take 1.
NLL_WEIGHT = 0.2


def cross_entropy(gap: Any, p: Any) -> Any:
    """−p·log σ(gap) − (1−p)·log σ(−gap), per row; its optimum is σ(gap) = p.

    With gap = β·D it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO")
    with ε = 1 − p per row; with a difference of rewards, Bradley–Terry with soft labels (Bai et al. 2022, section 4.1).
    """
    from torch.nn.functional import logsigmoid

    return -p * logsigmoid(gap) - (1 - p) * logsigmoid(-gap)


def gap_scaled(gap: Any, p: Any) -> Any:
    """−log σ((2p−1)·gap), per row: geometric-averaged DPO (Furuta et al. 2024, arXiv 2409.06691, its GDPO).

    A label of 0.5 teaches nothing at any gap, while `cross_entropy` pulls such a gap to 0; they agree at gap 0 alone.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid((2 * p - 1) * gap)


SOFT = {"cdpo": cross_entropy, "gap_scaled": gap_scaled}
LOSSES = (*SOFT, *DIFFERENCE, *ANCHORED)


def with_nll(loss: str, weight: float | None = None) -> tuple[list[str], list[float]]:
    """TRL's `loss_type` and `loss_weights` of `loss` and the NLL of the chosen reply, TRL's "sft".

    weight: None is NLL_WEIGHT for a loss that sees differences alone and 0 for the others; 0 leaves the NLL out.
    UsageError for an unknown loss or a negative weight.
    """
    known(loss)
    if weight is None:
        weight = 0.0 if loss in ANCHORED else NLL_WEIGHT
    if not (weight >= 0 and math.isfinite(weight)):
        raise UsageError(f"the weight of the NLL is {weight}: it is a number from 0 (without NLL)")
    return ([loss, "sft"], [1.0, weight]) if weight else ([loss], [1.0])


def known(loss: str) -> None:
    """UsageError, with a suggestion, for a name that is neither ours nor TRL's."""
    if loss not in LOSSES:
        raise UsageError(f"no loss is called {loss!r}; {nearest(loss, LOSSES)}")


def check_smoothing(losses: Sequence[str], smoothing: float) -> None:
    """UsageError where TRL would ignore `label_smoothing` without a word, or where it is no probability of a flip."""
    if smoothing and not set(losses) & set(SMOOTHED):
        raise UsageError(
            f"label_smoothing {smoothing} has no effect on {' + '.join(losses)}: "
            f"use cdpo (p_chosen of each row) or one of {', '.join(SMOOTHED)}"
        )
    if "robust" in losses and not 0 <= smoothing < 0.5:
        raise UsageError(
            f"robust needs a label_smoothing from 0 to below 0.5, the share of flipped labels: {smoothing}"
        )


def probabilities(rows: Iterable[Mapping[str, Any]], *, hard: bool = False) -> list[float]:
    """`p_chosen` of every row.

    hard: the user chose hard labels; then a row that says `judged: false` counts as 1.0. InputError for a row without
    a probability otherwise, and for one that is no number from 0 to 1.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        p = row.get("p_chosen")
        if p is None and hard and row.get("judged") is False:
            p = 1.0
        name = f"row {number}" + (f" ({row['id']})" if row.get("id") else "")
        if p is None:
            why = "nobody judged it" if row.get("judged") is False else "p_chosen is missing"
            raise InputError(f"{name} has no label probability: {why}; label the rows, or choose hard labels (sigmoid)")
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:  # NaN compares false
            raise InputError(f"{name}: p_chosen is {p!r}, and a probability is a number from 0 to 1")
        found.append(float(p))
    return found


def flip_rate(labels: Sequence[float]) -> float:
    """Expected share of wrong labels among pairs with these `p_chosen`, for `robust`: the mean of 1 − p.

    As good as the calibration of p (Chowdhury et al. 2024, arXiv 2403.00409, take ε as known). UsageError from one half
    on, where `robust` is not defined.
    """
    if not labels:
        raise UsageError("no labels: the share of flipped ones is not defined")
    rate = math.fsum(1 - p for p in labels) / len(labels)
    if rate >= 0.5:
        raise UsageError(f"{rate:.3f} of the labels are expected to be wrong: robust needs less than 0.5")
    return rate


def kto_weights(desirable: int, undesirable: int) -> tuple[float, float]:
    """Weights of desirable and undesirable rows so that both kinds weigh the same in sum; the rarer kind's is above 1.

    Ethayarajh et al. 2024 (arXiv 2402.01306, Eq. 8): λ_D·n_D / λ_U·n_U within 1 and 4/3; this is 1, to the two digits
    to which TRL checks it. UsageError where a kind has no rows: KTO needs both.
    """
    if not desirable or not undesirable:
        raise UsageError(f"kto needs rows of both labels: {desirable} are true, {undesirable} false")
    if desirable < undesirable:
        return round(undesirable / desirable, 2), 1.0
    return 1.0, round(desirable / undesirable, 2)
