"""A run folder whose run.json or rows were changed: what cannot be used is told with what to do, by every command."""

from __future__ import annotations

import copy
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from goldens.make import JUDGE, LAW, WRITER, write_inputs
from kept import TINY, run
from steady import steady

from cai.cli.main import main
from cai.errors import CaiError

ROWS = {"generate": "revisions.jsonl", "sample": "candidates.jsonl", "label": "labels.jsonl"}
GONE = object()
VALUES = (GONE, None, "text", "", [1], {"a": 1}, 2**70, -1, float("nan"), True)
PROMPTS = ("inputs/prompts.jsonl", "--limit", "3")
PAIRS = ("inputs/pairs.jsonl", *JUDGE, "-k", "1")
MADE = {  # by folder: the command that makes it
    "generate": ("generate", *PROMPTS, "-c", LAW, *WRITER, "--price", "1,2"),
    "sample": ("sample", *PROMPTS, *WRITER, "-n", "2"),
    "label": ("label", "sample", *JUDGE, "-k", "1"),
    "best": ("sample", *PROMPTS, *WRITER, "--best-of", "2", *JUDGE),
    "gold": ("label", *PAIRS, "--gold", "inputs/gold.jsonl", "--agreement", "0.7"),
    "test": ("constitution", "test", LAW, "--judge", "openai:judge"),
    "bench": ("judge", "bench", "--gold", "inputs/gold.jsonl", "--limit", "12", *JUDGE, "-k", "1"),
}
OF_ALL = (
    "export {0}", "audit {0}", "judge calibrate {0}", "constitution ablate {0}", "plan label {0} …",
)  # fmt: skip
READERS = {  # by folder: other commands that read it, or a folder in it
    "generate": """
        train sft generate, train dpo generate, train kto generate, plan label generate … --pairing final""",
    "sample": "train sft sample, plan label sample … --target 2, export sample --best",
    "label": "train dpo label, train kto label, export label --best, export label --agreement 0.7",
    "best": """
        train sft best, train dpo best/labels, export best --best, export best/labels, export best --agreement 0.7""",
    "gold": "train reward gold, judge calibrate gold/gold, plan label inputs/pairs.jsonl … --calibration gold",
}
MOST, ALL = 5, 30  # fields of a file that are changed, in the default suite and in the slow one


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    make_folders(work)
    return work


def make_folders(work: Path) -> None:
    write_inputs(work)
    with steady() as server:
        for name, words in MADE.items():
            status = int(name == "test")  # the judge fails some examples
            run(*words, "--out", name, folder=work, server=f"{server.url}/v1", status=status)


def commands(kind: str) -> list[list[str]]:
    """The command lines that read a run's folder; the server is gone, so that nothing can be asked."""
    nowhere = ["--base-url", "http://127.0.0.1:9/v1"]
    lines = [[*MADE[kind], "--out", kind, *nowhere]]
    if kind in ("generate", "sample", "label", "best"):
        lines.append(["plan", *lines[0]])
    for line in (*(reader.format(kind) for reader in OF_ALL), *READERS.get(kind, "").split(",")):
        words = line.split()
        if not words:
            continue
        if words[0] == "train":
            words += ["--model", str(TINY), "--out", "new"]
        if "…" in words:
            place = words.index("…")
            words[place : place + 1] = [*JUDGE, "-k", "1", *nowhere, "--out", "new"]
        lines.append(words)
    return lines


def stop(*facts: Any, **more: Any) -> None:
    """In place of a training, once all that it needs of a run has been read."""
    raise CaiError("stopped")


def told(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """How `cai …` ended, and what it said of errors."""
    monkeypatch.setattr(sys, "argv", ["cai", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capfd.readouterr().err


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document is, at every depth."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield (*above, key)
        yield from places(item, (*above, key))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> str:
    """The document with another value at a place, or without it."""
    document = copy.deepcopy(document)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return json.dumps(document)


def problems(status: int, error: str) -> str | None:
    """What of an ending no user should see."""
    last = error.strip().splitlines()[-1:]
    if "bug in cai" in error or "Traceback" in error or status not in (0, 1):
        return f"{status}: {error}"
    if status and not (last and "error: " in last[0]):
        return f"{status}: {error}"
    return None


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        pytest.param(kind, most, marks=pytest.mark.slow if kind == "gold" or most == ALL else [])  # gold has two runs
        for kind in MADE
        for most in (MOST, ALL)
    ],
)
def test_an_odd_field_of_run_json_is_told_and_never_a_bug(
    folders: Path, kind: str, most: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chance = random.Random(kind)
    monkeypatch.setattr("cai.training.train.Session", stop)
    bugs = []
    for path in sorted([*(folders / kind).rglob("run.json"), *(folders / kind).glob("calibration.json")]):
        whole = path.read_bytes()
        document = json.loads(whole)
        every = list(places(document))
        for place in chance.sample(every, min(most, len(every))):
            for words, value in zip(chance.sample(commands(kind), 2), chance.sample(VALUES, 2), strict=True):
                path.write_text(changed(document, place, value))
                problem = problems(*told(words, monkeypatch, capfd))
                if problem is not None:
                    bugs.append((path.name, place, value, words[:3], problem))
        path.write_bytes(whole)
    shutil.rmtree(folders / "new", ignore_errors=True)
    assert bugs == []


ODD_POSITIONS = (
    "-1",
    "9223372036854775808",
    "281474976710656",
    "1.0",
    "0.5",
    "1e3",
    '"0"',
    "null",
    "true",
    "[0]",
    "{}",
)
ALWAYS = ("-1", "0.5", "null")  # which the default suite tries with every kind of run


@pytest.mark.parametrize(
    ("kind", "position"),
    [
        pytest.param(kind, position, marks=() if kind == "generate" or position in ALWAYS else pytest.mark.slow)
        for kind in ROWS
        for position in ODD_POSITIONS
    ],
)
def test_an_odd_position_is_damage_in_every_file_of_rows(
    folders: Path, tmp_path: Path, kind: str, position: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for name in ("inputs", *ROWS):
        shutil.copytree(folders / name, tmp_path / "work" / name)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("cai.training.train.Session", stop)
    path = Path(kind) / ROWS[kind]
    lines = path.read_bytes().splitlines(keepends=True)
    start, _, rest = lines[0].partition(b'"position":')
    lines[0] = start + b'"position":' + position.encode() + rest[rest.index(b",") :]
    path.write_bytes(b"".join(lines))
    for words in commands(kind):
        _, error = told(words, monkeypatch, capfd)
        assert "bug in cai" not in error, (words, error)
        if words == ["export", kind] and kind != "sample":
            assert "line 1 is damaged (position" in error, (words, error)
