"""The JSON Schema of a recipe, by which editors complete and check one as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.recipes.commands import REFUSED, Command, Parameter
from cai.recipes.recipe import EXPECT, EXPORT, EXPORTED, RecipeFile
from cai.recipes.words import STAGE

TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
NAMED = {"type": "string", "pattern": r"^[^$@]*[$@]"}  # a value that a variable or another stage gives


def schema_of(commands: Mapping[str, Command]) -> dict[str, Any]:
    """The schema of a recipe whose stages may be these commands."""
    schema = RecipeFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$defs"] = {name: _settings(command) for name, command in commands.items()}
    schema["properties"]["stages"] = {
        "description": RecipeFile.model_fields["stages"].description,
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{STAGE}$"},
        "additionalProperties": {"oneOf": [_stage(name) for name in commands if name != EXPORT]},
    }
    return schema


def _stage(name: str) -> dict[str, Any]:
    """A stage that is one command."""
    properties = {
        name: {"$ref": f"#/$defs/{name}"},
        EXPECT: {"type": "object", "additionalProperties": {"type": "string"}},
    }
    if name in EXPORTED:
        properties[EXPORT] = {"$ref": f"#/$defs/{EXPORT}"}
    return {"type": "object", "properties": properties, "required": [name], "additionalProperties": False}


def _settings(command: Command) -> dict[str, Any]:
    """The settings of a command; null stands for none."""
    known = {key: each for key, each in command.parameters.items() if key not in REFUSED}
    schema = {
        "type": ["object", "null"],
        "properties": {key: _value(each) for key, each in known.items()},
        "additionalProperties": False,
    }
    if command.required:
        schema["type"] = "object"
        schema["required"] = sorted(command.required)
    return schema


def _value(parameter: Parameter) -> dict[str, Any]:
    one: list[dict[str, Any]] = [{"type": TYPES[parameter.kind]}]
    if parameter.kind is str:
        one = [{"type": ["string", "number"]}]
    else:
        one.append(NAMED)
    if parameter.is_json:
        one.append({"type": "object"})
    if parameter.off and parameter.kind is not bool:
        one.append({"const": False})
    choices = [*one, {"type": "array", "items": {"anyOf": one}}] if parameter.repeats else one
    return {"description": parameter.help, "anyOf": choices}
