"""What the commands share: groups that build only the command in hand, options made from settings, and printing."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cai.runs.settings import RunSettings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]
Fields = Mapping[str, "FieldInfo"]
S = TypeVar("S", bound="RunSettings")


def add_command(
    app: typer.Typer, name: str, run: Callable[..., None], fields: Callable[[], Fields], summary: str | None = None
) -> None:
    """Add a command that has an option for every field of its settings, and passes their values to `run` as keywords.

    fields: called when the command itself is named, so that no other command pays for importing these settings.
    summary: the help text; None: the docstring of `run`, whose last parameters are `json` and the values.
    """
    text = summary or run.__doc__

    class WithSettings(TyperCommand):
        def make_context(self, *args: Any, **context: Any) -> Any:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, help=text)(with_options(run, fields()))
            return typer.main.get_command(alone).make_context(*args, **context)

    app.command(name, help=text, cls=WithSettings)(lambda: None)


def with_options(run: Callable[..., None], fields: Fields) -> Callable[..., None]:
    """The function of a command, which shows the options of fields after its own parameters, and --json last."""

    def command(**values: Any) -> None:
        run(**values)

    *own, json, _ = inspect.signature(run, eval_str=True).parameters.values()
    parameters = [*own, *options_of(fields), json.replace(kind=json.KEYWORD_ONLY)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


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
