"""Training rows: found, read, checked, counted and split."""

from __future__ import annotations

import gzip
import math
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import make_run, revision

from cai.errors import InputError, RunError, UsageError
from cai.export.export import export_run
from cai.training.data.dataset import load_rows, trains
from cai.training.data.kinds import kinds_of
from cai.training.data.rowfile import read_rows
from cai.training.data.rows import reasons_of

ASK = [{"role": "user", "content": "Why is tea brown?"}]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def chat(n: int, **more: Any) -> dict[str, Any]:
    return {"messages": user(f"Question {n}?") + said(f"Answer {n}."), "id": f"q{n}", **more}


def pair(n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": user(f"Question {n}?"), "chosen": said(f"Good {n}."), "rejected": said(f"Bad {n}, yes."), **more}


def graded(n: int, label: Any) -> dict[str, Any]:
    return {"prompt": user(f"Question {n}?"), "completion": said(f"Answer {n}."), "label": label}


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(orjson.dumps(row) + b"\n" if not isinstance(row, bytes) else row for row in rows)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def run(folder: Path, command: str, files: dict[str, list[Any]], stopped: str | None = None, **info: Any) -> Path:
    write(folder / "run.json", [{"identity": {"command": command}, "stopped": stopped, **info}])
    for name, rows in files.items():
        write(folder / name, rows)
    return folder


# Counting

ROWS = st.sampled_from([
    chat(1), chat(2), chat(3), {"messages": user("No reply")}, {"messages": said("No question")}, {"messages": []},
    {"messages": user("Hm?") + said("  ")}, b"{broken\n", [1, 2], pair(1), {"prompt": "p", "completion": "c"},
    {"messages": [{"role": "tool", "content": "x"}]}, {"prompt": user("a"), "completion": [{"role": "user"}]},
])  # fmt: skip


@settings(max_examples=50)
@given(st.lists(ROWS, max_size=30))
def test_every_record_is_a_row_or_a_drop_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    path = write(tmp_path_factory.mktemp("rows") / "rows.jsonl", [chat(0), *rows])
    found = read_rows(path, "sft")
    assert len(found.rows) + len(found.drops) == found.read == len(rows) + 1
    assert all(drop.detail and 1 <= drop.line <= len(rows) + 1 for drop in found.drops)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 500), min_size=2, max_size=60), st.floats(0.3, 1))
def test_a_prompt_lies_on_one_side_of_a_split_and_nothing_is_lost(numbers: list[int], split: float) -> None:
    rows = [chat(n) for n in numbers]
    try:
        data = load_rows(rows, "sft", split=split)
    except InputError as error:
        assert "one prompt" in str(error) or "leaves none" in str(error)
        return
    assert not {row.key for row in data.train} & {row.key for row in data.eval}
    assert len(data.train) + len(data.eval) + len(data.dropped) == data.read == len(rows)
    assert all(trains(row.key, split) for row in data.train)


@pytest.mark.parametrize("split", [0.0, -1, 1.5])
def test_a_split_that_is_no_share_is_told(split: float) -> None:
    with pytest.raises(UsageError, match=f"split {split} must be above 0 and at most 1"):
        load_rows([chat(n) for n in range(30)], "sft", split=split)


def test_the_split_is_that_of_an_export(tmp_path: Path) -> None:
    folder = make_run(tmp_path, [revision(n, "better") for n in range(40)])
    export_run(folder, split=0.6)
    sides = [{row.key for row in read_rows(folder / f"sft{side}.jsonl", "sft").rows} for side in ("", ".eval")]
    (folder / "sft.eval.jsonl").unlink()
    export_run(folder)
    data = load_rows(folder, "sft", split=0.6)
    assert [{row.key for row in rows} for rows in (data.train, data.eval)] == sides
    assert min(map(len, sides)) > 8


# Run folders


@pytest.mark.parametrize(
    ("command", "method", "row"),
    [("generate", "sft", chat), ("generate", "dpo", pair), ("label", "dpo", pair), ("label", "reward", pair)],
)
def test_a_run_folder_finds_its_own_file(tmp_path: Path, command: str, method: Any, row: Any) -> None:
    name = "dpo.jsonl" if method == "reward" else f"{method}.jsonl"
    folder = run(tmp_path / "run", command, {name: [row(n) for n in range(4)]})
    data = load_rows(folder, method, split=1)
    assert len(data.train) == 4
    assert data.files[0][0].endswith(name)


def test_a_reward_model_reads_the_pairs_of_a_label_run_and_an_old_file_of_its_own(tmp_path: Path) -> None:
    rows = [pair(n, p_chosen=0.9, margin=2.2) for n in range(4)]
    folder = run(tmp_path / "run", "label", {"dpo.jsonl": rows, "reward.jsonl": rows[:3]})
    assert len(load_rows(folder, "reward", split=1).train) == 4
    assert len(load_rows(folder / "reward.jsonl", "reward", split=1).train) == 3


