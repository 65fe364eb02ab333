"""Evaluations with figures made for tests, and their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.evaluation.arena.figures import FILE, Bound, Contestant, Evaluation, Evaluator, Figure, Line, Result


def figure(value: float | None, half: float | None = 0.05, n: int = 300) -> Figure:
    """A figure with an interval of twice `half`."""
    if value is None or half is None:
        return Figure(value=value, n=n)
    return Figure(value=value, low=value - half, high=value + half, n=n)


def evaluation(**fields: Any) -> Evaluation:
    """Two models against BASE in two suites, and a suite that was skipped."""
    base, dpo, sft = "base-135m", "dpo-harmless", "sft"
    wins = (
        Line(model=dpo, measure="win rate", unit="share", figure=figure(0.62), difference=figure(0.12), note="4 flip"),
        Line(model=sft, measure="win rate", unit="share", figure=figure(0.48), difference=figure(-0.02)),
    )
    refusals = (
        Line(model=dpo, measure="over-refusal", unit="share", figure=figure(0.21), difference=figure(0.09, 0.04)),
        Line(model=base, measure="over-refusal", unit="share", figure=figure(0.12)),
        Line(model=sft, measure="over-refusal", unit="share", figure=figure(None), note="no reply can be read"),
    )
    tax = (
        Line(model=base, measure="held-out text", unit="bits", figure=figure(0.913, 0.02)),
        Line(
            model=dpo, measure="held-out text", unit="bits", figure=figure(0.931, 0.02), difference=figure(0.018, 0.004)
        ),
    )
    ratings = (Line(model=dpo, measure="rating", unit="elo", figure=figure(85, 36), difference=figure(85, 36)),)
    contestants = (
        Contestant(name=base, spec="hf:base-135m", base=True),
        Contestant(name=dpo, spec="hf:models/dpo-harmless", trained={"method": "dpo", "rows": 450}),
        Contestant(name=sft, spec="hf:models/sft"),
    )
    values: dict[str, Any] = {
        "contestants": contestants,
        "prompts": "heldout256.jsonl",
        "seed": 0,
        "evaluator": Evaluator(
            spec="reward:rm", protocol="reward", constitution="none", accuracy=figure(0.67, 0.06, 256), source="bench",
            independent=True, why="rm was trained on other prompts",
        ),
        "results": (
            Result(
                suite="preference", title="Preference", facts=("300 prompts can show a difference of 8 points",),
                lines=(*wins, *ratings), details={"pairs": {dpo: {"pairs": 300, "flips": 4}, sft: {"pairs": 300}}},
            ),
            Result(suite="refusals", title="Refusals", lines=refusals, warnings=("sft: no reply can be read",)),
            Result(suite="tax", title="Alignment tax", lines=tax),
            Result(suite="harm", title="Harm", skipped="no evaluator of harm was named"),
        ),
        "bounds": (
            Bound(measure="overrefusal", model=dpo, bound=0.03, figure=figure(0.09, 0.04), verdict="broken"),
            Bound(measure="tax", model=dpo, bound=-0.02, figure=figure(-0.01, 0.02), verdict="undecided", more=420),
            Bound(measure="harm", model=dpo, bound=0.02, figure=None, verdict="undecided"),
        ),
        "warnings": ("the judge is not calibrated",),
        "usage": {"calls": 1_800}, "cost_usd": 0.0, "seconds": 801.5, "versions": {"cai": "0.1.0"},
        "command": "cai evaluate models/dpo-harmless models/sft --against base-135m",
        "created": "2026-11-29T07:00:00Z",
    }  # fmt: skip
    return Evaluation(**(values | fields))


def make_evaluation(folder: Path, **fields: Any) -> Path:
    """The folder of an evaluation that has finished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(evaluation(**fields).model_dump_json(indent=2))
    return folder
