"""The command `cai`: all commands put together, the log shown in the terminal, and errors as one line and a status."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {  # in the order of the help text: the module that has each command
    "generate": "runs", "sample": "runs", "label": "runs", "export": "runs", "plan": "runs", "audit": "audit",
    "train": "train", "chat": "chat", "merge": "chat", "judge": "judge", "constitution": "constitution",
}  # fmt: skip


class _Commands(TyperGroup):
    """The commands of `cai`; the module of each is imported when it is named, so that others cost nothing."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"cai.cli.{COMMANDS[cmd_name]}")
        return typer.main.get_group(module.app).commands[cmd_name]


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
for name in COMMANDS:  # the names are enough for the list of commands, and for what a misspelt one may mean
    app.command(name)(lambda: None)


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
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    if debug:  # may stand anywhere, but is an option of the command `cai` alone
        args = ["--debug", *(arg for arg in args[:end] if arg != "--debug"), *args[end:]]
    log = logging.getLogger("cai")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.addHandler(_Notes())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without a character is no reason to stop
    sys.exit(_run(args, debug))


def _run(args: list[str], debug: bool) -> int:
    """Run one command; returns its exit status, or raises what went wrong with `debug`."""
    try:
        status = app(args, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
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
    return status if isinstance(status, int) else 0


def _message(error: Any) -> str:
    """What an error tells a user, in one line."""
    from cai.errors import CaiError

    if hasattr(error, "format_message"):  # the usage errors of the parser
        context = getattr(error, "ctx", None)
        command = "cai" if context is None else context.command_path
        return f"error: {error.format_message()}; see {command} --help"
    if isinstance(error, CaiError):
        return f"error: {error}"
    if isinstance(error, OSError):
        return f"error: {error}; --debug shows more"
    return f"error: {type(error).__name__}: {error}; this is a bug in cai, --debug shows more"


def _fail(message: str, status: int = 1) -> int:
    from cai.texts.wording import printable

    typer.echo(printable(" ".join(message.splitlines())), err=True)
    return status


if __name__ == "__main__":
    main()
