"""The images of a training: every curve is the column of metrics.jsonl that its label names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from cai.training.report.card import FEW, LOSS, MARGINS, figure_of, write_plots

PNG = b"\x89PNG\r\n\x1a\n"


def loss_figure(lines: list[dict[str, Any]]) -> Any:
    return figure_of(LOSS, lines)


def margins_figure(lines: list[dict[str, Any]]) -> Any:
    return figure_of(MARGINS, lines)


def dpo(steps: int = 6) -> list[dict[str, Any]]:
    """Lines as a training writes them: an evaluation before the first step, and every second one."""
    names = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        values = (0.7 - step / 100, -step / 10, -step / 5, step / 10, 0.5 + step / 100)
        if step:
            lines.append({"step": step, "steps": steps, **dict(zip(names, values, strict=True)), "grad_norm": 9.0})
        if step % 2 == 0:
            held = {f"eval_{name}": value - 0.001 for name, value in zip(names, values, strict=True)}
            lines.append({"step": step, "steps": steps, **held, "eval_runtime": 3.0})
    return lines


def column(lines: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    return [(line["step"], line[metric]) for line in lines if metric in line]


def drawn(axes: Any) -> dict[str, list[tuple[int, float]]]:
    """The points of every line with a label."""
    return {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_the_loss_is_drawn_as_it_was_measured() -> None:
    lines = dpo()
    [axes] = loss_figure(lines).axes
    assert drawn(axes) == {"loss": column(lines, "loss"), "loss, held out": column(lines, "eval_loss")}
    [held] = [line for line in axes.lines if line.get_label() == "loss, held out"]
    assert held.get_marker() == "s"
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(drawn(axes))


def test_rewards_margins_and_accuracies_are_drawn_as_they_were_measured() -> None:
    lines = dpo()
    top, below = margins_figure(lines).axes
    names = {"chosen": "rewards/chosen", "rejected": "rewards/rejected", "margin": "rewards/margins"}
    assert drawn(top) == {
        f"{name}{side}": column(lines, f"{before}{metric}")
        for name, metric in names.items()
        for before, side in (("", ""), ("eval_", ", held out"))
    }
    assert drawn(below) == {
        "accuracy": column(lines, "rewards/accuracies"),
        "accuracy, held out": column(lines, "eval_rewards/accuracies"),
    }


def test_colours_and_marks_tell_the_curves_apart() -> None:
    top, _ = margins_figure(dpo()).axes
    lines = [line for line in top.lines if not line.get_label().startswith("_")]
    assert len({line.get_color() for line in lines}) == 3
    assert len({line.get_marker() for line in lines if "held out" in line.get_label()}) == 3


def test_a_reward_model_has_one_margin_and_its_accuracy() -> None:
    lines = [{"step": 1, "loss": 0.7, "margin": 0.1, "accuracy": 0.5}, {"step": 2, "margin": 0.4, "accuracy": 0.75}]
    top, below = margins_figure(lines).axes
    assert (drawn(top), drawn(below)) == ({"margin": [(1, 0.1), (2, 0.4)]}, {"accuracy": [(1, 0.5), (2, 0.75)]})


def test_kto_has_rewards_of_the_steps_that_saw_their_kind_and_no_accuracy() -> None:
    lines = [{"step": 1, "rewards/chosen": 0.1}, {"step": 2, "rewards/rejected": -0.1}, {"step": 3, "loss": 0.2}]
    [top] = margins_figure(lines).axes
    assert drawn(top) == {"chosen": [(1, 0.1)], "rejected": [(2, -0.1)]}
    assert [line.get_marker() for line in top.lines[:2]] == [".", "."]  # a line of one point would not be seen


def test_many_steps_are_drawn_thin_with_the_mean_of_the_last_ones() -> None:
    lines = dpo(FEW * 2)
    [axes] = loss_figure(lines).axes
    raw = column(lines, "loss")
    thin = [line for line in axes.lines if line.get_label().startswith("_")]
    assert [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in thin] == [raw]
    mean = drawn(axes)["loss, mean of 4 steps"]
    assert mean == [(step, pytest.approx(fmean(value for _, value in raw[step - 4 : step]))) for step, _ in raw[3:]]


def test_a_value_that_is_no_number_leaves_a_gap_and_not_a_zero() -> None:
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.25}]
    [axes] = loss_figure(lines).axes
    assert drawn(axes) == {"loss": [(1, 0.5), (3, 0.25)]}


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    sft = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.9}]
    assert margins_figure(sft) is None and loss_figure([]) is None
    write_plots(tmp_path, [])
    write_plots(tmp_path, sft)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_the_images_are_written_and_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    write_plots(tmp_path, dpo())
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert all(image.startswith(PNG) for image in first.values()) and set(first) == {"loss.png", "margins.png"}
    write_plots(tmp_path, dpo())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    write_plots(tmp_path, dpo(5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} != first


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; sys.modules['matplotlib'] = None; from cai.training.report.card import write_plots; "
        "write_plots(pathlib.Path(), [dict(step=1, loss=1)])"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert "MissingExtra: drawing the plots of a training needs a package" in process.stderr
    assert "cai-toolkit[plot]" in process.stderr and not (tmp_path / "loss.png").exists()
