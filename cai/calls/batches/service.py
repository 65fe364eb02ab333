"""The seam between the gathering of calls and a provider's batches."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from cai.folder.journal.batches import Batch
from cai.records import Completion, Values


class Item(NamedTuple):
    """What a batch has of one call: the answer as it would have come by itself."""

    status: int  # of HTTP
    body: bytes


class Instead(Enum):
    """What becomes of a call in place of an answer."""

    LATER = auto()  # it goes into the next wave, as if it had not been sent
    MISSING = auto()  # the batch has no answer to it
    ONLINE = auto()  # it is asked by itself


Outcome = Item | Instead


class Frame(NamedTuple):
    """What stands around the lines of a file."""

    begin: bytes
    between: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a batch is at the provider.

    problem: why all of it was refused; crowded: because too much is waiting there already. files: those with results.
    """

    is_over: bool
    done: int = 0
    problem: str = ""
    crowded: bool = False
    files: tuple[str, ...] = ()


class BatchService(Protocol):
    """The batches of one provider. Every method asks once, and raises one of `errors.ModelError`."""

    most_calls: int  # of a file
    most_bytes: int
    frame: Frame

    def endpoint(self, payload: Values) -> str | None:
        """What a call would be sent to, as a batch names it; None: no batch takes it."""

    def line(self, nonce: str, place: int, endpoint: str, payload: Values) -> bytes:
        """A call as a line of a file."""

    def place(self, nonce: str, name: str) -> int | None:
        """The place of a call by the name that its line has; None for a name that no line has."""

    async def upload(self, path: Path, batch: Batch, *, again: bool) -> str:
        """Upload a file, or find the one that an earlier session uploaded; its id, "" if none is needed."""

    async def create(self, path: Path, batch: Batch) -> str:
        """Create a batch; its name."""

    async def find(self, batch: Batch) -> str | None:
        """The name of a batch that may have been created before a kill; None if there is none."""

    async def look(self, name: str) -> Standing:
        """How far a batch is; one that is not there any more is over, without results."""

    def items(self, name: str, standing: Standing) -> AsyncGenerator[tuple[str, Item | None]]:
        """The results by the names of their lines, in any order; None: the call was not answered."""

    async def cancel(self, name: str) -> bool:
        """Have a batch end early; what is answered until then stays. False: it was over already."""

    async def delete(self, batch: Batch, standing: Standing) -> None:
        """Delete the files of a batch whose results are kept."""

    def read(self, payload: Values, item: Item) -> Completion:
        """The answer to a call, or the error that it is."""

    async def close(self) -> None:
        """Close the connections."""
