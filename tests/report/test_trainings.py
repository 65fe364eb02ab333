"""What a page says of a training, whether it has finished or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from page_records import page_of, rows_of

import cai
from cai.disk.locks import LOCK, take_lock
from cai.errors import RunError

OLD = Path(__file__).resolve().parents[1] / "folders-0.1.0"


def training(folder: Path, **changes: Any) -> Path:
    """A training of version 0.1.0 that has finished, with changes to its training.json."""
    shutil.copytree(OLD / "train-finished", folder)
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(record | changes))
    return folder


def test_a_training_shows_its_loss_settings_and_what_the_model_says(tmp_path: Path) -> None:
    folder = training(tmp_path / "model")
    html = page_of(tmp_path, folder)
    assert "<h3>Loss</h3>" in html and "<h3>Settings</h3>" in html
    (rows,) = rows_of(html)
    answers = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    assert [rows[0][name] for name in ("before", "after")] == [answers["before"], answers["after"]]


def test_held_out_pairs_have_intervals(tmp_path: Path) -> None:
    folder = training(tmp_path / "model")
    lines = [
        {"step": 3, "id": f"p{at}", "logp_chosen": -9.0, "logp_rejected": -9.0 + (1 if at < 3 else -1),
         "ref_logp_chosen": -9.0, "ref_logp_rejected": -8.0}
        for at in range(10)
    ]  # fmt: skip
    (folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "id"')
    (section,) = cai.make_report(folder, tmp_path / "report.html").sections
    assert section.facts["chosen reply wins, after"] == "70.0% 39.7 to 89.2% 10 held-out pairs"
    assert section.warnings == (
        "the last line of eval.jsonl is not whole, as after a kill or while it is written: it is left out",
    )


def test_a_training_that_is_running_or_was_killed_says_so(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD / "train-half", tmp_path / "model")
    assert "this training is not finished" in page_of(tmp_path, folder)
    with take_lock(folder / LOCK):
        assert "this training is still running" in page_of(tmp_path, folder)


def test_a_loss_that_is_not_a_number_is_counted(tmp_path: Path) -> None:
    folder = training(tmp_path / "model")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss": null}\n')
    assert "1 losses are not a number (NaN)" in page_of(tmp_path, folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 2}, "schema 2"),
        ({"identity": None}, "damaged"),
        ({"data": {"train": "many"}}, "damaged"),
        ({"plan": [1]}, "damaged"),
    ],
)
def test_a_damaged_training_is_one_plain_line(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RunError, match=problem) as error:
        page_of(tmp_path, training(tmp_path / "model", **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_damaged_line_of_a_training_is_named(tmp_path: Path, name: str) -> None:
    folder = training(tmp_path / "model")
    (folder / name).write_text("{}\nnot json\n{}\n")
    with pytest.raises(RunError, match=rf"{name}: line \d is damaged"):
        page_of(tmp_path, folder)
