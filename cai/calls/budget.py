"""What a run may cost, held before each call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cai.errors import BudgetReached


@dataclass
class Budget:
    """A cap on what a run may cost: each call's worst case is reserved before it is sent, and settled after."""

    cap: float | None  # USD; None: no cap
    spent: float = 0.0

    def __post_init__(self) -> None:
        self._reserved, self._open = 0.0, 0  # USD of the calls in flight, and how many there are
        self._settled = asyncio.Event()

    async def reserve(self, worst: float) -> None:
        """Set `worst` USD aside; waits while calls in flight may still give some back, then raises BudgetReached."""
        while self.cap is not None and self.spent + self._reserved + worst > self.cap:
            if not self._open:
                raise BudgetReached(
                    f"--max-cost {self.cap:g} USD: {self.spent:.4f} spent, and the next call could cost {worst:.4f}; "
                    "what was finished is kept, run the same command with a higher cap to go on"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved, self._open = self._reserved + worst, self._open + 1

    def settle(self, worst: float, actual: float) -> None:
        """Turn a reservation into what the call cost; 0 where it failed."""
        self._open -= 1
        self._reserved = self._reserved - worst if self._open else 0.0  # no rounding rest stays behind
        self.spent += actual
        self._settled.set()