def test_the_eval_file_beside_a_file_is_what_is_evaluated_on(tmp_path: Path) -> None:
    rows = {"sft.jsonl": [chat(n) for n in range(4)], "sft.eval.jsonl": [chat(8), chat(9)]}
    data = load_rows(run(tmp_path, "generate", rows), "sft")
    assert (len(data.train), len(data.eval), data.held_back) == (4, 2, "file")
    assert len(data.files) == 2


def test_an_empty_eval_file_holds_nothing_back_as_a_split_of_few_rows_leaves_it(tmp_path: Path) -> None:
    folder = run(tmp_path, "generate", {"sft.jsonl": [chat(n) for n in range(4)]})
    (folder / "sft.eval.jsonl").touch()
    assert len(load_rows(folder, "sft", split=1).train) == 4
    (folder / "sft.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="is empty: no row came this far"):
        load_rows(folder, "sft")


def test_a_packed_file_has_a_packed_twin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", [chat(1), chat(2)])
    write(tmp_path / "a.eval.jsonl.gz", [chat(3)])
    assert [row.id for row in load_rows(path, "sft").eval] == ["q3"]


def test_pairs_of_a_generate_run_say_that_nobody_judged_them(tmp_path: Path) -> None:
    folder = run(tmp_path, "generate", {"dpo.jsonl": [pair(n, p_chosen=None, judged=False) for n in range(3)]})
    assert any("nobody judged" in note for note in load_rows(folder, "dpo", split=1).notes)


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_pairs_of_a_generate_run_with_accept_are_judged_ones(tmp_path: Path, method: Any) -> None:
    identity = {"command": "generate", "accept": {"protocol": "logprob", "at": 0.5}}
    rows = [pair(n, p_chosen=0.8, judged=True, margin=1.4) for n in range(4)]
    data = load_rows(run(tmp_path, "generate", {"dpo.jsonl": rows}, identity=identity), method, split=1)
    assert len(data.train) == 4 and not any("nobody judged" in note for note in data.notes)


@pytest.mark.parametrize(
    ("command", "method", "advice"),
    [
        ("generate", "kto", "cai label"),
        ("generate", "reward", "cai label"),
        ("sample", "sft", "cai label"),
        ("sample", "dpo", "cai label"),
    ],
)
def test_a_run_of_the_wrong_kind_names_the_right_command(
    tmp_path: Path, command: str, method: Any, advice: str
) -> None:
    with pytest.raises(UsageError, match=advice):
        load_rows(run(tmp_path, command, {}), method)


def test_a_folder_without_rows_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        load_rows(tmp_path, "sft")
    with pytest.raises(RunError, match="cai export"):
        load_rows(run(tmp_path, "label", {}), "kto")
    with pytest.raises(RunError, match=r"has no sft\.jsonl yet: cai export .* --best cuts it"):
        load_rows(run(tmp_path, "label", {}), "sft")
    write(tmp_path / "kto.jsonl", [])
    write(tmp_path / "dropped.jsonl", [])
    with pytest.raises(InputError, match=r"is empty.*dropped\.jsonl says why"):
        load_rows(tmp_path, "kto")


def test_a_best_of_run_without_its_cut_says_how_to_cut_it(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "sample", {})
    run(folder / "labels", "label", {})
    with pytest.raises(RunError, match=r"has no sft\.jsonl yet: cai export .* --best cuts it"):
        load_rows(folder, "sft")
    with pytest.raises(UsageError, match=r"only the best reply to each prompt: name its labels, \S*run/labels$"):
        load_rows(folder, "dpo")
    write(folder / "run.json", [{"identity": {"command": "sample", "best_of": {"judge": "j"}}}])
    old = shutil.move(folder, tmp_path / "old")
    shutil.rmtree(old / "labels")
    with pytest.raises(RunError, match=r"has no sft\.jsonl yet: cai export \S*old cuts it"):
        load_rows(old, "sft")


@pytest.mark.parametrize("now", [None, "Ctrl-C"])
def test_labels_that_were_unfinished_when_the_best_were_cut_are_told(tmp_path: Path, now: str | None) -> None:
    folder = run(tmp_path, "sample", {"sft.jsonl": [chat(1), chat(2)]}, labels={"stopped": "max-cost"})
    run(folder / "labels", "label", {}, stopped=now)
    assert any("unfinished (max-cost)" in note for note in load_rows(folder, "sft", split=1).notes)


def test_a_damaged_run_json_is_told_without_an_option_of_other_commands(tmp_path: Path) -> None:
    folder = run(tmp_path, "generate", {})
    (folder / "run.json").write_text("{}")
    with pytest.raises(
        RunError, match=r"is damaged \(it names no run\); restore it, or name a run, or one file of rows$"
    ):
        load_rows(folder, "sft")


def test_an_unfinished_run_is_told(tmp_path: Path) -> None:
    folder = run(tmp_path, "generate", {"sft.jsonl": [chat(1), chat(2)]}, stopped="Ctrl-C")
    assert any("unfinished (Ctrl-C)" in note for note in load_rows(folder, "sft", split=1).notes)


# Kinds

WRONG = [
    ("sft", pair(1), "cai train dpo"),
    ("sft", graded(1, True), "cai train kto"),
    ("dpo", chat(1), "cai train sft"),
    ("kto", chat(1), "cai train sft"),
    ("reward", graded(1, True), "cai train kto"),
    ("dpo", {"prompt": ASK, "replies": ["a", "b"]}, "cai label"),
    ("dpo", {"prompt": ASK, "a": "x", "b": "y", "votes": []}, "name the run, cai train dpo"),
    ("sft", {"prompt": ASK, "initial": "x", "final": "y", "rounds": []}, "name the run, cai train sft"),
    ("sft", {"prompt": ASK}, "cai generate"),
    ("sft", {"text": "all in one"}, "'prompt' and 'completion'"),
    ("sft", {"foo": 1}, "it has 'foo'"),
]


@pytest.mark.parametrize(("method", "row", "advice"), WRONG, ids=[f"{m}-{kinds_of(r)[0]}" for m, r, _ in WRONG])
def test_a_dataset_of_the_wrong_kind_names_the_right_command(
    tmp_path: Path, method: Any, row: dict[str, Any], advice: str
) -> None:
    path = write(tmp_path / "rows.jsonl", [row, row])
    with pytest.raises(InputError, match=advice) as caught:
        load_rows(path, method)
    assert f"{path}:1:" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([chat(1)], "only one row"),
        ([chat(1), chat(1), chat(1)], "one prompt"),
        ([{"messages": user("a")}, {"messages": user("b")}], r"no row can train \(bad_input 2\); the first: "),
    ],
)
def test_what_nothing_can_be_learnt_from_is_an_error(tmp_path: Path, rows: list[Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_rows(write(tmp_path / "rows.jsonl", rows), "sft")


def test_replies_that_are_all_desirable_are_an_error() -> None:
    with pytest.raises(InputError, match="every reply that trains has the label True; kto needs both"):
        load_rows([graded(n, True) for n in range(5)], "kto", split=1)
    assert [row.label for row in load_rows([graded(1, True), graded(2, False)], "kto", split=1).train] == [True, False]


# Shapes


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK, "chosen": said("Tannins."), "rejected": said("Magic.")},
        {"chosen": ASK + said("Tannins."), "rejected": ASK + said("Magic.")},
        {"prompt": "Why is tea brown?", "chosen": ASK + said("Tannins."), "rejected": ASK + said("Magic.")},
        {"prompt": "Why is tea brown?", "chosen": said("Tannins."), "rejected": said("Magic.")},
        {"prompt": ASK, "chosen": "Tannins.", "rejected": "Magic."},
        {
            "chosen": "\n\nHuman: Why is tea brown?\n\nAssistant: Tannins.",
            "rejected": "\n\nHuman: Why is tea brown?\n\nAssistant: Magic.",
        },
    ],
)
def test_pairs_are_read_in_every_shape_people_have(row: dict[str, Any]) -> None:
    [found] = read_rows([row], "dpo").rows
    assert (found.prompt, found.reply, found.rejected) == (tuple(ASK), "Tannins.", "Magic.")


