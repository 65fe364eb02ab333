"""Runs as logs of Inspect: every finished row is a sample, and what is not known has no number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import forked
import pytest
from label_runs import mute, scorer, scores
from label_runs import run as label_run
from players import Player
from sample_runs import PROMPTS, cutting
from sample_runs import run as sample_run

import cai
from cai.errors import RunError, UsageError
from cai.export.inspect_log import export_inspect

PAIRS: list[Any] = [
    *({"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(8)),
    {"prompt": "Several?", "replies": ["one", "two </script> \u202e", "three"]},
]
# Prints what Inspect's own reader makes of a log.
READER = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
log = read_eval_log(sys.argv[1])
head = read_eval_log(sys.argv[1], header_only=True)
samples = [
    [each.id, each.epoch, each.target, each.choices, each.output.completion, [turn.role for turn in each.messages],
     {name: score.value for name, score in (each.scores or {}).items()}, each.metadata]
    for each in log.samples
]
names = [score.name for score in log.results.scores] if log.results else []
listed = [info.task for info in list_eval_logs(sys.argv[2])]
print(json.dumps([log.status, head.eval.task, head.eval.model, samples, names, listed]))
"""


def labels(folder: Path) -> Path:
    """A label run in which one pair has no valid vote."""

    def answer(payload: dict[str, Any]) -> Any:
        return mute(payload) if "Question 3?" in payload["messages"][0]["content"] else scores(payload)

    label_run(PAIRS, folder, scorer(answer))
    return folder


def samples(folder: Path) -> Path:
    sample_run(PROMPTS, folder, Player(cutting(3), "m", seeds=True), n=3)
    return folder


def written(folder: Path, log: Path) -> Any:
    export_inspect(folder, log)
    return json.loads(log.read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[Any]:
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["position"])


def test_a_pair_is_a_sample_with_its_replies_the_judges_p_and_its_votes(tmp_path: Path) -> None:
    log = written(labels(tmp_path / "run"), tmp_path / "log.json")
    rows = rows_of(tmp_path / "run" / "labels.jsonl")
    assert [each["id"] for each in log["samples"]] == [row["id"] for row in rows]
    for row, sample in zip(rows, log["samples"], strict=True):
        assert (
            sample["choices"] == [row["a"], row["b"]] and sample["input"][0]["content"] == row["prompt"][0]["content"]
        )
        assert sample["target"] == {"a": "A", "b": "B", None: ""}[row["human"]]
        assert sample["metadata"]["votes"] == row["votes"] and sample["metadata"]["constitution"] == row["constitution"]
        if row["p_a"] is None:
            assert sample["scores"] == {} and sample["output"]["completion"] == ""
            continue
        score = sample["scores"]["p that A is better"]
        assert score["value"] == row["p_a"] and score["answer"] == ("A" if row["p_a"] > 0.5 else "B")
        assert all(vote["principle"] in score["explanation"] for vote in row["votes"])
        if row["human"] is not None:
            right = score["answer"].lower() == row["human"]
            assert sample["scores"]["agrees with people"]["value"] == ("C" if right else "I")
    assert sum(not sample["scores"] for sample in log["samples"]) == 1
    assert log["eval"]["task"] == "cai label" and log["eval"]["model"] == "recorded:judge" and log["version"] == 2


def test_every_reply_is_a_sample_and_says_why_it_cannot_be_used(tmp_path: Path) -> None:
    log = written(samples(tmp_path / "run"), tmp_path / "log.json")
    rows = rows_of(tmp_path / "run" / "candidates.jsonl")
    replies = [(row["id"], number, reply) for row in rows for number, reply in enumerate(row["replies"], 1)]
    assert [(each["id"], each["epoch"]) for each in log["samples"]] == [(name, number) for name, number, _ in replies]
    for (_, _, reply), sample in zip(replies, log["samples"], strict=True):
        stop = "max_tokens" if reply["problem"] == "truncated" else "stop"
        assert sample["output"]["choices"][0]["stop_reason"] == stop
        assert sample["output"]["completion"] == reply["text"] and sample["metadata"]["problem"] == reply["problem"]


