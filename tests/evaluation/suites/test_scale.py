"""Ratings of an evaluation: one question a reply and scale, and means that follow from the rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from steady import Steady

import cai
from cai.errors import ConstitutionError, UsageError
from cai.evaluation.arena.figures import Evaluation, Result
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.run import EvaluateRun
from cai.evaluation.suites.scale import shares
from cai.records import Rating
from cai.runs.plan import estimate

TEXTS = [f"Question {number}: what helps?" for number in range(12)]


@pytest.fixture
def ask(server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Rates the replies of models of the server to a few prompts."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    def evaluate(*models: str, prompts: list[str] = TEXTS, **settings: Any) -> Evaluation:
        file = tmp_path / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
        values = {"judge": "openai:judge", "suite": "scale", "scale": "hhh", "base_url": f"{server.url}/v1"}
        return cai.evaluate(models, "openai:base", file, **{"out": tmp_path / "out", **values, **settings})

    return evaluate


def result_of(evaluation: Evaluation) -> Result:
    [result] = [result for result in evaluation.results if result.suite == "scale"]
    return result


def rows_of(folder: Path) -> list[Rating]:
    return [Rating.model_validate_json(line) for line in (folder / "scale" / "ratings.jsonl").read_text().splitlines()]


def test_helpful_honest_and_harmless_are_three_columns(ask: Any, tmp_path: Path) -> None:
    result = result_of(ask("openai:one", "openai:two", n=2))
    assert [(line.measure, line.model) for line in result.lines] == [
        (scale, model) for scale in ("helpful", "honest", "harmless") for model in ("base", "one", "two")
    ]
    assert all(line.unit == "number" and line.figure.n == 12 for line in result.lines)
    assert "pairs decide" in result.title
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len({row.id for row in rows}) == 12 * 3 * 2 * 3
    assert all(row.constitution is not None and row.constitution.name == "hhh" for row in rows)


def test_a_figure_is_the_mean_over_prompts_and_its_difference_is_paired(ask: Any, tmp_path: Path) -> None:
    lines = {(line.measure, line.model): line for line in result_of(ask("openai:one", n=2)).lines}
    means: dict[str, dict[str, float]] = {}
    for model in ("base", "one"):
        rows = [row for row in rows_of(tmp_path / "out") if (row.asked, row.contestant) == ("honest", model)]
        prompts = {row.prompt_id for row in rows}
        means[model] = {name: fmean(row.value or 0 for row in rows if row.prompt_id == name) for name in prompts}
        assert lines["honest", model].figure.value == pytest.approx(fmean(means[model].values()))
    change = lines["honest", "one"].difference
    assert change is not None and change.n == 12 and lines["honest", "base"].difference is None
    assert change.value == pytest.approx(fmean(means["one"][name] - means["base"][name] for name in means["base"]))
    assert change.low is not None and change.high is not None and change.low < change.value < change.high


def test_the_levels_of_every_model_have_shares_that_sum_to_one(ask: Any) -> None:
    details = result_of(ask("openai:one")).details
    assert details["protocol"] == "logprob" and len(details["scales"]["helpful"]["levels"]) == 5
    for column in details["scales"]["helpful"]["models"].values():
        assert sum(column["shares"].values()) == pytest.approx(1) and column["valid"] == column["ratings"] == 12


def test_the_same_evaluation_again_asks_nothing_and_says_the_same(ask: Any, server: Steady) -> None:
    first = ask("openai:one")
    count = len(server.asked)
    assert ask("openai:one").results == first.results and len(server.asked) == count


def test_more_prompts_are_rated_when_the_limit_is_raised(ask: Any, tmp_path: Path) -> None:
    assert result_of(ask("openai:one", limit=4)).lines[0].figure.n == 4
    assert result_of(ask("openai:one", limit=9)).lines[0].figure.n == 9
    assert len(rows_of(tmp_path / "out")) == 9 * 2 * 3


def test_a_plan_counts_the_calls_that_the_evaluation_makes(ask: Any, server: Steady, tmp_path: Path) -> None:
    def plan() -> Any:
        values: dict[str, Any] = {"judge": "openai:judge", "suite": "scale", "scale": "hhh", "out": tmp_path / "out"}
        settings = EvaluateSettings(base_url=f"{server.url}/v1", against="openai:base", **values)
        return estimate(EvaluateRun(["openai:one"], tmp_path / "prompts.jsonl", settings))

    ask("openai:one", prompts=TEXTS[:1], out=tmp_path / "other")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    before = plan()
    evaluation = ask("openai:one")
    assert before.calls == evaluation.usage["calls"] == 12 * 2 * (1 + 3)
    assert plan().calls == 0


def test_a_judge_without_probabilities_rates_in_words_and_that_is_said(ask: Any, tmp_path: Path) -> None:
    result = result_of(ask("openai:one", protocol="vote"))
    assert any("digits in words, without probabilities" in fact for fact in result.facts)
    rows = rows_of(tmp_path / "out")
    assert all(row.p == {} and row.mass is None and row.value in (1, 2, 3, 4, 5) for row in rows)
    shown = result.details["scales"]["helpful"]["models"]["one"]["shares"]
    assert sum(shown.values()) == pytest.approx(1)


def test_what_is_invalid_is_counted_and_said_and_changes_no_mean(ask: Any, tmp_path: Path) -> None:
    marked = [f"{text} [unreadable scale]" if number % 4 == 0 else text for number, text in enumerate(TEXTS)]
    result = result_of(ask("openai:one", prompts=marked))
    line = result.lines[0]
    assert line.figure.n == 9 and line.note.startswith("3 of 12 ratings not valid, such as: no level is among the 2")
    assert "base: 3 of 12 ratings under helpful are not valid" in result.warnings
    assert any("no level" in problem for problem in result.details["scales"]["helpful"]["models"]["one"]["problems"])


def test_a_judge_that_reads_nothing_ends_the_ratings_and_leaves_no_number(ask: Any) -> None:
    evaluation = ask("openai:one", prompts=[f"{text} [unreadable scale]" for text in TEXTS])
    assert evaluation.stopped is not None
    assert "the judge does not answer with a level from 1 to 5: median letter mass 0.00" in evaluation.stopped
    for line in result_of(evaluation).lines:
        assert line.figure.value is None and line.note


def test_replies_that_cannot_be_used_are_not_rated(ask: Any, tmp_path: Path) -> None:
    result = result_of(ask("openai:one", prompts=[*TEXTS[:3], "Cut. [truncated]"]))
    assert result.lines[0].figure.n == 3 and len(rows_of(tmp_path / "out")) == 3 * 2 * 3


def test_without_a_reply_nothing_is_asked_and_nothing_is_known(ask: Any, server: Steady) -> None:
    server.asked.clear()
    result = result_of(ask("openai:one", prompts=[f"{text} [truncated]" for text in TEXTS[:3]]))
    assert all(line.figure.value is None and line.note for line in result.lines) and "scale" not in server.asked


# What cannot be


def test_without_a_scale_the_suite_is_skipped_with_what_to_name(ask: Any) -> None:
    with pytest.raises(UsageError, match="--suite scale: name --scale CONSTITUTION, such as hhh"):
        ask("openai:one", scale=None)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scale": "hh"}, ConstitutionError, "no constitution 'hh'"),
        ({"protocol": "reason"}, UsageError, "levels are asked for without reasons"),
        ({"protocol": "reward"}, UsageError, "is not a reward model"),
        ({"protocol": "conditioned"}, UsageError, "is not a reward model"),
    ],
)
def test_what_cannot_be_asked_is_said_before_the_first_call(
    ask: Any, server: Steady, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    server.asked.clear()
    with pytest.raises(error, match=message):
        ask("openai:one", **settings)
    assert not server.asked


def test_a_constitution_without_scales_is_refused(ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nversion: 1.0.0\nprinciples: [Be kind to all.]")
    with pytest.raises(ConstitutionError, match="own has no 'scale'"):
        ask("openai:one", scale=path)


# Arithmetic


def test_shares_are_means_of_the_probabilities_among_the_levels() -> None:
    row: dict[str, Any] = {
        "id": "a", "position": 0, "key": "00" * 16, "prompt_id": "q", "prompt": [{"role": "user", "content": "?"}],
        "reply": "r", "contestant": "base", "model": "m", "sample": 0, "asked": "kind", "protocol": "score",
        "mass": 0.8, "value": 4.5, "problem": None, "constitution": None, "templates": None, "models": {}, "seed": 0,
        "usage": {}, "calls": [],
    }  # fmt: skip
    one = Rating.model_validate({**row, "p": {"4": 0.4, "5": 0.4}})
    two = Rating.model_validate({**row, "p": {"4": 0.6}, "value": 4.0})
    lost = Rating.model_validate({**row, "p": {}, "value": None, "problem": "no"})
    assert shares([one, two, lost])["shares"] == pytest.approx({"1": 0, "2": 0, "3": 0, "4": 0.75, "5": 0.25})
    assert shares([lost]) == {"ratings": 1, "valid": 0, "problems": {"no": 1}, "shares": None}