def test_plain_text_stays_plain() -> None:
    rows = [{"prompt": f"Once {n}", "completion": " upon a time."} for n in range(3)]
    data = load_rows(rows, "sft", split=1)
    assert (data.train[0].prompt, data.train[0].reply) == ("Once 0", " upon a time.")
    assert any("without the model's chat template" in note for note in data.notes)


def test_probability_and_margin_travel_with_the_pair() -> None:
    data = load_rows([pair(1, p_chosen=0.9, margin=2.2), pair(2, p_chosen=None)], "dpo", split=1)
    assert [(row.p_chosen, row.margin) for row in data.train] == [(0.9, 2.2), (None, None)]
    assert any("no p_chosen" in note for note in data.notes)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(1, chosen=said("same  text"), rejected=said("same text")), "identical"),
        (pair(1, p_chosen=1.2), "bad_input"),
        (pair(1, p_chosen=-0.1), "bad_input"),
        (pair(1, p_chosen=math.nan), "bad_input"),
        (pair(1, p_chosen="high"), "bad_input"),
        (pair(1, margin=True), "bad_input"),
        (pair(1, margin=10**400), "bad_input"),
        (pair(1, p_chosen=-(10**5000)), "bad_input"),
        (pair(1, id="\ud800"), "bad_input"),
        (pair(1, rejected=said(" ")), "empty"),
        (pair(1, chosen=user("x")), "bad_input"),
        ({"chosen": user("a") + said("x"), "rejected": user("b") + said("y")}, "bad_input"),
    ],
)
def test_a_pair_that_cannot_train_is_dropped_with_its_reason(row: dict[str, Any], reason: str) -> None:
    data = load_rows([pair(8), row, pair(9)], "dpo", split=1)
    assert [(drop.line, drop.reason) for drop in data.dropped] == [(2, reason)]
    assert reasons_of(data.dropped) == {reason: 1}


