"""What the commands share: groups that build only the command in hand, options made from settings, and printing."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cai.runs.settings import RunSettings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]
Fields = Mapping[str, "FieldInfo"]
S = TypeVar("S", bound="RunSettings")


@dataclass(frozen=True)
class Command:
    """A command with an option for every field of its settings.

    run: takes its own arguments, and the values of the fields as keywords. fields: called when the command is built, so
    that no other command pays for importing these settings. summary: the help text; None: the docstring of `run`.
    """

    run: Callable[..., None]
    fields: Callable[[], Fields]
    summary: str | None = None


Entry = Callable[..., None] | Command | typer.Typer


def group(summary: str, commands: Mapping[str, Entry], callback: Callable[..., None] = lambda: None) -> typer.Typer:
    """A group of commands, each of which is built when it is named; callback: takes the options of the group itself."""

    class Group(TyperGroup):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands = _Built(commands)  # type: ignore[assignment]

        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            width = formatter.width - 6 - max(map(len, commands))
            with formatter.section("Commands"):
                formatter.write_dl([(name, _short(entry, width)) for name, entry in commands.items()])

    return typer.Typer(
        cls=Group, help=summary, callback=callback, no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, rich_markup_mode=None,
    )  # fmt: skip


class _Built(Mapping[str, Any]):
    """The commands of a group, each built when it is looked up."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._commands:
            self._commands[name] = _built(name, self._entries[name])
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _built(name: str, entry: Entry) -> Any:
    """The command that an entry stands for."""
    if isinstance(entry, typer.Typer):
        command = typer.main.get_command(entry)
        command.name = name
        return command
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    run = with_options(entry) if isinstance(entry, Command) else entry
    alone.command(name)(run)
    return typer.main.get_command(alone)


def _short(entry: Entry, width: int) -> str:
    """The first sentence of an entry's help, cut to a width."""
    if isinstance(entry, typer.Typer):
        text = str(entry.info.help)
    elif isinstance(entry, Command):
        text = entry.summary or entry.run.__doc__ or ""
    else:
        text = entry.__doc__ or ""
    sentence = text.partition("\n\n")[0].partition(". ")[0]
    return textwrap.shorten(sentence.rstrip("."), width, placeholder=" ...")


def with_options(command: Command) -> Callable[..., None]:
    """The function of a command, which shows the options of its fields beside its own parameters."""

    def run(**values: Any) -> None:
        command.run(**values)

    signature = inspect.signature(command.run, eval_str=True)
    own = {
        name: each.replace(kind=each.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if each.kind is not each.VAR_KEYWORD
    }
    last = [own.pop("json")] if "json" in own else []
    parameters = [*own.values(), *options_of(command.fields()), *last]
    run.__doc__ = command.summary or command.run.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def fields_of(settings: type[BaseModel], *left_out: str) -> Fields:
    """The fields of settings by name: their own before those that they share with others."""
    names: dict[str, None] = {}
    for each in settings.__mro__:
        for name in vars(each).get("__annotations__", ()):
            names.pop(name, None)  # one that only overrides what others share stands with these
            names[name] = None
    fields = settings.model_fields
    return {name: fields[name] for name in names if name in fields and name not in left_out}


def options_of(fields: Fields) -> Iterator[inspect.Parameter]:
    """One option for every field: its name, type, default and description.

    What a field adds in `json_schema_extra`: `option`, the option's name if it is not the field's; `short`, its
    one-letter form; `repeat`, that it may be given several times. A mapping without that is written as JSON.
    """
    for name, field in fields.items():
        extra: Any = field.json_schema_extra or {}
        kind = _kind(field.annotation, repeat=bool(extra.get("repeat")))
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Mapping):
            default = None
        elif extra.get("repeat") and isinstance(default, str):
            default = [default]
        flags = [extra["short"]] if "short" in extra else []
        flags.append(extra.get("option") or _flag(name, kind, default))
        annotation = kind if default is not None else kind | None
        option = typer.Option(*flags, help=field.description)
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(name, keyword, default=default, annotation=Annotated[annotation, option])


def _flag(name: str, kind: Any, default: Any) -> str:
    """How the option of a field is written; a switch that can be on already can be switched off."""
    words = name.replace("_", "-")
    if len(name) == 1:
        return f"-{name}"
    if kind is bool and default is not False:
        return f"--{words}/--no-{words}"
    return f"--{words}"


def _kind(annotation: Any, *, repeat: bool) -> Any:
    """What the command line reads for a field of this type; other than numbers, switches and paths it is text."""
    if repeat:
        return list[str]
    kinds = {each for each in _members(annotation) if each in (bool, int, float)}
    return next(iter(kinds)) if len(kinds) == 1 else str


def _members(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation allows."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        for inner in get_args(annotation):
            yield from _members(inner)
    else:
        yield annotation


def settings_from_options(kind: type[S], options: Mapping[str, Any]) -> S:
    """The settings that the options of a command make; raises UsageError with what to type instead."""
    from cai.runs.settings import make_settings

    return make_settings(kind, values_of(options))


def values_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options by the names of their settings, with JSON and headers read."""
    values = dict(options)
    values["headers"] = dict(_header(text) for text in values.get("headers") or ())
    extra = values.pop("extra_body", None)
    if extra is not None:
        values["extra_body"] = _json_object(extra)
    return values


def _json_object(text: str) -> dict[str, Any]:
    import orjson

    from cai.errors import UsageError

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--extra-body is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise UsageError(f"--extra-body must be a JSON object, such as '{{\"top_p\": 0.9}}', not {text[:80]!r}")
    return value


def _header(text: str) -> tuple[str, str]:
    from cai.errors import UsageError

    name, colon, value = text.partition(":")
    if not (colon and re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name.strip(), re.ASCII) and value.strip().isprintable()):
        raise UsageError("--header must be 'Name: value', in one line")  # not quoted: it may hold a key
    return name.strip(), value.strip()


def say(lines: Iterable[str]) -> None:
    """Print to stdout: the exact text into a file or pipe, without what a terminal would obey on a terminal."""
    for line in lines:
        if sys.stdout.isatty():
            from cai.texts.wording import printable

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
        print_json(report.summary(), json)
    else:
        say(report.lines())


def print_json(value: Any, wanted: bool = True) -> None:
    """Print a JSON document to stdout, if it is wanted."""
    if wanted:
        import orjson

        typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))  # bytes: UTF-8 whatever the locale
