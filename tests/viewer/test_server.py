"""The server of `cai view`: it starts or says in one line why not, answers whatever becomes of folders, and ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import label_cuts
import label_runs
import pytest
from stored_runs import IDENTITY, ask, make_run, revision
from terminal import failed as failed_command
from terminal import process
from viewers import Viewer, viewer

from cai.folder.journal.store import read_calls
from cai.records import Candidate, Candidates, Usage
from cai.viewer.index import Index
from cai.viewer.questions import Answers, AskState, Wishes
from cai.viewer.safety import MOST_BODY
from cai.viewer.sources import find_sources

PAIRS = [{"id": f"p{n}", "prompt": f"Question {n}?", "a": f"reply {n} one", "b": f"reply {n} two"} for n in range(6)]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run with all that was asked; no test writes to it."""
    folder = tmp_path_factory.mktemp("judged") / "labels"
    label_runs.run(PAIRS, folder, label_runs.scorer())
    return folder


@pytest.fixture
def copied(judged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(judged, tmp_path / "labels"))


@pytest.fixture(scope="module")
def opened(judged: Path) -> Iterator[Viewer]:
    with viewer(judged) as running:
        yield running


def failed(*words: str) -> str:
    """The one line of a command that is refused before it serves anything, which would not end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Event, "wait", lambda event: pytest.fail("it serves"))
        return failed_command("view", *words)


# Starting and ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_trace(copied: Path, number: int) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    running = Viewer(copied)
    assert running.ask("row", source=0, number=0).status == 200
    status, stderr = running.end(number)
    assert status == 0
    assert stderr.splitlines() == ["open this address in a browser of this machine; Ctrl-C ends the viewer"]
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_it_ends_while_a_page_is_connected(copied: Path) -> None:
    running = Viewer(copied)
    with socket.create_connection(("127.0.0.1", running.port)) as waiting:
        waiting.sendall(b"POST /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
        assert running.end()[0] == 0


def test_the_port_that_was_asked_for_is_taken(judged: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with viewer(judged, "--port", str(port)) as running:
        assert running.port == port
        second = process("view", str(judged), "--port", str(port), stdout=-1)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert f"--port {port}: {os.strerror(errno.EADDRINUSE)}; name another" in second.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999"])
def test_a_port_that_cannot_be_is_refused(judged: Path, port: str) -> None:
    message = failed(str(judged), f"--port={port}")
    assert ("--port" in message and "65535" in message) or "0" in message


def empty(folder: Path) -> None:
    folder.mkdir()


def without_rows(folder: Path) -> None:
    folder.mkdir()
    (folder / "run.json").write_text("{}")


def damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "run.json").write_bytes(b"\xff\x00{")


def a_file(folder: Path) -> None:
    folder.write_text("text\n")


def another_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("run")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize("make", [empty, without_rows, damaged, a_file, another_file, nothing])
@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_that_shows_nothing_is_refused(
    judged: Path, tmp_path: Path, make: Callable[[Path], None], beside: bool
) -> None:
    make(tmp_path / "wrong")
    names = [str(judged)] if beside else []
    assert "wrong" in failed(*names, str(tmp_path / "wrong"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--queue", "sorted"], "--queue sorted"),
        (["--agreement", "1"], "--agreement 1"),
        (["--agreement", "0.5"], "--agreement 0.5"),
        (["--agreement", "nan"], "--agreement nan"),
        (["--annotate", "0"], "--annotate"),
        (["--annotate", "many"], "--annotate"),
        (["--annotator", " "], "--annotator"),
        (["--annotator", "a\nb"], "--annotator"),
        (["--gold", "{folder}"], "{folder}"),
        (["--gold", "{folder}/none/gold.jsonl"], "none"),
        (["--gold", "{rows}"], "{rows}"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(judged: Path, options: list[str], named: str) -> None:
    names = {"folder": str(judged), "rows": str(judged / "labels.jsonl")}
    filled = [option.format(**names) for option in options]
    assert named.format(**names) in failed(str(judged), "--annotate", "5", *filled)


# Answers


def test_an_empty_run_has_no_rows(tmp_path: Path) -> None:
    with viewer(make_run(tmp_path / "run", [])) as running:
        (source,) = running.ask("state").values["sources"]
        assert source["entries"] == 0
        assert running.ask("rows", source=0).values == {"total": 0, "rows": []}
        assert running.ask("row", source=0, number=0).status == 409
        assert running.ask("pair", source=0, queue="random").values["pair"] is None


def test_the_list_hides_for_which_reply_anybody_is(opened: Viewer) -> None:
    rows = opened.ask("rows", source=0).values["rows"]
    assert len(rows) == 6
    for row in rows:
        assert not {"z", "p_a", "votes", "rewards", "human", "calls"} & {*row}
        assert row["confidence"] > 0.5


def test_the_exact_question_is_the_one_that_was_stored(opened: Viewer, judged: Path) -> None:
    number = opened.ask("rows", source=0, start=2).values["rows"][0]["number"]
    row = opened.ask("row", source=0, number=number).values
    stored = {call.key: call for call in read_calls(judged)}
    assert len(row["calls"]) == 6
    for key in row["calls"]:
        call = opened.ask("call", source=0, key=key).values
        assert call["request"] == json.loads(json.dumps(stored[key].request))
        assert call["answer"]["scores"] == list(stored[key].completion.scores or ())


@pytest.mark.parametrize(
    ("question", "values"),
    [
        ("call", {"source": 0, "key": "0" * 32}),
        ("call", {"source": 3, "key": "0" * 32}),
        ("row", {"source": 0, "number": 10**9}),
        ("rows", {"source": 1}),
        ("pair", {"source": 1, "queue": "random"}),
        ("vote", {"source": 0, "queue": "random", "key": "none", "choice": "first", "seconds": 1}),
    ],
)
def test_what_is_not_there_is_said_in_words(opened: Viewer, question: str, values: dict[str, object]) -> None:
    answer = opened.ask(question, **values)
    assert answer.status == 409
    assert "Traceback" not in answer.values["problem"] and len(answer.values["problem"]) < 300


@pytest.mark.parametrize(
    ("question", "body"),
    [
        ("row", b""), ("row", b"null"), ("row", b"{"), ("row", b"\xff"), ("row", b'"text"'),
        ("rows", b'{"source": 0, "count": 10000}'), ("rows", b'{"source": 0, "start": -1}'),
        ("rows", b'{"source": 0, "facets": {"status": 1}}'), ("call", b'{"source": 0, "key": "../../etc"}'),
        ("pair", b'{"source": 0, "queue": "sorted"}'),
        ("vote", b'{"source": 0, "queue": "random", "key": "x", "choice": "a", "seconds": 1}'),
        ("vote", b'{"source": 0, "queue": "random", "key": "x", "choice": "tie", "seconds": NaN}'),
        ("vote", b'{"source": 0, "queue": "random", "key": "x", "choice": "tie", "seconds": -1}'),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused(opened: Viewer, question: str, body: bytes) -> None:
    answer = opened.send("POST", f"/api/{question}", opened.own(), body)
    assert answer.status == 400
    assert "problem" in answer.values


def test_any_words_can_be_searched_for(opened: Viewer) -> None:
    for words in (
        '"',
        "a AND",
        "NEAR(",
        "*",
        "' OR 1=1 --",
        "-",
        "(",
        "日本",
        "\u202e",
        "x" * 1_000,
        ":",
        "{a b}:c",
        "\0",
    ):
        answer = opened.ask("rows", source=0, words=words)
        assert answer.status == 200, words


def test_calls_that_cannot_be_read_are_said_so_and_the_rows_stay(copied: Path) -> None:
    with viewer(copied) as running:
        row = running.ask("row", source=0, number=0).values
        (copied / "calls.sqlite").write_bytes(b"this is no database at all" * 100)
        answer = running.ask("call", source=0, key=row["calls"][0])
        assert answer.status == 409
        assert "calls.sqlite" in answer.values["problem"]
        (copied / "calls.sqlite").unlink()
        assert running.ask("call", source=0, key=row["calls"][0]).status == 409
        assert not (copied / "calls.sqlite").exists()
        assert running.ask("row", source=0, number=0).status == 200


def test_a_call_that_was_changed_on_disk_is_not_shown(copied: Path) -> None:
    with viewer(copied) as running:
        row = running.ask("row", source=0, number=0).values
        with sqlite3.connect(copied / "calls.sqlite") as database:
            database.execute("UPDATE calls SET scores = '[-0.1, -9.0]'")
        database.close()
        answer = running.ask("call", source=0, key=row["calls"][0])
        assert answer.status == 409


def test_a_folder_that_is_removed_while_it_is_viewed_is_no_crash(copied: Path) -> None:
    with viewer(copied) as running:
        row = running.ask("row", source=0, number=0).values
        shutil.rmtree(copied)
        for question, values in (
            ("state", {}),
            ("rows", {"source": 0}),
            ("row", {"source": 0, "number": 0}),
            ("call", {"source": 0, "key": row["calls"][0]}),
            ("pair", {"source": 0, "queue": "random"}),
            ("undo", {"source": 0, "queue": "random"}),
        ):
            answer = running.ask(question, **values)
            assert answer.status in (200, 409), (question, answer.body)
            assert answer.status == 200 or "bug" not in answer.values["problem"]
        assert not copied.exists()


def a_folder_of_rows(folder: Path) -> None:
    (folder / "labels.jsonl").unlink()
    (folder / "labels.jsonl").mkdir()


def a_pipe_of_rows(folder: Path) -> None:
    (folder / "labels.jsonl").unlink()
    os.mkfifo(folder / "labels.jsonl")


def torn_rows(folder: Path) -> None:
    with open(folder / "labels.jsonl", "ab") as file:
        file.write(b'{"schema": 1, "id": "x"}\nnot json\n\xff\xfe\n{"schema": 1, "i')


def damaged_votes(folder: Path) -> None:
    (folder / "gold.jsonl").write_text("no vote\n")


def a_folder_of_votes(folder: Path) -> None:
    (folder / "gold.jsonl").mkdir()


def no_rows_at_all(folder: Path) -> None:
    (folder / "labels.jsonl").unlink()


def a_folder_of_calls(folder: Path) -> None:
    (folder / "calls.sqlite").unlink()
    (folder / "calls.sqlite").mkdir()


def try_all(running: Viewer, key: str) -> None:
    """Ask everything: each question has an answer, or one line about why not."""
    for question, values in (
        ("state", {}), ("rows", {"source": 0}), ("row", {"source": 0, "number": 0}),
        ("call", {"source": 0, "key": key}), ("pair", {"source": 0, "queue": "random"}),
        ("undo", {"source": 0, "queue": "uncertain"}),
    ):  # fmt: skip
        answer = running.ask(question, **values)
        assert answer.status in (200, 409), (question, answer.body)
        assert answer.status == 200 or len(answer.values["problem"].splitlines()) == 1


HARMS = [a_folder_of_rows, torn_rows, damaged_votes, a_folder_of_votes, no_rows_at_all, a_folder_of_calls]


@pytest.mark.parametrize(("harm", "when"), [(a_pipe_of_rows, "before"), *product(HARMS, ("before", "while"))])
def test_whatever_is_wrong_in_a_folder_is_said_and_nothing_breaks(
    copied: Path, harm: Callable[[Path], None], when: str
) -> None:
    rows = label_runs.rows_of(copied)
    if when == "before":
        harm(copied)
    running = Viewer(copied)
    try:
        if running.address and when == "while":
            running.wait()
            harm(copied)
        if running.address:
            try_all(running, rows[0]["calls"][0])
    finally:
        status, stderr = running.end()
    assert status in (0, 1)
    assert "Traceback" not in stderr and "bug" not in stderr
    assert len(stderr.splitlines()) == 1


def test_votes_that_may_not_be_read_leave_other_folders_alone(
    copied: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "gold.jsonl").write_bytes(b"{}\n")
    index = Index(find_sources([str(copied), str(judged)]))

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "gold.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments, **more)

    monkeypatch.setattr("cai.viewer.growing.open", refuse, raising=False)
    problems = [source["problem"] for source in Answers(index, Wishes()).state(AskState())["sources"]]
    assert "Permission denied" in problems[0] and "gold.jsonl" in problems[0]
    assert problems[1:] == [None]


def test_texts_that_are_not_utf_8_are_answered(tmp_path: Path) -> None:
    folder = label_cuts.make_run(tmp_path / "labels", [label_cuts.pair(0, z=1.0, a="half \ud800 of a pair")])
    with viewer(folder) as running:
        assert running.ask("rows", source=0).status == 200
        assert running.ask("row", source=0, number=0).status in (200, 409)


# Votes


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_vote_on_a_pair_whose_row_was_opened_is_not_blind(copied: Path) -> None:
    with viewer(copied, "--annotator", "ann") as running:
        pair = running.ask("pair", source=0, queue="random").values["pair"]
        rows = running.ask("rows", source=0).values["rows"]
        opened = next(row for row in rows if row["prompt"] == pair["prompt"])
        whole = running.ask("row", source=0, number=opened["number"]).values
        assert whole["key"] == pair["key"]
        vote = {"source": 0, "queue": "random", "key": pair["key"], "choice": "first", "seconds": 2.5}
        assert running.ask("vote", **vote).values["blind"] is False
        other = running.ask("pair", source=0, queue="random").values["pair"]
        assert running.ask("vote", **{**vote, "key": other["key"]}).values["blind"] is True
    assert [line["blind"] for line in lines(copied / "gold.jsonl")] == [False, True]


def test_a_row_that_was_opened_before_the_labels_were_is_remembered(copied: Path) -> None:
    with viewer(copied) as running:
        numbers = [row["number"] for row in running.ask("rows", source=0).values["rows"]]
        keys = {running.ask("row", source=0, number=number).values["key"] for number in numbers}
        assert len(keys) == 6
        assert running.ask("pair", source=0, queue="random").values["pair"] is None
    assert not (copied / "gold.jsonl").exists()


@pytest.mark.parametrize("kind", ["generate", "sample"])
def test_who_has_seen_which_reply_is_which_is_not_blind(tmp_path: Path, kind: str) -> None:
    if kind == "generate":
        folder = make_run(tmp_path / "run", [revision(at, "second", initial=f"first {at}") for at in range(2)])
    else:
        folder = sample_run(tmp_path / "run")
    with viewer(folder) as running:
        pairs = {tuple(turn["content"] for turn in row["prompt"]): row["number"] for row in rows_of(running)}
        pair = running.ask("pair", source=0, queue="random").values["pair"]
        number = pairs[tuple(turn["content"] for turn in pair["prompt"])]
        running.ask("row", source=0, number=number)
        vote = {"source": 0, "queue": "random", "key": pair["key"], "choice": "first", "seconds": 1}
        assert running.ask("vote", **vote).values["blind"] is False


def sample_run(folder: Path) -> Path:
    """A sample run of two prompts with two replies each."""
    rows = []
    for at in range(2):
        replies = tuple(Candidate(text=f"reply {at} {n}", model="m", sample=n) for n in range(2))
        prompt = ask(f"Question {at}?")
        rows.append(
            Candidates(id=f"r{at}", position=at, prompt=prompt, replies=replies, seed=0, usage=Usage(), calls=())
        )
    identity = {**IDENTITY, "command": "sample", "n": 2}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity, "stopped": None}))
    (folder / "candidates.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return folder


def rows_of(running: Viewer) -> list[dict[str, Any]]:
    return list(running.ask("rows", source=0).values["rows"])


def test_no_word_of_the_judge_comes_before_the_vote(copied: Path) -> None:
    with viewer(copied) as running:
        answer = running.ask("pair", source=0, queue="random").values
        assert {*answer["pair"]} == {"key", "id", "prompt", "first", "second", "blind"}
        assert answer["standing"]["agreement"] is None


def test_two_viewers_write_one_file_line_by_line(copied: Path) -> None:
    gold = copied.parent / "both.jsonl"

    def label(who: str, shared: list[str]) -> None:
        with viewer(copied, "--gold", gold, "--annotator", who) as running:
            while (pair := running.ask("pair", source=0, queue="random").values["pair"]) is not None:
                vote = {"source": 0, "queue": "random", "key": pair["key"], "choice": "first", "seconds": 0.1}
                assert running.ask("vote", **vote).status == 200
                shared.append(pair["key"])

    keys: dict[str, list[str]] = {"ann": [], "bob": []}
    with ThreadPoolExecutor(2) as threads:
        for running in [threads.submit(label, who, done) for who, done in keys.items()]:
            running.result()
    votes = lines(gold)
    assert len(votes) == 12
    assert {who: [line["key"] for line in votes if line["annotator"] == who] for who in keys} == keys
    with viewer(copied, "--gold", gold, "--annotator", "ann") as running:
        standing = running.ask("pair", source=0, queue="random").values["standing"]
    assert standing["labels"] == 6
    assert [people["n"] for people in standing["people"]] == [6]


def test_the_votes_of_another_viewer_count_at_once(copied: Path) -> None:
    with viewer(copied, "--annotator", "ann") as one, viewer(copied, "--annotator", "ann") as other:
        first = one.ask("pair", source=0, queue="random").values["pair"]
        assert other.ask("pair", source=0, queue="random").values["pair"]["key"] == first["key"]
        vote = {"source": 0, "queue": "random", "key": first["key"], "choice": "tie", "seconds": 1}
        one.ask("vote", **vote)
        then = other.ask("pair", source=0, queue="random").values
        assert then["pair"]["key"] != first["key"]
        assert then["standing"]["labels"] == 1


def test_a_vote_that_cannot_be_written_is_refused(copied: Path, tmp_path: Path) -> None:
    gold = tmp_path / "votes" / "gold.jsonl"
    gold.parent.mkdir()
    with viewer(copied, "--gold", gold) as running:
        pair = running.ask("pair", source=0, queue="random").values["pair"]
        gold.parent.rmdir()
        vote = {"source": 0, "queue": "random", "key": pair["key"], "choice": "first", "seconds": 1}
        answer = running.ask("vote", **vote)
        assert answer.status == 409
        assert "gold.jsonl" in answer.values["problem"]
        gold.parent.mkdir()
        assert running.ask("pair", source=0, queue="random").values["pair"]["key"] == pair["key"]
        assert running.ask("vote", **vote).status == 200
    assert len(lines(gold)) == 1


def test_the_largest_question_fits(opened: Viewer) -> None:
    words = "w" * (MOST_BODY - 100)
    assert opened.ask("rows", source=0, words=words).values["total"] == 0


def test_pairs_of_a_run_without_a_judge_can_be_labelled(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [revision(at, "second", initial=f"first {at}") for at in range(3)])
    with viewer(folder, "--annotate", "3") as running:
        state = running.ask("state").values
        assert (state["annotate"], state["sources"][0]["pairs"]) == (3, True)
        pair = running.ask("pair", source=0, queue="random").values["pair"]
        vote = {"source": 0, "queue": "random", "key": pair["key"], "choice": "second", "seconds": 1}
        assert running.ask("vote", **vote).values["judge"] is None
        assert running.ask("pair", source=0, queue="uncertain").status == 409
