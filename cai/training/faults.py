"""What a training says when a step cannot be made: out of memory, or a loss that is not a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cai.errors import LossNotFinite, RunError
from cai.texts.wording import listed
from cai.training.data.rows import named
from cai.training.data.tokens import Encoded
from cai.training.setup import opening
from cai.training.setup.checkpoint import is_out_of_memory
from cai.training.setup.folder import TrainFolder
from cai.training.setup.plan import Plan


def fewer_rows(error: Exception, plan: Plan, fewest: int, tell: Callable[[str], None]) -> int:
    """How many rows at once to continue with after running out of memory; any other error is raised again."""
    if not is_out_of_memory(error):
        raise error
    rows = plan.rows_at_once
    divisors = [count for count in range(fewest, rows) if rows % count == 0]
    if not divisors:
        raise RunError(
            f"out of memory with {rows} rows of up to {plan.max_length:,} tokens at once: lower max_length, set "
            "gradient_checkpointing, or take a smaller model"
        ) from error
    tell(
        f"out of memory with {rows} rows at once: continuing with {divisors[-1]}, and more passes a step, so that "
        "a step sees as many rows"
    )
    return divisors[-1]


def with_rows(error: LossNotFinite, trained: Sequence[Encoded], folder: TrainFolder) -> LossNotFinite:
    """The error with the names of its rows, and how to resume."""
    advice = "try a lower learning rate, or dtype float32"
    rows = ""
    if error.rows:
        rows = f" ({listed([named(trained[place].row.id) for place in error.rows])})"
        advice = f"look at these rows, {advice}"
    checkpoint = folder.last_checkpoint()
    if checkpoint is None:
        state = "there is no checkpoint yet"
    elif opening.finite(checkpoint):
        state = f"the checkpoint {checkpoint} is from before"
    else:
        state = f"the checkpoint {checkpoint} holds such weights, too: delete {folder.path} to start again"
    return LossNotFinite(f"{error}{rows}; {state}: {advice}", error.rows)
