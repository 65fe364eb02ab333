"""The examples run as their first lines say; a stub server stands in for a server of the user's own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT
from stub import stub

from cai import load_constitution
from cai.generating import Settings
from cai.lint import check
from cai.models.recorded import read_answers
from cai.revise import draw_principles

EXAMPLES = ROOT / "examples"


def run(folder: Path, *command: str, **variables: str) -> str:
    """Standard output of a command that must succeed, with `cai` on the path."""
    cai = folder / "cai"
    cai.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cai "$@"\n')
    cai.chmod(cai.stat().st_mode | stat.S_IXUSR)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_constitution_to_start_from_has_neither_errors_nor_warnings() -> None:
    report = check(EXAMPLES / "my_constitution.yaml")
    assert (report.errors, report.warnings) == ((), ())


def test_the_comparison_shows_where_the_recorded_finals_differ(tmp_path: Path) -> None:
    told = run(tmp_path, sys.executable, str(EXAMPLES / "compare_constitutions.py"))
    assert told.endswith("3 of 4 final replies differ\n")
    assert told.count("cooking-school, revised") == 3 and told.count("harmless, unchanged") == 2
    assert "Can I save it?" not in told  # the one on which both agree
    assert list(tmp_path.iterdir()) == [tmp_path / "cai"]  # keeps nothing


@pytest.mark.parametrize(
    ("constitution", "drawn"),
    [
        (
            "harmless",
            {"class-muffins": "young-readers", "dull-knife": "crime-assistance", "jar": "strongest-objection"},
        ),
        (EXAMPLES / "my_constitution.yaml", {"class-muffins": "ask-about-allergies", "dull-knife": "no-shopping-list"}),
    ],
)
def test_the_recorded_critiques_are_about_the_principles_that_are_drawn(
    constitution: str | Path, drawn: dict[str, str]
) -> None:
    principles = load_constitution(constitution).principles_for("revise")
    found = {name: draw_principles(principles, 1, Settings().seed, name)[0].id for name in drawn}
    assert found == drawn, "write the answers in examples/ anew: their critiques are about other principles"


def test_the_recorded_first_replies_are_the_same_under_both_constitutions() -> None:
    first = [
        {key: answer.text for key, answer in read_answers(path, "x").items() if key[1] == "assistant"}
        for path in sorted(EXAMPLES.glob("answers-*.jsonl"))
    ]
    assert len(first) == 2 and first[0] == first[1] and len(first[0]) == 4


def test_the_script_for_a_server_of_ones_own_plans_asks_and_exports(tmp_path: Path) -> None:
    script = str(EXAMPLES / "own_server.sh")
    with stub() as server:
        run(tmp_path, script, OPENAI_BASE_URL=f"{server.url}/v1", MODEL="some/model")
        asked = server.stats()["requests"]
        assert asked == 4 * 5  # four prompts: a reply, two critiques and two revisions each
        run(tmp_path, script, OPENAI_BASE_URL=f"{server.url}/v1", MODEL="some/model")
        assert server.stats()["requests"] == asked
    out = tmp_path / "runs" / "own-server"
    rows = [line for name in ("sft.jsonl", "sft.eval.jsonl") for line in (out / name).read_text().splitlines()]
    assert {json.loads(row)["id"] for row in rows} == {"class-muffins", "dull-knife", "jar", "soup"}


def test_the_script_that_judges_ends_with_a_pair_a_prompt_and_asks_nothing_twice(tmp_path: Path) -> None:
    script = str(EXAMPLES / "judge.sh")
    with stub() as server:
        settings = {"OPENAI_BASE_URL": f"{server.url}/v1", "MODEL": "openai:some/model", "MAX_TOKENS": "300"}
        told = run(tmp_path, script, **settings)
        asked = server.stats()["requests"]
        assert asked == 4 * 3 + 8 * 6 + 12 * 6  # replies; eight gold pairs and twelve of three, six questions each
        run(tmp_path, script, **settings)
        assert server.stats()["requests"] == asked
    assert "agrees with people on" in told and "wins: the pair's verdict is its own" in told
    out = tmp_path / "runs" / "judge" / "labels"
    pairs = [json.loads(line) for line in (out / "dpo.jsonl").read_text().splitlines()]
    assert {pair["prompt_id"] for pair in pairs} == {"class-muffins", "dull-knife", "jar", "soup"} and len(pairs) == 4


def test_the_gold_pairs_are_not_told_apart_by_their_length() -> None:
    pairs = [json.loads(line) for line in (EXAMPLES / "gold-pairs.jsonl").read_text().splitlines()]
    assert sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs) * 2 == len(pairs) == 8


@pytest.mark.slow
def test_the_quickstart_makes_training_rows_with_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    told = run(tmp_path, sys.executable, str(EXAMPLES / "quickstart.py"))
    out = tmp_path / "runs" / "quickstart"
    rows, sft, dropped = (
        (out / name).read_text().splitlines() for name in ("revisions.jsonl", "sft.jsonl", "dropped.jsonl")
    )
    lost = [drop for drop in map(json.loads, dropped) if drop["stage"] not in ("sft", "dpo")]
    assert len(rows) + len(lost) == 5 and len(rows) == len(sft)
    assert told.count("\nrevision  ") == len(rows)
    assert f"{len(sft)} training rows" in told
