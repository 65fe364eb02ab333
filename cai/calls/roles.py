"""What each role has lost before its first answer: a model that answers one role may refuse another."""

from __future__ import annotations

from cai.calls.limits import FAILING
from cai.calls.model import Model, spec_of
from cai.errors import CallRejected, ModelError, ModelFault, ModelStopped, ServerDown
from cai.records import Role


class Roles:
    """Which roles have been given a text in a session, and the rows that the others have lost.

    A text that is blocked or empty loses its row, too: what the other models wrote is paid for nothing.
    """

    def __init__(self) -> None:
        self._answered: set[Role] = set()
        self._lost: dict[Role, tuple[Model, list[tuple[int, ModelError]]]] = {}

    def answered(self, role: Role) -> None:
        """Note that a model gave a text in a role, or understood what it was asked."""
        self._answered.add(role)

    def is_answered(self, role: Role) -> bool:
        """Whether a model has given a text in a role."""
        return role in self._answered

    def lose(self, role: Role, model: Model, row: int, error: ModelError) -> ModelStopped | None:
        """Count a lost row; the error that ends the run if a role has lost all of its first rows."""
        if role in self._answered:
            return None
        _, lost = self._lost.setdefault(role, (model, []))
        lost.append((row, error))
        return self._silence(role) if len({row for row, _ in lost}) >= FAILING else None

    def check(self) -> None:
        """Raise ModelStopped if a model answered a role nothing, not even that it will not.

        A single call may be refused by its own fault.
        """
        for role, (_, lost) in self._lost.items():
            rejected = [error for _, error in lost if isinstance(error, CallRejected)]
            faults = any(isinstance(error, ModelFault) for _, error in lost)
            understood = any(error.reason != "model_error" for error in rejected)
            refusals = sum(not error.billed for error in rejected)
            if role not in self._answered and not understood and (faults or refusals > 1):
                raise self._silence(role)

    def _silence(self, role: Role) -> ModelStopped:
        model, lost = self._lost[role]
        last, count = lost[-1][1], len({row for row, _ in lost})
        rows = f"none of {count} rows" if count > 1 else "nothing"
        problem = f"{spec_of(model)} answered {rows} as {role}, the last with: {last}"
        if isinstance(last, ModelFault):
            return ServerDown(f"{problem}; run the same command again later")
        return ModelStopped(f"{problem}; fix that and run the same command again")
