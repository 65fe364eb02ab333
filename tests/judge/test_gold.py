"""Votes of people: a line of gold.jsonl, what may be wrong with it, and what all of them say together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import RunError, SourceError
from cai.judge.gold import GoldVote, append_vote
from cai.judge.majority import People, agreements
from cai.judge.votes import read_people, votes_in
from cai.sources.conversations import pair_hash

PROMPT = ({"role": "user", "content": "Question?"},)
Row = dict[str, Any]


def vote(who: str = "ann", human: str | None = "a", a: str = "one", b: str = "two", **more: Any) -> Row:
    """A line of gold.jsonl that may certify."""
    line = {"schema": 1, "key": pair_hash(PROMPT, a, b), "id": "p1", "prompt": list(PROMPT), "a": a, "b": b}
    line |= {"human": human, "annotator": who, "shown_first": "a", "blind": True, "queue": "random", "seed": 0}
    return line | {"seconds": 2.5, "at": 1_795_949_938} | more


def people_of(*lines: Row) -> People:
    people = People()
    for number, line in enumerate(lines, 1):
        people.add(number, GoldVote.model_validate(line))
    return people


def written(path: Path, *lines: Row | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


# What is written


def test_a_vote_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    append_vote(path, GoldVote.model_validate(vote()))
    append_vote(path, GoldVote.model_validate(vote("bob", None, skipped=True)))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == vote()
    assert second == vote("bob", None, skipped=True)


@pytest.mark.parametrize("torn", ['{"schema":1,"key":"0a', "{", '{"schema":1}\n{"human"', "\x00\x00"])
def test_what_a_kill_left_of_a_line_is_cut_off_by_the_next_vote(tmp_path: Path, torn: str) -> None:
    path = written(tmp_path / "gold.jsonl", vote())
    before = path.read_text()
    whole = torn.rpartition("\n")[0]
    path.write_text(before + torn)
    append_vote(path, GoldVote.model_validate(vote("bob")))
    lines = path.read_text().splitlines()
    assert lines[:-1] == [*before.splitlines(), *whole.splitlines()]
    assert json.loads(lines[-1])["annotator"] == "bob"


def test_a_whole_vote_without_a_line_feed_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps(vote()))
    append_vote(path, GoldVote.model_validate(vote("bob")))
    assert read_people(path).verdicts() == {vote()["key"]: {"ann": "a", "bob": "a"}}


def test_votes_of_many_processes_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            for n in range(25):
                append_vote(path, GoldVote.model_validate(vote(f"{child}", "b", a="x" * 9_000, b=str(n))))
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    people = read_people(path)
    assert people.lines == 100
    assert {len(labels) for labels in people.verdicts().values()} == {4}


def test_a_disk_that_is_full_is_one_plain_line(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(RunError, match=r"cannot write to .*the vote is not kept"):
        append_vote(path, GoldVote.model_validate(vote()))


# What is read


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{'key': 1}", "not JSON"),
        (vote(human="c"), "'human' is 'c', not 'a', 'b' or 'tie'"),
        (vote(human="A"), "'human' is 'A'"),
        (vote(human=1), "'human' is 1"),
        (vote(annotator=7), "'annotator' is 7, not text"),
        (vote(annotator=""), "'annotator' is '': String should have at least 1 character"),
        (vote(annotator=None), "'annotator' is None"),
        (vote(annotator=""), "'annotator' is ''"),
        (vote(annotator=["ann"]), "'annotator' is ['ann']"),
        (vote(blind="yes"), "'blind' is 'yes', not a valid boolean"),
        (vote(key="p1"), "'key' is 'p1'"),
        (vote(prompt="Question?"), "'prompt' is 'Question?'"),
        (vote() | {"a": 3}, "'a' is 3"),
        (vote(seconds=-1), "'seconds' is -1"),
        (vote(schema=2), "'schema' is 2"),
        ({name: value for name, value in vote().items() if name != "annotator"}, "'annotator' is missing"),
        ({name: value for name, value in vote().items() if name != "human"}, "'human' is missing"),
        (vote() | {"a": "other"}, "'key' is"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_vote_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, line: Row | str, problem: str, first: bool
) -> None:
    good = [vote("bob"), vote("cem")]
    is_other_pair = problem == "'key' is"  # which shows in the later of the two lines
    lines = [line, *good] if first and not is_other_pair else [*good, line, vote("dan")]
    path = written(tmp_path / "gold.jsonl", *lines)
    with pytest.raises(SourceError) as refused:
        read_people(path)
    assert str(refused.value).startswith(f"{path}:{lines.index(line) + 1}: ")
    assert problem in str(refused.value) and "correct this vote, or delete its line" in str(refused.value)


@pytest.mark.parametrize("torn", ["{", '{"schema":1,"key":"', json.dumps(vote("bob"))[:-1]])
def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, torn: str) -> None:
    path = written(tmp_path / "gold.jsonl", vote())
    with path.open("a") as file:
        file.write(torn)
    people = read_people(path)
    assert people.lines == 1
    assert list(people.notes()) == [
        "the last vote is not whole, as after a kill or while it is written: it is left out"
    ]


@pytest.mark.parametrize(
    "line", ["[1]", "null", '"text"', "{}", "not json", '{"prompt": "Q?", "a": "one"}', '{"key": "k", "a": 1}']
)
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_no_pair_is_named_with_its_line(tmp_path: Path, line: str, beside: bool) -> None:
    path = written(tmp_path / "gold.jsonl", *([vote()] if beside else []), line)
    with pytest.raises(SourceError, match=rf"gold.jsonl:{1 + beside}: "):
        read_people(path)


def test_a_file_of_nothing_but_a_torn_line_has_no_votes(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps(vote())[:40])
    people = read_people(path)
    assert people.torn and not people.lines and not people.words


def test_a_file_without_votes_has_none(tmp_path: Path) -> None:
    plain = {"prompt": "Question?", "a": "one", "b": "two", "human": "a"}
    path = written(tmp_path / "pairs.jsonl", plain, "not json", plain | {"annotator": 3})
    assert votes_in(path).lines == 0


# What people say together


@pytest.mark.parametrize(
    ("words", "human"),
    [
        ("a", "a"), ("t", "tie"), ("ab", "tie"), ("aab", "a"), ("abb", "b"), ("at", "tie"), ("att", "tie"),
        ("aat", "a"), ("abt", "tie"), ("aabbt", "tie"), ("-", None), ("-a", "a"), ("--", None), ("", None),
    ],
)  # fmt: skip
def test_most_people_decide_and_equal_counts_are_a_tie(words: str, human: str | None) -> None:
    names = {"a": "a", "b": "b", "t": "tie", "-": None}
    votes = [vote(str(n), names[word], skipped=word == "-") for n, word in enumerate(words)]
    assert people_of(*votes).human(vote()["key"], "one", "two") == human


WORDS = st.sampled_from(["a", "b", "tie", None])
VOTES = st.lists(st.tuples(st.sampled_from("xyz"), WORDS, st.booleans()))


def line_of(who: str, human: str | None, is_swapped: bool, **more: Any) -> Row:
    """A vote on the same pair, whose replies may be in the other order."""
    if not is_swapped:
        return vote(who, human, skipped=human is None, **more)
    other = {"a": "b", "b": "a", "tie": "tie", None: None}[human]
    return vote(who, other, a="two", b="one", skipped=human is None, **more)


@given(VOTES)
def test_the_order_of_the_replies_in_a_line_changes_nothing(votes: list[tuple[str, str | None, bool]]) -> None:
    key = vote()["key"]
    people = people_of(*(line_of(who, human, is_swapped) for who, human, is_swapped in votes))
    plain = people_of(*(line_of(who, human, False) for who, human, _ in votes))
    swapped = {"a": "b", "b": "a", "tie": "tie", None: None}
    assert people.human(key, "one", "two") == plain.human(key, "one", "two") == swapped[people.human(key, "two", "one")]
    assert people.human(key, "one", "three") is None
    assert people.is_lost(key) == plain.is_lost(key)


@given(VOTES)
def test_the_last_vote_of_a_person_wins(votes: list[tuple[str, str | None, bool]]) -> None:
    last = {who: (who, human, is_swapped) for who, human, is_swapped in votes}
    all_lines, last_lines = (people_of(*(line_of(*each) for each in some)) for some in (votes, last.values()))
    key = vote()["key"]
    assert all_lines.human(key, "one", "two") == last_lines.human(key, "one", "two")
    assert all_lines.is_lost(key) == last_lines.is_lost(key)


LEFT_OUT = st.sampled_from(
    [{"queue": "uncertain"}, {"queue": None}, {"queue": "Random"}, {"blind": False}, {"blind": None}]
)


@given(VOTES, VOTES, LEFT_OUT, st.randoms())
def test_votes_that_may_not_certify_change_nothing(
    votes: list[tuple[str, str | None, bool]], others: list[tuple[str, str | None, bool]], why: Row, draw: Any
) -> None:
    lines = [line_of(*each) for each in votes]
    mixed = list(lines)
    for each in others:
        mixed.insert(draw.randint(0, len(mixed)), line_of(*each, **why))
    people, plain = people_of(*mixed), people_of(*lines)
    key = vote()["key"]
    assert people.human(key, "one", "two") == plain.human(key, "one", "two")
    assert people.is_lost(key) == plain.is_lost(key)
    assert people.left_out.total() == len(others)


def test_people_who_agree_are_compared_pair_by_pair() -> None:
    labels = {"ann": "aabbt", "bob": "aabba", "cem": "a"}
    names = {"a": "a", "b": "b", "t": "tie"}
    lines = [
        vote(who, names[word], a="one", b=f"two {n}") for who, words in labels.items() for n, word in enumerate(words)
    ]
    first, *others = agreements(people_of(*lines).verdicts())
    assert (first.people, first.n, first.share) == (("ann", "bob"), 5, 0.8)
    assert first.kappa is not None and first.kappa[0] == pytest.approx(1 - 0.2 / (1 - (2 * 3 + 2 * 2) / 25))
    assert {each.people for each in others} == {("ann", "cem"), ("bob", "cem")}
    assert [each.kappa for each in others] == [None, None]  # one pair, on which chance alone would agree
