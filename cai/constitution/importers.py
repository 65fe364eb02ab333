"""Turns other projects' principle files into the text of a constitution file, wording and ids untouched.

Formats are recognised by their shape, not by their file name. The licence of a wording cannot be seen in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict

from cai.constitution.files import FORMS, KEYS
from cai.constitution.principles import ConstitutionFile, principle_id
from cai.disk.writing import unwritable
from cai.errors import InputError, UsageError
from cai.sources import yamlfaults, yamlfile
from cai.texts.wording import counted

Entry = str | dict[str, str]  # what stands in `principles`

UNDERSTOOD = (
    "the paper's pairs {id: {prompt: [...], edit_request: ...}}; a list of {critic, revision} or "
    "{critique_request, revision_request}, also under 'constitutions'; a list of sentences; .txt, one sentence a line"
)
CHAT = ("prompt", "reply", "critique_request", "critique", "revision_request", "revision")


def _not_a_dialogue(text: str) -> str:
    if re.search(r"^\s*Human:", text, re.M):
        raise ValueError("a dialogue is not a principle")
    return text


class _PaperPair(BaseModel):
    prompt: list[str]
    edit_request: str


class _Pair(BaseModel):
    critique: str
    revise: str
    name: Any = ""

    @model_validator(mode="before")
    @classmethod
    def _of_names(cls, item: Any) -> Any:
        match item:  # other values under the names of the second pair are not its requests
            case {"critic": str(critique), "revision": str(revise)} | {
                "critique_request": str(critique),
                "revision_request": str(revise),
            }:
                return {"critique": critique, "revise": revise, "name": item.get("name", "")}
        raise ValueError("not a pair of requests")


class _Turn(TypedDict):
    content: Annotated[str, Field(pattern=r"\S")]


_Sentence = Annotated[str, AfterValidator(_not_a_dialogue)]
CHATS = TypeAdapter(Annotated[list[_Turn], Field(min_length=len(CHAT), max_length=len(CHAT))])


def import_constitution(path: str | Path) -> str:
    """The text of a constitution file with the principles in `path`; it loads, and `check` finds no errors in it.

    Raises InputError if the file holds no principles in a known form.
    """
    path = Path(path)
    data = _read(path)
    entries, kind = _entries(data, path)
    principles = _with_distinct_ids(entries)
    if not principles:
        raise InputError("holds no principles", path)
    content = {
        "name": _slug(path.name.split(".")[0]) or "imported",
        "version": "1.0.0",
        "description": f"Imported from {path.name}. The wording is its authors'; see the source for its licence.",
        "principles": principles,
    }
    notes = [f"Imported from {path.name} ({kind}): {counted(len(principles), 'principle')}, worded as there."]
    repeated = len(entries) - len(principles)
    if repeated:
        notes.append(f"Left out {repeated} that repeated an earlier one word for word.")
    match data:
        case {"system_chat": list(chats)}:
            examples = [*_examples(chats)]
            if examples:
                content["examples"] = examples
            if len(examples) < len(chats):
                others = counted(len(chats) - len(examples), "chat")
                notes.append(f"Left out {others} that did not have the six turns of critique and revision.")
    notes.append(
        "The wording belongs to its authors: check its licence before you share this file or data made with it."
    )
    body = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    _check(body, path)
    return "".join(f"# {note}\n" for note in notes) + body


def _check(body: str, path: Path) -> None:
    """Raise InputError if the text of a constitution file does not load."""
    try:
        document = yamlfile.parse(body)
        ConstitutionFile.model_validate(document.value)
    except yamlfile.BadYaml as error:  # a lone half of a surrogate pair, which JSON can hold
        raise InputError(f"cannot be imported: {error.message}", path) from error
    except ValidationError as error:
        first, *_ = yamlfaults.explain(error, document, KEYS, FORMS)
        raise InputError(f"cannot be imported: {first.message}", path) from error


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a file that is not there yet, or replace it with `force`."""
    if path.exists() and not force:
        raise UsageError(f"{path} exists; name another --out, or --force to replace it")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error, "choose another --out") from error


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:60]


