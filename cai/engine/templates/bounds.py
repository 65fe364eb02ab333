"""The sandbox in which templates are rendered, with limits of size and steps: none takes seconds, or gigabytes.

Every step of a loop, call, filter and operator, and every character that is passed on, is counted before it is done.
What grows by more than it is given (`'x' * 10**9`, `10**10**8`, `center(10**9)`, `replace`) is counted by what would
come out. There is no clock: the same template has the same limits on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST = 50_000_000  # units of one rendering: a character is one; a second or two of nothing but steps
STEP = 100  # units of a step of a loop or an operator
CALL = 1_000  # units of a call
ITEM = 20  # units of an item of a list, which takes as much longer to look at than a character
MOST_BITS = 10_000  # of a whole number
WIDTH = re.compile(r"\d{5,}")  # in a format
PRODUCTS = {"replace", "indent", "join", "expandtabs"}  # filters and methods whose result may be as long as a product
FORMATS = {"format", "format_map"}


class Bounded(ImmutableSandboxedEnvironment):
    """A sandbox whose renderings end; call `begin` before each."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))
    left = MOST

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=self._passed, **options)
        del self.globals["lipsum"]  # which draws its text word by word
        for name, function in self.filters.items():
            self.filters[name] = self._counted(name, function)
        self.filters["counted steps"] = self._steps
        self.filters["counted"] = self._passed
        self.concat = self._joined  # type: ignore[method-assign]

    def begin(self) -> None:
        """Let the next rendering have all there is."""
        self.left = MOST

    def spend(self, units: float) -> None:
        """Count units; SecurityError if there are no more."""
        self.left -= min(units, MOST + 1)  # type: ignore[assignment]
        if self.left < 0:
            raise SecurityError("takes too long, or makes too much text: it is stopped; write a simpler template")

    def size(self, value: Any, *, numbers: bool = False) -> int:
        """Characters and items of a value and of what it holds; numbers: a whole number counts as many."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, range):
            return ITEM * len(value)
        if isinstance(value, Mapping):
            value = [*value, *value.values()]
        if isinstance(value, list | tuple | set | frozenset):
            total = 0
            for each in value:
                units = ITEM + self.size(each)
                self.spend(units)
                total += units
            return total
        if numbers and isinstance(value, int):
            return abs(value)
        return 1

    def _passed(self, value: Any) -> Any:
        self.spend(self.size(value))
        return value

    def _steps(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(STEP)
            yield value

    def _joined(self, parts: Iterable[str]) -> str:
        texts = []
        for part in parts:
            self.left -= len(part)  # as `spend` does: it is the most frequent of all steps
            if self.left < 0:
                self.spend(0)
            texts.append(part)
        return "".join(texts)

    def _spend_call(self, name: str, values: Iterable[Any]) -> None:
        """Count a call by its arguments, of which those of some names multiply."""
        values = list(values)
        sizes = [max(1, self.size(value, numbers=True)) for value in values]
        self.spend(CALL + sum(sizes))
        if name in PRODUCTS:
            self.spend(math.prod(sizes))
        if name in FORMATS and any(isinstance(value, str) and WIDTH.search(value) for value in values):
            self.spend(MOST + 1)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(*values: Any, **more: Any) -> Any:
            self._spend_call(name, (*values, *more.values()))
            return self._passed(function(*values, **more))

        return counted

    def call(__self, __context: Any, __obj: Any, *values: Any, **more: Any) -> Any:
        """Call what a template calls, counted."""
        of = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # a format method is wrapped
        name = getattr(__obj, "__name__", "")
        texts = [of] if isinstance(of, str) else []
        __self._spend_call(name, (*texts, *values, *more.values()))
        return __self._passed(super().call(__context, __obj, *values, **more))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, if the result is not too large."""
        self.spend(STEP)
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and whole:
            self._check_bits(left.bit_length() * max(0, right))
        elif operator == "*" and whole:
            self._check_bits(left.bit_length() + right.bit_length())
        elif operator == "*":
            self.spend(math.prod(self.size(each, numbers=True) for each in (left, right)))
        elif operator == "+":
            self.spend(self.size(left) + self.size(right))
        elif operator == "%" and isinstance(left, str):
            self._spend_call("format", [left, *(right if isinstance(right, tuple) else [right])])
        return super().call_binop(context, operator, left, right)

    def _check_bits(self, bits: int) -> None:
        if bits > MOST_BITS:
            raise SecurityError(f"computes a number of more than {MOST_BITS:,} bits")

    def _generate(self, source: nodes.Template, *names: Any, **options: Any) -> str:
        for loop in source.find_all(nodes.For):
            loop.iter = _through("counted steps", loop.iter)
        for assignment in source.find_all(nodes.Assign):
            assignment.node = _through("counted", assignment.node)
        for joined in source.find_all(nodes.Concat):
            joined.nodes = [_through("counted", each) for each in joined.nodes]
        return super()._generate(source, *names, **options)


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)
