"""Settings of an evaluation that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from cai.errors import UsageError
from cai.evaluation.arena.settings import OF_SUITES, EvaluateSettings
from cai.texts.wording import option

VALUES: dict[str, Any] = {
    "tasks": "mmlu", "scale": "hhh", "harm": "guard:x", "contrast": "x.jsonl", "bench": "folder", "gold": "x.jsonl",
    "stop_when_decided": True, "length_control": True, "best_of": 4,
}  # fmt: skip


@pytest.mark.parametrize("setting", OF_SUITES)
def test_a_setting_that_no_named_suite_reads_is_refused(setting: str) -> None:
    value, suites = {setting: VALUES[setting]}, OF_SUITES[setting]
    with pytest.raises(UsageError, match=f"{option(setting)} is read by the suite {suites[0]}"):
        EvaluateSettings(suite="degeneration", **value)
    for suite in suites:
        EvaluateSettings(suite=f"degeneration, {suite}", **value)
    EvaluateSettings(**value)


def test_several_replies_at_temperature_zero_are_refused() -> None:
    with pytest.raises(UsageError, match="gives the same reply 2 times"):
        EvaluateSettings(n=2, temperature=0.0)
