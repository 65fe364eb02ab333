from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Server, running
from pages import front_matter
from seldom import seldom
from stored_runs import IDENTITY, ask, lost, make_run, revision

from cai.errors import RunError, UsageError
from cai.export import preferences
from cai.export.best_replies import PICKED
from cai.export.export import dataset_card, export_run
from cai.export.facts import Facts
from cai.export.options import ExportOptions
from cai.export.revisions import RevisionCut, sft_rows
from cai.export.sft import COLUMNS
from cai.folder.journal.inputs import DONE
from cai.folder.journal.store import read_calls
from cai.folder.run import RunFolder
from cai.judge.gold import GoldVote
from cai.records import Candidates, Drop, Label, Probed, Prompt, Rating, Record, Revision, Vote
from cai.runs.kinds.doors import generate

ROOT = Path(__file__).resolve().parents[2]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """All files that an export writes."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in ("README.md", "dropped.jsonl") or re.match(r"(sft|dpo)\.", path.name)
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    items = [revision(1, "a", "b"), lost(2), revision(0, None, "c"), revision(3, None, None)]
    return make_run(tmp_path / "run", items)


def test_a_row_becomes_one_sft_row_and_one_unjudged_pair(run: Path) -> None:
    summary = export_run(run)
    both = {
        "prompt": [{"role": "user", "content": "Question 1?"}],
        "id": "r1",
        "round": 2,
        "principles": ["p1", "p2"],
        "constitution": "kind@1.2.0",
        "constitution_hash": "c0ffee",
        "model": "small-1",
    }
    assert rows(run / "sft.jsonl")[1] == {
        **both,
        "completion": [{"role": "assistant", "content": "b"}],
        "changed": True,
    }
    assert rows(run / "dpo.jsonl")[1] == {
        **both,
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "first"}],
        "p_chosen": None,
        "judged": False,
    }
    assert summary.rows == 3
    assert summary.files == {"sft.jsonl": 3, "dpo.jsonl": 2}
    assert summary.dropped == {"truncated": 1, "identical": 1}
    assert summary.notes == ()


def test_files_are_in_input_order_with_the_drops_of_run_and_export_together(run: Path) -> None:
    export_run(run)
    assert [row["id"] for row in rows(run / "sft.jsonl")] == ["r0", "r1", "r3"]
    assert [row["id"] for row in rows(run / "dpo.jsonl")] == ["r0", "r1"]
    drops = [Drop.model_validate(row) for row in rows(run / "dropped.jsonl")]
    assert [(drop.id, drop.stage, drop.reason) for drop in drops] == [
        ("r2", "assistant", "truncated"),
        ("r3", "dpo", "identical"),
    ]


def test_a_reply_that_stood_is_an_sft_row_by_the_assistant_and_no_pair(run: Path) -> None:
    export_run(run)
    row = rows(run / "sft.jsonl")[2]
    assert (row["round"], row["principles"], row["model"], row["changed"]) == (0, ["p1", "p2"], "small-0", False)
    assert row["completion"][0]["content"] == "first"


def test_space_around_a_reply_makes_no_pair(tmp_path: Path) -> None:
    make_run(tmp_path, [revision(0, " first\n")])
    assert export_run(tmp_path).files == {"sft.jsonl": 1, "dpo.jsonl": 0}
    assert rows(tmp_path / "sft.jsonl")[0]["changed"] is False


def test_all_rounds_give_a_row_for_every_text_that_a_round_wrote(run: Path) -> None:
    assert export_run(run, rounds_kept="all").files == {"sft.jsonl": 4, "dpo.jsonl": 2}
    written = [(row["id"], row["round"], row["completion"][0]["content"]) for row in rows(run / "sft.jsonl")]
    assert written == [("r0", 2, "c"), ("r1", 1, "a"), ("r1", 2, "b"), ("r3", 0, "first")]
    assert rows(run / "sft.jsonl")[1]["principles"] == ["p1"]


def test_a_text_that_comes_twice_is_one_row() -> None:
    row = revision(0, "a", "b", None, "a").model_dump(mode="json")
    assert [(r["round"], r["principles"]) for _, r in sft_rows(row, ExportOptions(rounds_kept="all"))] == [
        (2, ["p1", "p2", "p3"]),
        (4, ["p1", "p2", "p3", "p4"]),
    ]


@pytest.mark.parametrize("options", [{}, {"rounds_kept": "all", "split": 0.5}])
def test_the_bytes_do_not_depend_on_finishing_order_exports_between_or_a_lost_journal(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    items = [revision(n, "a", "b" if n % 3 else None) if n % 4 else lost(n) for n in range(40)]
    items[7] = revision(7, None, None)
    straight = make_run(tmp_path / "straight", items)
    export_run(straight, **options)

    disturbed = tmp_path / "disturbed"
    make_run(disturbed, items[:20][::-1], stopped="interrupted")
    export_run(disturbed, split=0.1)
    (disturbed / "calls.sqlite").unlink()
    export_run(disturbed)
    with (disturbed / "revisions.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"id":"torn')
    make_run(disturbed, items[20:][::-1])
    export_run(disturbed, **options)
    assert contents(disturbed) == contents(straight)
    export_run(disturbed, **options)
    assert contents(disturbed) == contents(straight)


def states(folder: Path) -> dict[int, int]:
    run = RunFolder(folder, IDENTITY)
    found = {position: state for position, _, state in run.store.rows.states()}
    run.close()
    return found


@pytest.mark.parametrize("journal", ["kept", "deleted", "behind", "reset"])
def test_a_pair_left_out_stays_a_finished_row_for_the_run(run: Path, journal: str) -> None:
    finished = states(run)
    export_run(run)
    if journal == "deleted":
        (run / "calls.sqlite").unlink()
    elif journal != "kept":  # what a kill between replacing dropped.jsonl and telling the journal leaves
        db = sqlite3.connect(run / "calls.sqlite")
        if journal == "behind":
            db.execute("DELETE FROM inputs")
        db.execute("UPDATE files SET size = 0 WHERE name = 'dropped.jsonl' OR ?", (journal == "behind",))
        db.commit()
        db.close()
    assert states(run) == finished == {0: DONE, 1: DONE, 2: "truncated", 3: DONE}


def test_what_is_tried_again_on_resume_is_neither_lost_nor_decided_by_an_export(tmp_path: Path) -> None:
    make_run(tmp_path, [revision(0, "a"), lost(1, "model_error")], stopped="interrupted")
    assert export_run(tmp_path).dropped == {"model_error": 1}
    assert rows(tmp_path / "dropped.jsonl")[0]["reason"] == "model_error"
    run = RunFolder(tmp_path, IDENTITY)
    assert run.pending(Prompt(id="r1", messages=ask("Lost 1")), 1) is True
    run.close()
    make_run(tmp_path, [revision(1, "a", prompt="Lost 1")])
    assert export_run(tmp_path).dropped == {}


def test_a_run_started_anew_keeps_no_training_file_of_the_old_one(run: Path) -> None:
    export_run(run, split=0.5)
    RunFolder(run, IDENTITY | {"seed": 1}, force=True).close()
    assert contents(run) == {"dropped.jsonl": b""}


def test_a_split_puts_a_prompt_on_the_same_side_whatever_its_id_and_run(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", [revision(n, "a") for n in range(60)])
    two = make_run(tmp_path / "two", [revision(n, "b", prompt=f"Question {59 - n}?") for n in range(60)])
    sides = []
    for folder in (one, two):
        files = export_run(folder, split=0.7).files
        assert files["sft.jsonl"] + files["sft.eval.jsonl"] == 60
        assert 30 < files["sft.jsonl"] < 54
        sft, dpo = ({row["prompt"][0]["content"] for row in rows(folder / "sft.eval.jsonl")} for _ in "ab")
        assert sft == {row["prompt"][0]["content"] for row in rows(folder / "dpo.eval.jsonl")} == dpo
        sides.append(sft)
    assert sides[0] == sides[1]


def test_files_that_this_export_does_not_write_are_removed(run: Path) -> None:
    export_run(run, split=0.5, parquet=True)
    assert {"sft.eval.jsonl", "sft.eval.parquet", "dpo.parquet"} <= contents(run).keys()
    export_run(run)
    assert contents(run).keys() == {"README.md", "dropped.jsonl", "sft.jsonl", "dpo.jsonl"}
    assert not list(run.glob("*.part")) + list(run.glob("*.tmp"))


@pytest.mark.parametrize(
    ("items", "info", "options", "note"),
    [
        ([], {}, {}, "no finished row"),
        ([lost(0)], {}, {}, "no finished row"),
        ([revision(0, None)], {}, {}, "dpo.jsonl is empty"),
        ([revision(0, "a")], {"stopped": "interrupted"}, {}, r"unfinished \(interrupted\)"),
        ([revision(0, "a")], {}, {"split": 0.999999}, "eval side of sft empty: there are only 1 rows"),
        ([revision(0, "a")], {}, {"split": 0.000001}, "train side of dpo empty"),
    ],
)
def test_what_the_user_should_know_is_a_note(
    tmp_path: Path, items: list[Any], info: dict[str, Any], options: dict[str, Any], note: str
) -> None:
    summary = export_run(make_run(tmp_path, items, **info), **options)
    assert any(re.search(note, told) for told in summary.notes)
    assert any(re.search(note, line) for line in summary.lines())
    assert (tmp_path / "sft.jsonl").exists() and (tmp_path / "dpo.jsonl").exists()


@pytest.mark.parametrize("options", [{"split": 0}, {"split": 1.0}, {"split": -2}, {"rounds_kept": "first"}])
def test_an_option_out_of_its_range_is_refused(run: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--(split|rounds-kept) \S+ must be"):
        export_run(run, **options)


def test_a_folder_without_a_run_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"is not a run folder: it has no run.json"):
            export_run(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_nobody_judged_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"identity": {"command": "sample"}}')
    with pytest.raises(RunError, match=f"is a run of cai sample: .* label them first: cai label {tmp_path}"):
        export_run(tmp_path)
    (tmp_path / "run.json").write_text('{"identity": {"command": "train"}}')
    with pytest.raises(
        RunError, match="is a run of cai train, which has no training rows: name the --out of a cai generate"
    ):
        export_run(tmp_path)


def test_options_for_labels_are_refused_for_revisions(run: Path) -> None:
    with pytest.raises(UsageError, match="--agreement, --target: only for runs of cai label; this is a run of cai gen"):
        export_run(run, agreement=0.8, target=3)


LEAK = "Here is a revised reply that is kinder: be kind."
MIXED = "Be kind.\n\nHuman: And then?\n\nAssistant: Then, too."


def test_a_final_text_with_a_fault_of_form_leaves_both_files(tmp_path: Path) -> None:
    items = [revision(0, "a", LEAK), revision(1, MIXED), revision(2, "b"), revision(3, None, initial=LEAK)]
    make_run(tmp_path, items)
    summary = export_run(tmp_path)
    assert [row["id"] for row in rows(tmp_path / "sft.jsonl")] == ["r2"]
    assert [row["id"] for row in rows(tmp_path / "dpo.jsonl")] == ["r2"]
    assert summary.left_out == {
        "sft": {"preamble_leak": 2, "role_mixup": 1},
        "dpo": {"identical": 1, "preamble_leak": 1, "role_mixup": 1},
    }
    assert "left out of sft: preamble_leak 2, role_mixup 1 (dropped.jsonl)" in summary.lines()
    all_rounds = export_run(tmp_path, rounds_kept="all")
    assert all_rounds.files["sft.jsonl"] == 2 and all_rounds.left_out["sft"]["preamble_leak"] == 2
    assert export_run(tmp_path, hygiene=False).files == {"sft.jsonl": 4, "dpo.jsonl": 3}
    assert "cai export RUN --no-hygiene\n" in (tmp_path / "README.md").read_text()


def test_a_final_text_that_is_its_critique_leaves_both_files(tmp_path: Path) -> None:
    critique = "It calls the neighbour careless without knowing her, and it offers no way to talk with her in peace."
    copied, repaired, quoting = (revision(number, critique, *more) for number, more in enumerate([(), ("b",), ()]))
    [turn, *_] = copied.rounds
    items = [
        copied.model_copy(update={"rounds": (turn.model_copy(update={"critique": f"{critique} So be kind."}),)}),
        repaired.model_copy(update={"rounds": (turn.model_copy(update={"critique": critique}), repaired.rounds[1])}),
        quoting.model_copy(update={"rounds": (turn.model_copy(update={"critique": f"It says this: {critique}"}),)}),
    ]
    make_run(tmp_path, items)
    summary = export_run(tmp_path)
    assert [row["id"] for row in rows(tmp_path / "sft.jsonl")] == ["r1", "r2"]
    assert summary.left_out == {"sft": {"off_task": 1}, "dpo": {"off_task": 1}}
    [drop, *_] = rows(tmp_path / "dropped.jsonl")
    assert drop["detail"].endswith("the text is a critique that it should answer")
    assert export_run(tmp_path, rounds_kept="all").left_out["sft"] == {"off_task": 2}
    assert export_run(tmp_path, hygiene=False).left_out == {"sft": {}, "dpo": {}}


def test_a_rejected_reply_may_have_a_fault_of_form(tmp_path: Path) -> None:
    make_run(tmp_path, [revision(0, "a", initial=LEAK)])
    assert export_run(tmp_path).files == {"sft.jsonl": 1, "dpo.jsonl": 1}


def test_the_card_says_how_many_replies_the_gate_let_pass_and_a_note_how_many_answers_could_not_be_read(
    tmp_path: Path,
) -> None:
    items = [revision(0, "a", None), revision(1, None, "b"), revision(2, "c", "d")]
    assert list(export_run(make_run(tmp_path, items)).notes) == []
    assert "| gate | a reply is revised if the critic gives p ≥ 0.5 that it needs a change: 2 of 6 passed |" in (
        (tmp_path / "README.md").read_text()
    )
    [turn] = revision(3, "e").rounds
    unread = turn.model_copy(update={"verdict": None, "p_revise": None})
    [note] = export_run(make_run(tmp_path, [revision(3, "e").model_copy(update={"rounds": (unread,)})])).notes
    assert note.startswith("the answer of the gate could not be read in 1 of 7 rounds, in which the reply was revised")


@pytest.mark.parametrize(
    ("refused", "rows", "note"),
    [
        (8, 40, None),
        (
            9,
            40,
            "9 of 40 first replies already refuse: there is little to revise, and little to learn from this run "
            "(refusals are found in English only)",
        ),
        (29, 29, None),  # of so few rows the share is not known well enough
    ],
)
def test_many_first_replies_that_refuse_are_a_note(tmp_path: Path, refused: int, rows: int, note: str | None) -> None:
    sorry = "I'm sorry, but I cannot help with that."
    items = [revision(n, "a", initial=sorry if n < refused else "Gladly.") for n in range(rows)]
    notes = export_run(make_run(tmp_path, items)).notes
    assert list(notes) == ([] if note is None else [note])


def test_a_run_in_use_is_refused(run: Path) -> None:
    holder = RunFolder(run, IDENTITY)
    with pytest.raises(RunError, match="in use by another process"):
        export_run(run)
    holder.close()


@pytest.mark.parametrize("lost_journal", [False, True])
@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (b'{"oops', "line 2 is damaged"),
        (b"[]", "line 2 is damaged"),
        (b'{"position": 1, "prompt": null}', r"line 2 is damaged \(id: "),
    ],
)
@pytest.mark.parametrize("name", ["revisions.jsonl", "dropped.jsonl"])
def test_a_damaged_line_is_named_and_no_file_is_replaced(
    tmp_path: Path, name: str, damaged: bytes, problem: str, lost_journal: bool
) -> None:
    make_run(tmp_path, [revision(n, "a") for n in range(3)] + [lost(n) for n in range(3, 6)])
    export_run(tmp_path)
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    lines[1] = damaged.ljust(len(lines[1]) - 1) + b"\n"
    (tmp_path / name).write_bytes(b"".join(lines))
    before = contents(tmp_path)
    if lost_journal:
        (tmp_path / "calls.sqlite").unlink()
    with pytest.raises(RunError, match=f"{re.escape(name)}: {problem}"):
        export_run(tmp_path)
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob("*.part"))


texts = st.sampled_from(["first", " first", "b", "ü\n---\n", "{{ 7*7 }}", "d"])


@settings(max_examples=25)
@given(
    chains=st.lists(st.none() | st.lists(st.none() | texts, min_size=1, max_size=4), max_size=12),
    order=st.randoms(use_true_random=False),
    split=st.none() | st.floats(0.01, 0.99),
    kept=st.sampled_from(["last", "all"]),
)
def test_kept_and_dropped_make_up_what_went_in(chains: list[Any], order: Any, split: float | None, kept: str) -> None:
    items = [lost(n) if chain is None else revision(n, *chain) for n, chain in enumerate(chains)]
    shuffled = order.sample(items, len(items))
    with tempfile.TemporaryDirectory() as name:
        folder = make_run(Path(name), shuffled)
        summary = export_run(folder, rounds_kept=kept, split=split)
        lines = {kind: [row for path in folder.glob(f"{kind}*.jsonl") for row in rows(path)] for kind in ("sft", "dpo")}
        drops = rows(folder / "dropped.jsonl")
    finished = [item for item in items if isinstance(item, Revision)]
    ids = Counter(row.id for row in finished)
    assert set(ids) == {row["id"] for row in lines["sft"]}
    assert Counter(row["id"] for row in lines["dpo"]) + Counter(d["id"] for d in drops if d["stage"] == "dpo") == ids
    assert Counter(d["id"] for d in drops if d["stage"] == "assistant") == Counter(
        item.id for item in items if isinstance(item, Drop)
    )
    assert [drop["position"] for drop in drops] == sorted(drop["position"] for drop in drops)
    for [(_, row)] in (sft_rows(item.model_dump(mode="json"), ExportOptions()) for item in finished):
        assert row in lines["sft"]
    assert kept == "all" or len(lines["sft"]) == len(finished)
    assert sum(summary.files.values()) == sum(map(len, lines.values()))


KILLED = """
import os, sys
from cai.export.export import export_run

