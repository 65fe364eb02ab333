"""Keywords of the doors in Python, written into their source from the settings that they take.

`python tests/doors.py --write` writes them; test_doors.py checks that they are those of today.
"""

from __future__ import annotations

import ast
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120
DOORS = {  # by file and function: the settings whose fields are its keywords
    "cai/runs/doors.py": {
        "generate": "cai.runs.settings:GenerateSettings",
        "sample": "cai.runs.settings:SampleSettings",
        "label": "cai.runs.settings:LabelSettings",
    },
}


def settings_of(name: str) -> type[BaseModel]:
    module, _, attribute = name.partition(":")
    settings: type[BaseModel] = getattr(import_module(module), attribute)
    return settings


def written(source: str, doors: Mapping[str, str]) -> str:
    """The source of a file with the keywords and their meanings in its doors."""
    for name, settings in doors.items():
        source = _with_keywords(source, name, settings_of(settings))
    return source


def _with_keywords(source: str, name: str, settings: type[BaseModel]) -> str:
    lines = source.splitlines(keepends=True)
    [door] = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    own = [argument.arg for argument in door.args.args]
    fields = {key: field for key, field in settings.model_fields.items() if key not in own}
    others = [
        pair for pair in zip(door.args.kwonlyargs, door.args.kw_defaults, strict=True) if pair[0].arg not in fields
    ]
    head = [f"def {name}("]
    defaults: list[ast.expr | None] = [None] * (len(own) - len(door.args.defaults)) + list(door.args.defaults)
    for argument, default in zip(door.args.args, defaults, strict=True):
        assert argument.annotation is not None
        value = "" if default is None else f" = {ast.get_source_segment(source, default)}"
        head.append(f"    {argument.arg}: {ast.unparse(argument.annotation)}{value},")
    head.append("    *,")
    for argument, default in others:
        assert argument.annotation is not None and default is not None
        head.append(f"    {argument.arg}: {ast.unparse(argument.annotation)} = {ast.unparse(default)},")
    head += [f"    {key}: {plain(field.annotation)} = {_default(field)}," for key, field in fields.items()]
    assert door.returns is not None
    head += ["    **unknown: Never,", f") -> {ast.unparse(door.returns)}:"]
    docstring = ast.get_docstring(door)
    assert docstring is not None
    text = docstring.partition("\n\nSettings:\n")[0]
    body = [*textwrap.indent(f'"""{text}', "    ").split("\n"), "", "    Settings:"]
    for key, field in fields.items():
        body += textwrap.wrap(
            f"{key}: {field.description}", WIDTH, initial_indent="        ", subsequent_indent="            "
        )
    body.append('    """')
    end = door.body[0].end_lineno
    assert end is not None
    new = "\n".join(line.rstrip() for line in [*head, *body]) + "\n"
    return "".join([*lines[: door.lineno - 1], new, *lines[end:]])


def plain(annotation: Any) -> str:
    """A type as its annotation is written, without the ranges of a field."""
    origin = get_origin(annotation)
    if annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if origin is Annotated:
        return plain(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(plain(each) for each in get_args(annotation)))
    if origin is Literal:
        words = ", ".join(f'"{each}"' if isinstance(each, str) else repr(each) for each in get_args(annotation))
        return f"Literal[{words}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(plain, get_args(annotation)))}]"
    return str(annotation.__name__)


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Mapping):
        return "NOTHING"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def pages() -> Iterator[tuple[Path, str]]:
    """The files with doors, and what they should hold."""
    for name, doors in DOORS.items():
        path = ROOT / name
        yield path, written(path.read_text(encoding="utf-8"), doors)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
