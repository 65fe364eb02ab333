"""How a reward model that is told principles is asked about one reply: for its number under each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cai.constitution.principles import Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.ask_keeps import Keeps, Kept
from cai.judge.flows import reward_in
from cai.records import Message, Reading


@dataclass(frozen=True, slots=True)
class AskConditioned:
    """In the place of `AskKeeps`; the odds are the model's numbers, on a scale of its own."""

    ask: AskJudge

    def check(self, principles: Sequence[Principle]) -> None:
        """No template words what it is told."""

    def flow(self, prompt: Sequence[Message], reply: str, principles: Sequence[Principle]) -> Keeps:
        """Ask about a reply under every principle, side by side; RowDropped for a number that is not finite."""
        answers = yield [self.ask.reward(self.ask.told(prompt, principle), reply) for principle in principles]
        return tuple(
            Kept(principle.id, principle.weight, Reading(), reward_in(answer))
            for principle, answer in zip(principles, answers, strict=True)
        )
