"""The command `cai`: all commands put together, printing, and errors as one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from itertools import takewhile
from typing import Annotated, Any, Protocol, cast

import typer
from typer.core import TyperGroup

from cai.cli.terminal.streams import keep_streams
from cai.errors import CaiError
from cai.texts.wording import UNPRINTABLE, printable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]
Folders = Annotated[
    list[str],
    typer.Argument(metavar="RUN|MODEL|EVALUATION…", help="Folders of runs, trainings, benches or evaluations."),
]
MODULES = (
    "runs",
    "recipe",
    "audit",
    "train",
    "chat",
    "judge",
    "servers.rewards",
    "evaluate",
    "look",
    "batch",
    "servers.view",
    "constitution",
)  # of the commands, in the order of the help text
HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(no_args_is_help=True, context_settings=HELP, pretty_exceptions_enable=False, rich_markup_mode=None)


@cache
def command() -> TyperGroup:
    """The command `cai` with all of its commands, whose modules import this one."""
    for module in MODULES:
        app.add_typer(import_module(f"cai.cli.{module}").app)
    return cast(TyperGroup, typer.main.get_command(app))


def _version(wanted: bool) -> None:
    if wanted:
        from cai.packages import package_version

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
        from cai.cli.terminal.console import show

        show([self.format(record)])


def main() -> None:
    """The `cai` command: exit 0 done, 1 a clear one-line error, 130 interrupted."""
    keep_streams()
    args = sys.argv[1:]
    log = logging.getLogger("cai")
    log.setLevel(logging.INFO)
    log.addHandler(_Notes())
    words = list(takewhile(lambda word: word != "--", args))
    debug = "--debug" in words
    if debug:  # may stand anywhere, but is an option of the command `cai` itself
        args = ["--debug", *(word for word in words if word != "--debug"), *args[len(words) :]]
        log.setLevel(logging.DEBUG)
    sys.exit(_run(args, debug))


def _run(args: list[str], debug: bool) -> int:
    """Run one command; returns its exit status, or raises what went wrong with `debug`."""
    try:
        status = command()(args, prog_name="cai", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = 130
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
        return f"error: {error.format_message()}{_rejected(error)} (see {command} --help)"
    if isinstance(error, CaiError):
        return f"error: {error}"
    if isinstance(error, PermissionError):
        return f"error: {error}; change its permissions, or name another path"
    if isinstance(error, OSError):
        return f"error: {error}; --debug shows more"
    return f"error: {type(error).__name__}: {error}; this is a bug in cai, --debug shows more"


def _rejected(error: Any) -> str:
    """What the parser could not read, if it does not say so itself: a library that it uses leaves the value out."""
    problems: list[Any] = getattr(error.__cause__, "errors", list)()
    return "".join(f": {problem['input']!r}" for problem in problems)


def _fail(message: str, status: int = 1) -> int:
    typer.echo(printable(" ".join(message.splitlines())), err=True)
    return status


# For the commands


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
    from cai.cli.terminal.console import show

    show(summary.lines())
    print_json(summary.model_dump(mode="json"), json)


def print_json(value: Any, wanted: bool = True) -> None:
    """Print a JSON document to stdout, if it is wanted."""
    if wanted:
        import orjson

        text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        safe = UNPRINTABLE.sub(lambda character: f"\\u{ord(character[0]):04x}", text)  # the same JSON
        typer.echo(safe.encode())  # bytes: UTF-8 whatever the locale


if __name__ == "__main__":
    main()
