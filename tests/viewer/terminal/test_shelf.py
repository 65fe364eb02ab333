"""`cai runs`: what there is under a folder, how far each of it is, and a command that resumes it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from forked import fork
from kept import environment
from steady import Steady
from stored_runs import IDENTITY, lost, make_run, revision
from terminal import cai, failed, on_terminal

from cai.folder.journal.store import Store
from cai.folder.run import RunFolder
from cai.records import Completion
from cai.viewer.terminal.folders import Folder
from cai.viewer.terminal.shelf import find_folders

LAW = """
name: kind
version: 1.0.0
principles:
  - id: kind
    text: A good reply is kind.
    tests:
      - {prompt: "Hello?", better: "Hello, friend.", worse: "Go away."}
      - {prompt: "Bye?", better: "Farewell, friend.", worse: "At last."}
"""
LAST = ("-c", "law.yaml", "--concurrency", "2")
JUDGE = ("--judge", "openai:judge", *LAST)
COMMANDS = {  # by folder: what is typed, and after how many answers it is killed
    "made/generate": (("generate", "prompts.jsonl", "--model", "openai:m", *LAST), 9),
    "made/sample": (("sample", "prompts.jsonl", "--model", "openai:m", "-n", "2", "--concurrency", "2"), 5),
    "made/best": (("sample", "prompts.jsonl", "--model", "openai:m", "--best-of", "2", *JUDGE), 28),
    "made/labels": (("label", "pairs.jsonl", *JUDGE), 5),
    "made/gold": (("label", "pairs.jsonl", *JUDGE, "--gold", "pairs.jsonl", "--agreement", "0.7"), 3),
    "made/tests": (("constitution", "test", "law.yaml", "--judge", "openai:judge", "--concurrency", "1"), 2),
    "made/bench": (("judge", "bench", "--gold", "pairs.jsonl", *JUDGE), 5),
    "made/evaluation": (
        ("evaluate", "openai:o", "prompts.jsonl", "--against", "openai:m", "--suite", "preference", *JUDGE),
        5,
    ),
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with files to start from."""
    folder = tmp_path / "the work"
    folder.mkdir()
    prompts = (json.dumps({"id": f"q{n}", "prompt": f"Question {n}?"}) + "\n" for n in range(6))
    (folder / "prompts.jsonl").write_text("".join(prompts))
    pairs = ({"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(6))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "law.yaml").write_text(LAW)
    return folder


def listed(*words: str | Path) -> list[dict[str, Any]]:
    done = cai("runs", *map(str, words), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    folders: list[dict[str, Any]] = json.loads(done.stdout)
    return folders


@pytest.mark.parametrize("out", COMMANDS)
def test_what_is_listed_for_a_killed_run_resumes_it_from_elsewhere(
    out: str, work: Path, server: Steady, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, answers = COMMANDS[out]
    typed = [*words, "--out", out, "--base-url", f"{server.url}/v1"]
    ended = fork(typed, work, environment(), place="before an answer is stored", nth=answers)
    assert ended.status == -9, ended.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    [folder] = listed(work / "made")
    assert Path(folder["folder"]) == work / out
    assert folder["state"] == "unfinished"
    assert folder["kind"] == " ".join(words[: 1 + (words[0] in ("judge", "constitution"))])
    change, _, command = folder["resume"].partition(" && ")
    [_, base] = shlex.split(change)
    assert (elsewhere / base).resolve() == work.resolve()
    again = [word.replace("URL", f"{server.url}/v1") for word in shlex.split(command)]
    assert again[0] == "cai" and again[-2:] == ["--out", out]
    assert {word for word in words if ":" in word or "." in word} <= set(again)
    ended = fork(again[1:], work, environment())
    assert ended.status in (0, 1) and "another run" not in ended.stderr, ended.stderr  # 1: what the judge says
    [folder] = listed(work / "made")
    assert {part["state"] for part in folder["parts"]} <= {"done"}
    if out == "made/gold":  # so few pairs certify nothing: the gold is judged, and the run has not begun
        assert (folder["state"], folder["resume"] is None) == ("unfinished", False)
    else:
        assert (folder["state"], folder["resume"]) == ("done", None), folder


def test_where_it_was_typed_needs_no_change_of_folder(
    work: Path, server: Steady, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, answers = COMMANDS["made/sample"]
    typed = [*words, "--out", "made/sample", "--base-url", f"{server.url}/v1"]
    fork(typed, work, environment(), place="before an answer is stored", nth=answers)
    monkeypatch.chdir(work)
    [folder] = listed("made")
    assert folder["resume"].startswith("cai sample prompts.jsonl ")
    assert folder["resume"].endswith(" --out made/sample")
    work.rename(work.with_name("moved"))  # with what it reads
    monkeypatch.chdir(work.with_name("moved"))
    assert listed("made")[0]["resume"] == folder["resume"]


# How far each is


def damage(folder: Path) -> None:
    (folder / "run.json").write_text('{"format": 1, "identity": ')


def train(folder: Path, **record: Any) -> None:
    folder.mkdir(parents=True)
    whole = {"schema": 1, "identity": {"method": "dpo"}, "finished": False, **record}
    (folder / "training.json").write_text(json.dumps(whole))


def evaluate(folder: Path, **facts: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps({"stopped": None, "command": "cai evaluate m", **facts}))


def trained(folder: Path) -> None:
    train(folder, finished=True, data={"train": 12, "dropped": {"too_long": 3}})
    (folder / "adapter_model.safetensors").touch()


def stepped(folder: Path) -> None:
    train(folder)
    (folder / "metrics.jsonl").write_text('{"step": 3, "steps": 40}\n{"step": 4, "st')


def without_record(folder: Path) -> None:
    async def ask() -> None:
        with closing(Store(folder)) as store:
            store.put(b"0" * 16, "openai", "m", {}, Completion("Hm.", "stop", "m-1"), 0.0)

    make_run(folder, [revision(0)])
    asyncio.run(ask())
    (folder / "run.json").unlink()


ROWS = [revision(0), revision(1), lost(2)]
KINDS: dict[str, tuple[Callable[[Path], Any], str, str, str, int | None]] = {  # how it is made; kind, state, why, rows
    "done": (lambda folder: make_run(folder, ROWS), "generate", "done", "", 2),
    "killed": (lambda folder: make_run(folder, ROWS, stopped="interrupted"), "generate", "unfinished", "", 2),
    "stopped": (lambda folder: make_run(folder, ROWS, stopped="no key"), "generate", "stopped", "no key", 2),
    "damaged": (lambda folder: damage(make_run(folder, ROWS)), "run", "damaged", "run.json", None),
    "lost": (without_record, "run", "damaged", "no run.json", None),
    "trained": (trained, "train dpo", "done", "", 12),
    "training": (stepped, "train dpo", "unfinished", "at step 3 of 40", None),
    "begun": (train, "train dpo", "unfinished", "before the first step", None),
    "weightless": (lambda folder: train(folder, finished=True), "train dpo", "unfinished", "weights are gone", None),
    "no training": (lambda folder: train(folder, identity=3), "train", "damaged", "", None),
    "evaluated": (evaluate, "evaluate", "done", "", None),
    "evaluating": (lambda folder: evaluate(folder, stopped="the server"), "evaluate", "stopped", "the server", None),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_folder_is_listed_with_how_far_it_is(name: str, tmp_path: Path) -> None:
    make, kind, state, why, rows = KINDS[name]
    make(tmp_path / "runs" / name)
    [folder] = listed(tmp_path)
    assert (folder["kind"], folder["state"], folder["rows"]) == (kind, state, rows)
    assert why in (folder["why"] or "")
    text = cai("runs", str(tmp_path)).stdout
    assert str(tmp_path / "runs" / name) in text and state in text and why in text


def test_a_run_that_is_being_written_is_running_with_the_rows_of_now(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [revision(0)], stopped="interrupted")
    with closing(RunFolder(folder, IDENTITY)) as run:
        [entry] = listed(tmp_path)
        assert (entry["state"], entry["resume"]) == ("running", None)
        run.store.rows.mark(1, b"\0" * 16, "done")
        run.store.flush()
        assert listed(tmp_path)[0]["rows"] == 2
    assert listed(tmp_path)[0]["state"] == "unfinished"


def test_what_is_wrong_with_one_folder_hides_no_other(tmp_path: Path) -> None:
    for name, (make, *_) in KINDS.items():
        make(tmp_path / name)
    assert {Path(folder["folder"]).name for folder in listed(tmp_path)} == set(KINDS)


def test_the_newest_comes_first_and_parts_belong_to_their_whole(tmp_path: Path) -> None:
    for place, name in enumerate(["old", "evaluation", "new"]):
        for inside in ["", "replies", "best-of/labels"] if name == "evaluation" else [""]:
            folder = make_run(tmp_path / name / inside, ROWS)
            for path in folder.iterdir():
                os.utime(path, (1e9 + place, 1e9 + place))
    folders = listed(tmp_path)
    assert [Path(folder["folder"]).name for folder in folders] == ["new", "evaluation", "old"]
    parts = [Path(part["folder"]).relative_to(tmp_path).as_posix() for part in folders[1]["parts"]]
    assert parts == ["evaluation/best-of/labels", "evaluation/replies"]
    os.utime(tmp_path / "evaluation" / "replies" / "run.json", (2e9, 2e9))
    assert Path(listed(tmp_path)[0]["folder"]).name == "evaluation"


def test_a_whole_is_no_further_than_its_parts(tmp_path: Path) -> None:
    evaluate(tmp_path / "evaluation")
    make_run(tmp_path / "evaluation" / "replies", ROWS)
    make_run(tmp_path / "evaluation" / "labels", ROWS, stopped="no key")
    [folder] = listed(tmp_path)
    assert (folder["state"], folder["why"]) == ("stopped", "labels: no key")


def test_a_part_by_itself_is_resumed_with_its_whole_and_one_that_was_moved_makes_no_whole(
    work: Path, server: Steady, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, answers = COMMANDS["made/best"]
    typed = [*words, "--out", "made/best", "--base-url", f"{server.url}/v1"]
    fork(typed, work, environment(), place="before an answer is stored", nth=answers)
    monkeypatch.chdir(work)
    [part] = listed("made/best/labels")
    assert (part["kind"], part["state"]) == ("label", "unfinished")
    assert part["resume"].endswith(" --out made/best") and " sample " in part["resume"]
    (work / "made" / "best" / "labels").rename(work / "made" / "moved")
    assert {Path(folder["folder"]).name: folder["kind"] for folder in listed("made")} == {
        "best": "sample",
        "moved": "label",
    }


# Looking for them


def test_links_that_lead_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", ROWS)
    (tmp_path / "runs" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "self").symlink_to("self")
    (tmp_path / "gone").symlink_to("nowhere")
    assert len(listed(tmp_path)) == 1


def test_folders_that_may_not_be_entered_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a", ROWS)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError("closed")
        return scan(path)

    monkeypatch.setattr("cai.viewer.terminal.shelf.os.scandir", guarded)
    assert len(listed(tmp_path)) == 1
    assert "1 folder cannot be read" in cai("runs", str(tmp_path)).stdout


def test_what_is_very_deep_is_not_looked_for_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a/b/c", ROWS)
    make_run(tmp_path / "1/2/3/4/5/6/7/8", ROWS)
    done = cai("runs", str(tmp_path))
    assert "a/b/c" in done.stdout and "7/8" not in done.stdout and "were not looked at" in done.stdout
    monkeypatch.setattr("cai.viewer.terminal.shelf.MOST_FOLDERS", 3)
    assert not find_folders(tmp_path).whole


def test_by_default_they_are_looked_for_in_runs_or_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "models" / "a", ROWS)
    assert [folder["folder"] for folder in listed()] == ["models/a"]
    make_run(tmp_path / "runs" / "b", ROWS)
    assert [folder["folder"] for folder in listed()] == ["runs/b"]


def test_a_folder_without_any_says_how_to_begin_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = cai("runs", str(tmp_path))
    assert done.returncode == 0 and "no run, training or evaluation; begin with: cai generate" in done.stdout
    assert listed(tmp_path) == []
    assert "is not a folder" in failed("runs", str(tmp_path / "nowhere"))


def test_a_narrow_terminal_gets_short_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (make, *_) in KINDS.items():
        make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    status, text = on_terminal(["runs", "."], COLUMNS="40", NO_COLOR="1")
    assert status == 0
    lines = [line for line in text.replace("\r\n", "\n").splitlines() if " · " in line]
    assert len(lines) == len(KINDS) and all(len(line) <= 40 for line in lines)
    assert "done · train dpo" in text


def test_names_and_reasons_are_safe_to_print(tmp_path: Path) -> None:
    make_run(tmp_path / "a\x1b[31m|b", ROWS, stopped="\x1b]0;title\x07 \u202eback")
    text = cai("runs", str(tmp_path)).stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "|b" in text


def test_a_command_that_is_not_known_is_not_invented() -> None:
    from cai.viewer.terminal.folders import resuming

    assert resuming(Folder(Path("runs/a"), "generate")) is None
    assert resuming(Folder(Path("runs/a"), "generate", state="done", command="cai generate x")) is None
