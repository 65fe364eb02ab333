"""A run folder whose rows were changed: what cannot be used is told with what to do, by every command."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from goldens.make import JUDGE, LAW, WRITER, write_inputs
from kept import run
from steady import steady

from cai.cli.main import main

KINDS = {"generate": "revisions.jsonl", "sample": "candidates.jsonl", "label": "labels.jsonl"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    write_inputs(work)
    with steady() as server:
        at = {"folder": work, "server": f"{server.url}/v1"}
        run("generate", "inputs/prompts.jsonl", "-c", LAW, *WRITER, "--limit", "3", "--out", "generate", **at)
        run("sample", "inputs/prompts.jsonl", *WRITER, "-n", "2", "--limit", "3", "--out", "sample", **at)
        run("label", "sample", *JUDGE, "-k", "1", "--out", "label", **at)
    return work


def commands(kind: str) -> list[list[str]]:
    """The command lines that read a run's folder; the server is gone, so that nothing can be asked."""
    judge = [*JUDGE, "-k", "1", "--base-url", "http://127.0.0.1:9/v1"]
    lines = [["export", kind], ["audit", kind], ["train", "sft", kind, "--plan"], ["judge", "calibrate", kind]]
    lines.append(["label", kind, *judge, "--out", "new", "--plan"])
    if kind == "sample":
        lines.append(["label", kind, *judge, "--out", "new", "--plan", "--target", "2"])
    resumed = {
        "generate": ["generate", "inputs/prompts.jsonl", "-c", LAW, *WRITER, "--limit", "3"],
        "sample": ["sample", "inputs/prompts.jsonl", *WRITER, "-n", "2", "--limit", "3"],
        "label": ["label", "sample", *JUDGE, "-k", "1"],
    }[kind]
    return [*lines, [*resumed, "--out", kind, "--base-url", "http://127.0.0.1:9/v1"]]


def told(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """How `cai …` ended, and what it said of errors."""
    monkeypatch.setattr(sys, "argv", ["cai", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capfd.readouterr().err


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", ODD_POSITIONS)
def test_an_odd_position_is_damage_in_every_file_of_rows(
    folders: Path, tmp_path: Path, kind: str, position: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    shutil.copytree(folders, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    path = Path(kind) / KINDS[kind]
    lines = path.read_bytes().splitlines(keepends=True)
    start, _, rest = lines[0].partition(b'"position":')
    lines[0] = start + b'"position":' + position.encode() + rest[rest.index(b",") :]
    path.write_bytes(b"".join(lines))
    for words in commands(kind):
        if words[:2] == ["train", "sft"] or (words[0] == "judge" and kind != "label"):
            continue  # these read the cut files, or no such run
        if words[0] == "label" and kind == "label":
            continue  # refuses a run of labels, or has nothing left to do
        _, error = told(words, monkeypatch, capfd)
        assert "bug in cai" not in error, (words, error)
        if words[0] == "export" and kind != "sample":
            assert "line 1 is damaged (position" in error, (words, error)
