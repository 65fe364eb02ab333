"""A judge's labels beside people's: what is read, what is said, what is written and read again."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import math
import random
from contextlib import redirect_stderr, redirect_stdout
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared

from cai.cli.judge import app as judge_app
from cai.engine.letters import probability
from cai.errors import CaiError, InputError, MissingExtra, RunError
from cai.judge.calibration import (
    CalibrationReport,
    calibrate_judge,
)
from cai.judge.certify import FEW, FILE, TARGETS, Binding, binding_problems, load_calibration, weaknesses
from cai.judge.trivial import REFUSAL_WORDS, trivial_guesses
from cai.records import ConstitutionRef, Label, Message, Reading, Usage, Vote
from cai.sources.replies import pair_of

LAW = ConstitutionRef(name="kind", version="1.2.0", hash="c0ffee")
BINDING: dict[str, Any] = {
    "judge": "openai:small",
    "protocol": "logprob",
    "templates": "7e57",
    "constitution": LAW.model_dump(),
    "principles": 1,
}
HELLO: tuple[Message, ...] = ({"role": "user", "content": "Hello"},)
Row = dict[str, Any]


def label(number: int, z: float | None, human: str | None, **given: Any) -> Label:
    vote = Vote(principle="p1", weight=1, ab=Reading(), ba=Reading(), d=z)
    row = {
        "id": f"r{number}", "position": number, "key": f"{number:032x}", "prompt_id": f"q{number}", "prompt": HELLO,
        "a": "Yes.", "b": "I cannot say.", "a_from": "sample 0", "b_from": "sample 1", "a_model": None,
        "b_model": None, "human": human, "protocol": "logprob", "votes": (vote,), "z": z, "temperature": 9.0,
        "p_a": None, "confidence": None, "constitution": LAW, "templates": "7e57", "models": {"judge": "small-0"},
        "seed": 0, "usage": Usage(), "calls": (),
    }  # fmt: skip
    return Label.model_validate(row | given)


def labels(count: int, seed: int = 0, temperature: float = 2.0) -> list[Label]:
    """Labels of a judge that is too sure by `temperature`."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        z = chance.gauss(0, 5)
        rows.append(label(number, z, "a" if chance.random() < probability(z, temperature) else "b"))
    return rows


