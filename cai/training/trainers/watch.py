"""Warns of what a training's log shows, such as replies that become less probable, or longer."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean

from cai.records import Object

LENGTH, ALIKE = "completions/mean_length", "frac_reward_zero_std"  # of the model's own replies
PLEASED, RATED = "eval_reward_change", "eval_watch_change"  # of held-out replies, each with its standard error
WATCHED = (
    "entropy", "rewards/chosen", "rewards/margins", "logps/chosen", "eval_rewards/margins", "eval_logps/chosen",
    LENGTH, ALIKE,
)  # fmt: skip
# Entries of the log that are averaged: one batch of a few rows is noise. At TRL's 10 steps an entry, 50 steps.
WINDOW = 5
# The chosen replies cost a tenth more nats than under the reference, or than before the first step, whatever their
# length: at 1 nat a token, a perplexity of 3.0 where it was 2.7. Their fall as such is common (Pal et al. 2024, arXiv
# 2402.13228; Razin et al. 2024, arXiv 2410.08847), and its cause, the loss of differences, has a remedy: the NLL
# beside it.
FALL = 0.1
# Twice the tokens: rewards that like length are pleased by it alone (Singhal et al. 2023, arXiv 2310.03716).
GROWTH = 2.0
# In most groups no reply is better than another, so most of a step is spent on nothing.
MOSTLY = 0.8
# Standard errors by which a change of held-out numbers is taken for one.
SURE = 2.0
# Half the entropy: the effective number of next tokens, e^H, has shrunk to its square root.
ENTROPY = 0.5


class Watch:
    """Warns of what a training's log shows, entry by entry.

    beta: of the gain over a reference; None or 0: there is none, and held-out replies show a fall. A resumed training
    is compared with the start of its first session, which its checkpoint has.
    """

    def __init__(self, beta: float | None = None) -> None:
        self._beta = beta
        self._values: dict[str, list[float]] = defaultdict(list)
        self._kinds: set[str] = set()  # of warnings so far
        self.gamed: str | None = None  # how the reward and the judge who takes no part have moved apart

    def see(self, step: int, metrics: Object) -> list[str]:
        """Warnings that this entry gives rise to, each kind once in a training."""
        for name in WATCHED:
            value = metrics.get(name)
            if value is not None and math.isfinite(value):
                self._values[name].append(value)
        warnings = []
        likelihood = self._likelihood() if self._beta else self._held_out()
        texts = {
            "likelihood": likelihood,
            "entropy": self._entropy(),
            "length": self._length(),
            "alike": self._alike(),
            "goodhart": self._goodhart(metrics),
        }
        for kind, text in texts.items():
            if text is not None and kind not in self._kinds:
                self._kinds.add(kind)
                warnings.append(f"step {step}: {text}")
        return warnings

    def _means(self, name: str) -> tuple[float, float] | None:
        """Of the first and of the last WINDOW entries; None as long as these are the same."""
        values = self._values[name]
        if len(values) <= WINDOW:
            return None
        return fmean(values[:WINDOW]), fmean(values[-WINDOW:])

    def _likelihood(self) -> str | None:
        chosen, margins, logps = (self._means(name) for name in ("rewards/chosen", "rewards/margins", "logps/chosen"))
        if not (self._beta and chosen and margins and logps):
            return None
        fall = -chosen[1] / self._beta  # nats a reply: TRL's reward is β·(log π − log π_ref)
        before = -logps[1] - fall
        if fall <= FALL * before or margins[1] <= margins[0]:
            return None
        return (
            f"margins rise ({margins[0]:.3g} to {margins[1]:.3g}) while the chosen replies become less probable: "
            f"{fall:.1f} nats a reply under the reference, {fall / before:.0%}. The model unlearns both replies: give "
            "the NLL more weight, raise beta, or lower the learning rate"
        )

    def _held_out(self) -> str | None:
        """The same of evaluations, which are all of the same replies, as the steps are not."""
        margins, logps = self._values["eval_rewards/margins"], self._values["eval_logps/chosen"]
        if len(logps) < 2:
            return None
        fall = logps[0] - logps[-1]
        if fall <= FALL * -logps[0] or margins[-1] <= margins[0]:
            return None
        return (
            f"margins rise ({margins[0]:.3g} to {margins[-1]:.3g}) while the chosen replies become less probable: "
            f"{fall:.1f} nats a held-out reply since the first evaluation, {fall / -logps[0]:.0%}. The model unlearns "
            "both replies: give the NLL more weight, or lower the learning rate"
        )

    def _entropy(self) -> str | None:
        means = self._means("entropy")
        if not means or means[1] >= ENTROPY * means[0]:
            return None
        return (
            f"entropy fell from {means[0]:.3g} to {means[1]:.3g} nats a token: replies will repeat each other; "
            "stop earlier, or lower the learning rate"
        )

    def _length(self) -> str | None:
        means = self._means(LENGTH)
        if not means or means[1] < GROWTH * means[0]:
            return None
        return (
            f"replies grew from {means[0]:.0f} to {means[1]:.0f} tokens: the reward may like length and nothing else; "
            'add a penalty, as in --reward "1.0:judge,0.5:length", or raise beta'
        )

    def _alike(self) -> str | None:
        means = self._means(ALIKE)
        if not means or means[1] < MOSTLY:
            return None
        return (
            f"in {means[1]:.0%} of the groups all replies got the same reward, and nothing is learnt from them: raise "
            "generations or temperature, or take a reward that tells them apart"
        )

    def _goodhart(self, metrics: Object) -> str | None:
        """Of an evaluation: who takes no part likes the replies less, and the rewards, if known, like them more."""
        rated = metrics.get(RATED)
        if rated is None or rated >= -SURE * metrics["eval_watch_error"]:
            return None
        pleased = metrics.get(PLEASED)
        rise = "the reward is not known for single replies"
        if pleased is not None:
            if pleased <= SURE * metrics["eval_reward_error"]:
                return None
            rise = f"the reward rose by {pleased:.3g}"
        self.gamed = (
            f"{rise}, and the rating of held-out replies by --watch fell by {-rated:.3g} ± "
            f"{SURE * metrics['eval_watch_error']:.2g}: the model learns to please the reward alone (Goodhart's law). "
            "Stop earlier, raise beta, or have several judges give the reward"
        )
        return self.gamed
