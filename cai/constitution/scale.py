"""Scales from 1 to 5 in a constitution: what a rating asks about one reply."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cai.constitution.principles import Constitution
from cai.errors import ConstitutionError


@dataclass(frozen=True, slots=True)
class Scale:
    """What one column of ratings asks. criterion: the principle in a sentence; None: the levels say it all."""

    name: str  # id of a principle, or name of a constitution
    levels: tuple[str, ...]  # from 1, the worst
    criterion: str | None = None

    @property
    def hash(self) -> str:
        """16 hex digits over all that reaches a model."""
        text = "\0".join([*self.levels, self.criterion or ""])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def scales_in(law: Constitution) -> list[Scale]:
    """The scales of a constitution: of those that it extends, its own, then those of its principles."""
    scales = [Scale(name, levels) for name, levels in law.whole_scales.items()]
    for principle in law.principles:
        if principle.scale is not None:
            scales.append(Scale(principle.id, principle.scale, principle.text))
    return scales


def scales_of(law: Constitution) -> list[Scale]:
    """The same; raises ConstitutionError if there are none, or two have one name."""
    scales = scales_in(law)
    where = law.source or None
    if not scales:
        raise ConstitutionError(f"{law.name} has no 'scale': give it, or some principles, five levels", where)
    twice = repeated_name(scales)
    if twice is not None:
        raise ConstitutionError(twice, where)
    return scales


def repeated_name(scales: Sequence[Scale]) -> str | None:
    """What to do about two scales of one name; None if there are none such."""
    names = [scale.name for scale in scales]
    for name in names:
        if names.count(name) > 1:
            return f"two scales are named {name!r}: rename the principle or the constitution"
    return None
