"""Renders a template: what goes in is data, and an error names the file and line."""

from __future__ import annotations

import traceback
from functools import lru_cache
from typing import Any, cast

from jinja2 import StrictUndefined, Template
from jinja2.exceptions import UndefinedError

from cai.constitution.examples import Example
from cai.constitution.principles import Principle
from cai.engine.templates.bounds import Bounded
from cai.errors import TemplateError
from cai.records import Object, Values


def render(template: Template, variables: Object) -> str:
    try:
        cast(Bounded, template.environment).begin()
        return template.render({name: _plain(value) for name, value in variables.items()})
    except Exception as error:  # whatever a template does wrong: divide by zero, recurse without end
        file, line = template.filename, None
        for frame in traceback.extract_tb(error.__traceback__):  # Jinja puts the template's own lines into it
            if frame.filename.endswith(".jinja"):
                file, line = frame.filename, frame.lineno
        raise TemplateError(str(error) or type(error).__name__, file, line) from None


class _Lacking(StrictUndefined):
    """A wording that a principle does not have: false, and an error where it is written."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


def _plain(value: Any) -> Any:
    """Dictionaries for our records: a template must not reach a record's methods, some of which load pickles."""
    if isinstance(value, Principle):
        return _plain_principle(value)
    if isinstance(value, Example):
        return value.model_dump()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


@lru_cache(maxsize=4096)
def _plain_principle(principle: Principle) -> Values:
    message = "principle {!r} has no {!r}: say what stands in for it, such as {{{{ principle.{} or principle.{} }}}}"
    plain = principle.model_dump()
    for name in [name for name, value in plain.items() if value is None]:
        instead = "critique" if name == "text" else "text"
        plain[name] = _Lacking(message.format(principle.id, name, name, instead), exc=UndefinedError)
    return plain
