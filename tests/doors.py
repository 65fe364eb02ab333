"""The stub of the package, which type checkers read: its public names, and a keyword for every setting of a function.

`python tests/doors.py --write` writes it from the functions of today; test_doors.py compares the two.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from inspect import isfunction
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import cai

STUB = Path(cai.__file__).with_suffix(".pyi")
HEAD = """\
# The public names for type checkers, with a keyword for every setting: `python tests/doors.py --write` writes this.
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

"""
TYPES = {  # in signatures, and not public themselves
    "BenchResult": "cai.evaluation.bench_report",
    "Calibration": "cai.judge.certify",
    "Evaluation": "cai.evaluation.arena.figures",
    "ExportSummary": "cai.export.export",
    "Rows": "cai.runs.play",
    "Source": "cai.sources.files",
    "TrialReport": "cai.evaluation.trial",
}


def stub() -> str:
    """What the stub should hold."""
    public = {name: getattr(cai, name) for name in cai.__all__}
    doors = {name: value for name, value in public.items() if isfunction(value) and hasattr(value, "__signature__")}
    modules = {name: value.__module__ for name, value in public.items() if name not in doors} | TYPES
    lines = []
    for name, module in sorted(modules.items(), key=lambda item: (item[1], item[0])):
        alias = f" as {name}" if name in public else ""
        lines.append(f"from {module} import {name}{alias}\n")
    return HEAD + "".join(lines) + "\n" + "".join(definition(name, door) for name, door in doors.items())


def definition(name: str, door: Any) -> str:
    """A function with each of its parameters on a line of its own."""
    signature = inspect.signature(door)
    returns = str(signature.return_annotation)
    if inspect.isasyncgenfunction(door):
        returns = returns.replace("Rows[", "AsyncGenerator[")
    lines = list(_parameters(signature))
    return "\n    ".join([f"def {name}(", *lines]) + f"\n) -> {returns}: ...\n"


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    keywords = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            yield "*,"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        yield f"{parameter.name}: {plain(parameter.annotation)}{default},"


def plain(annotation: Any) -> str:
    """A type as its annotation is written."""
    origin = get_origin(annotation)
    if isinstance(annotation, str):
        return annotation
    if annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(plain(each) for each in get_args(annotation)))
    if origin is Literal:
        words = ", ".join(f'"{each}"' for each in get_args(annotation))
        return f"Literal[{words}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(plain, get_args(annotation)))}]"
    return str(annotation.__name__)


def _default(value: Any) -> str:
    if isinstance(value, Mapping):
        return "..."
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    STUB.write_text(stub(), encoding="utf-8")