def test_a_judge_whose_name_is_no_text_costs_no_training() -> None:
    data = load_rows([pair(1, judge="a\ud800"), pair(2)], "dpo", split=1)
    assert data.origins["judge"] == ["a?"]


# Leaks and warnings


def test_a_prompt_on_both_sides_is_an_error_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "a.eval.jsonl", [chat(3), chat(7)])
    path = write(tmp_path / "a.jsonl", [chat(n) for n in range(5)])
    with pytest.raises(InputError, match=r"a\.eval\.jsonl: 1 of its prompts .*row q3"):
        load_rows(path, "sft")
    with pytest.raises(UsageError, match="name one of them"):
        load_rows(path, "sft", split=0.5)


@pytest.mark.parametrize("reply", ["Other.", said("Other.")], ids=["plain-text", "a-message"])
def test_a_leak_is_seen_through_the_shape_of_the_row(tmp_path: Path, reply: Any) -> None:
    write(tmp_path / "a.eval.jsonl", [{"prompt": "Question 3?", "completion": reply}])
    with pytest.raises(InputError, match="remembered"):
        load_rows(write(tmp_path / "a.jsonl", [chat(n) for n in range(5)]), "sft")


def test_pairs_won_by_length_are_told() -> None:
    rows = [pair(n, chosen=said("A reply that is long."), rejected=said("Short.")) for n in range(19)] + [pair(99)]
    notes = load_rows(rows, "dpo", split=1).notes
    assert any("longer one in 95%" in note for note in notes)
    even = [pair(n) if n % 2 else pair(n, chosen=said("A reply that is long.")) for n in range(20)]
    assert not any("longer" in note or "shorter" in note for note in load_rows(even, "dpo", split=1).notes)


REFUSES = "I'm sorry, but I cannot help with that."


def test_a_first_model_that_refuses_is_told(tmp_path: Path) -> None:
    revisions = [{"prompt": user("x"), "initial": REFUSES if n < 2 else "Sure: do it so."} for n in range(6)]
    files = {"sft.jsonl": [chat(n) for n in range(6)], "revisions.jsonl": revisions}
    notes = load_rows(run(tmp_path / "a", "generate", files), "sft", split=1).notes
    assert any("your initial model refuses: 2 of 6" in note for note in notes)
    pairs = [pair(n, rejected=said(REFUSES)) for n in range(4)]
    notes = load_rows(run(tmp_path / "b", "generate", {"dpo.jsonl": pairs}), "dpo", split=1).notes
    assert any("4 of 4" in note for note in notes)
    notes = load_rows(pairs, "dpo", split=1).notes  # of an unknown source the rejected reply need not be the first one
    assert not any("initial model" in note for note in notes)


def test_the_data_in_words_count_everything(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(1, constitution="harmless@1.0.0"), {"messages": []}, chat(2)])
    data = load_rows(path, "sft", split=1)
    words = "\n".join(data.lines())
    assert "3 rows read, 2 train, none to evaluate" in words
    assert "bad_input 1" in words and f"{path}:2:" in words
    assert data.origins == {"constitution": ["harmless@1.0.0"]}


def test_replies_that_speak_of_their_own_revision_are_told_before_they_are_learnt(tmp_path: Path) -> None:
    rows = [chat(n) for n in range(12)]
    rows[3]["messages"][-1]["content"] = "Here is a revised version of the reply: Answer 3."
    [note] = [note for note in load_rows(rows, "sft", split=1).notes if "to be learned" in note]
    assert (
        note.startswith("1 of 12 replies to be learned: the reply announces itself (preamble_leak)")
        and "cai audit" in note
    )
    path = write(tmp_path / "a\u2028b.jsonl", rows)
    [note] = [note for note in load_rows(path, "sft", split=1).notes if "to be learned" in note]
    assert note.endswith("a\u2028b.jsonl")
    assert not any("to be learned" in note for note in load_rows([chat(n) for n in range(12)], "sft", split=1).notes)