def test_a_chain_is_a_conversation(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run = tmp_path / "run"
    list(
        cai.generate(
            ["How do I wash wool?", "Why is it dark?"],
            "harmless",
            model="openai:m",
            base_url=f"{server.url}/v1",
            out=run,
        )
    )
    log = written(run, tmp_path / "log.json")
    for row, sample in zip(rows_of(run / "revisions.jsonl"), log["samples"], strict=True):
        texts = [row["initial"]]
        for each in row["rounds"]:
            texts += [each["critique"], *([each["revision"]] if each["revision"] is not None else [])]
        assert [turn["content"] for turn in sample["messages"]] == [row["prompt"][0]["content"], *texts]
        assert sample["output"]["completion"] == row["final"]
        assert [each["principle"] for each in sample["metadata"]["rounds"]] == [
            each["principle"] for each in row["rounds"]
        ]


def evaluation(tmp_path: Path, server: Any, **more: Any) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Question {n}: what helps?"}) + "\n" for n in range(6)))
    values = {"judge": "openai:judge", "base_url": f"{server.url}/v1", "out": tmp_path / "evaluation", **more}
    cai.evaluate("openai:one", "openai:base", file, **values)
    return tmp_path / "evaluation"


def test_an_evaluation_is_its_pairs_and_its_figures(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    folder = evaluation(tmp_path, server, suite="preference,scale", scale="hhh")
    log = written(folder, tmp_path / "log.json")
    assert len(log["samples"]) == 6 and log["eval"]["task"] == "cai label"
    figures = {score["name"]: score["metrics"] for score in log["results"]["scores"]}
    measured = json.loads((folder / "evaluation.json").read_text())["results"][0]["lines"][0]["figure"]
    assert figures["win rate, one"]["value"]["value"] == measured["value"] and "helpful, base" in figures
    ratings = written(folder / "scale", tmp_path / "ratings.json")
    rows = rows_of(folder / "scale" / "ratings.jsonl")
    assert [each["scores"][row["asked"]]["value"] for row, each in zip(rows, ratings["samples"], strict=True)] == [
        row["value"] for row in rows
    ]


def test_in_a_folder_a_log_has_a_name_that_the_viewer_lists(tmp_path: Path) -> None:
    summary = export_inspect(samples(tmp_path / "run"), tmp_path / "logs")
    assert summary.log.parent == tmp_path / "logs" and summary.log.name.startswith("20")
    assert summary.samples == 36 and "inspect view --log-dir" in summary.lines()[1]
    named = export_inspect(tmp_path / "run", tmp_path / "log.json")
    assert "names begin with a time" in named.lines()[1]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = samples(tmp_path / "run")
    with pytest.raises(UsageError, match=r"name a folder, or a file that ends in \.json"):
        export_inspect(run, tmp_path / "log.eval")
    with pytest.raises(RunError, match="is not a run folder"):
        export_inspect(tmp_path, tmp_path / "log.json")
    (run / "candidates.jsonl").write_bytes(b"")
    with pytest.raises(RunError, match="has no finished row yet"):
        export_inspect(run, tmp_path / "log.json")
    (run / "candidates.jsonl").write_bytes(b'{"id": "a", "position": 0}\n')
    with pytest.raises(RunError, match="line 1 is damaged"):
        export_inspect(run, tmp_path / "log.json")
    assert not [*tmp_path.glob("log*")]


def test_the_command_writes_a_log_and_cuts_nothing(tmp_path: Path) -> None:
    run = labels(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    words = forked.command("export", run, "--inspect", tmp_path / "log.json")
    result = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True)
    assert json.loads(result.stdout)["samples"] == len(rows_of(run / "labels.jsonl"))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    refused = subprocess.run([*words, "--min-confidence", "0.8"], capture_output=True, text=True)
    assert refused.returncode == 1 and "leave out --min-confidence" in refused.stderr


@pytest.mark.slow
def test_inspects_own_reader_opens_every_kind_of_log(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable if find_spec("inspect_ai") else os.environ.get("INSPECT_PYTHON")
    if python is None:
        pytest.skip("INSPECT_PYTHON names no interpreter with inspect-ai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chains = tmp_path / "chains"
    list(
        cai.generate(
            ["How do I wash wool?", "Why?"], "harmless", model="openai:m", base_url=f"{server.url}/v1", out=chains
        )
    )
    folder = evaluation(tmp_path, server, suite="preference,scale", scale="hhh")
    folders = [labels(tmp_path / "labels"), samples(tmp_path / "samples"), chains, folder, folder / "scale"]
    for number, each in enumerate(folders, 1):
        summary = export_inspect(each, tmp_path / "logs")
        words = [python, "-c", READER, str(summary.log), str(tmp_path / "logs")]
        read = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        status, task, model, found, names, listed = read
        written = json.loads(summary.log.read_text())
        assert (status, task, model) == ("success", written["eval"]["task"], written["eval"]["model"])
        assert len(listed) == number and (names != []) == (each == folder)
        assert len(found) == summary.samples > 0
        for sample, made in zip(found, written["samples"], strict=True):
            scores = {name: score["value"] for name, score in made.get("scores", {}).items()}
            assert sample == [
                made["id"], made["epoch"], made["target"], made.get("choices"), made["output"]["completion"],
                [turn["role"] for turn in made["messages"]], scores, made["metadata"],
            ]  # fmt: skip
