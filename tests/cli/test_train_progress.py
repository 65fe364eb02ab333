"""What a training shows: a line now and then into a file, evaluations that stay, and what to type next."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.cli.terminal import console as module
from cai.cli.train import TrainProgress, evaluation, next_steps, step
from cai.training.report.summary import TrainSummary

STEP = {"step": 3, "steps": 40, "loss": 1.23456, "tokens_per_second": 1036.6, "memory_gb": 0.52, "eta_seconds": 80.2}
OF_DPO = {"rewards/margins": 0.01234, "rewards/accuracies": 0.625}
OF_REWARD = {"margin": -0.5, "accuracy": 1.0, "mean_reward": 0.1}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is shown, as into a file."""
    file = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=file, highlight=False, soft_wrap=True, width=80))
    return file


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({}, ""),
        (OF_DPO, "margin +0.0123 · accuracy 62% · "),
        (OF_REWARD, "margin -0.5 · accuracy 100% · "),
        ({"rewards/margins": float("nan")}, ""),  # of kto, where a batch has replies of one kind alone
        ({"mean_token_accuracy": 0.5}, ""),
    ],
)
def test_a_step_is_told_with_what_its_method_measures(metrics: dict[str, float], told: str) -> None:
    assert step(STEP | metrics) == f"1:20 left · step 3/40 · loss 1.235 · {told}1,037 tokens/s · 0.5 GB"


@pytest.mark.parametrize(
    ("number", "told"), [(0, "held-out rows before the first step"), (1200, "held-out rows after step 1,200")]
)
def test_an_evaluation_says_when_it_was(number: int, told: str) -> None:
    metrics = {"step": number, "steps": 4000, "eval_loss": 0.5, "eval_rewards/margins": 0.1, "eval_runtime": 3.0}
    assert evaluation(metrics) == f"{told}: loss 0.5, margin +0.1"


def lines_of(screen: io.StringIO, metrics: list[dict[str, Any]]) -> list[str]:
    progress = TrainProgress()
    with module.live_line(progress.line):
        for each in metrics:
            progress.on_metrics(each)
    return [line.partition("  ")[2] for line in screen.getvalue().replace("\n  ", "\n").splitlines()]


def test_into_a_file_goes_a_line_each_tenth_of_the_steps(screen: io.StringIO) -> None:
    lines_of(screen, [STEP | {"step": number} for number in range(1, 41)])
    told = [line.split()[6] for line in screen.getvalue().splitlines()]
    assert told == ["1/40", *(f"{number}/40" for number in range(4, 41, 4))]


def test_a_slow_tenth_is_told_of_more_than_once(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.cli.train.LINE_EVERY", 0.0)
    lines_of(screen, [STEP | {"step": number} for number in range(1, 4)])
    assert len(screen.getvalue().splitlines()) == 3


def test_the_reference_is_told_of_before_the_steps_and_evaluations_each_time(screen: io.StringIO) -> None:
    asked = [{"reference_rows": done, "of": 100} for done in range(2, 101, 2)]
    held = {"step": 40, "steps": 40, "eval_loss": 0.5}
    lines_of(screen, [*asked, STEP | {"step": 40}, held, held])
    told = screen.getvalue().splitlines()
    assert "reference 2/100 rows" in told[0] and "left" not in told[0]
    assert "0:00 left after 0:00 · reference 100/100 rows" in told[10]
    assert len(told) == 14 and "step 40/40" in told[11] and told[12] == told[13] == evaluation(held)


def test_the_replies_of_the_model_are_counted_while_it_is_asked(screen: io.StringIO) -> None:
    progress = TrainProgress()
    for when in ("before", "after"):
        for replies in (0, 8):
            for token in range(1, 129):
                progress.on_metrics({"replies": replies, "of": 16, "token": token, "most": 128, "when": when})
        assert progress.line().endswith(
            f"asking the model {when} the training: 8/16 replies, the next at token 128 of 128"
        )
    assert len(screen.getvalue().splitlines()) == 4


def test_steps_that_come_again_with_fewer_rows_at_once_are_told_again(screen: io.StringIO) -> None:
    lines_of(screen, [STEP | {"step": 39}, STEP | {"step": 1}])
    assert len(screen.getvalue().splitlines()) == 2


def test_on_a_terminal_steps_share_one_line_that_goes_and_evaluations_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, highlight=False, soft_wrap=True, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(module, "console", console)
    progress = TrainProgress()
    with module.live_line(progress.line):
        progress.on_metrics(STEP)
        progress.on_metrics({"step": 3, "steps": 40, "eval_loss": 0.5})
    assert "held-out rows after step 3: loss 0.5\n" in file.getvalue().replace("\r", "")
    assert file.getvalue().endswith("\x1b[2K") or "\x1b[2K" in file.getvalue().splitlines()[-1]


def done(folder: Path, method: str) -> TrainSummary:
    return TrainSummary.model_validate(
        {"folder": folder, "method": method, "rows": 9, "eval_rows": 0, "dropped": {}, "steps": 3, "seconds": 1.0,
         "pairs": None, "metrics": {"loss": 0.5}, "notes": ()}
    )  # fmt: skip


def test_what_to_type_next_is_that_of_the_method(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    told = {method: list(next_steps(done(folder, method))) for method in ("sft", "dpo", "reward")}
    assert told["dpo"][-1] == f"next: cai chat '{folder}'"
    assert [line.split()[1:4] for line in told["sft"][-2:]] == [
        ["cai", "chat", f"'{tmp_path}/my"],
        ["cai", "train", "dpo"],
    ]
    assert told["reward"][-1].startswith(f"next: cai judge bench --judge reward:'{folder}'")
    (folder / "adapter_config.json").touch()
    assert list(next_steps(done(folder, "dpo")))[-1] == f"next: cai merge '{folder}' --out FOLDER"
