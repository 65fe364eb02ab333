"""Calls under a cap: what one may cost at most is reserved before it is sent, and what it did cost counted after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cai.calls.live import Parked
from cai.calls.model import Call
from cai.calls.prices import Budget, Price, Tally
from cai.errors import CallRejected, ModelError, ModelStopped
from cai.folder.journal.store import Store
from cai.records import Completion


class Payments:
    """The calls of one driver; budget: None for no cap. store: None keeps nothing."""

    def __init__(self, budget: Budget | None, store: Store | None, tally: Tally) -> None:
        self._budget, self._store, self._tally = budget, store, tally

    async def pay(
        self,
        call: Call,
        price: Price | None,
        size: int,
        send: Callable[[], Awaitable[Completion | None]],
        *,
        owed: bool | None = None,
    ) -> tuple[Completion | None, float | None]:
        """Send a call; returns what it cost, too: None if the price is not known.

        `size` is the payload's bytes, which bound its input tokens from above. An answer of None costs nothing. Raises
        BudgetReached if it could cost more than is left. What it may cost stays set aside while it is parked. owed: it
        was sent by an earlier session, and is paid whatever is left; False: it was sent, and that is set aside.
        """
        worst = actual = 0.0
        if price is not None and any(price):
            worst = price.most(size, call.max_tokens)
        if self._budget is not None and owed is None:
            await self._budget.reserve(worst)
        elif self._budget is not None and owed:
            self._budget.owe(worst)
        is_over = True
        try:
            done = await send()
            if done is None:
                return None, None
            if price is not None and worst:
                actual = price.of(done, worst)
        except Parked:
            is_over = False
            raise
        except ModelError as error:
            refusal = error.__cause__ if isinstance(error, ModelStopped) else error  # which may have ended the run
            if isinstance(refusal, CallRejected) and refusal.billed and worst:
                actual = worst
                if self._store is not None:
                    self._store.charge(actual)
            raise
        finally:
            if self._budget is not None and is_over:
                self._budget.settle(worst, actual)
            self._tally.cost += actual
        self._tally.answered += 1
        self._tally.input_tokens += done.input_tokens or 0
        self._tally.output_tokens += done.output_tokens or 0
        return done, None if price is None else actual
