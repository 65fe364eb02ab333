"""The command `cai`: all commands put together, options made from settings, printing, and errors as one line."""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from cai.errors import CaiError, UsageError
from cai.texts.wording import option, printable

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cai.records import Object, Values

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]
Fields = dict[str, "FieldInfo"]
MODULES = ("runs", "audit", "train", "chat", "judge", "constitution")  # of the commands, in the order of the help text

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@cache
def command() -> TyperGroup:
    """The command `cai` with all of its commands, whose modules import this one."""
    for module in MODULES:
        app.add_typer(import_module(f"cai.cli.{module}").app)
    return typer.main.get_group(app)


def _version(wanted: bool) -> None:
    if wanted:
        from cai.folder.files import package_version

        typer.echo(f"cai {package_version('cai-toolkit') or '(a checkout that is not installed)'}")
        raise typer.Exit


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and every dropped row.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Constitutional AI: critique and revise replies under a constitution, and train on what comes out.

    Example: cai generate --limit 10 --constitution harmless
    """


class _Notes(logging.Handler):
    """Shows log messages above the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        from cai.cli.console import show

        show([self.format(record)])


def main() -> None:
    """The `cai` command: exit 0 done, 1 a clear one-line error, 130 interrupted."""
    args = sys.argv[1:]
    log = logging.getLogger("cai")
    log.setLevel(logging.INFO)
    log.addHandler(_Notes())
    words = list(takewhile(lambda word: word != "--", args))
    debug = "--debug" in words
    if debug:  # may stand anywhere, but is an option of the command `cai` itself
        args = ["--debug", *(word for word in words if word != "--debug"), *args[len(words) :]]
        log.setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without a character is no reason to stop
    sys.exit(_run(args, debug))


def _run(args: list[str], debug: bool) -> int:
    """Run one command; returns its exit status, or raises what went wrong with `debug`."""
    try:
        status = command()(args, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except BrokenPipeError:  # whoever read the output has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), err=True)
            return 1
        if debug and not hasattr(error, "format_message"):
            raise
        return _fail(_message(error))
    if status == 130:
        return _fail("interrupted", 130)
    return status or 0


def _message(error: Any) -> str:
    """What an error tells a user, in one line."""
    if hasattr(error, "format_message"):  # the usage errors of the parser
        command = getattr(getattr(error, "ctx", None), "command_path", "cai")
        return f"error: {error.format_message()} (see {command} --help)"
    if isinstance(error, CaiError):
        return f"error: {error}"
    if isinstance(error, PermissionError):
        return f"error: {error}; change its permissions, or name another path"
    if isinstance(error, OSError):
        return f"error: {error}; --debug shows more"
    return f"error: {type(error).__name__}: {error}; this is a bug in cai, --debug shows more"


def _fail(message: str, status: int = 1) -> int:
    typer.echo(printable(" ".join(message.splitlines())), err=True)
    return status


# For the commands


def add_command(
    app: typer.Typer, name: str, run: Callable[..., None], fields: Callable[[], Fields], summary: str | None = None
) -> None:
    """Add a command that has an option for every field of its settings, and passes their values to `run` as keywords.

    fields: called when the command itself is named, so that no other command pays for importing these settings.
    summary: the help text; None: the docstring of `run`, whose last parameter takes the values.
    """
    text = summary or run.__doc__

    class WithSettings(TyperCommand):
        def make_context(self, *args: Any, **context: Any) -> Any:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, help=text)(with_options(run, fields()))
            return typer.main.get_command(alone).make_context(*args, **context)

    app.command(name, help=text, cls=WithSettings)(lambda: None)


def with_options(run: Callable[..., None], fields: Fields) -> Callable[..., None]:
    """The function of a command, which shows the options of fields among its own parameters, before its last one."""

    def command(**values: Any) -> None:
        run(**values)

    *own, last, _ = inspect.signature(run, eval_str=True).parameters.values()
    parameters = [*own, *map(option_of, fields, fields.values()), last.replace(kind=last.KEYWORD_ONLY)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def fields_of(settings: type[BaseModel]) -> Fields:
    """The fields of settings by name: their own before those that they share with others."""
    fields: Fields = {}
    for each in reversed(settings.__mro__):
        own = [name for name in inspect.get_annotations(each) if name in settings.model_fields and name not in fields]
        fields = {**{name: settings.model_fields[name] for name in own}, **fields}
    return fields


def option_of(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option for a field: its name, type, default and description.

    What a field adds in `json_schema_extra`: `option`, the option's name if it is not the field's; `short`, its
    one-letter form; `repeat`, that it may be given several times. A mapping without that is written as JSON.
    """
    extra: Any = field.json_schema_extra or {}
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Mapping):
        default = None
    kind = _kind(field.annotation)
    if extra.get("repeat"):
        kind = list[str]
        if default is not None:
            default = [default]
    flag = extra.get("option", option(name))
    if kind is bool and default is not False:  # a switch that can be on already can be switched off
        flag = f"{flag}/--no-{flag[2:]}"
    info = typer.Option(*filter(None, [extra.get("short"), flag]), help=field.description)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind | None, info]
    )


def _kind(annotation: Any) -> Any:
    """What the command line reads for a field of this type; other than numbers, switches and paths it is text."""
    members = {getattr(each, "__origin__", each) for each in (annotation, *get_args(annotation))}
    kinds = members & {bool, int, float}
    return kinds.pop() if len(kinds) == 1 else str


def values_of(options: Object) -> Values:
    """The values of options by the names of their settings, with JSON and headers read."""
    import orjson

    values = {**options, "headers": dict(map(_header, options.get("headers") or ()))}
    text = values.pop("extra_body", None)
    if text is None:
        return values
    try:
        values["extra_body"] = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--extra-body is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(values["extra_body"], dict):
        raise UsageError(f"--extra-body must be a JSON object, such as '{{\"top_p\": 0.9}}', not {text[:80]!r}")
    return values


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name.strip(), re.ASCII) and value.strip().isprintable()):
        raise UsageError("--header must be 'Name: value', in one line")  # not quoted: it may hold a key
    return name.strip(), value.strip()


def say(lines: Iterable[str]) -> None:
    """Print to stdout: the exact text into a file or pipe, without what a terminal would obey on a terminal."""
    for line in lines:
        if sys.stdout.isatty():
            line = printable(line)
        print(line)  # typer.echo would take colours out of what goes into a file: not the exact text any more


class Report(Protocol):
    """What a command found, as lines for people and as JSON."""

    def lines(self) -> Iterable[str]:
        """For people to read."""

    def summary(self) -> Any:
        """For programs."""


def print_report(report: Report, json: bool) -> None:
    """Print a report to stdout, as JSON or for people."""
    if json:
        print_json(report.summary())
    else:
        say(report.lines())


def show_summary(summary: Any, json: bool) -> None:
    """Show a summary on stderr for people, and print it to stdout as JSON if it is wanted."""
    from cai.cli.console import show

    show(summary.lines())
    print_json(summary.model_dump(mode="json"), json)


def print_json(value: Any, wanted: bool = True) -> None:
    """Print a JSON document to stdout, if it is wanted."""
    if wanted:
        import orjson

        typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))  # bytes: UTF-8 whatever the locale


if __name__ == "__main__":
    main()
