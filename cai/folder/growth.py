"""What of a run may grow: which settings may be raised in its folder, and what two identities disagree on otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cai.folder.identity import differences
from cai.records import Object, Values

# Where an identity has a number that may be raised, and the option that raises it.
RAISED = {
    "rounds": "--rounds",
    "n": "-n",
    "sampling.max_tokens": "--max-tokens",
    "max_tokens": "--max-tokens",
    "binding.principles": "--principles",
    "source.n": "-n of the source",
}
OF_REPLIES = ("truncated", "empty", "content_filter")  # why a prompt of which no reply can be used is dropped
# What names a source as a whole, and how it is read: what was read from it is compared record by record.
HASH = "sha256:"  # of what a file holds; no other source can be told to be the same before it is read
NAMES_OF_SOURCE = ("what", "format", "field", "run", "replies")


class Growth(NamedTuple):
    """A setting that was raised."""

    option: str
    there: int
    now: int

    def __str__(self) -> str:
        return f"{self.option.lstrip('-')} {self.there} → {self.now}"


def refusals(there: Object, now: Object) -> list[str]:
    """Why a run cannot go on in the folder of another one, one short text each; none if it can."""
    texts = differences(lasting(there), lasting(now))
    for option, before, after in _raised(there, now):
        if _is_whole(before) and _is_whole(after):
            if after < before:
                texts.append(f"it has {option} {before}, and {after} is less")
        elif before != after:
            texts.append(f"{option} is {before!r} there, {after!r} now")
    return texts


def refusal(folder: Path, there: Object, now: Object) -> str | None:
    """Why a run cannot go on in the folder of another one, in a sentence; None if it can."""
    texts = refusals(there, now)
    if not texts:
        return None
    return f"{folder} is another run: {'; '.join(texts)}. Name another --out, or --force to start anew there"


def growth(there: Object, now: Object) -> list[Growth]:
    """What was raised from one identity to the other."""
    pairs = [Growth(*each) for each in _raised(there, now) if _is_whole(each[1]) and _is_whole(each[2])]
    return [each for each in pairs if each.now > each.there]


def lasting(identity: Object) -> Values:
    """An identity without what may be another the next time: what names sources, and what may be raised."""
    left = {key: dict(value) if isinstance(value, Mapping) else value for key, value in identity.items()}
    source = left.get("source")
    if isinstance(source, dict):
        for name in NAMES_OF_SOURCE:
            source.pop(name, None)
    elif source is not None:
        left["source"] = "records"  # a file, standard input or Python
    for place in RAISED:
        above, _, name = place.rpartition(".")
        values = left.get(above) if above else left
        if isinstance(values, dict):
            values.pop(name, None)
    return left


def is_same_source(there: Object, now: Object) -> bool:
    """Whether two identities name one source by its content, so that nothing of it can have moved."""
    return there.get("source") == now.get("source") and HASH in str(now.get("source", HASH))


def is_short(row: Object, identity: Object) -> bool:
    """Whether a row has less than a run of this identity gives: it was finished before a setting was raised."""
    match identity:
        case {"command": "generate", "rounds": int(rounds)}:
            return len(row["rounds"]) < rounds
        case {"command": "sample", "n": int(each), "models": models}:
            return len(row["replies"]) < each * len(models)
        case {"command": "label", "binding": {"principles": int(count), "protocol": protocol}} if protocol != "reward":
            return len({vote["principle"] for vote in row["votes"]}) < count
    return False


def _raised(there: Object, now: Object) -> Iterator[tuple[str, Any, Any]]:
    for place, option in RAISED.items():
        yield option, _value(there, place), _value(now, place)


def _value(identity: Any, place: str) -> Any:
    """What an identity has at a place such as `binding.principles`; None if there is nothing."""
    for name in place.split("."):
        identity = identity.get(name) if isinstance(identity, Mapping) else None
    return identity


def _is_whole(value: Any) -> bool:
    return type(value) is int
