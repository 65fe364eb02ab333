"""Training rows of best-of runs: what they say of each winner, what is left out, and that they can be cut again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from best_runs import PROMPTS, rewarder, run, writer
from label_runs import scorer
from players import Player, digits
from sample_runs import PROMPTS as ALL
from sample_runs import rows_of, seeded
from sample_runs import run as sample_run

from cai.errors import RunError, UsageError
from cai.export.export import export_run
from cai.folder.rows import TRAINING_FILES
from cai.records import Completion
from cai.training.data.dataset import load_rows


def sft_of(folder: Path, name: str = "sft.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_training_row_is_the_winner_and_says_where_it_comes_from(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", scorer(), best_of=3)
    candidates, rows = rows_of(tmp_path / "out"), sft_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [row["id"] for row in candidates]
    for row, source in zip(rows, candidates, strict=True):
        won = source["replies"][source["best"]["winner"]]
        assert row.pop("messages") == [*source["prompt"], {"role": "assistant", "content": won["text"]}]
        assert row.pop("score") == max(source["best"]["scores"])
        law = source["best"]["constitution"]
        assert row == {
            "id": source["id"], "best_of": 3, "judged": True, "constitution": f"harmless@{law['version']}",
            "constitution_hash": law["hash"], "judge": "judge-1", "protocol": "score", "model": "m-1",
            "sample": won["sample"],
        }  # fmt: skip


def test_an_sft_trainer_takes_the_run_and_another_does_not(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", rewarder(), best_of=3)
    data = load_rows(tmp_path / "out", "sft", split=1.0)
    assert len(data.train) == 6 and data.origins == {"judge": ["reward-1"], "protocol": ["reward"], "model": ["m-1"]}
    with pytest.raises(UsageError, match="label them first"):
        load_rows(tmp_path / "out", "dpo")
    sample_run(PROMPTS, tmp_path / "plain", Player(seeded, "one", seeds=True))
    with pytest.raises(UsageError, match="label them first"):
        load_rows(tmp_path / "plain", "sft")
    with pytest.raises(RunError, match="its replies have not been judged"):
        export_run(tmp_path / "plain")


def test_an_export_cuts_again_with_a_split_and_back_to_the_same_bytes(tmp_path: Path) -> None:
    run(ALL, tmp_path / "out", rewarder())
    whole = (tmp_path / "out" / "sft.jsonl").read_bytes()
    summary = export_run(tmp_path / "out", split=0.5)
    train, held = sft_of(tmp_path / "out"), sft_of(tmp_path / "out", "sft.eval.jsonl")
    assert len(train) + len(held) == 12 and summary.files == {"sft.jsonl": len(train), "sft.eval.jsonl": len(held)}
    export_run(tmp_path / "out")
    assert (tmp_path / "out" / "sft.jsonl").read_bytes() == whole
    assert {name for name in TRAINING_FILES if (tmp_path / "out" / name).exists()} == {"sft.jsonl"}


def test_options_of_other_runs_are_refused(tmp_path: Path) -> None:
    run(PROMPTS[:2], tmp_path / "out", rewarder())
    with pytest.raises(UsageError, match="--min-confidence: only for runs of cai label; this is a run of cai sample"):
        export_run(tmp_path / "out", min_confidence=0.8)


def test_a_winner_with_a_fault_of_form_is_left_out_and_accounted_for(tmp_path: Path) -> None:
    def leaks(payload: dict[str, Any]) -> Completion:
        start = "Here is a revised reply: " if digits(payload) % 3 == 0 else ""
        return Completion(f"{start}tea {digits(payload)}", "stop", "m")

    run(ALL, tmp_path / "out", rewarder(), writer(leaks))
    rows, drops = sft_of(tmp_path / "out"), rows_of(tmp_path / "out", "dropped.jsonl")
    assert 0 < len(rows) < 12 and len(rows) + len(drops) == 12
    assert {(drop["stage"], drop["reason"]) for drop in drops} == {("sft", "preamble_leak")}
    assert export_run(tmp_path / "out", hygiene=False).files == {"sft.jsonl": 12}


def test_a_summary_sets_the_winners_beside_all_replies_and_the_longest(tmp_path: Path) -> None:
    def wordy(payload: dict[str, Any]) -> Completion:
        return Completion("word " * (1 + digits(payload) % 400) + str(digits(payload)), "stop", "m")

    def length(payload: dict[str, Any]) -> Completion:
        return Completion("", "stop", "reward-1", scores=(float(len(payload["messages"][-1]["content"])),))

    run(PROMPTS, tmp_path / "out", rewarder(length), writer(wordy))
    found = export_run(tmp_path / "out").best
    lengths = [[len(reply["text"]) for reply in row["replies"]] for row in rows_of(tmp_path / "out")]
    assert found is not None and (found.judged, found.unjudged) == (6, 0)
    assert found.winner_score == pytest.approx(sum(map(max, lengths)) / 6)
    assert found.mean_score == pytest.approx(sum(map(sum, lengths)) / 18)
    assert found.longest_won == 1.0 and found.longest_chance == pytest.approx(1 / 3)


def test_every_prompt_counts_once_in_both_means_and_every_text_once_in_its_prompt(tmp_path: Path) -> None:
    def wordy(payload: dict[str, Any]) -> Completion:
        draw = digits(payload) % 1000
        if "Question 0?" in payload["messages"][0]["content"]:
            return Completion(f"ten {draw}", "stop", "m")
        return Completion("one" if draw % 2 else "zero", "stop", "m")

    def worth(payload: dict[str, Any]) -> Completion:
        text = payload["messages"][-1]["content"]
        score = {"one": 1.0, "zero": 0.0}.get(text) or (10.0 + len(text) / 100 + digits(text) / 1e15) * ("t" in text)
        return Completion("", "stop", "reward-1", scores=(score,))

    run(PROMPTS[:2], tmp_path / "out", rewarder(worth), writer(wordy), best_of=16)
    scores = [row["best"]["scores"] for row in rows_of(tmp_path / "out")]
    assert set(scores[1]) == {0.0, 1.0} and scores[1].count(1.0) != 8
    tens = set(scores[0])
    found = export_run(tmp_path / "out").best
    assert found is not None
    assert found.winner_score == pytest.approx((max(tens) + 1) / 2)
    assert found.mean_score == pytest.approx((sum(tens) / len(tens) + 0.5) / 2)


def test_the_mean_over_the_different_texts_of_a_prompt_is_one_half_of_pairs(tmp_path: Path) -> None:
    def repeats(payload: dict[str, Any]) -> Completion:
        return Completion(f"reply {digits(payload) % 3}", "stop", "m")

    run(PROMPTS, tmp_path / "out", scorer(), writer(repeats), best_of=6)
    rows = [row for row in rows_of(tmp_path / "out") if row["best"]["judged"]]
    assert any(sum(row["best"]["scores"]) != pytest.approx(3.0) for row in rows)
    found = export_run(tmp_path / "out").best
    assert found is not None and found.mean_score == pytest.approx(0.5)


def test_one_prompt_is_one(tmp_path: Path) -> None:
    run(PROMPTS[:1], tmp_path / "out", rewarder())
    found = export_run(tmp_path / "out").best
    assert found is not None and next(found.lines()) == "winners of 1 prompt"


def test_without_a_verdict_there_is_no_mean(tmp_path: Path) -> None:
    def alike(payload: dict[str, Any]) -> Completion:
        return Completion("the same", "stop", "m")

    run(PROMPTS, tmp_path / "out", scorer(), writer(alike))
    found = export_run(tmp_path / "out").best
    assert found is not None and (found.judged, found.unjudged) == (0, 6)
    assert found.winner_score is found.mean_score is found.longest_won is None
    assert list(found.lines()) == ["winners of 0 prompts, 6 had one usable reply and no verdict"]


def test_the_card_says_who_picked_and_how_to_do_it_again(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", scorer(), best_of=3, principles=2, seed=4, system="Be brief.")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"] == [{"config_name": "sft", "data_files": [{"split": "train", "path": "sft.jsonl"}]}]
    assert "best-of-n" in front["tags"] and "# Best replies under `harmless`" in card
    assert "votes flip with reply order" in card and "`Be brief.`, not in the rows" in card
    run(PROMPTS, tmp_path / "rewarded", rewarder(), best_of=3)
    card = (tmp_path / "rewarded" / "README.md").read_text()
    assert "# Best replies under `a reward model`" in card and "votes flip" not in card


def test_parquet_has_the_columns_of_the_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(PROMPTS, tmp_path / "out", rewarder())
    export_run(tmp_path / "out", parquet=True)
    table = parquet.read_table(tmp_path / "out" / "sft.parquet")
    assert table.to_pylist() == sft_of(tmp_path / "out")
    assert str(table.schema.field("constitution").type) == "string"


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", rewarder())
    file = tmp_path / "out" / "candidates.jsonl"
    lines = file.read_text().splitlines()
    row = json.loads(lines[3])
    row["best"] = {"winner": 0}
    file.write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    with pytest.raises(RunError, match=r"candidates\.jsonl: line 4 is damaged \(best"):
        export_run(tmp_path / "out")
