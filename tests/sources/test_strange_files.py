"""Files that are named for something else: none is waited for, read without end, or quoted in an error."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cai
from cai.constitution.files import Reader, load_constitution
from cai.engine.templates.sets import load_templates
from cai.errors import CaiError
from cai.judge.certify import load_calibration
from cai.sources import yamlfile
from cai.training.setup.config import load_config

SECRET = "hunter2correcthorse"


@contextmanager
def pipe(path: Path) -> Iterator[None]:
    os.mkfifo(path)
    yield


@contextmanager
def listening(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
        os.chdir(before)
        yield


@contextmanager
def device(path: Path) -> Iterator[None]:
    path.symlink_to("/dev/zero")
    yield


@contextmanager
def directory(path: Path) -> Iterator[None]:
    path.mkdir()
    yield


@contextmanager
def huge(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    yield


STRANGE = {"a pipe": pipe, "a socket": listening, "a device": device, "a folder": directory, "huge": huge}


def as_constitution(path: Path) -> None:
    load_constitution(path)


def as_extended(path: Path) -> None:
    law = path.with_name("law.yaml")
    law.write_text(f"name: mine\nversion: 1.0.0\nextends: ./{path.name}\nprinciples: [Be kind.]\n")
    load_constitution(law)


def as_config(path: Path) -> None:
    load_config(path, {})


def as_calibration(path: Path) -> None:
    load_calibration(path)


def template_set(path: Path, name: str) -> None:
    folder = path.with_name("set")
    folder.mkdir()
    for each in ("critique.jinja", "revise.jinja"):
        (folder / each).write_text("{{ principle.text }}")
    if path.exists() and name.endswith(".jinja"):
        (folder / name).unlink()
    path.rename(folder / name)
    load_templates(folder)


def as_template(path: Path) -> None:
    template_set(path, "critique.jinja")


def as_examples(path: Path) -> None:
    template_set(path, "examples.yaml")


def as_run_json(path: Path) -> None:
    folder = path.with_name("run")
    folder.mkdir()
    path.rename(folder / "run.json")
    cai.export_run(folder)


USES = (as_constitution, as_extended, as_config, as_calibration, as_template, as_examples, as_run_json)


@pytest.mark.skipif(os.name == "nt", reason="has no such files")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, use: Callable[[Path], None]) -> None:
    path = tmp_path / "strange.yaml"
    with STRANGE[kind](path), pytest.raises(CaiError) as refusal:
        use(path)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="has no such files")
@pytest.mark.parametrize("name", ["critique.jinja", "shared.jinja", "examples.yaml"])
@pytest.mark.parametrize("above", [True, False])
def test_a_link_that_leaves_a_template_set_is_refused(tmp_path: Path, name: str, above: bool) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for each in ("critique.jinja", "revise.jinja"):
        (folder / each).write_text("{{ principle.text }}")
    (folder / name).unlink(missing_ok=True)
    (tmp_path / "secret").write_text("[]")
    (folder / "inside").write_text("[]" if name == "examples.yaml" else "{{ principle.text }}")
    (folder / name).symlink_to(Path("..", "secret") if above else "inside")
    if not above:
        load_templates(folder)
        return
    with pytest.raises(CaiError, match="is a link to a file outside of its set"):
        load_templates(folder)


FOREIGN = {
    "environment": f"OPENAI_API_KEY={SECRET}\nB=2\n",
    "passwd": f"root:x:0:0:{SECRET}:/root:/bin/bash\n",
    "token": f"token: {SECRET}\nname: me\nversion: {SECRET}\n",
    "credentials": f"[default]\naws_secret_access_key = {SECRET}\n",
    "alias": f"*{SECRET}\n",
    "anchor": f"&{SECRET} a\n",
    "tag": f"a: !{SECRET} x\n",
    "key": f'{{"{SECRET}": 1}}',
    "twice": f"{SECRET}: 1\n{SECRET}: 2\n",
    "list": f"- {SECRET}\n- b\n",
    "number": f"a: !!int {SECRET}\n",
    "escape": f'"\\{SECRET}"',
    "private key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----\n",
    "compose": f"version: '3.8'\nservices:\n  db: {{password: {SECRET}}}\n",
    "json": f'{{"schema": "{SECRET}", "k": "{SECRET}"}}',
    "netrc": f"machine example.com login me password {SECRET}\n",
}


@pytest.mark.parametrize("use", [as_constitution, as_extended, as_config, as_calibration, as_examples])
@pytest.mark.parametrize("name", FOREIGN)
def test_an_error_does_not_quote_a_file_that_is_another_thing(
    tmp_path: Path, name: str, use: Callable[[Path], None]
) -> None:
    path = tmp_path / "foreign.yaml"
    path.write_text(FOREIGN[name])
    with pytest.raises(CaiError) as refusal:
        use(path)
    assert SECRET not in str(refusal.value)


def test_a_file_that_many_extend_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 20
    for level in range(depth):
        for side in "ab":
            above = f"extends: [{level + 1}a.yaml, {level + 1}b.yaml]\n" if level + 1 < depth else ""
            text = f"name: n{level}{side}\nversion: 1.0.0\n{above}principles: [Level {level} {side}.]\n"
            (tmp_path / f"{level}{side}.yaml").write_text(text)
    read: list[Path] = []
    real = yamlfile.read_text
    monkeypatch.setattr(yamlfile, "read_text", lambda path: read.append(path) or real(path))
    law = load_constitution(tmp_path / "0a.yaml")
    assert len(law.principles) == 2 * depth - 1
    assert len(read) == len(set(read)) == 2 * depth - 1


def test_a_fault_in_a_file_that_many_extend_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: b\nversion: 1\nprinciples: [Be kind.]\n")
    for side in "ab":
        (tmp_path / f"{side}.yaml").write_text(f"name: {side}\nversion: 1.0.0\nextends: base.yaml\n")
    (tmp_path / "top.yaml").write_text("name: t\nversion: 1.0.0\nextends: [a.yaml, b.yaml]\n")
    reader = Reader()
    assert reader.read(tmp_path / "top.yaml") is None
    assert len(reader.problems) == 1
