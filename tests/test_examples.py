"""The examples run as their first lines say; a stub server stands in for a server of the user's own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import forked
import pytest
from pages import ROOT
from stub import stub
from trainings import example

from cai import load_constitution
from cai.constitution.draw import draw
from cai.constitution.lint import check
from cai.models.recorded import read_answers
from cai.runs.kinds.settings import GenerateSettings

EXAMPLES = ROOT / "examples"


def run(folder: Path, *command: str, **variables: str) -> str:
    """Standard output of a command that must succeed, with `cai` on the path."""
    cai = folder / "cai"
    cai.write_text(f'#!/bin/sh\nexec {shlex.join(forked.command())} "$@"\n')
    cai.chmod(cai.stat().st_mode | stat.S_IXUSR)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["my_constitution.yaml", "demo/constitution.yaml"])
def test_the_constitutions_of_the_examples_have_neither_errors_nor_warnings(name: str) -> None:
    report = check(EXAMPLES / name)
    assert (report.errors, report.warnings) == ((), ())


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_asks_about_each_of_its_prompts_in_one_round(tmp_path: Path) -> None:
    told = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(shlex.split(line) for line in told.splitlines() if "cai generate" in line)
    with stub() as server:
        model = ("--model", "openai:some/model", "--base-url", f"{server.url}/v1", "--out", str(tmp_path / "demo"))
        done = subprocess.run(
            forked.command(*command[1:], *model), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert server.stats()["requests"] == 12 * 3  # a reply, a critique and a revision each


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
    seed = GenerateSettings().seed
    found = {name: draw(principles, 1, seed, name, stream="principles")[0].id for name in drawn}
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
        assert asked == 4 * 7  # four prompts: a reply, and two critiques, gates and revisions each
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
    stages = Counter(json.loads(drop)["stage"] for drop in dropped)
    left_out = stages.pop("sft", 0)
    del stages["dpo"]
    assert len(rows) + stages.total() == 5 and len(rows) == len(sft) + left_out
    assert told.count("\nrevision  ") == len(rows)
    assert f"{len(sft)} training rows" in told


def test_the_config_of_a_training_is_the_one_that_the_code_describes() -> None:
    assert (EXAMPLES / "train.yaml").read_text() == example(), "write it anew from example() of tests/trainings.py"


def launch(folder: Path, file: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Two processes, as `accelerate launch` starts them with a file of the examples; without a GPU they use gloo."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / file), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(accelerate, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def pairs_and_base(folder: Path) -> Path:
    """A tiny random model; beside it `sft.jsonl` and `dpo.jsonl` with 24 rows each."""
    import tiny

    turns = [[{"role": "user", "content": f"Question {n}?"}] for n in range(24)]
    yes, no = ([[{"role": "assistant", "content": f"{word} {n}."}] for n in range(24)] for word in ("Yes", "No"))
    rows: dict[str, list[dict[str, Any]]] = {
        "sft": [{"messages": turn + reply} for turn, reply in zip(turns, yes, strict=True)],
        "dpo": [{"prompt": t, "chosen": y, "rejected": n} for t, y, n in zip(turns, yes, no, strict=True)],
    }
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return tiny.model(folder / "base")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ddp.yaml", "fsdp.yaml"])
@pytest.mark.parametrize("words", [["sft", "sft.jsonl", "--full"], ["dpo", "dpo.jsonl"]], ids=["sft", "dpo"])
def test_two_processes_train_one_model_and_one_of_them_tells(tmp_path: Path, file: str, words: list[str]) -> None:
    # On a CPU accelerate shards nothing: of fsdp.yaml this shows that it is read and that the command runs under it.
    pytest.importorskip("trl")
    base = pairs_and_base(tmp_path)
    own = ["--model", str(base), "--out", "out", "--split", "0.75", "--batch-size", "4", "--set", "samples=2", "--json"]
    done = launch(tmp_path, file, "-m", "cai", "train", *words, *own)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # one document: the other process prints none
    assert (found["rows"], found["eval_rows"], found["steps"]) == (16, 8, 4)
    for part in ("rows_at_once 2 (", "step 4/4 · ", "held-out rows after step 4: ", "next: cai chat out"):
        assert done.stderr.count(part) == 1, done.stderr  # two rows at once: half a step of four
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["finished"] and told["summary"] == found
    again = launch(tmp_path, file, "-m", "cai", "train", *words, *own)
    assert again.returncode == 0 and json.loads(again.stdout) == found
    assert again.stderr.count("out is finished: nothing to do") == 1


@pytest.mark.slow
def test_the_file_for_shared_weights_says_what_accelerate_understands(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    (tmp_path / "show.py").write_text(
        "import os\nfrom accelerate.utils import FullyShardedDataParallelPlugin as Plugin\nfound = Plugin()\n"
        "told = [found.fsdp_version, found.state_dict_type.name, found.reshard_after_forward, found.cpu_offload,\n"
        "        found.activation_checkpointing, found.cpu_ram_efficient_loading, os.environ['WORLD_SIZE']]\n"
        "os.write(1, (' '.join(map(str, told)) + '\\n').encode())  # at once: two processes share the pipe\n"
    )
    done = launch(tmp_path, "fsdp.yaml", "show.py")
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert len(told) == 2 and told[0] == told[1]
    assert told[0][:3] == ["2", "FULL_STATE_DICT", "True"] and told[0][-3:] == ["False", "False", "2"]
    assert "Warning" not in done.stderr and "obsolete" not in done.stderr, done.stderr