def _with_distinct_ids(entries: list[Entry]) -> list[Entry]:
    """Entries without exact repetitions; ids that clash get a number."""
    distinct: list[Entry] = []
    ids: set[str] = set()
    for place, entry in enumerate(entries):
        if entry in entries[:place]:
            continue
        fields = {"id": principle_id(entry), "text": entry} if isinstance(entry, str) else entry
        names = chain([fields["id"]], (f"{fields['id']}-{number}" for number in count(2)))
        name = next(name for name in names if name not in ids)
        ids.add(name)
        if name != fields["id"]:
            entry = {**fields, "id": name}
        distinct.append(entry)
    return distinct


def _read(path: Path) -> Any:
    try:
        text = yamlfile.read_text(path)
        if path.suffix == ".json":  # YAML does not know JSON's surrogate pairs
            return json.loads(text)
        if path.suffix in (".yaml", ".yml"):
            return yamlfile.parse(text).value
    except yamlfile.BadYaml as error:
        raise InputError(error.message, path, error.line) from error
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg}", path, error.lineno) from error
    except RecursionError as error:
        raise InputError("is nested too deeply", path) from error
    if path.suffix != ".txt":
        raise InputError(f"has the ending {path.suffix!r}; .json, .yaml and .txt can be imported", path)
    lines = (re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _entries(data: Any, path: Path) -> tuple[list[Entry], str]:
    match data:
        case {"principles": _}:
            raise InputError(f"is already a constitution; try: cai constitution check {path}", path)
        case {"constitutions": list(pairs)}:
            data = pairs
    if data in ([], {}, None):
        return [], "empty"
    for form, convert, kind in FORMATS:
        with suppress(ValidationError):
            return [*convert(form.validate_python(data))], kind
    raise InputError(f"is in no format that can be imported; these can: {UNDERSTOOD}", path)


def _from_paper(pairs: dict[str, _PaperPair]) -> Iterator[Entry]:
    for name, pair in pairs.items():
        for prompt in pair.prompt:
            yield _requests(name, prompt, pair.edit_request)


def _from_pairs(pairs: list[_Pair]) -> Iterator[Entry]:
    for pair in pairs:
        yield _requests(str(pair.name), pair.critique, pair.revise)


def _requests(name: str, critique: str, revise: str) -> Entry:
    """The principle of a critique request and a revision request, without the marks that the paper puts around them."""
    critique = critique.strip().removeprefix("CritiqueRequest:").removesuffix("Critique:").strip()
    revise = revise.strip().removeprefix("RevisionRequest:").removesuffix("Revision:").strip()
    return {"id": _slug(name) or principle_id(critique), "critique": critique, "revise": revise}


def _from_sentences(sentences: list[str]) -> Iterator[Entry]:
    for sentence in filter(None, map(str.strip, sentences)):
        if sentence.endswith("Options:"):  # how the paper asks its judge
            choose = sentence.removesuffix("Options:").strip()
            yield {"id": principle_id(choose), "choose": choose}
        else:
            yield sentence


FORMATS: tuple[tuple[TypeAdapter[Any], Callable[[Any], Iterator[Entry]], str], ...] = (
    (TypeAdapter(dict[str, _PaperPair]), _from_paper, "critique and revision requests of the paper"),
    (TypeAdapter(list[_Pair]), _from_pairs, "pairs of critique and revision requests"),
    (TypeAdapter(list[_Sentence]), _from_sentences, "a list of sentences"),
)


def _examples(chats: list[Any]) -> Iterator[dict[str, str]]:
    """The worked chats: prompt, reply, critique request, critique, revision request, revision; no others."""
    for chat in chats:
        with suppress(ValidationError):
            turns = CHATS.validate_python(chat)
            yield dict(zip(CHAT, [turn["content"] for turn in turns], strict=True))


class _Dumper(yaml.SafeDumper):
    """Writes long and many-lined texts as blocks, which people can read and edit."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text:
        style = "|"
    elif len(text) > 80:
        style = ">"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
