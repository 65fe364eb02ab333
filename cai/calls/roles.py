"""What each role has lost before its first answer: a model that answers one role may refuse another."""

from __future__ import annotations

from cai.calls.limits import FAILING
from cai.calls.model import Model, spec_of
from cai.errors import CallRejected, ModelError, ModelFault, ModelStopped, ServerDown
from cai.records import Role

OF_PROMPTS = ("content_filter", "too_long")  # reasons for which another prompt may be answered


class Roles:
    """Which models have given a text in their roles in a session, and the rows that the others have lost.

    A text that is blocked or empty loses its row, too: what the other models wrote is paid for nothing. Before any has
    written, prompts that are blocked or too long cost nothing but themselves: a file may begin with many.
    """

    def __init__(self) -> None:
        self._answered: set[tuple[Role, str]] = set()
        self._lost: dict[tuple[Role, str], list[tuple[int, ModelError]]] = {}  # of FAILING rows at most
        self._understood: set[tuple[Role, str]] = set()  # who has said why not, such as: blocked

    def answered(self, role: Role, model: Model) -> None:
        """Note that a model gave a text in a role, or understood what it was asked."""
        self._answered.add((role, spec_of(model)))

    def is_answered(self, role: Role, model: Model) -> bool:
        """Whether a model has given a text in a role."""
        return (role, spec_of(model)) in self._answered

    def lose(self, role: Role, model: Model, row: int, error: ModelError) -> ModelStopped | None:
        """Count a lost row; the error that ends the run if a model has lost all of its first rows in a role."""
        if self.is_answered(role, model):
            return None
        if isinstance(error, CallRejected) and error.reason != "model_error":
            self._understood.add((role, spec_of(model)))
            if error.reason in OF_PROMPTS and not self._answered:
                return None
        lost = self._lost.setdefault((role, spec_of(model)), [])
        lost.append((row, error))
        return self._silence(role, spec_of(model)) if len({row for row, _ in lost}) >= FAILING else None

    def check(self) -> None:
        """Raise ModelStopped if a model answered a role nothing, not even that it will not.

        A single call may be refused by its own fault.
        """
        for (role, model), lost in self._lost.items():
            faults = any(isinstance(error, ModelFault) for _, error in lost)
            refusals = sum(isinstance(error, CallRejected) and not error.billed for _, error in lost)
            if (role, model) not in self._answered | self._understood and (faults or refusals > 1):
                raise self._silence(role, model)

    def _silence(self, role: Role, model: str) -> ModelStopped:
        lost = self._lost[role, model]
        last, count = lost[-1][1], len({row for row, _ in lost})
        rows = f"none of {count} rows" if count > 1 else "nothing"
        problem = f"{model} answered {rows} as {role}, the last with: {last}"
        if isinstance(last, ModelFault):
            return ServerDown(f"{problem}; run the same command again later")
        return ModelStopped(f"{problem}; fix that and run the same command again")
