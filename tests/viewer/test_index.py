"""The entries of runs: what is listed, counted and found, while files grow, are replaced, or hold anything else."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import label_cuts
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_labels import vote
from stored_runs import lost, make_run, revision
from viewed_runs import add, facets, lines, make_folder, opened, read, rows

from cai.folder.info import find_info
from cai.records import Drop
from cai.report.folders import RunRows, reason_text
from cai.viewer import growing
from cai.viewer.entries import MOST_REASONS
from cai.viewer.facets import GROUPS, MOST_VALUES, OTHERS
from cai.viewer.index import MOST_ROWS, Index
from cai.viewer.sources import find_sources

OLD = Path(__file__).resolve().parents[1] / "folders-0.1.0"
JUNK = (
    b"\n", b"{\n", b"null\n", b"[[[[\n", b'{"schema": 7}\n', b"\xff\xfe\x00\n", b'"\\ud800"\n', b"[" * 5_000 + b"\n",
    b'{"position": 1e400}\n', b"NaN\n", b'{"id": "a", "position": "0"}\n', lines(lost(3)).replace(b"stage", b"Stage"),
)  # fmt: skip


def left_out(position: int, reason: str = "identical", stage: str = "dpo") -> Drop:
    return Drop(id=f"r{position}", position=position, stage=stage, reason=reason, detail="…")


def text(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])


# A run of anything: which positions have rows, which were dropped, left out by an export, or both; and lines of junk


positions = st.lists(st.integers(0, 30), unique=True, max_size=12)
junk = st.sampled_from(JUNK)
row_lines = st.lists(st.one_of(positions.map(lambda at: lines(*map(revision, at))), junk), max_size=6)
drop_lines = st.lists(
    st.one_of(
        st.integers(0, 30).map(lambda at: lines(lost(at))),
        st.integers(0, 30).map(lambda at: lines(left_out(at))),
        st.integers(0, 30).map(lambda at: lines(left_out(at, "too_long", "sft"))),
        junk,
    ),
    max_size=12,
)
runs = st.tuples(row_lines.map(b"".join), drop_lines.map(b"".join))


def written(folder: Path, run: tuple[bytes, bytes]) -> Path:
    make_folder(folder)
    (folder / "revisions.jsonl").write_bytes(run[0])
    (folder / "dropped.jsonl").write_bytes(run[1])
    return folder


def is_junk(row: dict[str, Any]) -> bool:
    return row["kind"] == "Unreadable"


@given(run=runs)
def test_every_entry_has_one_status_and_every_line_is_in_a_page(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[bytes, bytes]
) -> None:
    folder = written(tmp_path_factory.mktemp("run"), run)
    with opened(folder) as index:
        every = rows(read(index))
        counts = facets(index)
        assert sum(counts.get("status", {}).values()) == index.state()[0]["entries"] == len(every)
        in_file = [orjson.loads(line) for line in run[0].splitlines(keepends=True) if line not in JUNK]
        found = [(row["position"], row["id"]) for row in every if row["kind"] == "Revision"]
        assert found == sorted({row["position"]: row["id"] for row in in_file}.items())
        lines_of_junk = [line for part in run for line in part.splitlines(keepends=True) if line in JUNK]
        assert sum(map(is_junk, every)) == len(lines_of_junk)
        here = {row["position"] for row in in_file}
        dropped = [row["position"] for row in every if row["kind"] == "Drop"]
        assert not here & set(dropped)
        for group, values in counts.items():
            for value, number in values.items():
                having = rows(index, facets={group: value})
                assert [value in row["facets"][group] for row in having] == [True] * number
        assert all(index.row(0, row["number"])["id"] == row["id"] for row in every)  # type: ignore[index]


@given(run=runs, cuts=st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=8))
def test_a_file_that_grows_is_indexed_as_if_it_had_been_whole(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[bytes, bytes], cuts: list[tuple[int, float]]
) -> None:
    folder = make_folder(tmp_path_factory.mktemp("run"))
    files = [folder / "revisions.jsonl", folder / "dropped.jsonl"]
    ends = [0, 0]
    with opened(folder) as growing_index:
        for file, share in [*cuts, (0, 1.0), (1, 1.0)]:
            end = max(ends[file], int(len(run[file]) * share))
            with open(files[file], "ab") as opened_file:
                opened_file.write(run[file][ends[file] : end])
            ends[file] = end
            read(growing_index)
        with opened(folder) as index:
            assert rows(read(index)) == rows(growing_index)
            assert facets(index) == facets(growing_index)
            assert index.state()[0]["searchable"] == len(rows(index))


@pytest.mark.parametrize("name", sorted(path.name for path in OLD.glob("*-*") if not path.name.startswith("train")))
def test_the_list_of_a_run_counts_what_its_report_counts(name: str) -> None:
    run = RunRows(OLD / name, find_info(OLD / name) or {}, find_sources([OLD / name])[0].row)
    positions = [position for position, _ in run.rows()]
    reasons = Counter(reason_text(each) for at in positions for each in run.left_out.get(at, ()))
    reasons.update(f"dropped: {reason}" for at, reason in run.lost.items() if at not in positions)
    with opened(OLD / name) as index:
        every = rows(read(index))
        assert [row["position"] for row in every if row["kind"] != "Drop"] == positions != []
        assert facets(index).get("reason", {}) == reasons


# What became of a row


def test_a_row_that_an_export_leaves_out_says_of_which_file_and_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0), revision(1), lost(2)])
    add(run / "dropped.jsonl", left_out(1), left_out(1, "too_long", "sft"), left_out(1))
    with opened(run) as index:
        kept, left, dropped = rows(read(index))
        assert (kept["reasons"], dropped["reasons"]) == ([], [])
        assert left["reasons"] == ["not in dpo: identical", "not in sft: too_long"]
        assert facets(index)["status"] == {"kept": 1, "left out of a file": 1, "dropped": 1}
        assert facets(index)["reason"] == {
            "not in dpo: identical": 1,
            "not in sft: too_long": 1,
            "dropped: truncated": 1,
        }


def test_a_later_export_says_anew_what_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0), revision(1), lost(2)])
    with opened(run) as index:
        for at in (0, 1):
            part = run / "dropped.tmp"
            part.write_bytes(lines(lost(2), left_out(at)))
            os.replace(part, run / "dropped.jsonl")
            assert [row["reasons"] for row in rows(read(index))] == [
                ["not in dpo: identical"][: at == each] for each in (0, 1)
            ] + [[]]
        part.write_bytes(lines(lost(2)))
        os.replace(part, run / "dropped.jsonl")
        assert [row["reasons"] for row in rows(read(index))] == [[], [], []]
        assert facets(index)["status"] == {"kept": 2, "dropped": 1}
        assert len(rows(index, words="lost")) == 1


@pytest.mark.parametrize("order", ["row first", "drop first", "drop much earlier"])
def test_a_drop_that_was_tried_again_and_became_a_row_is_not_shown_as_dropped(tmp_path: Path, order: str) -> None:
    run = make_folder(tmp_path / "run")
    parts = [(run / "revisions.jsonl", revision(4)), (run / "dropped.jsonl", lost(4, "model_error"))]
    with opened(run) as index:
        for path, record in parts if order == "row first" else reversed(parts):
            add(path, record)
            if order == "drop much earlier":
                read(index)
        (row,) = rows(read(index))
        assert (row["kind"], facets(index)["status"], facets(index).get("reason")) == ("Revision", {"kept": 1}, None)
        assert rows(index, words="lost") == []


# Rows that grow


@given(turns=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=20), at=st.integers(0, 20))
def test_a_row_that_grows_is_one_entry_with_its_last_text_and_is_found_under_its_first_number(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int]], at: int
) -> None:
    run = make_folder(tmp_path_factory.mktemp("run"))

    def grown(position: int, rounds: int) -> Any:
        return revision(position, *(f"round{number}" for number in range(rounds)), f"last{rounds}")

    with opened(run) as index:
        add(run / "revisions.jsonl", *(grown(*turn) for turn in turns[:at]))
        before = rows(read(index))
        while index.advance():
            pass
        add(run / "revisions.jsonl", *(grown(*turn) for turn in turns[at:]))
        every = rows(read(index))
        last = dict(turns)
        assert [(row["position"], len(row["rounds"])) for row in every] == [
            (position, rounds + 1) for position, rounds in sorted(last.items())
        ]
        assert facets(index)["status"] == {"kept": len(last)} and index.state()[0]["entries"] == len(last)
        for rounds in range(1, 5):
            found = rows(index, words=f"last{rounds}")
            assert [row["position"] for row in found] == sorted(p for p, each in last.items() if each == rounds)
        for row in before:
            now = index.row(0, row["number"])
            assert now is not None and (now["id"], len(now["rounds"])) == (row["id"], last[row["position"]] + 1)


def test_a_person_has_said_of_a_longer_label_what_was_said_of_the_shorter_one(tmp_path: Path) -> None:
    short, long = label_cuts.pair(0, z=1.0), label_cuts.pair(0, z=2.0)
    run = label_cuts.make_run(tmp_path / "run", [short, label_cuts.pair(1, z=1.0)])
    with opened(run) as index:
        read(index)
        assert index.voted(0, 0, "a") is not None
        assert facets(index)["person"]["agrees"] == 1
        add(run / "labels.jsonl", orjson.dumps(long) + b"\n")
        assert facets(read(index))["person"]["agrees"] == 1


# Files that change


def test_the_rest_of_a_torn_line_is_waited_for(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    line = lines(revision(0))
    with opened(run) as index:
        assert rows(read(index)) == []
        add(run / "revisions.jsonl", line[:40])
        assert rows(read(index)) == []
        assert index.state()[0]["bytes"] == [0, 40]
        add(run / "revisions.jsonl", line[40:])
        assert [row["id"] for row in rows(read(index))] == ["r0"]


def test_a_resume_cuts_a_torn_line_off_and_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0)])
    torn = b'{"schema":1,"id":"r1' + b" " * 2_000
    add(run / "revisions.jsonl", torn)
    with opened(run) as index:
        read(index)
        make_run(run, [revision(1)])  # together shorter than with the torn line
        assert [row["id"] for row in rows(read(index))] == ["r0", "r1"]
        assert len(set(index.state()[0]["bytes"])) == 1
        add(run / "revisions.jsonl", torn)
        read(index)
        os.truncate(run / "revisions.jsonl", (run / "revisions.jsonl").stat().st_size - len(torn))
        assert not index.advance()
        assert [row["id"] for row in rows(read(index))] == ["r0", "r1"]


@pytest.mark.parametrize("how", ["shorter", "longer", "as long", "edited", "gone", "cut off"])
def test_a_file_that_is_replaced_is_indexed_again(tmp_path: Path, how: str) -> None:
    run = make_run(tmp_path / "run", [revision(0), revision(1), lost(5)])
    path = run / "revisions.jsonl"
    new = {"shorter": [7], "longer": [7, 8, 9], "as long": [7, 8], "edited": [7, 8], "gone": [], "cut off": [0]}[how]
    with opened(run) as index:
        assert len(rows(read(index))) == 3
        if how in ("edited", "cut off"):
            path.write_bytes(lines(*map(revision, new)))
            os.utime(path, (1, 1))
        elif how == "gone":
            path.unlink()
        else:
            (run / "part").write_bytes(lines(*map(revision, new)))
            os.replace(run / "part", path)
        every = rows(read(index))
        assert [row["id"] for row in every if row["kind"] == "Revision"] == [f"r{at}" for at in new]
        assert [row["id"] for row in every if row["kind"] == "Drop"] == ["r5"]
        assert [row["number"] for row in rows(index, words="question")] == [
            row["number"] for row in every if row["kind"] == "Revision"
        ]
        assert facets(index)["status"] == {"kept": len(new), "dropped": 1} if new else {"dropped": 1}


def test_a_file_that_is_read_again_is_not_said_to_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0), revision(1)])
    with opened(run) as index:
        (size, _) = read(index).state()[0]["bytes"]
        (run / "revisions.jsonl").write_bytes(lines(revision(7)))
        assert index.advance()
        assert index.state()[0]["bytes"] == [0, size] and index.state()[0]["entries"] == 0


def test_a_file_that_goes_while_its_words_are_read_does_not_end_the_index(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    add(run / "revisions.jsonl", *map(revision, range(50)))
    with opened(run) as index:
        assert index.advance()
        (run / "revisions.jsonl").unlink()
        (reader,) = index._readers
        assert not reader.advance_words(nullcontext())
        assert len(rows(index)) == 50 and all(map(is_junk, rows(index)))
        assert rows(read(index)) == []
        add(run / "revisions.jsonl", revision(0))
        assert len(rows(read(index), words="question")) == 1


def test_a_file_that_grows_as_another_one_is_indexed_again(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    add(run / "revisions.jsonl", *map(revision, range(3)))
    with opened(run) as index:
        read(index)
        (run / "revisions.jsonl").write_bytes(lines(*map(revision, range(10, 20))))  # the same file, begun anew
        assert [row["id"] for row in rows(read(index))] == [f"r{at}" for at in range(10, 20)]


@pytest.mark.parametrize("what", ["a folder", "a pipe", "nothing"])
def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    run = make_folder(tmp_path / "run")
    add(run / "dropped.jsonl", lost(0))
    if what == "a folder":
        (run / "revisions.jsonl").mkdir()
    elif what == "a pipe":
        os.mkfifo(run / "revisions.jsonl")
    with opened(run) as index:
        assert [row["kind"] for row in rows(read(index))] == ["Drop"]


def test_a_file_that_may_not_be_read_is_named_and_read_once_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", [revision(0)])

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with opened(run) as index:
        with monkeypatch.context() as patch:
            patch.setattr("cai.viewer.growing.open", refuse, raising=False)
            assert rows(read(index)) == []
            assert index.state()[0]["problem"].startswith(f"{run}/revisions.jsonl cannot be read: Permission denied")
        assert len(rows(read(index))) == 1
        assert index.state()[0]["problem"] is None


# Lines of anything


@pytest.mark.parametrize("line", JUNK)
@pytest.mark.parametrize("name", ["revisions.jsonl", "dropped.jsonl"])
def test_a_line_that_is_not_such_a_row_is_an_entry_that_says_so(tmp_path: Path, name: str, line: bytes) -> None:
    run = make_folder(tmp_path / "run")
    add(run / name, line, line)
    add(run / "revisions.jsonl", revision(2))
    with opened(run) as index:
        every = rows(read(index))
        junk = [row for row in every if is_junk(row)]
        assert [row["id"] for row in junk] == [f"line 1 of {name}", f"line 2 of {name}"]
        assert all(row["reasons"][0].startswith(f"{row['id']} is not a row: ") for row in junk)
        assert facets(index)["status"] == {"kept": 1, "not readable": 2}
        assert orjson.dumps(every)


def test_a_line_that_is_too_long_is_an_entry_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.viewer.growing.MOST_LINE", 3_000)
    monkeypatch.setattr("cai.viewer.reader.MOST_LINE", 3_000)
    run = make_folder(tmp_path / "run")
    long = lines(revision(1, initial="x" * 4_000))
    add(run / "revisions.jsonl", revision(0), long, revision(2), long[:-1])
    with opened(run) as index:
        first, second, third = rows(read(index))
        assert [first["id"], second["id"], third["id"]] == ["r0", "line 2 of revisions.jsonl", "r2"]
        assert f"it has {len(long):,} bytes, and up to 3,000 are read" in second["reasons"][0]
        assert rows(index, words="schema") == [second]


def test_the_reasons_of_a_row_are_bounded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0)])
    add(run / "dropped.jsonl", *(left_out(0, f"reason {number % 3_000}") for number in range(5_000)))
    with opened(run) as index:
        (row,) = rows(read(index))
        assert len(row["reasons"]) == MOST_REASONS
        assert facets(index)["status"] == {"left out of a file": 1}


def test_the_names_of_facets_are_bounded(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    row = revision(0, *map(str, range(1_000)))
    add(run / "revisions.jsonl", row, revision(1, "a"))
    with opened(run) as index:
        principles = facets(read(index))["principle"]
        assert len(principles) == MOST_VALUES + 1
        assert (principles["p1"], principles[OTHERS]) == (2, 1)
        assert len(rows(index, facets={"principle": OTHERS})) == 1


@pytest.mark.parametrize(
    "wanted", [{"status": "mislaid"}, {"length": ""}, {"1 OR 1": "kept"}, {"principle": "p1' OR 1"}]
)
def test_values_and_groups_that_no_entry_has_find_nothing(tmp_path: Path, wanted: dict[str, str]) -> None:
    with opened(make_run(tmp_path / "run", [revision(0, "a")])) as index:
        assert rows(read(index), facets=wanted) == []
        assert rows(index, facets={"status": "kept", **wanted}) == []


# Labels


def labels(folder: Path, **more: Any) -> Path:
    every = [label_cuts.pair(at, z=z, human=human, **more) for at, (z, human) in enumerate(VERDICTS)]
    return label_cuts.make_run(folder, every)


VERDICTS = [(1.0, "a"), (-1.0, "a"), (1.0, "tie"), (1.0, None), (None, "b"), (0.0, "b"), (-2.0, "b")]


def test_labels_are_told_apart_by_what_people_say_of_them(tmp_path: Path) -> None:
    with opened(labels(tmp_path / "run")) as index:
        assert facets(read(index))["person"] == {
            "agrees": 2, "the judge does not choose": 2, "disagrees": 1, "tie": 1, "none": 1,
        }  # fmt: skip


def test_labels_are_told_apart_by_whether_their_votes_flip(tmp_path: Path) -> None:
    votes = {
        "does not flip": [vote(1.0)],
        "flips with the order": [vote(0.1, 2.0)],
        "no valid vote": [vote(1.0, problem="?")],
    }
    every = [label_cuts.pair(at, z=1.0, votes=each) for at, each in enumerate([*votes.values(), []])]
    with opened(label_cuts.make_run(tmp_path / "run", every)) as index:
        assert [row["facets"].get("flips") for row in rows(read(index))] == [*([name] for name in votes), None]


def test_a_list_of_labels_holds_no_verdict_and_an_opened_one_does(tmp_path: Path) -> None:
    with opened(labels(tmp_path / "run")) as index:
        short = rows(read(index))[0]
        assert not {"z", "p_a", "votes", "rewards", "human"} & short.keys()
        whole = index.row(0, short["number"])
        assert whole is not None and (whole["z"], whole["human"], whole["key"]) == (
            1.0,
            "a",
            label_cuts.pair(0, 1.0)["key"],
        )


def test_lines_of_several_people_are_rows(tmp_path: Path) -> None:
    both = [label_cuts.pair(0, z=1.0) | {"annotator": who, "human": "a"} for who in ("ann", "bob")]
    with opened(label_cuts.make_run(tmp_path / "run", both)) as index:
        assert facets(read(index))["status"] == {"kept": 2}


def test_a_vote_counts_in_the_list_and_can_be_taken_back(tmp_path: Path) -> None:
    run = label_cuts.make_run(tmp_path / "run", [label_cuts.pair(at, z=1.0) for at in range(3)])
    with opened(run) as index:
        start = (run / "labels.jsonl").read_bytes().index(b"\n") + 1
        assert index.voted(0, start, "b") is None
        assert [row["facets"]["person"] for row in rows(read(index))] == [["none"], ["disagrees"], ["none"]]
        assert index.voted(0, 0, "a") == 0
        assert facets(index)["person"] == {"none": 1, "disagrees": 1, "agrees": 1}
        assert index.voted(0, start, None) == start
        assert facets(index)["person"] == {"none": 2, "agrees": 1}
        assert index.voted(0, 1, "a") is None


# Pages


def test_an_opened_row_is_whole_and_says_what_made_it(tmp_path: Path) -> None:
    made = revision(0, *map(str, range(30)), initial="x" * 20_000)
    with opened(make_run(tmp_path / "run", [made])) as index:
        (short,) = rows(read(index))
        assert (short["initial"][1], short["left_out"]) == (20_000, {"rounds": 6})
        whole = index.row(0, short["number"])
        assert whole is not None and (whole["initial"], whole["left_out"]) == (made.initial, {})
        record = made.model_dump(mode="json")
        for name in ("constitution", "templates", "models", "seed", "usage", "calls"):
            assert whole[name] == record[name] and name not in short


def test_a_page_has_no_more_rows_than_a_browser_takes(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    add(run / "revisions.jsonl", *map(revision, range(MOST_ROWS + 50)))
    with opened(run) as index:
        read(index)
        assert len(index.page(0, count=10**9)["rows"]) == MOST_ROWS
        assert index.page(0, start=10**9) == {"total": MOST_ROWS + 50, "rows": []}
        assert index.page(0, start=-5, count=1)["rows"][0]["id"] == "r0"
        assert index.row(0, 12_345) is None


def test_many_threads_may_ask_while_a_run_is_written(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    index = Index(find_sources([run]))
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            while not done.wait(0.005):
                page = index.page(0, {"status": "kept"}, "question", count=50)
                numbers = [row["position"] for row in page["rows"]]
                assert numbers == sorted(set(numbers)) and len(numbers) <= page["total"]
                assert not any(map(is_junk, page["rows"]))
                state = index.state()[0]
                assert sum(state["facets"].get("status", {}).values()) == state["entries"]
        except BaseException as error:
            problems.append(error)

    done = threading.Event()
    threads = [threading.Thread(target=ask) for _ in range(4)]
    index.start()
    for thread in threads:
        thread.start()
    for start in range(0, 2_000, 50):
        add(run / "revisions.jsonl", *map(revision, range(start, start + 50)))
        add(run / "dropped.jsonl", left_out(start))
    while index.state()[0]["searchable"] < 2_000:
        assert index.state()[0]["problem"] is None
        done.wait(0.02)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert index.page(0, words="question")["total"] == 2_000
    assert facets(index)["status"] == {"kept": 1_960, "left out of a file": 40}
    index.close()


def test_the_groups_of_facets_are_those_that_the_page_is_told() -> None:
    assert GROUPS == ("status", "reason", "principle", "person", "flips", "length")
    assert growing.MOST_LINE >= 1 << 23