def written(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def label_run(folder: Path, rows: list[Label]) -> Path:
    """A folder as cai label leaves it."""
    written(folder / "labels.jsonl", [row.model_dump(mode="json") for row in rows])
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": {"command": "label", "binding": BINDING}}))
    return folder


def read(*rows: Any) -> CalibrationReport:
    return calibrate_judge(rows)


def plain(**human: Any) -> Row:
    return {"p_a": 0.9, **human}


# Shapes of rows


@pytest.mark.parametrize(
    "message", [{"p_a": 0.8}, {"p": 0.8}, {"prob": "0.8"}, {"prob": [0.8, 0.2]}, {"probs": [0.8, 0.199]}]
)
def test_a_probability_may_be_written_in_several_ways(message: Row) -> None:
    [row] = read({**message, "human": "a"}).rows
    assert row.z == pytest.approx(math.log(4), abs=0.01)
    assert row.truth


@pytest.mark.parametrize(
    ("human", "truth"),
    [
        ({"human": "a"}, True),
        ({"label": "B"}, False),
        ({"gold": "first"}, True),
        ({"gold": " Second "}, False),
        ({"preferences": {"human": 1}}, True),
        ({"preferences": {"human": 2}}, False),
        ({"label": "2"}, False),
        ({"label": 2.0}, False),
        ({"label": True}, True),
        ({"human": False}, False),
        ({"human": "False"}, False),
        ({"winner": "model_b"}, False),
        ({"human": "tie"}, 0.5),
        ({"label": "Draw"}, 0.5),
        ({"gold": "½"}, 0.5),
        ({"label": 0.5}, 0.5),
        ({"winner": "tie (bothbad)"}, 0.5),
    ],
)
def test_a_human_label_may_be_written_in_several_ways(human: Row, truth: float) -> None:
    assert read(plain(**human)).rows[0].truth == truth


def test_numbers_count_replies_from_one() -> None:
    result = read(plain(label=1), plain(label=2))
    assert [row.truth for row in result.rows] == [True, False]
    assert "human labels are read as: 1 is the first reply, 2 the second" in result.notes


def test_zero_is_a_tie_where_one_and_two_are_replies() -> None:
    result = read(plain(label=1), plain(label=2), plain(label=0), plain(label="0.0"))
    assert [row.truth for row in result.rows] == [1, 0, 0.5, 0.5]
    assert "human labels are read as: 1 is the first reply, 2 the second, 0 a tie" in result.notes
    result = read(plain(preferences={"human": 2}), plain(preferences={"human": 1}), plain(preferences={"human": 0}))
    assert [row.truth for row in result.rows] == [0, 1, 0.5]


@pytest.mark.parametrize("name", ["label", "human", "gold", "winner"])
@pytest.mark.parametrize("judged", [{"p": 0.7}, {"probs": [0.7, 0.3]}])
def test_zero_and_one_beside_columns_that_end_so_name_their_replies(name: str, judged: dict[str, Any]) -> None:
    rows: list[Any] = [{**judged, "response_0": "x", "response_1": "y", name: value} for value in (0, 1, "1.0", "tie")]
    assert [row.truth for row in read(*rows).rows] == [1, 0, 0, 0.5]
    [first, second] = [pair_of({"prompt": "q?", **row}).human for row in rows[:2]]
    assert (first, second) == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        (("output_1", "output_2"), [0, 1]), (("answer_1", "answer_2"), [1, 1, 0]), (("text1", "text2"), ["0", 1]),
        (("response_0", "response_1"), [1, 2]), (("answer_0", "answer_1"), [2, 1, 0]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("judged", [{"p": 0.7}, {"probs": [0.7, 0.3]}])
def test_numbers_that_are_not_those_of_the_columns_are_refused(
    columns: tuple[str, str], labels: list[Any], judged: Row
) -> None:
    first, second = columns
    with pytest.raises(InputError, match="so a 1 may be either reply: write a or b"):
        read(*({**judged, first: "x", second: "y", "label": label} for label in labels))


@pytest.mark.parametrize(
    ("row", "truth"),
    [
        ({"response_a": "x", "response_b": "y", "winner": "response_b"}, 0),
        ({"response_a": "x", "response_b": "y", "winner": "n", "model_a": "m", "model_b": "n"}, 0),
        ({"output_1": "x", "output_2": "y", "generator_1": "m", "generator_2": "n", "preference": "m"}, 1),
        ({"output_1": "x", "output_2": "y", "preference": 1.0}, 1),
        ({"response_0": "x", "response_1": "y", "better_response_id": 1}, 0),
        ({"response1": "x", "response2": "y", "overall_preference": -2}, 1),
        ({"response_a": "x", "response_b": "y", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, 0.5),
        ({"human_ref_A": "x", "human_ref_B": "y", "labels": 1}, 1),
        ({"response_A": "x", "response_B": "y", "label": "B>A"}, 0),
    ],
)
def test_a_calibration_reads_the_labels_that_pairs_have(row: Row, truth: float) -> None:
    assert [judged.truth for judged in read(plain(**row)).rows] == [truth]
    assert pair_of({"prompt": "q?", **row}).human == {0: "b", 1: "a", 0.5: "tie"}[truth]


@pytest.mark.parametrize("one", [0.9, 0.977, 1.0, 1.04, 1.1])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_two_probabilities_that_nearly_add_up_are_normalised_with_a_note(one: float, share: float) -> None:
    result = read({"probs": [one * share, one * (1 - share)], "human": "a"})
    assert result.ps == [pytest.approx(share, abs=1e-12)]
    notes = [note for note in result.notes if "missed 1 in the sum" in note]
    assert len(notes) == (abs(one - 1) > 0.01)


def test_rows_whose_probabilities_do_not_add_up_are_dropped_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"probs": [0.8, 0.2], "human": "a"},
        {"probs": [0.4, 0.1], "human": "b"},
        {"prob": [0.7, 0.9], "human": "a"},
    ]
    result = calibrate_judge(written(tmp_path / "rows.jsonl", rows))
    assert result.metrics.n == 1
    assert any(note.startswith("2 rows dropped: line 2: 'probs' is [0.4, 0.1], which do") for note in result.notes)
    with pytest.raises(InputError, match=r"no row can be compared: .* 1 were dropped \(line 1: 'probs' is"):
        read(rows[1])


def test_zero_and_one_are_places_in_a_pair_of_probabilities() -> None:
    result = read({"probs": [0.9, 0.1], "label": 0}, {"probs": [0.9, 0.1], "label": 1})
    assert [row.truth for row in result.rows] == [True, False]


def test_one_is_what_a_single_probability_is_of() -> None:
    result = read(plain(label=0), plain(label=1))
    assert [row.truth for row in result.rows] == [False, True]
    assert any("1 says that the first reply is better" in note for note in result.notes)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([plain(label=1), plain(label=1)], "every human label is 1, which may count from 0 or from 1"),
        ([plain(label=0), plain(label=2)], "count both from 0 and from 1"),
        ([plain(human="a"), plain(preferences={"human": 0})], "count both from 0 and from 1"),
        (
            [plain(human="a"), {"p_a": 0.2}],
            "2: no human label: expected one of human, label, gold, winner, preferences",
        ),
        ([plain(human="a", label="a")], "1: human and label could both be the human label: keep one"),
        ([plain(human="a", p=0.2)], "1: p_a and p could both be the probability"),
        (
            [{"human": "a", "score": 3}],
            "1: no probability that the first reply is better: expected one of p_a, p, prob",
        ),
        ([plain(human="unsure")], "'human' is 'unsure', not a or b, first or second, 1 or 2, true or false, tie; null"),
        ([plain(human=[1])], r"'human' is \[1\]"),
        ([plain(human=3)], "'human' is 3"),
        ([{"p_a": 1.2, "human": "a"}], "'p_a' is 1.2, not a probability"),
        ([{"p_a": "much", "human": "a"}], "'p_a' is 'much', not a probability"),
        ([{"p_a": True, "human": "a"}], "'p_a' is True"),
        ([{"probs": [0.4, 0.1], "human": "a"}], "'probs' is .0.4, 0.1., which do not add up to 1"),
        ([{"probs": [0.2, 0.3, 0.5], "human": "a"}], "'probs' has 3 numbers, not two"),
        (
            [plain(human="a"), {"probs": [0.2, 0.8], "human": "a"}],
            "one probability in some rows .line 1., two in others",
        ),
        ([plain(human="a", a="x", b=1)], "the replies are not two texts"),
        ([plain(human="a", a="x", b="y", replies=["x", "y"])], "two pairs of replies"),
        ([plain(preferences={"gpt": 1})], "'preferences' has no 'human'"),
        (["a"], "is of type str, not an object"),
        ([{"z": 1.0, "votes": [], "human": "a"}], "looks like a row of labels.jsonl, but"),
        ([label(0, math.inf, "a")], "z is inf"),
        ([label(0, 1.0, "a"), plain(human="a")], "2: rows of labels.jsonl and other rows are mixed"),
        ([label(0, 1.0, "a"), label(1, 1.0, "a", protocol="score")], "protocol is 'score', but 'logprob' in line 1"),
        ([label(0, 1.0, "a"), label(1, 1.0, "a", models={"judge": "big"})], "judge model is 'big', but 'small-0'"),
        ([label(0, 1.0, "a"), label(1, 1.0, "a", votes=())], "principles is 0, but 1 in line 1"),
        (
            [plain(human=None), {"p_a": None, "human": "a"}],
            "no row can be compared: 1 have no human label, 1 have no valid",
        ),
    ],
)
def test_a_row_that_could_mean_two_things_or_none_is_an_error(tmp_path: Path, rows: list[Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(*rows)
    if all(isinstance(row, dict) for row in rows):
        path = written(tmp_path / "rows.jsonl", rows)
        with pytest.raises(InputError, match=problem) as raised:
            calibrate_judge(path)
        assert str(raised.value).startswith(str(path))


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"p_a": 0.5, "human": "a"}\n{"p_a"\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not JSON"):
        calibrate_judge(path)


def test_rows_without_a_vote_or_a_human_label_are_counted() -> None:
    result = read(plain(human="a"), plain(human=None), plain(human=""), {"p_a": None, "human": "b"})
    assert (result.metrics.n, result.unlabelled, result.invalid) == (1, 2, 1)
    result = read(plain(human="a"), {"p_a": "", "human": "b"}, {"p_a": float("nan"), "human": "b"})  # empty cells
    assert (result.metrics.n, result.invalid) == (1, 2)
    result = read(label(0, 1.0, "a"), label(1, None, "a"), label(2, 1.0, None))
    assert (result.metrics.n, result.unlabelled, result.invalid) == (1, 1, 1)


@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_swapped_rows_mirror_to_the_last_bit(one: float, two: float, truth: bool) -> None:
    pair = [one, 1 - one] if one + two == 0 or abs(one + two - 1) > 0.01 else [one, two]
    said = "a" if truth else "b"
    swapped = "b" if truth else "a"
    [row] = read({"probs": pair, "human": said}).rows
    [other] = read({"probs": pair[::-1], "human": swapped}).rows
    if pair[0] != pair[1]:
        assert (row.z, row.truth) == (-other.z, not other.truth)


def test_all_files_that_prompts_may_have_can_be_read(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("p_a,human\n0.9,a\n0.2,a\n")
    packed = tmp_path / "rows.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.write('{"p_a": 0.9, "human": "a"}\n{"p_a": 0.2, "human": "a"}\n')
    assert calibrate_judge(table).metrics == calibrate_judge(packed).metrics == calibrate_judge(str(packed)).metrics


# Trivial judges


def test_trivial_judges_read_nothing() -> None:
    said = trivial_guesses(("A long reply.", "I’m sorry, but I won’t."))
    assert said == {"always_first": 1, "longer": 0, "shorter": 1, "not_refusing": 1}
    said = trivial_guesses(("Same", "size"))
    assert said == {"always_first": 1, "longer": 0.5, "shorter": 0.5, "not_refusing": 0.5}
    assert trivial_guesses(None) == {"always_first": 1}
    assert all(word == word.casefold() for word in REFUSAL_WORDS)


def test_trivial_judges_stand_beside_the_judge_where_texts_are_known() -> None:
    rows = [plain(human="a", output_1="longer", output_2="long"), plain(human="b", output_1="longer", output_2="long")]
    result = read(*rows, plain(human="a", replies=["same", "size"]), plain(human="a"))
    assert {name: (judge.accuracy, judge.n) for name, judge in result.baselines.items()} == {
        "always_first": (0.75, 4),
        "longer": (0.5, 3),
        "shorter": (0.5, 3),
        "not_refusing": (0.5, 3),
    }
    lines = "\n".join(result.lines())
    assert "the longer reply      50.0%  on 3 pairs whose texts are known" in lines
    assert list(read(plain(human="a")).baselines) == ["always_first"]


def test_a_judge_that_a_trivial_one_equals_is_told_so() -> None:
    result = calibrate_judge([{"p_a": 0.6, "human": "a", "a": "longer", "b": "short"} for _ in range(60)])
    assert any("not clearly better than a trivial one: always the first (100.0%)" in note for note in result.notes)


# The report


def test_the_temperature_is_fitted_on_all_rows_and_shown_on_rows_it_was_not_fitted_on() -> None:
    result = calibrate_judge(labels(1000))
    made = result.calibration
    assert made.temperature == pytest.approx(2, rel=0.15)
    assert made.before is not None
    assert made.after is not None
    assert made.before == result.metrics
    assert made.after.nll < made.before.nll
    assert made.after.ece < made.before.ece
    assert made.after.accuracy == made.before.accuracy
    at_once = [probability(row.z, made.temperature) for row in result.rows]
    assert result.held_out is not None
    assert (
        len({round(math.log(p / (1 - p)) / row.z, 9) for p, row in zip(result.held_out, result.rows, strict=True)}) == 5
    )
    assert list(result.held_out) != at_once


def test_the_temperature_a_label_was_made_with_does_not_count() -> None:
    rows = labels(200)
    other = [row.model_copy(update={"temperature": None, "p_a": 0.5}) for row in rows]
    assert calibrate_judge(rows).calibration == calibrate_judge(other).calibration


def test_the_order_of_rows_does_not_matter() -> None:
    rows = labels(300)
    there, back = calibrate_judge(rows).calibration, calibrate_judge(rows[::-1]).calibration
    assert back.temperature == pytest.approx(there.temperature)
    for target, at in there.thresholds.items():
        other = back.thresholds[target]
        assert (at and at.confidence) == (other and other.confidence)
    assert there.after is not None
    assert back.after is not None
    assert back.after.nll == pytest.approx(there.after.nll)


def test_pairs_of_one_prompt_are_held_out_together() -> None:
    rows = [row.model_copy(update={"prompt_id": f"q{row.position % 4}"}) for row in labels(200)]
    result = calibrate_judge(rows)
    assert result.held_out is None  # four prompts do not make five folds
    assert any("200 pairs of 4 prompts" in note for note in result.notes)
    assert not any("independent" in note for note in calibrate_judge(labels(200)).notes)
    assert result.calibration.before is result.calibration.after is None
    assert result.summary()["held_out"] is None
    assert not any("held out" in line for line in result.lines())


@pytest.mark.parametrize(
    ("row", "dependent"),
    [
        ({"prompt": "What is the capital of France?"}, True),
        ({"prompt": "What is the capital of France?", "id": "r{n}"}, True),
        ({"prompt_id": "q", "id": "r{n}"}, True),
        ({"prompt": "Question {n}?", "id": ""}, False),
        ({"id": ""}, False),
        ({"id": float("nan")}, False),
    ],
)
def test_gold_pairs_of_one_prompt_are_known_by_its_text_too(row: Row, dependent: bool) -> None:
    rows = []
    for n in range(60):
        texts = {name: value.format(n=n) if isinstance(value, str) else value for name, value in row.items()}
        rows.append({**texts, "p_a": 0.6 + n / 200, "human": "a"})
    notes = read(*rows).notes
    assert any("60 pairs of 1 prompt" in note for note in notes) == dependent


def test_the_summary_has_the_keys_that_scripts_read() -> None:
    result = json.loads(json.dumps(calibrate_judge(labels(400)).summary()))
    assert {"n", "accuracy", "ece", "brier", "nll", "auroc", "temperature", "coverage", "thresholds"} <= set(result)
    assert {"kappa", "interval", "baselines", "held_out", "invalid", "unlabelled"} <= set(result)
    assert list(result["coverage"]) == ["0.5", "0.6", "0.7", "0.8", "0.9", "0.95"]
    assert result["coverage"]["0.5"] == {"coverage": 1.0, "accuracy": result["accuracy"]}
    assert list(result["thresholds"]) == [str(target) for target in TARGETS]
    assert {"lambda", "coverage", "upper_bound", "n", "errors"} <= set(result["thresholds"]["0.7"])
    assert set(result["held_out"]) == {"before", "after"}


def test_a_coin_flip_judge_is_certified_nothing_and_is_told_so() -> None:
    chance = random.Random(0)
    result = calibrate_judge([label(n, chance.gauss(0, 5), chance.choice("ab")) for n in range(300)])
    assert result.summary()["thresholds"]["0.85"] is None
    lines = list(result.lines())
    assert any("at least 0.85" in line and "no threshold can be certified" in line for line in lines)
    assert any("not clearly better than a trivial one" in line for line in lines)


def test_few_pairs_and_bounds_are_told() -> None:
    result = read(plain(human="a"), plain(human="a"))
    assert any("2 pairs are too few for a temperature" in note for note in result.notes)
    assert any(
        "at the bound of what is tried (0.05): the labels are right far more often" in note for note in result.notes
    )
    result = read(plain(human="b"), plain(human="b"))
    assert any("(100): its confidences say nothing here" in note for note in result.notes)
    assert result.calibration.notes == result.notes


def test_a_calibration_of_few_pairs_or_at_a_bound_is_not_to_be_trusted() -> None:
    assert list(weaknesses(calibrate_judge(labels(FEW)).calibration)) == []
    [few] = weaknesses(calibrate_judge(labels(FEW - 1)).calibration)
    assert "49 pairs are too few" in few
    for human in "ab":
        [bound] = weaknesses(calibrate_judge([plain(human=human)] * FEW).calibration)
        assert bound.startswith("the temperature is at the bound")


def test_lines_state_the_promise_and_an_empty_level() -> None:
    lines = list(read({"p_a": 0.8, "human": "a"}, {"p_a": 0.7, "human": "b"}).lines())
    assert any("at most 0.1 (delta), and holds for pairs drawn like the gold pairs" in line for line in lines)
    assert any(line.split() == ["at", "least", "0.9", "0.0%", "–"] for line in lines)


# calibration.json


def test_a_calibration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = label_run(tmp_path / "run", labels(300))
    report = calibrate_judge(run)
    assert report.save(tmp_path / "new" / "out", plots=False) == [FILE]
    assert load_calibration(tmp_path / "new" / "out") == report.calibration
    assert load_calibration(tmp_path / "new" / "out" / FILE) == report.calibration
    assert report.calibration.binding == Binding.model_validate(BINDING)
    assert calibrate_judge(run / "labels.jsonl").calibration == report.calibration


def test_a_calibration_speaks_of_the_judge_it_was_made_from(tmp_path: Path) -> None:
    made = calibrate_judge(label_run(tmp_path / "run", labels(60))).calibration
    assert binding_problems(made, BINDING) == []
    other = BINDING | {"judge": "local:x", "principles": 3, "constitution": {**LAW.model_dump(), "hash": "bad"}}
    assert binding_problems(made, other) == [
        "constitution.hash is 'c0ffee' there, 'bad' now",
        "judge is 'openai:small' there, 'local:x' now",
        "principles is 1 there, 3 now",
    ]


def test_a_calibration_of_others_rows_is_bound_to_nothing() -> None:
    result = calibrate_judge([plain(human="a")])
    assert result.calibration.binding is None
    assert "do not name their judge" in binding_problems(result.calibration, BINDING)[0]
    assert any("cai label --calibration will refuse" in note for note in result.notes)
    bound = calibrate_judge(labels(30), binding=Binding.model_validate(BINDING))
    assert binding_problems(bound.calibration, BINDING) == []


def test_labels_away_from_their_run_are_bound_to_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", [row.model_dump(mode="json") for row in labels(30)])
    assert calibrate_judge(path).calibration.binding is None


@pytest.mark.parametrize("content", ["{", "[]", '{"identity": {"command": "generate"}}'])
def test_a_run_that_does_not_say_whose_labels_it_holds_is_an_error(tmp_path: Path, content: str) -> None:
    run = label_run(tmp_path / "run", labels(30))
    (run / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json (is not that of a label run|is damaged|cannot be read)"):
        calibrate_judge(run)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("temperature: 2", "not JSON"),
        ('{"schema": 2, "shape": "new"}', r"newer cai \(schema 2, this one reads 1\): upgrade"),
        ('{"schema": 1, "n": 3}', "is not a calibration, or damaged"),
        ("[]", "is not a calibration, or damaged"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(InputError, match=problem) as raised:
        load_calibration(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("temperature",), 0.0, "temperature: "),
        (("temperature",), 1e9, "temperature: "),
        (("temperature",), None, "temperature: "),
        (("n",), 0, "n: "),
        (("delta",), 1.0, "delta: "),
        (("thresholds", "0.7", "confidence"), 0.4, "thresholds.0.7.confidence: "),
        (("thresholds", "0.7", "calibrated"), 1.5, "thresholds.0.7.calibrated: "),
        (("thresholds", "0.7", "upper_bound"), -0.1, "thresholds.0.7.upper_bound: "),
        (("thresholds", "0.7", "target"), 0.9, "the threshold for 0.7 is one for 0.9"),
        (("thresholds", "0.7", "errors"), 301, "thresholds.0.7: 301 errors among "),
        (("thresholds", "0.7", "n"), 301, "the threshold for 0.7 keeps 301 of 300 pairs"),
    ],
)
def test_a_calibration_with_a_value_that_cannot_be_is_named(
    tmp_path: Path, place: tuple[str, ...], value: Any, problem: str
) -> None:
    result = calibrate_judge(labels(300)).calibration.model_dump(mode="json")
    *path, last = place
    reduce(getitem, path, result)[last] = value
    (tmp_path / FILE).write_text(json.dumps(result))
    with pytest.raises(InputError) as raised:
        load_calibration(tmp_path)
    assert f"damaged ({problem}" in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        load_calibration(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"is a folder without a labels\.jsonl"):
        calibrate_judge(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        calibrate_judge(tmp_path / "none.jsonl")


# The command


def run(*words: str) -> tuple[str, str]:
    """What a command prints to stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        judge_app(["calibrate", *words], standalone_mode=False)
    for stream in (out, err):
        stream.seek(0)
    return out.read(), err.read()


def test_the_command_prints_the_report(tmp_path: Path) -> None:
    out, err = run(str(label_run(tmp_path / "run", labels(100))))
    assert "agreement with people" in out
    assert err == ""
    assert not (tmp_path / "run" / FILE).exists()


def test_the_command_prints_one_json_document(tmp_path: Path) -> None:
    out, _ = run(str(label_run(tmp_path / "run", labels(100))), "--json", "--delta", "0.2")
    result = json.loads(out)
    assert result["n"] == 100
    assert result["delta"] == 0.2


def test_the_command_writes_calibration_and_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, err = run(str(label_run(tmp_path / "run", labels(100))), "--out", str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [FILE, "reliability.png", "risk-coverage.png"]
    assert "wrote calibration.json, reliability.png, risk-coverage.png" in err
    assert "wrote" not in out


def test_without_matplotlib_the_command_stops_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *given: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtra, match=r"pip install 'cai-toolkit\[plot\]'"):
        run("no such file", "--out", str(tmp_path / "out"))
    source = label_run(tmp_path / "run", labels(100))
    run(str(source), "--out", str(tmp_path / "out"), "--no-plots")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FILE]
    run(str(source))


def test_a_delta_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaiError, match="between 0 and 1"):
        run(str(label_run(tmp_path / "run", labels(60))), "--delta", "2")


def test_an_out_that_cannot_be_is_refused(tmp_path: Path) -> None:
    source = label_run(tmp_path / "run", labels(60))
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*out: .*; choose another --out"):
        run(str(source), "--out", str(tmp_path / "out"), "--no-plots")


# Real judgements


@pytest.mark.shared_data
def test_the_golden_numbers_come_out_of_the_command() -> None:
    result = json.loads(run(str(shared("judge_probs_gpt4turbo.jsonl.gz")), "--json")[0])
    assert result["n"] == 500
    assert result["accuracy"] == pytest.approx(0.784, abs=5e-4)
    assert result["ece"] == pytest.approx(0.133, abs=5e-4)
    assert result["brier"] == pytest.approx(0.163, abs=5e-4)
    assert result["auroc"] == pytest.approx(0.764, abs=5e-4)
    assert result["coverage"]["0.9"] == {
        "coverage": pytest.approx(0.72, abs=0.005),
        "accuracy": pytest.approx(0.873, abs=5e-4),
    }
    assert 2.7 < result["temperature"] < 4.9
    assert result["held_out"]["after"]["ece"] < 0.06
    at80, at85 = result["thresholds"]["0.8"], result["thresholds"]["0.85"]
    assert (at80["lambda"], at80["coverage"]) == (pytest.approx(0.68, abs=0.01), pytest.approx(0.88, abs=0.005))
    assert (at85["lambda"], at85["coverage"]) == (pytest.approx(0.915, abs=0.005), pytest.approx(0.71, abs=0.005))
    assert result["baselines"]["longer"]["accuracy"] == pytest.approx(0.646, abs=0.002)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "share"), [("natural", 0.566), ("neighbor", 0.119)])
def test_the_longer_reply_wins_as_often_as_llmbar_says(name: str, share: float) -> None:
    lines = shared(f"llmbar_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) | {"p_a": 0.5} for line in lines]
    assert calibrate_judge(rows).baselines["longer"].accuracy == pytest.approx(share, abs=0.006)
