"""Rewards that no model is asked for: penalties for length and for faults of form, and functions of the user's own."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.records import Message
from cai.texts.hygiene import faults_of, said_in
from cai.texts.wording import one_line

LONG = 1_000  # characters, about 250 tokens of English, from which on `length` is a penalty
FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")  # module:function

Function = Callable[[Sequence[Sequence[Message]], Sequence[str]], Any]


class FunctionReward:
    """A function of prompts and replies that returns a number for each reply, or None; it may be async."""

    def __init__(self, name: str, function: Function) -> None:
        self.name = name
        self._function = function

    async def __call__(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float | None]:
        """What the function returns; UsageError if it fails, or returns something else."""
        try:
            numbers = self._function(prompts, replies)
            if isinstance(numbers, Awaitable):
                numbers = await numbers
            numbers = list(numbers)
        except Exception as error:
            raise UsageError(f"the reward {self.name} failed: {type(error).__name__}: {one_line(error)}") from error
        if len(numbers) != len(replies):
            raise UsageError(f"the reward {self.name} returned {len(numbers)} numbers for {len(replies)} replies")
        return list(map(self._checked, numbers))

    def _checked(self, number: Any) -> float | None:
        if number is None:
            return None
        try:
            value = float(number)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"the reward {self.name} returned {_shown(number)}, which is not a number") from None
        if not math.isfinite(value):
            raise UsageError(f"the reward {self.name} returned {value}: return None if a reward is unknown")
        return value

    async def close(self) -> None:
        """Nothing was taken."""


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:  # an int with more digits than Python writes
        return f"a {type(value).__name__}"


def length_penalty(most: int = LONG) -> Function:
    """`max(-1, min(0, 1 - n / most))` for a reply of n characters: 0 up to `most`, -1 from twice that on."""

    def penalties(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        return [max(-1.0, min(0.0, 1 - len(reply) / most)) for reply in replies]

    return penalties


def format_penalty(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
    """-1 for a reply that is empty or has a fault for which exports leave a text out (docs/auditing.md), else 0."""
    return [0.0 - _is_malformed(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]


def _is_malformed(prompt: Sequence[Message], reply: str) -> bool:
    return not reply.strip() or any(True for _ in faults_of(reply, said_in(prompt)))


def function_of(name: str) -> Function:
    """The function that `module:function` names, of a module that is installed or lies in the current folder."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function: Any = getattr(import_module(module), attribute, None)
    except Exception as error:
        raise UsageError(f"--reward {name}: {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise UsageError(f"--reward {name}: the module {module} has no function {attribute}")
    if inspect.isclass(function):
        raise UsageError(f"--reward {name}: it is a class; name a function of (prompts, replies)")
    found: Function = function
    return found
