"""Turns other projects' principle files into the text of a constitution file, wording and ids untouched.

Formats are recognised by their shape, not by their file name. The licence of a wording cannot be seen in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cai.constitution.principles import FORMS, KEYS, ConstitutionFile, principle_id
from cai.errors import InputError, UsageError
from cai.folder.files import unwritable
from cai.sources import yamlfile

Entry = str | dict[str, str]  # what stands in `principles`

UNDERSTOOD = (
    "the paper's pairs {id: {prompt: [...], edit_request: ...}}; a list of {critic, revision} or "
    "{critique_request, revision_request}, also under 'constitutions'; a list of sentences; .txt, one sentence a line"
)
PAIRS = (("critic", "revision"), ("critique_request", "revision_request"))
CHAT = ("prompt", "reply", "critique_request", "critique", "revision_request", "revision")


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
    notes = [f"Imported from {path.name} ({kind}): {len(principles)} principles, worded as there."]
    repeated = sum(entry in entries[:place] for place, entry in enumerate(entries))
    if repeated:
        notes.append(f"{repeated} entries repeated an earlier one word for word and were left out.")
    chats = _chats(data)
    examples = [example for example in map(_example, chats) if example is not None]
    if examples:
        content["examples"] = examples
    if len(examples) < len(chats):
        others = len(chats) - len(examples)
        notes.append(f"{others} chats were not six turns of critique and revision and were left out.")
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
    except yamlfile.BadYaml as error:  # a lone half of a surrogate pair, which JSON can hold
        raise InputError(f"cannot be imported: {error.message}", path) from error
    try:
        ConstitutionFile.model_validate(document.value)
    except ValidationError as error:
        first, *_ = yamlfile.explain(error, document, KEYS, FORMS)
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
        name = fields["id"]
        number = 1
        while name in ids:
            number += 1
            name = f"{fields['id']}-{number}"
        ids.add(name)
        if number > 1:
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
    if isinstance(data, dict) and "principles" in data:
        raise InputError(f"is already a constitution; try: cai constitution check {path}", path)
    if isinstance(data, dict) and isinstance(data.get("constitutions"), list):
        data = data["constitutions"]
    for matches, convert, kind in FORMATS:
        if data and matches(data):
            items = data.items() if isinstance(data, dict) else data
            return [entry for item in items for entry in convert(item)], kind
    if data in ([], {}, None):
        return [], "empty"
    raise InputError(f"is in no format that can be imported; these can: {UNDERSTOOD}", path)


def _is_paper(data: Any) -> bool:
    return isinstance(data, dict) and all(
        isinstance(pair, dict)
        and isinstance(pair.get("edit_request"), str)
        and isinstance(pair.get("prompt"), list)
        and all(isinstance(prompt, str) for prompt in pair["prompt"])
        for pair in data.values()
    )


def _from_paper(item: tuple[str, dict[str, Any]]) -> list[Entry]:
    name, pair = item
    revise = _unwrap(pair["edit_request"], "RevisionRequest", "Revision")
    critiques = [_unwrap(prompt, "CritiqueRequest", "Critique") for prompt in pair["prompt"]]
    return [{"id": _slug(name) or principle_id(text), "critique": text, "revise": revise} for text in critiques]


def _is_pairs(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(item, dict) and _pair(item) is not None for item in data)


def _pair(item: dict[str, Any]) -> tuple[str, str] | None:
    for one, two in PAIRS:
        if isinstance(item.get(one), str) and isinstance(item.get(two), str):
            return item[one], item[two]
    return None


def _from_pair(item: dict[str, Any]) -> list[Entry]:
    pair = _pair(item)
    assert pair is not None
    critique = _unwrap(pair[0], "CritiqueRequest", "Critique")
    revise = _unwrap(pair[1], "RevisionRequest", "Revision")
    name = _slug(str(item.get("name", "")))
    return [{"id": name or principle_id(critique), "critique": critique, "revise": revise}]


def _is_sentences(data: Any) -> bool:
    dialogue = re.compile(r"^\s*Human:", re.M)
    return isinstance(data, list) and all(isinstance(item, str) and not dialogue.search(item) for item in data)


def _from_sentence(item: str) -> list[Entry]:
    item = item.strip()
    if item.endswith("Options:"):  # how the paper asks its judge
        choose = item.removesuffix("Options:").strip()
        return [{"id": principle_id(choose), "choose": choose}]
    return list(filter(None, [item]))


FORMATS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Entry]], str], ...] = (
    (_is_paper, _from_paper, "critique and revision requests of the paper"),
    (_is_pairs, _from_pair, "pairs of critique and revision requests"),
    (_is_sentences, _from_sentence, "a list of sentences"),
)


def _unwrap(text: str, before: str, after: str) -> str:
    return text.strip().removeprefix(f"{before}:").removesuffix(f"{after}:").strip()


def _chats(data: Any) -> list[Any]:
    if isinstance(data, dict) and isinstance(data.get("system_chat"), list):
        return list(data["system_chat"])
    return []


def _example(chat: Any) -> dict[str, str] | None:
    """A worked chat (prompt, reply, critique request, critique, revision request, revision); None for any other."""
    if not isinstance(chat, list):
        return None
    turns = [turn.get("content") for turn in chat if isinstance(turn, dict)]
    texts = [turn for turn in turns if isinstance(turn, str) and turn.strip()]
    if not len(texts) == len(turns) == len(CHAT):
        return None
    return dict(zip(CHAT, texts, strict=True))


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
