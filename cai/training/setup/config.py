"""The configuration of a training, from a YAML file and flags; every value keeps its origin.

What it leaves open, `cai.training.setup.plan` settles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cai.errors import InputError, UsageError
from cai.records import Object, Values
from cai.sources import yamlfaults, yamlfile
from cai.texts.wording import listed, nearest
from cai.training.setup.keys import Lora, TrainConfig, number_of
from cai.training.setup.methods import FIXED, METHODS, OURS, keys_lacking

Origin = Literal["default", "config file", "flag", "data", "hardware", "resumed"]

NUMBERS = ("float", "int", "<class 'float'>", "<class 'int'>")  # types of arguments, as dataclasses write them


def keys_of(method: str) -> dict[str, FieldInfo]:
    """The keys of the config that mean something to a method, by dotted name; arguments of TRL are not among them."""
    fields: dict[str, FieldInfo] = dotted(TrainConfig.model_fields | {"lora": Lora.model_fields, "trl": {}})
    return {name: field for name, field in fields.items() if name not in keys_lacking(method)}


KEYS: yamlfaults.Keys = {
    (): ("a training config", tuple(TrainConfig.model_fields)),
    ("lora",): ("'lora'", tuple(Lora.model_fields)),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """The value that a setting has in a training, where it came from, and why."""

    name: str
    value: Any
    origin: Origin
    why: str = ""

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        source = f"{self.origin}: {self.why}" if self.why else self.origin
        return f"{self.name} {value} ({source})"

    def facts(self, earlier: Object) -> Object:
        """It for training.json. earlier: what that said, by name: a value that is resumed keeps origin and reason."""
        mine = asdict(self)
        first = earlier.get(self.name, mine)
        return first if self.origin == "resumed" and first["value"] == self.value else mine


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config, and for each value that is not a default, where it came from: by dotted name."""

    config: TrainConfig
    origins: Mapping[str, Origin]
    path: Path | None = None
    document: yamlfile.Document = field(default_factory=yamlfile.Document)

    def origin(self, name: str) -> Origin:
        """Where the value of a dotted name came from."""
        return self.origins.get(name, "default")

    def with_values(self, origin: Origin, values: Object) -> Loaded:
        """The config with other values, which all came from one place."""
        config = self.config.model_copy(update=values)
        return replace(self, config=config, origins={**self.origins, **dict.fromkeys(values, origin)})

    def setting(self, name: str, value: Any, origin: Origin = "default", why: str = "") -> Setting:
        """The setting of a key: the value in the config, else this one."""
        configured = getattr(self.config, name)
        if configured is None:
            return Setting(name, value, origin, why)
        return Setting(name, configured, self.origin(name))

    def check(self, method: str) -> None:
        """UsageError for a key that is set and means nothing to `method`."""
        drops_out = METHODS[method].dropout or not self.config.trl.get("disable_dropout", True)
        if self.config.lora.dropout and not drops_out:
            raise UsageError(
                f"lora.dropout ({self.origin('lora.dropout')}) has no effect on {method}, where TRL switches dropout "
                "off; leave it out, or set trl.disable_dropout to false"
            )
        for key in sorted(keys_lacking(method)):
            if getattr(self.config, key) is not None:
                methods = listed([name for name, other in METHODS.items() if key in other.keys])
                raise UsageError(f"{key} ({self.origin(key)}) is a setting of {methods}, not of {method}: leave it out")


def load_config(path: str | Path | None = None, flags: Object | None = None) -> Loaded:
    """The config of a file, with `flags` (dotted names such as `lora.rank`; None: not given) in place of its values.

    Raises InputError for the first fault of the file, with its line, and UsageError for a flag that cannot be.
    """
    document = yamlfile.Document({})
    if path is not None:
        path = Path(path)
        document = _read(path)
    values = dict(document.value)
    origins: dict[str, Origin] = dict.fromkeys(dotted(values), "config file")
    for name, value in (flags or {}).items():
        if value is not None:
            origins[name] = "flag"
            *keys, last = name.split(".")
            place = values
            for key in keys:
                inner = place.get(key) or {}
                if not isinstance(inner, Mapping):
                    raise UsageError(f"training options: {key} has no keys of its own, so {name} cannot be set")
                place[key] = dict(inner)
                place = place[key]
            place[last] = value
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        [fault, *_] = yamlfaults.explain(error, yamlfile.Document(values), KEYS, {})
        raise UsageError(f"training options: {fault.message}") from None
    return Loaded(config, origins, path, document)


def _read(path: Path) -> yamlfile.Document:
    """A config file, checked."""
    try:
        document = yamlfile.parse(yamlfile.read_text(path))
        if document.value is None:
            return yamlfile.Document({})
        TrainConfig.model_validate(document.value)
    except yamlfile.BadYaml as error:
        raise InputError(error.message, path, error.line) from None
    except ValidationError as error:
        first, *others = yamlfaults.explain(error, document, KEYS, {})
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(first.message + more, path, first.line) from None
    return document


def dotted(values: Object) -> Values:
    """The values of a config by dotted name, such as `lora.rank`."""
    names: Values = {}
    for key, value in values.items():
        if key in ("lora", "trl"):
            names |= {f"{key}.{inner}": part for inner, part in value.items()}
        else:
            names[key] = value
    return names


def trl_arguments(loaded: Loaded, method: str, fields: Object) -> Values:
    """The arguments under `trl:`, checked; fields: those of the dataclass that holds the trainer's arguments.

    Raises InputError with the line, or UsageError if a flag gave it, for a name that the trainer does not have, that
    has a key of ours, that would break what is promised, or whose value is of another type.
    """
    arguments = {}
    for name, value in loaded.config.trl.items():
        try:
            ours = OURS.get(name)
            if ours is not None and ours not in keys_lacking(method):
                raise UsageError(f"trl.{name} is set by the key {ours!r}")
            if name in FIXED:
                raise UsageError(f"trl.{name} cannot be set: {FIXED[name]}")
            if name in METHODS[method].unused:
                raise UsageError(f"trl.{name} has no effect on {method}: leave it out")
            if name not in fields:
                raise UsageError(f"TRL's trainer has no argument {name!r}; {nearest(name, fields)}")
            kind = str(fields[name].type)
            if isinstance(value, str) and "float" in kind:
                value = number_of(value)
            if isinstance(value, bool) or not isinstance(value, int | float):
                if kind in NUMBERS:
                    raise UsageError(f"trl.{name} is {value!r}, not a number")
            elif not math.isfinite(value):
                raise UsageError(f"trl.{name} is {value!r}, not a finite number")
            arguments[name] = value
        except UsageError as error:
            if loaded.origin(f"trl.{name}") != "config file":
                raise
            raise InputError(str(error), loaded.path, loaded.document.line(("trl", name))) from None
    return arguments
