"""What every suite of an evaluation is: why it cannot run, the runs that it takes, and the result of their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Result
from cai.records import Candidates, Place
from cai.runs.run import Run
from cai.sources.files import Source


class Suite(ABC):
    """One suite of an evaluation.

    name: in --suite and in folders. title: for people. counted: whether a plan counts all that it asks.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    counted: bool = False

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def skipped(self) -> str | None:
        """Why it cannot run, for people to read; None: it can."""
        return None

    def sources(self) -> Iterator[Source]:
        """The prompts that it asks about besides those of the evaluation."""
        return iter(())

    @abstractmethod
    def sessions(self) -> Iterator[Run[Any]]:
        """The runs that it takes, each to be played to its end before the next is asked for.

        Their folders are inside that of the evaluation. A session may read rows of those before it.
        """

    def planned(self) -> Iterator[Run[Any]]:
        """Of the runs that it takes, those whose items a plan can count before anything is asked."""
        return iter(())

    def follow_ups(self, row: Candidates) -> Iterator[tuple[Run[Any], Place]]:
        """What it asks about the contestants' replies to a prompt, for a plan: items, each with its run."""
        return iter(())

    @abstractmethod
    def result(self) -> Result:
        """The figures, from the rows that there are."""
