"""The best reply to each prompt of a label run: what wins, what is left out, and that it is accounted for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import best_runs
import label_runs
import pytest
import sample_runs
from label_cuts import make_run, pair, rows, text
from pair_labels import LEAK, REFUSED
from players import Player

from cai.errors import RunError, UsageError
from cai.export.export import ExportSummary, export_run
from cai.folder.kinds import TRAINING_FILES
from cai.training.data.dataset import load_rows
from cai.training.provenance import provenance


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def reasons(folder: Path) -> list[tuple[str, str, str]]:
    return [(drop["id"], drop["stage"], drop["reason"]) for drop in rows(folder / "dropped.jsonl")]


def best(folder: Path, labels: list[dict[str, Any]], **options: Any) -> ExportSummary:
    return export_run(make_run(folder, labels), best=True, **options)


def test_the_reply_with_the_highest_mean_probability_is_an_sft_row(tmp_path: Path) -> None:
    best(tmp_path, [pair(0, -1.0), pair(0, 0.5, 0, 2), pair(0, 2.0, 1, 2)])
    [row] = rows(tmp_path / "sft.jsonl")
    assert row == {
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "completion": [{"role": "assistant", "content": text(0, 1)}],
        "id": "q0",
        "best_of": 3,
        "score": pytest.approx((sigma(1.0) + sigma(2.0)) / 2),
        "judged": True,
        "constitution": "kind@1.2.0",
        "constitution_hash": "c0ffee",
        "judge": "judge-1",
        "protocol": "logprob",
        "model": "small-0",
        "sample": None,
        "from": "sample 1",
        "labels": ["q0:0-1", "q0:1-2"],
    }
    assert list(row)[:3] == ["prompt", "completion", "id"]


def test_pairs_and_examples_of_an_earlier_export_are_removed_and_come_back(tmp_path: Path) -> None:
    folder = make_run(tmp_path, [pair(0, 2.0), pair(1, -2.0)])
    export_run(folder)
    pairs = (folder / "dpo.jsonl").read_bytes()
    assert export_run(folder, best=True).files == {"sft.jsonl": 2}
    assert {name for name in TRAINING_FILES if (folder / name).exists()} == {"sft.jsonl"}
    export_run(folder)
    assert (folder / "dpo.jsonl").read_bytes() == pairs and not (folder / "sft.jsonl").exists()


def test_a_prompt_whose_two_best_replies_are_even_has_none(tmp_path: Path) -> None:
    summary = best(tmp_path, [pair(0, 0.0), pair(1, 0.0), pair(1, 1.0, 0, 2), pair(1, 1.0, 1, 2), pair(2, 1.0)])
    assert reasons(tmp_path) == [("q0", "sft", "low_confidence"), ("q1", "sft", "low_confidence")]
    assert summary.left_out == {"sft": {"low_confidence": 2}} and summary.files == {"sft.jsonl": 1}


def test_invalid_votes_count_for_no_reply(tmp_path: Path) -> None:
    best(tmp_path, [pair(0, None), pair(1, None), pair(1, -0.3, 0, 2), pair(1, None, 1, 2)])
    assert reasons(tmp_path) == [("q0", "sft", "invalid_vote")]
    [row] = rows(tmp_path / "sft.jsonl")
    assert (row["from"], row["best_of"], row["labels"]) == ("sample 2", 2, ["q1:0-2"])


def test_a_truncated_reply_is_in_no_pair_and_cannot_win(tmp_path: Path) -> None:
    best(tmp_path, [pair(0, -1.0, 1, 2)])  # sample 0 was truncated
    [row] = rows(tmp_path / "sft.jsonl")
    assert (row["from"], row["best_of"]) == ("sample 2", 2)


def test_a_run_without_pairs_gives_an_empty_file_and_says_so(tmp_path: Path) -> None:
    summary = best(tmp_path, [])  # one reply a prompt
    assert summary.files == {"sft.jsonl": 0} and "no finished row" in summary.notes[0]


def test_replies_of_one_text_are_one_reply(tmp_path: Path) -> None:
    same = text(0, 1) + " "
    best(tmp_path, [pair(0, -1.0), pair(0, -3.0, 0, 2, b=same), pair(0, 0.7, 1, 2, b=same)])
    [row] = rows(tmp_path / "sft.jsonl")
    assert (row["from"], row["best_of"]) == ("sample 1", 2)
    assert row["score"] == pytest.approx((sigma(1.0) + sigma(3.0)) / 2)


def test_a_best_reply_with_a_fault_of_form_or_a_refusal_of_a_benign_prompt_is_left_out(tmp_path: Path) -> None:
    labels = [pair(0, 2.0, a=LEAK), pair(1, 2.0, a=REFUSED), pair(2, -2.0, a=LEAK)]
    benign = tmp_path / "benign.txt"
    benign.write_text("Question 1?\n")
    best(tmp_path / "run", labels, benign=benign)
    assert reasons(tmp_path / "run") == [("q0", "sft", "preamble_leak"), ("q1", "sft", "refused_benign")]
    assert best(tmp_path / "all", labels, hygiene=False).files == {"sft.jsonl": 3}


def test_the_summary_compares_the_longest_reply_with_chance(tmp_path: Path) -> None:
    summary = best(tmp_path, [pair(0, -2.0), pair(1, -1.0), pair(2, 3.0), pair(2, 3.0, 0, 2), pair(2, 0.0, 1, 2)])
    assert summary.best is not None
    found = summary.best.model_dump()
    assert (found["prompts"], found["longest_won"]) == (3, pytest.approx(2 / 3))
    assert found["longest_chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert "the longest reply is the best in 67%; 44% by chance" in summary.lines()
    assert summary.pairs is None and summary.chosen_longer is None


def test_an_sft_trainer_takes_the_best_replies_and_their_split(tmp_path: Path) -> None:
    best(tmp_path, [pair(n, 1.0 + n / 9) for n in range(30)], split=0.6)
    data = load_rows(tmp_path, "sft")
    assert len(data.train) + len(data.eval) == 30 and data.held_back == "file"
    assert data.origins["judge"] == ["judge-1"]


def test_the_bytes_do_not_depend_on_finishing_order(tmp_path: Path) -> None:
    labels = [pair(n, (-1) ** n * n / 4, x, y) for n in range(9) for x, y in ((0, 1), (0, 2), (1, 2))]
    best(tmp_path / "one", labels)
    best(tmp_path / "other", labels[::-1])
    for name in ("sft.jsonl", "dropped.jsonl", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_card_says_that_a_judge_chose_the_replies(tmp_path: Path) -> None:
    best(tmp_path, [pair(0, 2.0)])
    card = (tmp_path / "README.md").read_text()
    assert "# Best replies under `kind`" in card and "best-of-n" in card
    assert "not calibrated" in card and "| threshold |" not in card
    assert "\ncai export RUN --best\n" in card


def sampled(folder: Path, n: int, *, share: int = 100) -> list[dict[str, Any]]:
    """A sample run of which one reply in `share` is truncated, and its labels in `labels/`; its candidates."""
    sample_runs.run(sample_runs.PROMPTS, folder, Player(sample_runs.cutting(share), "one", seeds=True), n=n)
    label_runs.run(folder, folder / "labels", label_runs.scorer())
    return sample_runs.rows_of(folder)


def test_of_a_sample_run_the_labels_in_its_folder_decide_and_every_prompt_is_accounted_for(tmp_path: Path) -> None:
    candidates = sampled(tmp_path / "run", 3, share=2)
    summary = export_run(tmp_path / "run", best=True)
    kept = rows(tmp_path / "run" / "sft.jsonl")
    by_id = {row["id"]: row for row in candidates}
    assert [row["id"] for row in kept] == list(by_id)
    for row in kept:
        usable = [reply for reply in by_id[row["id"]]["replies"] if reply["problem"] is None]
        [won] = [reply for reply in usable if reply["sample"] == row["sample"]]
        assert row["completion"][0]["content"] == won["text"] and row["from"] == f"sample {won['sample']}"
        assert row["best_of"] == 3 and row["judged"] == (len(usable) > 1)
    assert {row["judged"] for row in kept} == {False, True}
    assert summary.best is not None and summary.best.unjudged == sum(not row["judged"] for row in kept)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "# Best replies under `harmless`" in card and "| judge | `recorded:" in card
    assert summary.files == {"sft.jsonl": len(kept)}


@pytest.mark.parametrize(("n", "files", "left_out"), [(1, 12, {}), (2, 0, {"invalid_vote": 12})])
def test_of_a_sample_run_without_a_judged_pair_only_a_lone_reply_is_a_row(
    tmp_path: Path, n: int, files: int, left_out: dict[str, int]
) -> None:
    folder = tmp_path / "run"
    sample_runs.run(sample_runs.PROMPTS, folder, Player(sample_runs.seeded, "one", seeds=True), n=n)
    make_run(folder / "labels", [])
    summary = export_run(folder, best=True)
    assert (summary.files, summary.left_out) == ({"sft.jsonl": files}, {"sft": left_out})


def test_a_sample_run_without_labels_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sample_runs.run(sample_runs.PROMPTS, folder, Player(sample_runs.seeded, "one", seeds=True), n=2)
    with pytest.raises(
        RunError, match=r"has no labels: rerun its command if .* --best-of, else run cai label .*run --out .*labels"
    ):
        export_run(folder, best=True)
    with pytest.raises(RunError, match="its replies have not been judged"):
        export_run(folder)


def test_without_best_the_export_of_labelled_replies_names_what_can_be_cut(tmp_path: Path) -> None:
    sampled(tmp_path / "run", 2)
    with pytest.raises(RunError, match=r"--best cuts the best of its replies; .*: cai export \S*run/labels$"):
        export_run(tmp_path / "run")


@pytest.mark.parametrize("limit", range(10))
def test_a_prompt_has_a_row_once_all_its_pairs_are_settled_whatever_ended_the_labels(
    tmp_path: Path, limit: int
) -> None:
    folder = tmp_path / "run"
    sample_runs.run(sample_runs.PROMPTS[:3], folder, Player(sample_runs.seeded, "one", seeds=True), n=3)
    label_runs.run(folder, folder / "labels", label_runs.scorer(), limit=limit or None)
    summary = export_run(folder, best=True)
    settled = limit // 3 if limit else 3
    assert len(rows(folder / "sft.jsonl")) == settled
    assert summary.left_out.get("sft", {}) == ({"invalid_vote": 3 - settled} if settled < 3 else {})


def test_what_the_cut_saw_of_its_labels_is_remembered_when_they_change(tmp_path: Path) -> None:
    sampled(tmp_path / "run", 2)
    export_run(tmp_path / "run", best=True)
    before = provenance(tmp_path / "run")
    label_runs.run(tmp_path / "run", tmp_path / "run" / "labels", label_runs.scorer(), principles=1, force=True)
    assert provenance(tmp_path / "run") == before and before is not None and before["principles"] == 3
    export_run(tmp_path / "run", best=True)
    after = provenance(tmp_path / "run")
    assert after is not None and after["principles"] == 1


@pytest.mark.parametrize("change", ["id", "text", "prompt gone", "last prompt gone", "labels of other replies"])
def test_labels_of_other_replies_are_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "run"
    candidates = sampled(folder, 2, share=10**9)
    if change == "id":
        candidates[3]["id"] = "other"
    elif change == "text":
        candidates[3]["replies"][1]["text"] += "!"
    elif change == "prompt gone":
        del candidates[3]
    elif change == "last prompt gone":
        del candidates[-1]
    else:
        others = [{"id": f"other{n}", "prompt": f"Other {n}?"} for n in range(12)]
        writer = Player(sample_runs.seeded, "one", seeds=True)
        sample_runs.run(others, folder, writer, n=2, force=True)
        candidates = sample_runs.rows_of(folder)
    lines = [json.dumps(row, separators=(",", ":")) + "\n" for row in candidates]
    (folder / "candidates.jsonl").write_text("".join(lines))
    (folder / "calls.sqlite").unlink()  # it knows how long the file was
    with pytest.raises(
        RunError, match=r"/labels labels other replies than those of .*run: run cai label .* --out .*labels --force$"
    ):
        export_run(folder, best=True)
    assert not (folder / "sft.jsonl").exists()


def test_replies_that_a_label_run_drew_later_may_be_best(tmp_path: Path) -> None:
    candidates = sampled(tmp_path, 2, share=10**9)
    file = tmp_path / "labels" / "labels.jsonl"
    later = {"b": "drawn later", "b_from": "sample 2", "z": -4.0}
    file.write_text("".join(json.dumps(row | later) + "\n" for row in rows(file)))
    export_run(tmp_path, best=True)
    kept = rows(tmp_path / "sft.jsonl")
    assert {(row["from"], row["sample"]) for row in kept} == {("sample 2", None)} and len(kept) == len(candidates)


def test_the_card_names_the_models_that_wrote_and_judged_the_replies(tmp_path: Path) -> None:
    best_runs.run(best_runs.PROMPTS, tmp_path, best_runs.rewarder())
    card = (tmp_path / "README.md").read_text()
    assert "| assistant | `recorded:writer` | `m-1` |" in card and "| judge | `recorded:reward` | `reward-1` |" in card


def test_options_about_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--pairing, --dead-zone: only for pairs; --best takes one reply to each prompt"
    ):
        best(tmp_path, [pair(0, 2.0)], pairing="best-worst", dead_zone=0.8)


def test_parquet_has_the_columns_of_the_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    best(tmp_path, [pair(0, 2.0)], parquet=True)
    assert parquet.read_table(tmp_path / "sft.parquet").to_pylist() == rows(tmp_path / "sft.jsonl")
