"""What the trainers of every method add to TRL's: a loss that is no number stops them, and no form is left as a card.

The hooks are private ones of TRL 1.16: its range is pinned. Knows trainers; nothing of rows, columns or losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cai.errors import LossNotFinite, MissingExtra


@cache
def trl_class(name: str, ours: type) -> Any:
    """`ours` before TRL's class of that name, so that each hook of ours can call TRL's."""
    try:
        import trl
    except ImportError as error:
        raise MissingExtra("training", "train") from error
    return type(name, (ours, getattr(trl, name)), {})


class Guarded:
    """Stops before the step when the loss is no number."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """The step's gradient; LossNotFinite, with the rows, before the optimiser can spread a NaN to all weights."""
        trl: Any = super()
        me: Any = self
        loss = trl.training_step(model, inputs, *rest, **named)
        if not loss.isfinite():
            step = me.state.global_step + 1
            raise LossNotFinite(f"the loss is {loss.item()} at step {step}", self.rows_within(inputs))
        return loss

    def rows_within(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        """The numbers of a batch's rows, as far as they are known."""
        return ()

    def create_model_card(self, *given: Any, **named: Any) -> None:
        """TRL's card is a form to fill in; ours is another."""
