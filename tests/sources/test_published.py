"""Published sets are read as the tables of docs/prompts.md say, by every command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT
from shape_readers import JUDGING, Record, by_prompts, by_sft, turns_of

from cai.evaluation.bench import _labelled
from cai.judge.majority import People
from cai.records import BadPrompt, Contest
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case, written
from cai.sources.files import read_records
from cai.training.data.rowfile import read_rows

ROW = re.compile(r"^\| ([^|`]+) \| `(\{.*?\})` \| ([^|]+) \| ([^|]+?) \|(?: ([^|]+) \|)?$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "prompts.md").read_text(encoding="utf-8"))
PAIRS = [pytest.param(json.loads(row[1]), *row[2:], id=row[0]) for row in ROWS if row[4]]
SINGLE = [pytest.param(json.loads(row[1]), row[2], row[3], id=row[0]) for row in ROWS if not row[4]]


def conversation(cell: str) -> list[Any]:
    """The turns that a cell of the tables stands for; a first turn of a system begins with "Be"."""
    texts = cell.replace("⏎", "\n").split(" · ")
    turns: list[Any] = [{"role": "system", "content": texts.pop(0)}] if texts[0].startswith("Be ") else []
    for number, text in enumerate(texts):
        turns.append({"role": ("user", "assistant")[number % 2], "content": text})
    return turns


def test_the_tables_have_every_set_that_they_should() -> None:
    names = " ".join(row[0] for row in ROWS)
    for name in (
        "UltraFeedback",
        "HelpSteer 2",
        "HelpSteer 3",
        "Nectar",
        "PKU",
        "SHP",
        "Arena",
        "orca",
        "Alpaca",
        "LMSYS",
    ):
        assert name in names
    assert (len(PAIRS), len(SINGLE)) == (33, 19)


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize(("record", "prompt", "better", "other"), PAIRS)
def test_a_published_pair_is_what_the_page_says(
    record: Record, prompt: str, better: str, other: str, command: str
) -> None:
    if better != "tie":
        assert JUDGING[command](record) == (conversation(prompt), better, other)
        return
    [(_, item)], unlabelled = _labelled([record], People(), None)
    assert isinstance(item, Contest) and (item.human, unlabelled) == ("tie", 0)
    [drop] = read_rows([record], "dpo").drops
    assert drop.reason == "low_confidence"


@pytest.mark.parametrize(("record", "prompt", "better", "other"), PAIRS)
def test_the_prompt_the_audit_and_the_grades_of_a_published_pair(
    record: Record, prompt: str, better: str, other: str
) -> None:
    assert by_prompts(record) == conversation(prompt)
    case = read_case(record)
    assert (case.prompt, {text for _, text in case.replies}) == (written(conversation(prompt)), {"Yes.", "No."})
    graded = [(turns_of(row.prompt), row.reply, row.label) for row in read_rows([record], "kto").rows]
    expected = [(conversation(prompt), better, True), (conversation(prompt), other, False)]
    assert graded == (expected if better != "tie" else [])


@pytest.mark.parametrize(("record", "prompt", "reply"), SINGLE)
def test_a_published_reply_is_what_the_page_says(record: Record, prompt: str, reply: str) -> None:
    assert by_sft(record) == (conversation(prompt), reply)
    assert by_prompts(record) == conversation(prompt)
    assert read_case(record).prompt == written(conversation(prompt))


def test_published_sets_are_the_same_from_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number, param in enumerate([*PAIRS, *SINGLE]):
        record = param.values[0]
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist([record]), path)
        assert [read for _, read in read_records(path)] == [record]
        assert by_prompts(record) == by_prompts(path)


# Labels: swapped columns swap the preference, and nothing is guessed

SWAPS = [
    ({"response_0": "x", "response_1": "y", "better_response_id": 0}, {"better_response_id": 1}),
    ({"response_0": "x", "response_1": "y", "safer_response_id": 0}, {"safer_response_id": 1}),
    ({"response_1": "x", "response_2": "y", "preference_strength": -1}, {"preference_strength": 3}),
    ({"response1": "x", "response2": "y", "overall_preference": -3}, {"overall_preference": 1}),
    ({"human_ref_A": "x", "human_ref_B": "y", "labels": 1}, {"labels": 0}),
    ({"a": "x", "b": "y", "winner": "model_a"}, {"winner": "model_b"}),
    ({"a": "x", "b": "y", "label": True}, {"label": False}),
    ({"response_a": "x", "response_b": "y", "winner_model_a": 1, "winner_model_b": 0},
     {"winner_model_a": 0, "winner_model_b": 1}),
    ({"output_1": "x", "output_2": "y", "label": 1}, {"label": 2}),
    ({"response_1": "x", "response_2": "y", "label": "1"}, {"label": "2.0"}),
]  # fmt: skip


@pytest.mark.parametrize(("record", "swapped"), SWAPS)
def test_a_label_names_the_reply_that_it_means(record: Record, swapped: Record) -> None:
    [(_, first), (_, second)] = read_pairs([{"prompt": "Hi?", **record}, {"prompt": "Hi?", **record, **swapped}])
    assert (getattr(first, "human", None), getattr(second, "human", None)) == ("a", "b")
    [one, two] = read_rows([{"prompt": "Hi?", **record}, {"prompt": "Hi?", **record, **swapped}], "dpo").rows
    assert (one.reply, two.reply) == ("x", "y")


@pytest.mark.parametrize(
    "label",
    [
        {"human": "tie"}, {"label": "Tie"}, {"winner": "tie (bothbad)"}, {"winner": "both_bad"}, {"gold": 0.5},
        {"overall_preference": 0}, {"winner_tie": 1, "winner_model_a": 0, "winner_model_b": 0},
    ],
)  # fmt: skip
def test_a_tie_is_judged_and_trains_nothing(label: Record) -> None:
    record = {"prompt": "Hi?", "response_a": "x", "response_b": "y", **label}
    [(_, item)] = read_pairs([record])
    assert getattr(item, "human", None) == "tie"
    [drop] = read_rows([record], "dpo").drops
    assert "a tie" in drop.detail


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ({"label": "a", "winner": "model_b"}, "its labels contradict each other: 'label' 'a', 'winner' 'model_b'"),
        ({"overall_preference": 1, "human": "a"}, "its labels contradict each other"),
        ({"better_response_id": 2}, "'better_response_id' is 2, not 0 or 1"),
        ({"preference_strength": "much"}, "'preference_strength' is 'much', not a number"),
        ({"preference_strength": -100}, "'preference_strength' is -100, not from -3 to 3"),
        ({"overall_preference": "inf"}, "'overall_preference' is 'inf', not from -3 to 3"),
        ({"winner_model_a": 1, "winner_model_b": 1}, "more than one of winner_model_a"),
    ],
)
def test_labels_that_cannot_be_read_drop_the_pair(label: Record, problem: str) -> None:
    record = {"prompt": "Hi?", "response_a": "x", "response_b": "y", **label}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, BadPrompt) and problem in item.problem
    [drop] = read_rows([record], "dpo").drops
    assert problem in drop.detail


@pytest.mark.parametrize(
    "label", [{"label": 1}, {"label": 0}, {"label": "math"}, {"labels": 1}, {"winner": "gpt-4"}, {}]
)
def test_what_could_be_either_reply_is_no_label(label: Record) -> None:
    record = {"prompt": "Hi?", "a": "x", "b": "y", **label}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, Contest) and item.human is None
    [drop] = read_rows([record], "dpo").drops
    assert "nothing says which of 'a' and 'b' is better" in drop.detail


@pytest.mark.parametrize("scores", [(1, 2, 3), (3, 1, 2), (2.5, 2.5, 1)])
@pytest.mark.parametrize(("key", "sign"), [("overall_score", 1), ("rank", -1)])
def test_ranked_replies_are_pairs_with_labels_and_train_the_best_against_the_worst(
    scores: tuple[float, ...], key: str, sign: int
) -> None:
    replies = [{"response": f"reply {number}", key: sign * score} for number, score in enumerate(scores)]
    record = {"instruction": "Hi?", "completions": replies}
    pairs = [item for _, item in read_pairs([record])]
    for pair, (x, y) in zip(pairs, [(0, 1), (0, 2), (1, 2)], strict=True):
        expected = {1: "a", -1: "b", 0: "tie"}[(scores[x] > scores[y]) - (scores[x] < scores[y])]
        assert isinstance(pair, Contest) and (pair.a, pair.human) == (f"reply {x}", expected)
    [row] = read_rows([record], "dpo").rows
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    assert (row.reply, row.rejected) == (f"reply {best}", f"reply {worst}")


def test_replies_without_ranks_or_of_one_rank_train_nothing() -> None:
    same = {"instruction": "Hi?", "completions": [{"response": "x", "rank": 1}, {"response": "y", "rank": 1}]}
    usable = {"instruction": "Hi?", "completions": [{"response": "x", "rank": 1}, {"response": "y", "rank": 2}]}
    file = read_rows([usable, same, {"prompt": "Hi?", "replies": ["x", "y"]}], "dpo")
    assert [drop.reason for drop in file.drops] == ["low_confidence", "bad_input"]
    assert "cai label" in file.drops[1].detail
