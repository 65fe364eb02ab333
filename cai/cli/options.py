"""The options of commands, made from the fields of settings, and their values read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from cai.errors import UsageError
from cai.texts.wording import option

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cai.records import Object, Values

Fields = dict[str, "FieldInfo"]
NUMBER = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?", re.IGNORECASE)


def add_command(
    app: typer.Typer, name: str, run: Callable[..., None], fields: Callable[[], Fields], summary: str | None = None
) -> None:
    """Add a command that has an option for every field of its settings, and passes `run` those that are given.

    fields: called when the command itself is named, so that no other command pays for importing these settings.
    summary: the help text; None: the docstring of `run`, whose last parameter takes the values.
    """
    text = summary or run.__doc__

    class WithSettings(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            options = fields()
            words = list(stated(args, options))
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, help=text)(with_options(run, options))
            context = typer.main.get_command(alone).make_context(info_name, words, parent, **extra)
            for each in options:
                source = context.get_parameter_source(each)
                if source is not None and source.name == "DEFAULT":
                    context.params[each] = None
            return context

    def function() -> None:
        """Stands for the function with all of its options, which `whole` makes."""

    function.whole = lambda: with_options(run, fields())  # type: ignore[attr-defined]
    app.command(name, help=text, cls=WithSettings)(function)


def stated(args: Iterable[str], fields: Fields) -> Iterator[str]:
    """The words of a command; an option that stands alone is followed by the number that it stands for."""
    numbers = {option(name): _extra(field, "alone") for name, field in fields.items()}
    number = None
    for word in args:
        if number and not NUMBER.fullmatch(word):
            yield number
        yield word
        number = numbers.get(word)
    if number:
        yield number


def _extra(field: FieldInfo, name: str) -> str | None:
    """What a field says about its option besides type and description."""
    extra: Any = field.json_schema_extra or {}
    text: str | None = extra.get(name)
    return text


def with_options(run: Callable[..., None], fields: Fields) -> Callable[..., None]:
    """The function of a command, which shows the options of fields among its own parameters, before its last one."""
    switches = {f"no_{name}": name for name, field in fields.items() if _extra(field, "alone")}

    def command(**values: Any) -> None:
        for switch, name in switches.items():
            if values.pop(switch):
                if values.get(name) is not None:
                    raise UsageError(f"{option(name)} and {option(switch)} contradict each other: name one of them")
                values[name] = False
        # What is not given is not passed: a default may depend on what is.
        run(**{name: value for name, value in values.items() if name not in fields or value is not None})

    *parameters, last, _ = inspect.signature(run, eval_str=True).parameters.values()
    last = last.replace(kind=last.KEYWORD_ONLY)
    for name, field in fields.items():
        parameters.append(option_of(name, field))
        if _extra(field, "alone"):
            off = typer.Option(option(f"no_{name}"), help=_extra(field, "off"))
            parameters.append(last.replace(name=f"no_{name}", default=False, annotation=Annotated[bool, off]))
    parameters.append(last)
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
    one-letter form; `repeat`, that it may be given several times; `alone`, the number that it stands for without a
    value, and `off`, what its --no- form does. A mapping without `repeat` is written as JSON.
    """
    extra: Any = field.json_schema_extra or {}
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Mapping):
        default = None
    kind = _kind(field.annotation)
    if extra.get("repeat"):
        kind = list[str]
        if isinstance(default, str):
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
    if len(kinds) > 1:  # a number that can be switched off by an option of its own
        kinds -= {bool}
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
