"""Rows under principles: one for each principle and pair, with its own probability, from labels or from a column."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_labels import A, B, label, swapped, vote
from trainings import said, write_lines

from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.errors import InputError, UsageError
from cai.sources.values import BadRecord
from cai.training.data.conditioned import UnderPrinciples, under_principles
from cai.training.data.dataset import load_rows
from cai.training.data.rows import TrainingRow
from cai.training.setup.config import load_config
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS

LAW = Constitution.model_validate(
    {
        "name": "two",
        "version": "1.0.0",
        "principles": [{"id": "kind", "text": "Be kind."}, {"id": "short", "choose": "Choose the shorter reply."}],
    }
)
TOLD = {
    "kind": "The principle by which the last reply is judged: Be kind.",
    "short": "The principle by which the last reply is judged: Choose the shorter reply.",
}
VOTES = st.lists(st.floats(0.001, 30) | st.floats(-30, -0.001), min_size=2, max_size=2)


def judged(*votes: Any, law: Constitution = LAW, **more: Any) -> dict[str, Any]:
    """A label under this constitution."""
    return label(votes=list(votes), constitution=law.ref.model_dump(), **more)


def rows(record: Any, law: Constitution | None = LAW) -> list[TrainingRow]:
    """The rows of a record that gives nothing else."""
    made = UnderPrinciples(law).rows_of(record, 1, "reward")
    assert all(isinstance(row, TrainingRow) for row in made)
    return [row for row in made if isinstance(row, TrainingRow)]


def refused(record: Any, law: Constitution | None = LAW) -> tuple[str, str]:
    """Why a record gives no row: in words, and the reason."""
    with pytest.raises(BadRecord) as caught:
        [made] = UnderPrinciples(law).rows_of(record, 1, "reward")
        raise made if isinstance(made, BadRecord) else AssertionError(made)
    return caught.value.problem, caught.value.reason


# Labels


def test_a_label_is_a_row_under_each_principle_with_what_the_judge_makes_of_it_there() -> None:
    kind, short = rows(judged(vote(2.0, principle="kind"), vote(-1.0, principle="short")))
    assert (kind.id, kind.reply, kind.rejected) == ("q0:0-1:kind", A, B)
    assert (short.id, short.reply, short.rejected) == ("q0:0-1:short", B, A)
    assert (kind.p_chosen, short.p_chosen) == pytest.approx((1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))))
    for row, name in ((kind, "kind"), (short, "short")):
        assert row.prompt[0] == {"role": "system", "content": TOLD[name]}
        assert list(row.prompt[1:]) == said("user", "What about the bees at my pond?")
    assert kind.key == short.key  # one prompt: on one side of a split


@given(VOTES, st.none() | st.floats(0.1, 10))
def test_swapping_the_replies_changes_no_row_and_the_likelier_one_is_chosen(
    ds: list[float], temperature: float | None
) -> None:
    row = judged(*map(vote, ds, (0.0, 0.0), ("kind", "short")), temperature=temperature)
    made = rows(row)
    assert made == rows(swapped(row))
    for each, d in zip(made, ds, strict=True):
        assert each.p_chosen == pytest.approx(1 / (1 + math.exp(-abs(d) / (temperature or 1))))
        assert each.reply == (A if d > 0 else B)


def test_votes_in_words_are_counted_over_their_waves() -> None:
    words = [{**vote(d, principle="kind"), "d": None, "b": None, "wave": wave} for wave, d in enumerate((9.0, 9.0))]
    [row] = rows(judged(*words, protocol="vote"))
    assert row.p_chosen == pytest.approx(4.5 / 5)


def test_principles_without_a_valid_or_a_decided_vote_are_dropped_and_counted() -> None:
    labels = [
        judged(vote(2.0, principle="kind"), vote(0.0, principle="short"), id="one", prompt=said("user", "One?")),
        judged(vote(2.0, principle="kind"), vote(0.0, problem="?", principle="short"), id="two"),
        judged(vote(2.0, principle="other"), id="three"),
    ]
    data = load_rows(labels, "reward", split=1, under=UnderPrinciples(LAW))
    assert [row.id for row in data.train] == ["one:kind", "two:kind"] and data.read == 5
    reasons = [(drop.line, drop.reason) for drop in data.dropped]
    assert reasons == [(1, "low_confidence"), (2, "invalid_vote"), (3, "bad_input")]
    assert data.principles == ("Be kind.",) and "each row is told its principle, one of 1" in data.lines()
    assert data.facts(2, 0, data.dropped)["principles"] == ("Be kind.",)


def test_labels_without_votes_are_told_to_be_labelled_by_another_judge() -> None:
    problem, _ = refused(judged(protocol="reward", rewards=[1.0, 0.0]))
    assert "another judge" in problem


def test_a_row_that_is_no_label_is_told_what_is_wrong() -> None:
    assert "not a row of labels.jsonl (p_a" in refused(judged(vote(1.0, principle="kind"), p_a="much"))[0]


# Which constitution


def test_the_principles_of_a_built_in_constitution_are_found_by_its_hash() -> None:
    law = load_constitution("hhh")
    principle = law.principles_for("judge")[0]
    [row] = rows(judged(vote(1.0, principle=principle.id), law=law), None)
    assert " ".join(str(principle.choose or principle.text).split()) in row.prompt[0]["content"]  # type: ignore[index]


@pytest.mark.parametrize("law", [None, load_constitution("hhh")])
def test_an_unknown_constitution_is_asked_for(law: Constitution | None) -> None:
    with pytest.raises(UsageError, match=r"labels are under two 1\.0\.0 .*name its file with --constitution"):
        rows(judged(vote(1.0, principle="kind")), law)


def test_a_constitution_alone_conditions_nothing() -> None:
    assert under_principles(TrainConfig()) is None
    with pytest.raises(UsageError, match="--condition principle"):
        under_principles(TrainConfig(constitution="hhh"))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"reward"}))
def test_other_methods_take_no_condition(method: str) -> None:
    with pytest.raises(UsageError, match=rf"condition \(flag\) is a setting of reward, not of {method}"):
        load_config(None, {"condition": "principle"}).check(method)


# A column


def pair(**columns: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "prompt": said("user", "Hi?"),
        "chosen": said("assistant", A),
        "rejected": said("assistant", B),
    } | (columns)


def test_a_column_names_the_principle_in_words_or_by_its_id() -> None:
    for value, law in (("Be  kind.\n", None), ("Be kind.", LAW), ("kind", LAW)):
        [row] = rows(pair(principle=value), law)
        assert (row.id, row.reply, row.p_chosen) == ("x", A, None)
        assert row.prompt[0] == {"role": "system", "content": TOLD["kind"]}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({}, "it has no 'principle'"),
        ({"principle": None}, "it has no 'principle'"),
        ({"principle": " "}, "not a text"),
        ({"principle": ["Be kind."]}, "not a text"),
        ({"principle": "polite"}, "a name and says nothing: name its constitution"),
        ({"principle": "Be kind.", "prompt": "Hi?", "chosen": A, "rejected": B}, "plain text"),
    ],
)
def test_a_pair_without_words_for_its_principle_is_told(columns: dict[str, Any], told: str) -> None:
    problem, reason = refused(pair(**columns))
    assert told in problem and reason == "bad_input"


# Runs


def run(folder: Path, command: str) -> Path:
    folder.mkdir()
    identity = {"command": command, "source": {"command": "sample", "run": "0", "n": 2}, "models": ["m"], "n": 2}
    (folder / "run.json").write_bytes(orjson.dumps({"format": 1, "identity": identity, "stopped": None}))
    return folder


def test_a_label_run_is_read_from_its_votes_and_not_from_its_pairs(tmp_path: Path) -> None:
    folder = run(tmp_path / "labels", "label")
    write_lines(folder / "dpo.jsonl", [pair()])
    prompts = [said("user", f"Question {n}?") for n in range(3)]
    labels = [
        judged(vote(1.0, principle="kind"), id=f"q{n}", position=n, prompt=prompt) for n, prompt in enumerate(prompts)
    ]
    write_lines(folder / "labels.jsonl", labels)
    data = load_rows(folder, "reward", split=1, under=UnderPrinciples(LAW))
    assert [row.id for row in data.train] == ["q0:kind", "q1:kind", "q2:kind"]
    assert data.files[0][0] == str(folder / "labels.jsonl")
    with pytest.raises(InputError):  # a single pair
        load_rows(folder, "reward", split=1)


@pytest.mark.parametrize("command", ["generate", "sample"])
def test_a_run_without_votes_is_told_how_to_get_some(tmp_path: Path, command: str) -> None:
    folder = run(tmp_path / "run", command)
    write_lines(folder / "dpo.jsonl", [pair()])
    with pytest.raises(UsageError, match=f"cai label {folder}"):
        load_rows(folder, "reward", under=UnderPrinciples(LAW))


def test_principles_of_rows_that_only_evaluate_are_not_trained_on(tmp_path: Path) -> None:
    train = [pair(id=f"a{n}", prompt=said("user", f"A {n}?"), principle="Be kind.") for n in range(3)]
    held = [pair(id=f"b{n}", prompt=said("user", f"B {n}?"), principle="Be short.") for n in range(3)]
    files = [write_lines(tmp_path / name, lines) for name, lines in (("rows.jsonl", train), ("held.jsonl", held))]
    data = load_rows(files[0], "reward", eval_data=files[1], under=UnderPrinciples())
    assert data.principles == ("Be kind.",) and len(data.eval) == 3
