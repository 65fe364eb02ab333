"""The command beside a shell: readers that go, streams that are closed, `-h`, and completion."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from forked import fork
from goldens.make import JUDGE, WRITER, write_inputs
from kept import environment, rows
from steady import Steady
from terminal import cai

ENDS = {  # what a shell puts after a command
    "head": "| head -1",
    "head of both": "2>&1 | head -1",
    "a reader that is gone": "2>&1 | true",
    "no stdout": ">&-",
    "no stderr": "2>&-",
    "neither": ">&- 2>&-",
    "no stdin": "<&-",
    "none at all": "<&- >&- 2>&-",
    "a full disk for messages": "2>/dev/full",
}
COMMANDS = {
    "help": "--help",
    "list": "constitution list",
    "show": "constitution show harmless",
    "json": "constitution check harmless --json",
    "audit": "audit run/sft.jsonl --json",
    "export": "export run",
    "plan": "plan generate inputs/prompts.jsonl -c inputs/law.yaml --model openai:writer --json",
}
RUNS = {
    "generate": ("generate", "inputs/prompts.jsonl", "-c", "inputs/law.yaml", *WRITER, "--json"),
    "label": ("label", "inputs/pairs.jsonl", *JUDGE, "-k", "1", "--json"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, server: Steady) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_inputs(folder)
    for name, words in RUNS.items():
        shell(" ".join(words), f"--out {name} --base-url {server.url}/v1", folder)
    shutil.copytree(folder / "generate", folder / "run")
    return folder


def shell(words: str, end: str, folder: Path) -> str:
    """Run `cai …` in a shell; its status must be 0. Returns what is left on stderr."""
    started = [sys.executable, "-m", "cai"] if "&-" in end else forked.command()
    command = f"{shlex.join(started)} {words} {end}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="has no such shell")
@pytest.mark.parametrize(
    ("command", "end"),
    [*(("list", end) for end in ENDS), ("export", "a reader that is gone"), ("export", "none at all")],
)
def test_a_command_ends_well_whatever_becomes_of_its_output(work: Path, command: str, end: str) -> None:
    shown = shell(COMMANDS[command], ENDS[end], work)
    assert "error:" not in shown and "Exception" not in shown


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="has no such shell")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_well_whatever_becomes_of_its_output(work: Path, command: str, end: str) -> None:
    shown = shell(COMMANDS[command], ENDS[end], work)
    assert "error:" not in shown and "Exception" not in shown


@pytest.mark.skipif(os.name == "nt", reason="has no such shell")
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("generate", "head of both"),
        pytest.param("generate", "a reader that is gone", marks=pytest.mark.slow),
        ("generate", "none at all"),
        pytest.param("label", "head of both", marks=pytest.mark.slow),
        ("label", "a reader that is gone"),
        pytest.param("label", "none at all", marks=pytest.mark.slow),
    ],
)
def test_a_run_loses_nothing_whatever_becomes_of_its_output(work: Path, server: Steady, kind: str, end: str) -> None:
    out = f"{kind}-{end.replace(' ', '-')}"
    shell(" ".join(RUNS[kind]), f"--debug --out {out} --base-url {server.url}/v1 {ENDS[end]}", work)
    for path in (work / kind).glob("*.jsonl"):
        made, whole = (sorted(map(str, rows(folder / path.name))) for folder in (work / out, work / kind))
        assert len(made) == len(whole)
        if path.name in ("sft.jsonl", "dpo.jsonl"):
            assert (work / out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("words", [["-h"], ["generate", "-h"], ["constitution", "check", "-h"], ["train", "sft", "-h"]])
def test_help_has_a_short_form(words: list[str]) -> None:
    texts = [cai(*form).stdout for form in (words, [*words[:-1], "--help"])]
    assert texts[0] == texts[1] and "Usage: cai" in texts[0]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("cai gen", "generate"),
        ("cai constitution ch", "check"),
        ("cai generate --max-c", "--max-cost"),
        ("cai label --min", "--min-confidence"),
        ("cai train sft --con", "--config"),
    ],
)
def test_a_shell_completes_commands_and_the_options_of_settings(typed: str, offered: str, tmp_path: Path) -> None:
    asked = {"_CAI_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    ended = fork([], tmp_path, environment() | asked)
    assert offered in ended.stdout.split(), ended.stderr
