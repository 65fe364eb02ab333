"""Lends parts of a cap to several processes, and knows what they have spent.

What is said between them are small JSON objects, whatever carries them, as long as it keeps their order. Amounts are
what has changed, so that an answer which crosses another message on its way is counted once.
"""

from __future__ import annotations

from cai.calls.prices import cap_in_words
from cai.records import Object, Values

SHARE = 0.01  # of the cap that is lent at once: a message for each call would cost more than to count it
DUST = 1e-9  # of the cap: what rounding leaves of a sum of many amounts


class Lender:
    """Lends parts of a cap, and knows what was spent.

    Whatever is lent and not spent counts as spent until it is given back. If what is left is too little for a call, all
    is called back; the cap is reached once nothing is lent any more and it is still too little.
    """

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self.spent: dict[int, float] = {}  # USD by borrower, and what was spent by others before
        self.lent: dict[int, float] = {}  # USD that are not spent
        self._asking: dict[int, float] = {}  # the least that each one who waits has a use for, the first one first
        self._called_back: set[int] = set()
        self._refusal: str | None = None

    @property
    def free(self) -> float:
        """USD that can be lent."""
        return self.cap - sum(self.spent.values()) - sum(max(0.0, amount) for amount in self.lent.values())

    def begin(self, borrower: int, spent: float) -> list[tuple[int, Values]]:
        """Count what a borrower has spent so far, and nothing as lent to it: it begins, or has died."""
        self.spent[borrower], self.lent[borrower] = spent, 0.0
        self._asking.pop(borrower, None)
        self._called_back.discard(borrower)
        return self._serve()

    def hear(self, borrower: int, message: Object) -> list[tuple[int, Values]]:
        """Take what a borrower says; what is answered, and to whom."""
        self.spent[borrower] += message["spent"]
        self.lent[borrower] -= message["spent"] + message["returned"]
        if message["asks"] is not None:
            self._asking[borrower] = message["asks"]
        return self._serve()

    def _serve(self) -> list[tuple[int, Values]]:
        """Lend to those who wait what there is, and call back what there is not."""
        answers: list[tuple[int, Values]] = []
        for borrower, least in list(self._asking.items()):
            if self._refusal is None and least <= self.free:
                del self._asking[borrower]
                amount = max(least, self._share())
                self.lent[borrower] += amount
                self._called_back.discard(borrower)
                answers.append((borrower, {"lent": amount}))
        if self._asking:
            owing = [borrower for borrower, amount in self.lent.items() if amount > DUST * self.cap]
            if owing and self._refusal is None:
                answers += [(each, {"called_back": True}) for each in owing if each not in self._called_back]
                self._called_back.update(owing)
            else:
                answers += self._refuse()
        return answers

    def _share(self) -> float:
        """What is lent to one who has a use for less; nothing if others wait."""
        if self._asking:
            return 0.0
        return min(SHARE * self.cap, self.free / (2 * len(self.lent)))

    def _refuse(self) -> list[tuple[int, Values]]:
        """Lend nothing more to anybody."""
        if self._refusal is None:
            least = min(self._asking.values())
            self._refusal = cap_in_words(self.cap, sum(self.spent.values()), least)
        answers: list[tuple[int, Values]] = [(borrower, {"refused": self._refusal}) for borrower in self._asking]
        self._asking.clear()
        return answers
