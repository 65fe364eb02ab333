"""The suite `preference`: win rates, early stops, human labels, equal length, ratings and the best of several."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from evaluations import Ask, asking, lines_of
from players import Player, digits
from steady import Steady
from trial_judges import Judge, fair

import cai
import cai.models
from cai.errors import CaiError
from cai.evaluation.arena.figures import Evaluation
from cai.folder.lines import read_drops
from cai.judge.gold import random_order
from cai.models import Provider
from cai.records import Completion
from cai.viewer.labelling import Labelling

Rows = list[dict[str, Any]]


@pytest.fixture
def many(server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Evaluates on 60 prompts."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return asking(server, tmp_path, [f"Question {number}: what helps?" for number in range(60)])


def to_label(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / "to-label.jsonl").read_text().splitlines()]


def labelled(folder: Path, rows: Rows, label: Callable[[dict[str, Any]], str]) -> Path:
    """A gold file in which a person labels these rows."""
    path = folder / "gold.jsonl"
    path.write_text("".join(json.dumps(row | {"human": label(row)}) + "\n" for row in rows))
    return path


def verdicts(folder: Path) -> dict[str, str]:
    """The better reply of each pair by its key, as the judge saw it."""
    lines = (folder / "labels" / "labels.jsonl").read_text().splitlines()
    return {label["key"]: label["a" if label["p_a"] > 0.5 else "b"] for label in map(json.loads, lines)}


def agreeing(folder: Path) -> Callable[[dict[str, Any]], str]:
    """A person who says what the judge says."""
    better = verdicts(folder)
    return lambda row: "a" if better[row["key"]] == row["a"] else "b"


def disagreeing(folder: Path) -> Callable[[dict[str, Any]], str]:
    """A person who says the opposite."""
    better = verdicts(folder)
    return lambda row: "b" if better[row["key"]] == row["a"] else "a"


# Early stops


def test_an_evaluation_stops_once_it_is_decided_and_leaves_out_what_was_on_its_way(many: Ask, tmp_path: Path) -> None:
    evaluation = many("openai:one", best_of=4, stop_when_decided=True)
    best = lines_of(evaluation)["win rate", "base, best of 4"]
    assert "decided after" in best.note and "better than BASE" in best.note
    assert best.figure.n < 60 and best.figure.low is not None and best.figure.low > 0.5


@pytest.fixture
def duel(monkeypatch: pytest.MonkeyPatch, judged: Callable[..., Judge], tmp_path: Path) -> Ask:
    """Evaluates `plays:good` against `plays:plain` on 200 prompts; the judge prefers the good reply each time."""
    judged(fair)
    worths = {"good": "+1", "plain": "+0"}

    def player(name: str, connection: Any) -> Player:
        return Player(lambda payload: Completion(f"{worths[name]} {digits(payload)}", "stop", name), name, seeds=True)

    monkeypatch.setitem(cai.models.PROVIDERS, "plays", Provider(player, "plays:NAME", free=True))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {number}?"}) + "\n" for number in range(200)))

    def evaluate(**settings: Any) -> Evaluation:
        values = {"judge": "fake:judge", "suite": "preference", "principles": 1, "out": tmp_path / "out", **settings}
        return cai.evaluate("plays:good", "plays:plain", prompts, stop_when_decided=True, **values)

    return evaluate


def test_no_further_prompt_is_asked_once_it_is_decided(duel: Ask, tmp_path: Path) -> None:
    evaluation = duel()
    asked = len((tmp_path / "out" / "replies" / "candidates.jsonl").read_bytes().splitlines())
    line = lines_of(evaluation)["win rate", "good"]
    assert (asked, line.figure.n) == (32, 15) and "better than BASE" in line.note
    assert line.figure.low is not None and line.figure.low > 0.5
    again = duel()
    assert (again.results, again.usage) == (evaluation.results, evaluation.usage)


def test_a_decision_that_is_not_reached_asks_all_prompts(
    duel: Ask, tmp_path: Path, judged: Callable[..., Judge]
) -> None:
    judged(lambda question, first, second: 0.0)
    evaluation = duel(limit=70)
    assert len((tmp_path / "out" / "replies" / "candidates.jsonl").read_bytes().splitlines()) == 70
    assert "not decided by all prompts" in lines_of(evaluation)["win rate", "good"].note


def test_the_order_of_prompts_is_drawn_from_the_seed_and_not_that_of_the_file(many: Ask, tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        many("openai:one", stop_when_decided=True, seed=seed, limit=20, out=f"s{seed}")
        lines = (tmp_path / f"s{seed}" / "prompts.jsonl").read_text().splitlines()
        orders.append([json.loads(line)["prompt"][0]["content"] for line in lines])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])


def test_records_that_are_no_prompts_are_left_out_with_their_reasons(many: Ask, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"no": "prompt"}\n' + file.read_text() + "not JSON\n")
    many("openai:one", stop_when_decided=True)
    kept = (tmp_path / "out" / "prompts.jsonl").read_bytes().splitlines()
    drops = list(read_drops(tmp_path / "out"))
    assert len(kept) == 60 and [(drop.stage, drop.reason, drop.line) for drop in drops] == [
        ("source", "bad_input", 1), ("source", "bad_input", 62)
    ]  # fmt: skip


def test_an_early_stop_that_was_killed_resumes_on_the_same_prompts(many: Ask, tmp_path: Path) -> None:
    first = many("openai:one", stop_when_decided=True, limit=20)
    assert many("openai:one", stop_when_decided=True, limit=20).results == first.results
    with pytest.raises(CaiError, match="holds an evaluation on other prompts"):
        many("openai:one", stop_when_decided=True, limit=19)


# Human labels


def test_people_are_asked_about_a_random_draw_without_being_told_who_wrote_what(many: Ask, tmp_path: Path) -> None:
    many("openai:one")
    rows = to_label(tmp_path / "out")
    assert [row["key"] for row in rows] == random_order([row["key"] for row in rows], 0)
    assert all(row.keys() == {"key", "id", "prompt", "a", "b", "human"} and row["human"] is None for row in rows)
    labels = [json.loads(line) for line in (tmp_path / "out" / "labels" / "labels.jsonl").read_text().splitlines()]
    sides = {row["key"]: row["a"] for row in rows}
    of_base = sum(sides[label["key"]] == label["a"] for label in labels if label["key"] in sides)
    assert len(rows) // 4 < of_base < 3 * len(rows) // 4


def test_the_bias_is_what_is_between_the_two_figures_whichever_replies_have_labels(many: Ask, tmp_path: Path) -> None:
    many("openai:one", n=3)
    draw = random.Random(1)
    gold = labelled(tmp_path, to_label(tmp_path / "out")[:24], lambda row: draw.choice("ab"))
    lines = lines_of(many("openai:one", n=3, gold=gold))
    judge, corrected = (lines[measure, "one"] for measure in ("win rate", "win rate, corrected by people"))
    assert judge.figure.value is not None and corrected.figure.value is not None
    bias = 100 * (judge.figure.value - corrected.figure.value)
    assert f"bias of the judge {bias:+.1f} points" in corrected.note


def test_labels_that_agree_with_the_judge_show_no_bias(many: Ask, tmp_path: Path) -> None:
    plain = lines_of(many("openai:one"))["win rate", "one"].figure
    gold = labelled(tmp_path, to_label(tmp_path / "out")[:40], agreeing(tmp_path / "out"))
    evaluation = many("openai:one", gold=gold)
    corrected = lines_of(evaluation)["win rate, corrected by people", "one"]
    assert evaluation.evaluator is not None and evaluation.evaluator.accuracy is not None
    assert evaluation.evaluator.accuracy.value == 1.0 and evaluation.evaluator.accuracy.n == 40
    assert corrected.figure.value == pytest.approx(plain.value, abs=0.01) and "bias of the judge" in corrected.note


def test_labels_against_the_judge_turn_its_figure_round(many: Ask, tmp_path: Path) -> None:
    plain = lines_of(many("openai:one"))["win rate", "one"].figure
    gold = labelled(tmp_path, to_label(tmp_path / "out")[:50], disagreeing(tmp_path / "out"))
    corrected = lines_of(many("openai:one", gold=gold))["win rate, corrected by people", "one"].figure
    assert plain.value is not None and corrected.value is not None
    assert corrected.value == pytest.approx(1 - plain.value, abs=0.1)


def test_votes_in_a_viewer_are_gold_of_an_evaluation(many: Ask, tmp_path: Path) -> None:
    many("openai:one")
    labelling = Labelling(tmp_path / "out" / "labels", annotator="ann")
    label = agreeing(tmp_path / "out")
    for _ in range(30):
        pair = labelling.ask("random")
        assert pair is not None
        side = label({"key": pair["key"], "a": pair["first"]})
        labelling.vote(pair["key"], "random", {"a": "first", "b": "second"}[side])
    evaluation = many("openai:one", gold=labelling.path)
    assert evaluation.evaluator is not None and evaluation.evaluator.accuracy is not None
    assert (evaluation.evaluator.accuracy.value, evaluation.evaluator.accuracy.n) == (1.0, 30)


def picked(rows: Rows) -> Rows:
    return random.Random(1).sample(rows, 20)


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (lambda rows: rows[30:50], "is not a random draw: 20 of 20 pairs"),
        (picked, "is not a random draw"),
        (lambda rows: [row | {"queue": "disputed"} for row in rows[:20]], "pairs of the queue disputed"),
        (lambda rows: [row | {"a": row["a"] + "!"} for row in rows[:20]], "labels no pair of this evaluation"),
    ],
)
def test_gold_that_is_no_random_draw_of_these_pairs_is_refused(
    many: Ask, tmp_path: Path, choose: Callable[[Rows], Rows], said: str
) -> None:
    many("openai:one")
    gold = labelled(tmp_path, choose(to_label(tmp_path / "out")), agreeing(tmp_path / "out"))
    with pytest.raises(CaiError) as error:
        many("openai:one", gold=gold)
    assert said in str(error.value)


def test_people_may_skip_a_few_pairs_and_rows_may_say_that_they_were_drawn_otherwise(many: Ask, tmp_path: Path) -> None:
    many("openai:one")
    rows = to_label(tmp_path / "out")
    skipping = labelled(
        tmp_path, [row for number, row in enumerate(rows[:40]) if number not in (3, 17)], agreeing(tmp_path / "out")
    )
    assert many("openai:one", gold=skipping).evaluator is not None
    drawn = labelled(tmp_path, [row | {"queue": "random"} for row in picked(rows)], agreeing(tmp_path / "out"))
    assert ("win rate, corrected by people", "one") in lines_of(many("openai:one", gold=drawn))


def test_several_people_count_as_their_mean(many: Ask, tmp_path: Path) -> None:
    many("openai:one")
    rows = to_label(tmp_path / "out")[:30]
    gold = labelled(tmp_path, rows, agreeing(tmp_path / "out"))
    one = gold.read_text()
    gold.write_text(one + one.replace('"human": "a"', '"human": "x"').replace('"human": "b"', '"human": "a"').replace(
        '"human": "x"', '"human": "b"'
    ))  # fmt: skip
    evaluation = many("openai:one", gold=gold)
    assert evaluation.evaluator is not None and evaluation.evaluator.accuracy is not None
    assert evaluation.evaluator.accuracy.value == 0.5


# Several models


def test_three_contestants_are_rated_with_base_at_zero(ask: Ask) -> None:
    lines = lines_of(ask("openai:one", "openai:two"))
    assert [lines["Elo", name].figure.value is not None for name in ("base", "one", "two")] == [True] * 3
    assert lines["Elo", "base"].figure.value == 0.0 and lines["Elo", "base"].difference is None
    assert lines["Elo", "one"].difference == lines["Elo", "one"].figure


def test_two_models_against_one_base_are_compared_by_prompt(ask: Ask) -> None:
    lines = lines_of(ask("openai:one", "openai:two"))
    both = [lines["win rate", name].figure.value or 0.0 for name in ("one", "two")]
    assert lines["win rate less that of one", "two"].figure.value == pytest.approx(both[1] - both[0])


def test_every_pair_of_contestants_is_judged_once(ask: Ask, tmp_path: Path) -> None:
    ask("openai:one", "openai:two", n=2)
    labels = [json.loads(line) for line in (tmp_path / "out" / "labels" / "labels.jsonl").read_text().splitlines()]
    expected = {(f"sample {x + i}", f"sample {y + i}") for x, y in combinations((0, 2, 4), 2) for i in (0, 1)}
    assert {(label["a_from"], label["b_from"]) for label in labels} == expected
    assert len(labels) == 12 * len(expected)


# Odd replies


def test_replies_that_cannot_be_used_are_counted_and_not_compared(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    texts = [f"Question {number} [sometimes truncated]" for number in range(20)]
    evaluation = asking(server, tmp_path, texts)("openai:one")
    [result] = evaluation.results
    pairs = result.details["pairs"]["one"]["pairs"]
    assert 0 < pairs < 20 and lines_of(evaluation)["win rate", "one"].figure.n == pairs
    assert any("of one cannot be used" in warning for warning in result.warnings)
    lost = [warning for warning in result.warnings if "no model has a usable reply" in warning]
    rows = len((tmp_path / "out" / "replies" / "candidates.jsonl").read_bytes().splitlines())
    assert [warning.rpartition(": ")[2] for warning in lost] == [f"{20 - rows} truncated"] * (rows < 20)


def test_one_prompt_has_a_figure_without_an_interval_and_says_why(ask: Ask) -> None:
    evaluation = ask("openai:one", limit=1)
    line = lines_of(evaluation)["win rate", "one"]
    assert line.figure.value in (0.0, 1.0) and line.figure.low is None and "no interval" in line.note
    assert "cannot show any difference" in evaluation.results[0].facts[0]
