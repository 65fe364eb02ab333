"""Template sets: folders of Jinja files that word what the models are asked.

A set has `critique.jinja` and `revise.jinja`, or `judge.jinja` and `verdict.jinja`, or both; `gate.jinja` if it asks
whether a reply needs a revision at all, `screen.jinja` if it asks that under several principles before any critique,
and `scale.jinja` if it asks for ratings. With `respond.jinja` it is a completion set, which writes the whole text that
a base model continues, after the worked examples of its `examples.yaml`. A template names its stop strings by `{% set
stop = [...] %}`; judge.jinja, scale.jinja and screen.jinja name by `frame` what separates their texts, and so do
critique.jinja, gate.jinja and revise.jinja if they quote the conversation in one turn instead of continuing it. Others
name by `prefix` how the answer begins, so that the letter, word, digit or reply comes next.
Rendering is sandboxed and strict: an undefined variable is an error, and text from prompts and replies is data, never
rendered again.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

from jinja2 import FunctionLoader, StrictUndefined, Template, nodes
from jinja2.exceptions import TemplateSyntaxError, UndefinedError
from pydantic import Field, TypeAdapter, ValidationError

from cai.constitution.examples import Example
from cai.constitution.levels import LEVELS
from cai.constitution.principles import WORDINGS, Finding, Principle
from cai.engine.bounds import Bounded
from cai.engine.template_checks import (
    JOBS,
    VARIABLES,
    WHOLE,
    error_in,
    find_problems,
    is_whole,
    missing_files,
    mixed_chain,
    variables_of,
    warning_in,
)
from cai.errors import TemplateError
from cai.records import Object, Values
from cai.sources.files import folder
from cai.sources.yamlfile import MAX_BYTES, BadYaml, first_fault, parse, read_regular
from cai.texts.wording import nearest, reason_of

DEFAULT = "chat"
# Without the gate the built-in chat set asks what it asked in version 0.1.0, and its runs keep that hash.
SAME_WORDS = {"e25f27e4d79ecee7": "d22def16ac4bf49c"}
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


@dataclass(frozen=True)
class Templates:
    """A loaded set.

    `hash` is over the bytes of its files except those of the judge, the scale and the screen, `ungated_hash` over those
    without the gate, `judge_hash`, `scale_hash` and `screen_hash` over the files of each with those that it shares:
    rewording one job does not change a run of another.
    """

    source: str  # "built-in NAME", or the folder
    hash: str
    ungated_hash: str
    judge_hash: str
    scale_hash: str
    screen_hash: str
    by_name: dict[str, Template]
    stop: dict[str, tuple[str, ...]]  # by template
    frame: dict[str, tuple[str, ...]]  # what no text of a conversation or reply may hold when it is shown in one
    prefix: dict[str, str]  # how an answer begins; "" if it begins with the letter or word
    examples: tuple[Example, ...]  # used if the constitution has none

    @property
    def completes(self) -> bool:
        """Whether the set writes text for a base model to continue, rather than chat turns."""
        return "respond" in self.by_name

    def need(self, job: str) -> None:
        """Raise TemplateError if the set has no templates for a job: "revise", "judge", "rate", "screen" or "gate"."""
        lacking = [f"{name}.jinja" for name in JOBS.get(job, (job,)) if name not in self.by_name]
        if lacking:
            raise TemplateError(f"the template set {self.source} has no {' and no '.join(lacking)}: it cannot {job}")

    def render(self, name: str, **variables: Any) -> str:
        """The text of one template; raises TemplateError, with file and line, if it cannot be rendered."""
        return render(self.by_name[name], variables)


def load_templates(name_or_folder: str | Path | None = None) -> Templates:
    """The template set in a folder, or the built-in one of that name (`chat`, `fewshot`, `quoted`); None: `chat`.

    Raises TemplateError with file and line for everything that can be known to be wrong before a model is asked.
    """
    path, source = find_templates(name_or_folder)
    files = read_files(path)
    environment = environment_of(path, files)
    if path.parent != folder("prompts"):  # our own sets are checked by tests
        for finding in findings_of(path, files, environment):
            if finding.level == "error":
                raise TemplateError(finding.message, finding.file, finding.line)
    jobs = {**JOBS, "revise": (*JOBS["revise"], "gate")}
    others = {job: [name for each in jobs if each != job for name in jobs[each]] for job in jobs}
    ungated = hash_of(files, (*others["revise"], "gate"))
    trees = {name: environment.parse(text_of(files, name)) for name in VARIABLES}
    return Templates(
        source=source,
        hash=hash_of(files, others["revise"]),
        ungated_hash=SAME_WORDS.get(ungated, ungated),
        judge_hash=hash_of(files, others["judge"]),
        scale_hash=hash_of(files, others["rate"]),
        screen_hash=hash_of(files, others["screen"]),
        by_name={name: environment.get_template(f"{name}.jinja") for name in VARIABLES if f"{name}.jinja" in files},
        stop={name: setting_of(tree, "stop") or () for name, tree in trees.items()},
        frame={name: setting_of(tree, "frame") or () for name, tree in trees.items()},
        prefix={name: prefix_of(name, tree) for name, tree in trees.items()},
        examples=examples_of(path, files),
    )


def find_templates(name_or_folder: str | Path | None = None) -> tuple[Path, str]:
    """The folder of a template set, and what to call it; an existing folder first, then a built-in name."""
    built_in = {item.name: item for item in sorted(folder("prompts").iterdir()) if item.is_dir()}
    if name_or_folder is None:  # a folder that happens to have the default's name must not take its place
        return built_in[DEFAULT], f"built-in {DEFAULT}"
    path = Path(name_or_folder)
    if path.is_dir():
        return path, str(path)
    if str(name_or_folder) in built_in:
        return built_in[str(name_or_folder)], f"built-in {name_or_folder}"
    hint = nearest(name_or_folder, built_in)
    raise TemplateError(f"no template set {str(name_or_folder)!r}: neither a folder nor a built-in name; {hint}")


def check_templates(path: Path) -> list[Finding]:
    """Everything wrong with a set: missing files, syntax, variables it is not given or ignores, a failing trial."""
    files = read_files(path)
    return findings_of(path, files, environment_of(path, files))


# Files and what they set


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


# Checks before the first call, of sets that are not ours


def findings_of(path: Path, files: Mapping[str, bytes], environment: Bounded) -> list[Finding]:
    names = [name for name in files if name.endswith(".jinja")]
    missing = missing_files(names)
    if missing is not None:
        return [error_in(path, None, missing)]
    findings = [finding for name in names for finding in _findings_in(path / name, files, environment)]
    if any(finding.level == "error" for finding in findings):
        return findings
    trees = {name: environment.parse(text_of(files, name)) for name in VARIABLES if f"{name}.jinja" in files}
    mixed = mixed_chain([name for name, tree in trees.items() if setting_of(tree, "frame")], names)
    if mixed is not None:
        return [*findings, error_in(path, None, mixed)]
    # Each template once, for a principle that lacks no wording, and with nothing that it is not given.
    words: Values = dict.fromkeys(WORDINGS, "Trial.")
    values: Values = dict.fromkeys(("reply", "critique", "first", "second", "criterion"), "Trial.")
    values |= {
        "levels": ("Trial.",) * LEVELS,
        "prompt": [{"role": "user", "content": "Trial."}],
        "gate": False,
        "reason": False,
        "against": True,
    }
    try:
        values |= {"principle": Principle(id="trial", **words), "examples": examples_of(path, files)}
        for name, tree in trees.items():
            variables = values.keys() & variables_of(name, is_whole(name, tree, names))
            render(environment.get_template(f"{name}.jinja"), {key: values[key] for key in variables})
    except TemplateError as error:
        findings.append(error_in(Path(str(error.path)), error.line, error.message))
    return findings


def _findings_in(path: Path, files: Mapping[str, bytes], environment: Bounded) -> list[Finding]:
    try:
        tree = environment.parse(files[path.name].decode("utf-8-sig"))
        findings = [*find_problems(path, tree, files)]
        if not setting_of(tree, "stop") and path.name == "respond.jinja":
            message = "sets no stop strings: a base model continues with the next turns, too"
            findings.append(warning_in(path, message))
        if path.stem in WHOLE and not setting_of(tree, "frame"):
            message = "sets no frame: a reply can imitate the end of itself, and what comes after it"
            findings.append(warning_in(path, message))
        prefix_of(path.stem, tree)
    except TemplateSyntaxError as error:
        return [error_in(path, error.lineno, error.message or "bad syntax")]
    except UnicodeDecodeError:
        return [error_in(path, 1, "is not UTF-8 text")]
    return findings


# Rendering


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
