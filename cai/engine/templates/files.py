"""The files of a template set, and what its templates set: stop strings, frames and prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

from jinja2 import FunctionLoader, StrictUndefined, nodes
from jinja2.exceptions import TemplateSyntaxError
from pydantic import Field, TypeAdapter, ValidationError

from cai.constitution.examples import Example
from cai.engine.templates.bounds import Bounded
from cai.errors import TemplateError
from cai.sources.yamlfile import MAX_BYTES, BadYaml, first_fault, parse, read_regular
from cai.texts.wording import reason_of

TEXTS: TypeAdapter[Any] = TypeAdapter(Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)])
SETTINGS: dict[str, tuple[TypeAdapter[Any], str, str]] = {  # the type of what a template sets, in words, an example
    "stop": (TEXTS, "a plain list of texts", '["\\n\\nHuman:"]'),
    "frame": (TEXTS, "a plain list of texts", '["<reply_a>", "</reply_a>"]'),
    "prefix": (
        TypeAdapter(Annotated[str, Field(pattern=r"\S$")]),
        "a plain text that does not end in space",
        '"The better reply is Reply"',
    ),
}


def read_files(path: Path) -> dict[str, bytes]:
    """The files of a set, each read once: what is hashed is what is rendered, even if the folder changes."""
    root = path.resolve()
    files = {}
    for file in [*sorted(path.glob("*.jinja")), *path.glob("examples.yaml")]:
        if not file.resolve().is_relative_to(root):
            raise TemplateError("is a link to a file outside of its set: put a copy in its place", file)
        try:
            files[file.name] = read_regular(file, MAX_BYTES + 1)
        except OSError as error:
            raise TemplateError(f"cannot be read: {error.strerror}", error.filename or file) from None
        if len(files[file.name]) > MAX_BYTES:
            raise TemplateError(f"is larger than {MAX_BYTES >> 20} MiB; is it the right file?", file)
    return files


def environment_of(path: Path, files: Mapping[str, bytes]) -> Bounded:
    def source(name: str) -> tuple[str, str, None] | None:
        if name not in files:
            return None
        # utf-8-sig: the mark that some editors put before a text is not part of the words.
        return files[name].decode("utf-8-sig"), str(path / name), None

    return Bounded(
        loader=FunctionLoader(source), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def text_of(files: Mapping[str, bytes], name: str) -> str:
    return files.get(f"{name}.jinja", b"").decode("utf-8-sig")


def hash_of(files: Mapping[str, bytes], without: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        if name.removesuffix(".jinja") not in without:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def examples_of(path: Path, files: Mapping[str, bytes]) -> tuple[Example, ...]:
    if "examples.yaml" not in files:
        return ()
    try:
        return tuple(map(Example.model_validate, parse(files["examples.yaml"].decode("utf-8-sig")).value or ()))
    except BadYaml as error:
        message = f"not a list of worked examples: {error.message}"
        raise TemplateError(message, path / "examples.yaml", error.line) from None
    except (ValidationError, UnicodeDecodeError, TypeError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else reason_of(error)
        raise TemplateError(f"not a list of worked examples: {reason}", path / "examples.yaml") from None


def setting_of(tree: nodes.Template, name: str) -> Any:
    """What a template sets a name to, read without rendering it, or None; raises TemplateSyntaxError if it is unfit."""
    setting = None
    form, need, example = SETTINGS[name]
    for node in tree.find_all((nodes.Assign, nodes.AssignBlock)):
        if getattr(getattr(node, "target", None), "name", None) != name:
            continue
        value: Any = None  # of anything but a constant
        if isinstance(node, nodes.Assign) and node in tree.body:
            with suppress(nodes.Impossible):
                value = cast(nodes.Expr, node.node).as_const()
        try:
            setting = form.validate_python(value)
        except ValidationError:
            message = f"{name} must be {need}, outside of any block: {{% set {name} = {example} %}}"
            raise TemplateSyntaxError(message, node.lineno) from None
    return setting


def prefix_of(name: str, tree: nodes.Template) -> str:
    """How the answer to a template begins; of a revision only if it is asked for in one turn."""
    if name in ("verdict", "gate", "scale", "screen") or (name == "revise" and setting_of(tree, "frame")):
        return setting_of(tree, "prefix") or ""
    return ""
