"""The part of a cap that one process has: its calls are reserved from that, and more is asked for when it is needed."""

from __future__ import annotations

from collections.abc import Callable

from cai.calls.live import Live
from cai.calls.prices import Budget
from cai.errors import BudgetReached
from cai.records import Object, Values


class LeasedBudget(Budget):
    """The part of a cap that one process has, which asks the lender for more when it needs it.

    Lives on one event loop. say: sends a message to the lender, whose answers `hear` takes.
    """

    def __init__(self, cap: float, say: Callable[[Values], object], live: Live) -> None:
        super().__init__(cap, live=live)
        self._send = say
        self._lease = 0.0  # USD that may still be spent, those of the calls in flight included
        self._unsaid = 0.0  # USD that the lender does not know to be spent
        self._is_asking = self._is_called_back = False
        self._refusal: str | None = None

    async def reserve(self, worst: float) -> None:
        """Set `worst` USD aside; waits until the lender has them, or raises BudgetReached."""
        while self._lease - self._reserved < worst:
            if self._refusal is not None:
                raise BudgetReached(self._refusal)
            if not self._is_asking:
                self._is_asking = True
                self._say(self._idle(), asks=worst)
            self._settled.clear()
            with self.live.waiting():
                await self._settled.wait()
        self._reserved += worst
        self._open += 1

    def settle(self, worst: float, actual: float) -> None:
        """Turn a reservation into what the call cost; 0 if it failed."""
        super().settle(worst, actual)
        self._lease -= actual
        self._unsaid += actual
        if self._is_called_back:
            self._say(self._idle())

    def hear(self, message: Object) -> None:
        """Take what the lender says."""
        if "called_back" in message:
            self._is_called_back = True
            self._say(self._idle())
            return
        self._is_asking = self._is_called_back = False
        self._lease += message.get("lent", 0.0)
        self._refusal = message.get("refused")
        self._settled.set()

    def report(self) -> None:
        """Say what was spent since it was last said."""
        if self._unsaid:
            self._say(0.0)

    def close(self) -> None:
        """Give back what is left."""
        self._say(self._idle())

    def _idle(self) -> float:
        return max(0.0, self._lease - self._reserved)

    def _say(self, returned: float, asks: float | None = None) -> None:
        message = {"spent": self._unsaid, "returned": returned, "asks": asks}
        self._lease -= returned
        self._unsaid = 0.0
        self._send(message)
