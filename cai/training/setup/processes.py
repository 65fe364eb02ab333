"""The processes of a training, and how they stop together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """Those that train together, as `accelerate launch` started them; one alone is the usual case."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that tells and writes."""
        return self.index == 0

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The others enter when the first one has left."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def agree(self, value: T) -> T:
        """The first one's value, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return cast(T, broadcast_object_list([value])[0])

    def any(self, wish: bool) -> bool:
        """Whether one of them wishes it."""
        if self.count == 1:
            return wish
        import torch
        from accelerate import PartialState

        wishes = torch.tensor([int(wish)], device=PartialState().device)
        torch.distributed.all_reduce(wishes)
        return bool(wishes.item())


def join_processes() -> Processes:
    """Join the processes that this one was launched with; alone where it was not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes)


class Stopper:
    """Ctrl-C as a wish: `asked` is set, and the training stops after its step; a second one interrupts at once.

    Of several processes a second one changes nothing: their launcher passes on the one that the terminal sent to all.
    """

    def __init__(self, tell: Callable[[str], None], processes: Processes) -> None:
        self.asked = False
        self._tell, self._processes = tell, processes

    def agreed(self) -> bool:
        """Whether the training is to stop: all processes stop after the same step."""
        self.asked = self._processes.any(self.asked)
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C; in another thread than the main one, where Python gives no signals, leave it as it is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def ask(number: int, frame: Any) -> None:
            first, self.asked = not self.asked, True
            more = ""
            if self._processes.count == 1:
                signal.signal(signal.SIGINT, before)
                more = "; Ctrl-C again stops at once and loses the steps since the last checkpoint"
            if first:
                self._tell(f"stopping after this step{more}")

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
