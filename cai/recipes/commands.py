"""The commands that a recipe may use: their settings, what their folder is, and how settings become words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.recipes.words import is_variable
from cai.records import Object

# Settings that may name a file, a folder or a model, and with them a stage: any other text is what it says.
READS = {
    "accept", "adapter", "against", "bench", "benign", "calibration", "chat_template", "config", "constitution",
    "contrast", "critic", "data", "eval_data", "file", "gold", "harm", "judge", "model", "models", "prompts",
    "reuse", "reviser", "reward", "rollouts", "runs", "scale", "source", "templates", "training_data", "watch",
}  # fmt: skip
REFUSED = {  # settings that a recipe may not have, and why
    "out": "the recipe names the folders",
    "json": "the recipe reads what its commands say",
    "force": "--redo STAGE makes a stage anew",
    "push": "a recipe publishes nothing: push the folder once you have read it",
    "headers": "headers may hold keys, and recipes are shared: name a server whose key is in the environment",
}
SECRET = re.compile(  # as providers write their keys, and what an address can hold of one
    r"\b(?:sk|hf|xai|gsk)[-_][\w-]{16,}|\bAIza[\w-]{30,}|://[^/\s@]+@|[?&](?:api[-_]?)?(?:key|token|sig)=",
    re.IGNORECASE,
)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Parameter:
    """One setting of a command. option: None for its argument. off: the option that switches it off."""

    name: str
    kind: type
    option: str | None
    off: str | None = None
    repeats: bool = False
    is_json: bool = False
    help: str = ""


@dataclass(frozen=True)
class Command:
    """A command by the name that recipes call it by, such as `train sft`.

    into: the option that takes its folder, or `file` in it; None: its argument does. required: settings that must be
    given. grows: whether its folder takes a setting that was raised. defaults: settings of a stage that does not state
    them.
    """

    name: str
    parameters: Mapping[str, Parameter]
    into: str | None = "--out"
    file: str | None = None
    required: frozenset[str] = frozenset()
    grows: bool = False
    defaults: Object = field(default_factory=dict)

    def words(self, settings: Object) -> list[str]:
        """The words of the command line for settings."""
        arguments: list[str] = []
        options: list[str] = []
        for key, value in settings.items():
            parameter = self.parameters[key]
            values = value if isinstance(value, list) else [value]
            if parameter.option is None:
                arguments += map(str, values)
            else:
                options += option_words(parameter, values)
        return [*self.name.split(), *arguments, *options]

    def words_into(self, settings: Object, folder: Path) -> list[str]:
        """The same, with the folder that its result goes to."""
        place = str(folder / self.file) if self.file else str(folder)
        into = [place] if self.into is None else [self.into, place]
        return [*self.words({**self.defaults, **settings}), *into]


def option_words(parameter: Parameter, values: list[Any]) -> list[str]:
    """The words of one option."""
    assert parameter.option is not None
    words = []
    for value in values:
        if value is True:
            words.append(parameter.option)
        elif value is False:
            words += [parameter.off] if parameter.off else []
        elif isinstance(value, dict):
            words += [parameter.option, json.dumps(value)]
        else:
            text = str(value)
            words += [f"{parameter.option}={text}"] if text.startswith("-") else [parameter.option, text]
    return words


def check_setting(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with the value of a setting; None: nothing that shows before the command reads it."""
    if value is None:
        return "has no value: leave it out for its default"
    if isinstance(value, list):
        if not parameter.repeats:
            return f"takes one value, not a list of {len(value)}"
        problems = [check_setting(parameter, each) for each in value]
        return next(filter(None, problems), None)
    if isinstance(value, dict):
        return None if parameter.is_json else "takes one value, not a mapping"
    if isinstance(value, str) and is_variable(value):  # checked once it is filled in
        return None
    return _of_kind(parameter, value)


def _of_kind(parameter: Parameter, value: Any) -> str | None:
    kind = parameter.kind
    is_switch = isinstance(value, bool)
    if kind is bool and not is_switch:
        return f"must be true or false, not {value!r}"
    if is_switch and kind is not bool and not (value is False and parameter.off):
        return f"must be {KINDS.get(kind, 'text')}, not {str(value).lower()}"
    if is_switch:
        return None
    if kind is int and not isinstance(value, int):
        return f"must be a whole number, not {value!r}"
    if kind is float and not isinstance(value, int | float):
        return f"must be a number, not {value!r}"
    return None
