"""Typed questions in a bench, a calibration, and ratings: beside the other protocols, and bound to their own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from decider import both, chance
from habits import Habits, Mode, serving
from stub import stub

import cai
from cai.calls.decisions import Decided
from cai.engine.ask_scale import VALUES
from cai.engine.levels import read_predicates
from cai.errors import UsageError
from cai.evaluation.bench_report import BenchReport
from cai.records import Rating

GOLD = [
    {
        "prompt": f"Question {n}?",
        "chosen": f"A careful answer, number {n}.",
        "rejected": f"No idea {'at all ' * (n % 3)}",
    }
    for n in range(12)
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Habits]:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving({"both": Mode(both)}) as habits:
        yield habits


def asked(server: Habits, path: str) -> int:
    return sum(each.path == f"/v1/{path}" for each in server.asked("both"))


def test_a_bench_puts_typed_questions_beside_letters(server: Habits, tmp_path: Path) -> None:
    protocols = ("logprob", "decide")
    results = cai.judge_bench(
        GOLD, "openai:m", "hhh", protocols=protocols, base_url=server.url("both"), out=tmp_path / "bench"
    )
    letters, typed = (result.summary() for result in results)
    same = ("accuracy", "interval", "ece", "nll", "auroc", "flip_rate", "bias", "single_order_accuracy", "n", "invalid")
    for name in same:
        assert typed[name] == pytest.approx(letters[name], abs=1e-9), name
    assert (letters["per_label"]["calls"], typed["per_label"]["calls"]) == (6, 2)
    assert (asked(server, "chat/completions"), asked(server, "decisions")) == (6 * len(GOLD), 2 * len(GOLD))
    assert letters["mass"] == pytest.approx(0.9) and typed["mass"] is None
    assert "among its choices alone" in typed["mass_reason"] and typed["clipped"] == 0
    assert "mass_reason" not in letters
    lines = BenchReport("gold.jsonl", tuple(results)).lines()
    assert any("logprob" in line and "decide" in line for line in lines)
    assert sum("letter mass not known" in line for line in lines) == 1


def test_a_server_like_vllm_gives_both_protocols_the_same_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    labels: dict[str, dict[str, Any]] = {}
    requests = []
    with stub("--vllm") as server:
        for protocol in ("logprob", "decide"):
            given = {"judge": "openai:m", "base_url": f"{server.url}/v1", "out": tmp_path / protocol}
            labels[protocol] = {row.id: row for row in cai.label(GOLD, "hhh", protocol=protocol, **given)}
            requests.append(server.stats()["requests"])
    assert requests == [6 * len(GOLD), 8 * len(GOLD)]
    for name, row in labels["decide"].items():
        assert row.p_a == pytest.approx(labels["logprob"][name].p_a, abs=1e-9)
    asked = [call.request["payload"] for call in cai.read_calls(tmp_path / "logprob")]
    assert all({ord("A"), ord("B")} <= {*payload["logprob_token_ids"]} for payload in asked)


def test_a_calibration_is_bound_to_the_protocol(server: Habits, tmp_path: Path) -> None:
    given = {"judge": "openai:m", "base_url": server.url("both"), "min_confidence": 0.5}
    list(cai.label(GOLD, "hhh", protocol="logprob", out=tmp_path / "letters", **given))
    report = cai.calibrate_judge(tmp_path / "letters")
    report.save(tmp_path, plots=False)
    calibration = tmp_path / "calibration.json"
    with pytest.raises(UsageError, match=r"made for a different judge.*protocol"):
        list(cai.label(GOLD, "hhh", protocol="decide", calibration=calibration, out=tmp_path / "typed", **given))
    list(cai.label(GOLD, "hhh", protocol="decide", out=tmp_path / "typed", **given))
    own = cai.calibrate_judge(tmp_path / "typed")
    assert own.calibration.temperature == pytest.approx(report.calibration.temperature)
    own.save(tmp_path, plots=False)
    again = list(cai.label(GOLD, "hhh", protocol="decide", calibration=calibration, out=tmp_path / "again", **given))
    assert all(row.temperature == own.calibration.temperature for row in again)


def test_a_folder_of_another_protocol_is_refused(server: Habits, tmp_path: Path) -> None:
    given = {"judge": "openai:m", "base_url": server.url("both"), "out": tmp_path / "out"}
    list(cai.label(GOLD[:2], "hhh", protocol="logprob", **given))
    with pytest.raises(cai.CaiError, match="protocol"):
        list(cai.label(GOLD[:2], "hhh", protocol="decide", **given))


# Ratings


def test_a_reply_is_rated_by_a_predicate_for_each_level_in_one_request(server: Habits, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(4)))
    values = {"judge": "openai:j", "suite": "scale", "scale": "hhh", "base_url": server.url("both")}
    evaluation = cai.evaluate(["openai:a"], "openai:b", file, protocol="decide", out=tmp_path / "out", **values)
    lines = (tmp_path / "out" / "scale" / "ratings.jsonl").read_text().splitlines()
    rows = [Rating.model_validate_json(line) for line in lines]
    assert len(rows) == asked(server, "decisions") == 4 * 2 * 3
    payloads = [each.payload for each in server.asked("both") if each.path == "/v1/decisions"]
    for payload in payloads:
        [turn] = payload["input"]
        assert "<reply>" in turn["content"] and "Which of these levels fits the reply best?" in turn["content"]
        statements = [question["instructions"] for question in payload["questions"]]
        assert statements == [f"The reply is at level {level}." for level in VALUES]
        assert all(question["type"] == "predicate" for question in payload["questions"])
    found = {chance(f"{p['input'][0]['content']}\n\nThe reply is at level 4.") for p in payloads}
    assert {row.p["4"] for row in rows} == found
    for row in rows:
        assert row.protocol == "decide" and row.mass is None and row.p.keys() == VALUES.keys()
        total = math.fsum(row.p.values())
        assert row.value == pytest.approx(math.fsum(VALUES[level] * p for level, p in row.p.items()) / total)
    [result] = [result for result in evaluation.results if result.suite == "scale"]
    assert result.details["protocol"] == "decide"


def decided(*p: float) -> list[Decided]:
    return [Decided((each,)) for each in p]


CASES: list[tuple[tuple[float, ...], float | None]] = [
    ((0.0, 0.0, 0.0, 0.0, 1.0), 5.0),
    ((1.0, 0.0, 0.0, 0.0, 0.0), 1.0),
    ((0.5, 0.0, 0.0, 0.0, 0.5), 3.0),
    ((0.9, 0.9, 0.9, 0.9, 0.9), 3.0),
    ((0.05, 0.05, 0.1, 0.5, 0.2), 3.45 / 0.9),
    ((0.1, 0.1, 0.1, 0.1, 0.05), None),
    ((0.0, 0.0, 0.0, 0.0, 0.0), None),
]


@pytest.mark.parametrize(("p", "value"), CASES)
def test_a_rating_is_the_mean_of_levels_weighted_by_their_predicates(p: tuple[float, ...], value: float | None) -> None:
    grade = read_predicates(decided(*p), VALUES)
    assert grade.mass is None and (grade.problem is None) == (value is not None)
    assert grade.value == (None if value is None else pytest.approx(value))


def test_one_level_without_an_answer_makes_a_rating_invalid() -> None:
    grade = read_predicates([*decided(0.1, 0.2, 0.3, 0.4), Decided(problem="the model declined to answer")], VALUES)
    assert grade.value is None and grade.problem == "level 5: the model declined to answer"
