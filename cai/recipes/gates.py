"""Gates: bounds on what a stage has to come to before the next one begins."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from cai.errors import CaiError, UsageError
from cai.records import DROP_REASONS, Object
from cai.texts.wording import nearest

GATE = re.compile(r"(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?)")
COUNTS = ("dropped", "left_out")  # mappings of counts by reason
HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def check_gates(name: str, gates: Mapping[str, str], summary: Object) -> None:
    """Raise CaiError for the first gate that does not hold.

    gates: bounds such as `>=100` by the names of figures, in which a dot leads into a mapping: `dropped.truncated`.
    summary: what the commands of the stage said with --json.
    """
    for key, text in gates.items():
        match = GATE.fullmatch(text)
        assert match is not None
        sign, bound = match.groups()
        value = figure(summary, key)
        if not HOLDS[sign](value, float(bound)):
            raise CaiError(f"stage {name}: {key} is {value:g}, and {text} is expected: the recipe ends here")


def unknown_reason(key: str) -> str | None:
    """What is wrong with a gate on a count of dropped rows whose reason does not exist; None: nothing."""
    *outer, last = key.split(".")
    if not outer or outer[0] not in COUNTS or last in DROP_REASONS:
        return None
    return f"no row is ever dropped as {last!r}; {nearest(last, DROP_REASONS)}"


def figure(summary: Object, key: str) -> float:
    """The figure of that name; 0 for a reason for which no row was dropped."""
    value: Any = summary
    *outer, last = key.split(".")
    for part in outer:
        value = _within(value, part, key)
    if outer and outer[0] in COUNTS and isinstance(value, Mapping) and last not in value:
        return 0
    found = _within(value, last, key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UsageError(
            f"expect {key!r} is not a number but {found!r}: name a figure that the command prints with --json"
        )
    return found


def _within(value: Any, part: str, key: str) -> Any:
    if not isinstance(value, Mapping) or part not in value:
        known = nearest(part, value) if isinstance(value, Mapping) else "it is no mapping"
        raise UsageError(f"expect {key!r}: there is no {part!r} in what the command says with --json; {known}")
    return value[part]