def hook(event, args):
    if event == "os.rename" and str(args[1]).endswith(sys.argv[2]):
        os._exit(9)

sys.addaudithook(hook)
export_run(sys.argv[1])
"""


@pytest.mark.parametrize("moved", [False, True])  # killed just before, or just after, the file is put in place
@pytest.mark.parametrize("name", seldom(["dropped.jsonl", "sft.jsonl", "README.md"], ["sft.jsonl"]))
def test_an_export_killed_as_it_replaces_a_file_is_put_right_by_the_next(
    tmp_path: Path, name: str, moved: bool
) -> None:
    make_run(tmp_path, [revision(0, None), lost(1), revision(2, "a"), lost(3, "model_error")])
    command = [sys.executable, "-c", KILLED, str(tmp_path), name]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode == 9
    if moved:
        part = tmp_path / ("dropped.tmp" if name == "dropped.jsonl" else f"{name}.part")
        part.replace(tmp_path / name)
    assert export_run(tmp_path).dropped == {"truncated": 1, "model_error": 1, "identical": 1}
    undisturbed = make_run(tmp_path / "other", [revision(2, "a"), lost(1), lost(3, "model_error"), revision(0, None)])
    export_run(undisturbed)
    assert contents(tmp_path) == contents(undisturbed)
    assert states(tmp_path) == states(undisturbed)
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_whole_files_and_a_run_that_knows_its_rows(tmp_path: Path) -> None:
    items = [revision(n, "a" if n % 2 else None) if n % 3 else lost(n) for n in range(3_000)]
    make_run(tmp_path, items)
    export_run(tmp_path)
    expected, finished = contents(tmp_path), states(tmp_path)
    child = "import sys; from cai.export.export import export_run\nwhile True: export_run(sys.argv[1])"
    for kill in range(25):
        process = subprocess.Popen([sys.executable, "-c", child, str(tmp_path)])
        time.sleep(0.5 + kill * 0.013)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {name: contents(tmp_path)[name] for name in expected} == expected
        assert states(tmp_path) == finished
    export_run(tmp_path)
    assert contents(tmp_path) == expected


# Parquet and datasets


def test_parquet_holds_the_same_rows_with_the_same_types_whatever_the_values(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    summary = export_run(run, split=0.5, parquet=True)
    for name in ("sft", "sft.eval", "dpo", "dpo.eval"):
        assert parquet.read_table(run / f"{name}.parquet").to_pylist() == rows(run / f"{name}.jsonl")
        assert summary.files[f"{name}.parquet"] == summary.files[f"{name}.jsonl"]
    empty = make_run(tmp_path / "empty", [])
    export_run(empty, parquet=True)
    for name in ("sft", "dpo"):
        assert parquet.read_schema(empty / f"{name}.parquet") == parquet.read_schema(run / f"{name}.parquet")
    assert str(parquet.read_schema(run / "dpo.parquet").field("p_chosen").type) == "double"


@pytest.mark.parametrize("options", [{}, {"split": 0.5}, {"split": 0.5, "parquet": True}, {"split": 0.999999}])
def test_every_config_of_the_card_loads_with_datasets(tmp_path: Path, options: dict[str, Any]) -> None:
    datasets = pytest.importorskip("datasets")
    items = [revision(n, "a" if n % 4 else None, "b" if n % 3 else None) for n in range(40)]
    folder = make_run(tmp_path / "run", items)
    summary = export_run(folder, **options)
    assert datasets.get_dataset_config_names(str(folder)) == ["sft", "dpo"]
    for kind in ("sft", "dpo"):
        loaded = datasets.load_dataset(str(folder), kind, cache_dir=str(tmp_path / "cache"))
        for split, name in (("train", f"{kind}.jsonl"), ("test", f"{kind}.eval.jsonl")):
            assert summary.files.get(name, 0) == (len(loaded[split]) if split in loaded else 0)
            if split in loaded:
                assert loaded[split].to_list() == rows(folder / name)


# The card


def test_the_card_says_where_the_rows_come_from_and_that_nobody_judged_them(run: Path) -> None:
    export_run(run, split=0.5)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert front_matter(card)["license"] == "unknown"
    for words in ("unjudged", "assumed, not checked", "`kind` `1.2.0`, hash `c0ffee`", "hash `7e57`", "`openai:small`"):
        assert words in card
    assert "| `p1` | 3 | 33% |" in card
    assert "| `p2` | 3 | 67% |" in card
    assert "4 prompts were processed: 3 rows, 1 dropped." in card
    assert "| `assistant` | `truncated` | 1 |" in card
    assert "| `dpo` | `identical` | 1 |" in card
    assert "| reviser | `openai:small` | `small-1` |" in card
    assert "cai export RUN --split 0.5\n" in card


def test_a_finished_run_tells_what_it_took_and_an_unfinished_one_does_not(tmp_path: Path) -> None:
    usage = {"calls": 7, "input_tokens": 1200, "output_tokens": 340, "cached_tokens": 0}
    make_run(tmp_path, [revision(0, "a")], usage=usage, cost_usd=0.1234)
    export_run(tmp_path)
    assert "| spent | 7 calls, 1,200 tokens in, 340 out, 0.12 USD |" in (tmp_path / "README.md").read_text()
    make_run(tmp_path, [], usage=usage, cost_usd=None, stopped="interrupted")
    export_run(tmp_path)
    assert "spent" not in (tmp_path / "README.md").read_text()


def test_an_empty_file_is_no_config_because_it_has_no_columns(tmp_path: Path) -> None:
    export_run(make_run(tmp_path / "a", [revision(0, None)]))
    card = (tmp_path / "a" / "README.md").read_text()
    assert [config["config_name"] for config in front_matter(card)["configs"]] == ["sft"]
    assert 'load_dataset(".", "sft")' in card and '"dpo")' not in card
    export_run(make_run(tmp_path / "b", []))
    card = (tmp_path / "b" / "README.md").read_text()
    assert front_matter(card)["configs"] == [{"config_name": kind, "data_files": []} for kind in ("sft", "dpo")]
    assert "load_dataset" not in card and "There is nothing to load" in card


def test_a_run_without_rows_loads_as_nothing_and_not_as_its_settings(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export_run(make_run(tmp_path / "run", []))
    with pytest.raises(FileNotFoundError):
        datasets.load_dataset(str(tmp_path / "run"), "sft", cache_dir=str(tmp_path / "cache"))


def test_what_an_export_left_behind_is_swept_away(run: Path) -> None:
    for name in ("dpo.eval.jsonl.part", "sft.parquet.part", "dropped.tmp"):
        (run / name).write_text("half a")
    export_run(run)
    assert not list(run.glob("*.part")) + list(run.glob("*.tmp"))
    (run / "dpo.jsonl").unlink()
    (run / "dpo.jsonl").mkdir()
    with pytest.raises(
        RunError,
        match=r"cannot write to .*; free some space there or change its permissions, and run the same command again",
    ):
        export_run(run)
    assert not list(run.glob("*.part")) + list(run.glob("*.tmp"))


def test_settings_that_cannot_be_read_are_told_without_options_that_an_export_does_not_have(run: Path) -> None:
    settings = (run / "run.json").read_bytes()
    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run.json cannot be read: .*; restore it, or name the --out of a cai generate"):
        export_run(run)
    (run / ".lock").unlink()
    (run / ".lock").mkdir()
    (run / "run.json").write_bytes(settings)
    with pytest.raises(RunError, match=r"\S+lock is not a file: move it away, and run the same command again"):
        export_run(run)


def card_of(identity: dict[str, Any], facts: Facts | None = None, **info: Any) -> str:
    """The card of a generate run that counted `facts`."""
    cut = RevisionCut.__new__(RevisionCut)
    cut.facts = facts or Facts()
    cut.binding = identity
    cut.files = {"sft": {}, "dpo": {}}
    cut.options = ExportOptions()
    return dataset_card({"identity": identity, "versions": {"cai": "1"}, **info}, cut)


def command_lines(card: str) -> list[str]:
    block = re.search(r"^(`{3,})bash\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert block
    return block[2].splitlines()


def test_the_card_gives_the_command_that_made_the_run() -> None:
    command = "cai generate '/home/my home/p.jsonl' --model local:/home/me/tuned --system '/brief and kind' --rounds 3"
    expected = "cai generate p.jsonl --model local:tuned --system '/brief and kind' --rounds 3"
    assert command_lines(card_of(IDENTITY, command=command)) == [expected, "cai export RUN"]


def test_the_card_does_not_say_where_a_server_is() -> None:
    command = "cai generate p.jsonl --rounds 3 --base-url URL"
    card = card_of(IDENTITY, command=command)
    assert command_lines(card) == [command, "cai export RUN"]
    assert "`URL` is the address of the server.\n`RUN` is" in card
    assert "`URL`" not in card_of(IDENTITY, command="cai generate p.jsonl")


@pytest.mark.parametrize("info", [{}, {"command": None}])
def test_the_card_of_a_run_that_kept_no_command_gives_that_of_its_rows(info: dict[str, Any]) -> None:
    assert command_lines(card_of(IDENTITY, **info)) == ["cai export RUN"]


HOSTILE = '---\nlicense: mit\n---\n# "Owned" `` | <b>[x](y)\n```\n'


def test_hostile_text_cannot_leave_its_place_in_the_card() -> None:
    identity = IDENTITY | {
        "constitution": {"name": HOSTILE, "version": HOSTILE, "hash": HOSTILE},
        "source": {"what": HOSTILE, "format": HOSTILE, "field": HOSTILE},
        "system": HOSTILE,
        "models": dict.fromkeys(IDENTITY["models"], HOSTILE),
    }
    facts = Facts(rows=1, files={"sft.jsonl": 1}, used=Counter({HOSTILE: 1}), models={"critic": Counter({HOSTILE: 1})})
    card = card_of(identity, facts)
    assert front_matter(card)["license"] == "unknown"
    body = card.split("\n---\n", 1)[1]
    prose = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if line.startswith(("# ", "---", "license"))] == [
        line for line in prose.splitlines() if line.startswith("# Revisions under")
    ]
    outside_code = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", prose)
    assert "Owned" in prose and "Owned" not in outside_code
    for line in prose.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4), line


@pytest.mark.parametrize("path", ["/home/me/llama", "~/llama", "../llama", "C:\\models\\llama", "\\\\host\\llama"])
def test_the_card_tells_a_model_by_its_name_and_not_by_where_it_lay(path: str) -> None:
    identity = IDENTITY | {"models": dict.fromkeys(IDENTITY["models"], f"openai:{path}")}
    card = card_of(identity, Facts(models={"critic": Counter({path: 1})}))
    assert "| critic | `openai:llama` | `llama` |" in card
    assert path not in card


# The hub


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as uploading small files to a dataset takes."""

    private, uploaded, headers_seen = True, dict[str, bytes](), list[str]()
    there: tuple[str, ...] = ()

    def answer(self, value: Any) -> None:
        self.headers_seen.append(self.headers.get("authorization", ""))
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        siblings = [{"rfilename": name} for name in self.there]
        if "/tree/" in self.path:
            entries = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.there]
            self.answer(entries)
        else:
            self.answer({"id": "me/rows", "private": self.private, "sha": "0" * 40, "tags": [], "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/repos/create"):
            self.answer({"url": f"http://{self.headers['host']}/datasets/me/rows"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "deletedFile":
                    self.uploaded[f"deleted {entry['value']['path']}"] = b""
            self.answer(
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"http://{self.headers['host']}/datasets/me/rows/commit/{'1' * 40}",
                }
            )
        else:
            self.answer({})

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[type[FakeHub], dict[str, str]]]:
    """The fake, and the environment in which huggingface_hub finds it (it is read when that is imported)."""
    kind = type("Hub", (FakeHub,), {"uploaded": {}, "headers_seen": []})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with tempfile.TemporaryDirectory() as home, running(Server(kind)) as url:
        found = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": home}
        yield kind, environment | found | {"PYTHONPATH": str(ROOT)}


PUSH = """
import sys
from cai.errors import CaiError
from cai.export.export import export_run
try:
    print(export_run(sys.argv[1], push=sys.argv[2]).url)
except CaiError as error:
    print(type(error).__name__, error)
"""


def push(run: Path, environment: dict[str, str], name: str = "me/rows") -> str:
    command = [sys.executable, "-c", PUSH, str(run), name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_push_sends_training_files_and_card_and_clears_what_an_earlier_one_left(
    run: Path, hub: tuple[type[FakeHub], dict[str, str]]
) -> None:
    fake, environment = hub
    fake.there = ("sft.eval.jsonl", "sft.jsonl", "mine.txt", "README.md")
    assert push(run, environment) == f"{environment['HF_ENDPOINT']}/datasets/me/rows"
    sent = {name: content for name, content in fake.uploaded.items() if not name.startswith("deleted ")}
    assert sent == {name: (run / name).read_bytes() for name in ("README.md", "sft.jsonl", "dpo.jsonl")}
    assert fake.uploaded.keys() - sent.keys() == {"deleted sft.eval.jsonl"}
    assert b'load_dataset("me/rows", "sft")' in sent["README.md"]
    assert "Bearer hf_secret" in fake.headers_seen
    assert not any(b"hf_secret" in path.read_bytes() for path in run.iterdir())


@pytest.mark.slow
def test_a_push_that_cannot_be_says_why_in_a_line(run: Path, hub: tuple[type[FakeHub], dict[str, str]]) -> None:
    fake, environment = hub
    fake.private = False
    assert "UsageError me/rows is public already" in push(run, environment)
    assert fake.uploaded == {}
    assert push(run, environment, "no/such/name").startswith("UsageError --push 'no/such/name' is not a dataset name")
    none = environment | {"HF_TOKEN": ""}
    assert push(run, none).startswith("UsageError --push has no token: set HF_TOKEN")
    closed = environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    told = push(run, closed)
    assert told.startswith("CaiError cannot push to me/rows: ") and "\n" not in told and "hf_secret" not in told


# The page


def test_finished_calls_can_be_read_beside_a_run(run: Path) -> None:
    holder = RunFolder(run, IDENTITY)
    assert list(read_calls(run)) == []
    holder.close()
    with pytest.raises(RunError, match=r"calls.sqlite cannot be used: "):
        list(read_calls(run.parent))
    assert not (run.parent / "calls.sqlite").exists()


def demo(folder: Path) -> None:
    """The finished run that the page about run folders is written for."""
    answers = [
        {"id": name, "role": role, "index": index, "reply": f"{role}'s {index} about {name}"}
        for name in ("tea", "knife", "rain", "moon")
        for role, count in (("assistant", 1), ("critic", 2), ("reviser", 2))
        for index in range(count)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    prompts = [{"id": name, "prompt": f"Tell me about {name}."} for name in ("moon", "rain", "tea", "knife")]
    out = folder / "runs" / "demo"
    assert len(list(generate(prompts, "harmless", model=f"recorded:{folder / 'answers.jsonl'}", out=out))) == 4


@pytest.fixture
def page() -> str:
    return (ROOT / "docs" / "run-folders.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_about_run_folders_run(page: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    demo(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```python") == 3
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")}  # not the user's cache
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, env=environment, check=True)


def test_the_page_about_run_folders_lists_every_column_and_file(page: str, tmp_path: Path) -> None:
    tables = [
        re.findall(r"`([\w.]+)`", " ".join(_first_cells(t))) for t in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    ]
    files, info, revisions, candidates, labels, votes, gold, _, ratings, *others = tables
    probes, drops, sft, dpo, best, pairs, kto, *_ = others
    demo(tmp_path)
    run = tmp_path / "runs" / "demo"
    export_run(run, split=0.5)
    assert {path.name.replace(".eval", "") for path in run.iterdir()} <= set(files)
    stored = json.loads((run / "run.json").read_text())
    assert [name for name in info if name in stored] == list(stored)  # some are there only if there is something to say
    assert revisions == list(rows(run / "revisions.jsonl")[0])
    described: dict[type[Record], list[str]] = {
        Candidates: candidates, Label: labels, Vote: votes, GoldVote: gold, Drop: drops, Rating: ratings,
        Probed: probes,
    }  # fmt: skip
    for model, told in described.items():
        assert sorted(told) == sorted(field.alias or name for name, field in model.model_fields.items())
    assert sft == list((rows(run / "sft.jsonl") + rows(run / "sft.eval.jsonl"))[0])
    assert dpo == list((rows(run / "dpo.jsonl") + rows(run / "dpo.eval.jsonl"))[0])
    assert sorted(pairs) == sorted(preferences.FILES["dpo"])
    assert best == [*COLUMNS["completion"], *PICKED, "from", "labels"]
    assert sorted(kto) == sorted(preferences.FILES["kto"])


def _first_cells(table: str) -> list[str]:
    return [line.split("|")[1] for line in table.splitlines()[2:]]
