"""The recipe `laptop`: from a constitution to a report, with recorded models and with the embedded one.

pytest -m slow tests/recipes/test_laptop.py
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trainings
from kept import command, environment, rows

from cai.records import Prompt
from cai.sources.files import read_prompts

PROMPTS = 6
STAGES = ["draft", "sft", "replies", "labels", "dpo", "eval"]


def laptop(folder: Path, *words: str) -> subprocess.Popen[str]:
    typed = command("run", "laptop", "--out", str(folder), "--json", *words)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(typed, cwd=folder.parent, env=environment(), start_new_session=True, **pipes)


def finish(folder: Path, *words: str) -> dict[str, Any]:
    process = laptop(folder, *words)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    summary: dict[str, Any] = json.loads(stdout)
    return summary


def finish_killed(folder: Path, kills: int, seconds: float, *words: str) -> dict[str, Any]:
    """Let it be killed at random moments of so many seconds each, and then to its end."""
    chance = Random(kills)
    for _ in range(kills):
        process = laptop(folder, *words)
        try:
            process.communicate(timeout=chance.uniform(0.1, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            time.sleep(1)  # its command ends by itself
    return finish(folder, *words)


def report(folder: Path) -> str:
    """The text of the report, without times and the name of the folder, which shows up to its end."""
    page = (folder / "report.html").read_text(encoding="utf-8").replace(folder.name, "FOLDER")
    return re.sub(r"\d+:\d\d(:\d\d)?|\d{4}-\d\d-\d\d|\d+(\.\d+)? s\b", "–", page)


def recorded(path: Path, seed: int) -> str:
    """A model that answers every question of the recipe but those of trainings."""
    chance = Random(seed)

    def answer(id: str, role: str, index: int, **more: Any) -> dict[str, Any]:
        return {"id": id, "role": role, "index": index, "reply": f"Reply {chance.random():.3f} it is."} | more

    def odds() -> dict[str, float]:
        return {"A": -chance.random(), "B": -1 - chance.random()}

    answers = []
    for id in [each.id for name in ("builtin", "contrast") for each in read_prompts(name) if isinstance(each, Prompt)]:
        answers += [answer(id, "assistant", 0), answer(id, "assistant", 1)]
        gate = tuple(odds().values())
        answers += [answer(id, "critic", 0), answer(id, "critic", 1, scores=gate), answer(id, "reviser", 0)]
        answers += [answer(f"{id}:0-1", "judge", index, logprobs=[odds()]) for index in range(6)]
    return f"recorded:{trainings.write_lines(path, answers)}"


@pytest.fixture
def words(tmp_path: Path, base: Path) -> list[str]:
    one, other = recorded(tmp_path / "one.jsonl", 1), recorded(tmp_path / "other.jsonl", 2)
    variables = {"writer": one, "drawn": one, "judge": one, "compared": other, "against": one, "model": str(base)}
    variables |= {"limit": str(PROMPTS), "suite": "refusals"}
    return [word for name, value in variables.items() for word in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_with_recorded_models_kills_leave_no_trace_in_the_report(tmp_path: Path, words: list[str]) -> None:
    assert finish(tmp_path / "calm9", *words)["ran"] == STAGES
    finish_killed(tmp_path / "kill9", 10, 8, *words)
    assert report(tmp_path / "kill9") == report(tmp_path / "calm9")
    assert finish(tmp_path / "kill9", *words)["ran"] == []


@pytest.mark.slow
def test_it_ends_in_a_report_however_often_it_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    pytest.importorskip("trl")
    words = ["--set", "limit=12"]
    out = tmp_path / "laptop"
    summary = finish_killed(out, 10, 60, *words)
    assert all(job["status"] == "finished" for job in summary["jobs"].values())
    assert len(rows(out / "draft" / "revisions.jsonl")) == summary["jobs"]["draft"]["summary"]["rows"]
    assert (out / "report.html").exists()
    state = out / "recipe.json"  # is written again, the same
    content = state.read_bytes()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path != state}
    assert finish(out, *words)["ran"] == []
    assert {path: path.stat().st_mtime_ns for path in made} == made and state.read_bytes() == content
