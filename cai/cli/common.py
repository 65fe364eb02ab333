"""What the commands share: how they print."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]


def say(lines: Iterable[str]) -> None:
    """Print to stdout: the exact text into a file or pipe, without what a terminal would obey on a terminal."""
    for line in lines:
        if sys.stdout.isatty():
            from cai.texts.wording import printable

            line = printable(line)
        print(line)  # typer.echo would take colours out of what goes into a file: not the exact text any more


def print_json(value: Any, wanted: bool) -> None:
    """Print a JSON document to stdout, if it is wanted."""
    if wanted:
        import orjson

        typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))  # bytes: UTF-8 whatever the locale
