"""Votes of people on the pairs of a run: what is asked, what is written, and how far it goes."""

from __future__ import annotations

import json
import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import label_runs
import pytest
import sample_runs
from hypothesis import given
from hypothesis import strategies as st
from players import Player
from stored_runs import lost, make_run, revision

from cai.errors import InputError, RunError, UsageError
from cai.judge.calibration import calibrate_judge
from cai.judge.certify import first_tested
from cai.judge.gold import random_order
from cai.records import Candidate, Candidates, Contest, Usage
from cai.runs.kinds.pairs import read_pairs
from cai.texts.likeness import identical
from cai.viewer.index import Index
from cai.viewer.labelling import Labelling
from cai.viewer.pairs import Pairs
from cai.viewer.questions import Answers, Wishes
from cai.viewer.sources import find_sources

PAIRS = [{"id": f"p{n}", "prompt": f"Question {n}?", "a": f"reply {n} one", "b": f"reply {n} two"} for n in range(40)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run of 40 pairs without human labels; no test writes to it."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    label_runs.run(PAIRS, folder, label_runs.scorer())
    return folder


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return tmp_path / "gold.jsonl"


def asked(labelling: Labelling, queue: str = "random") -> Iterator[dict[str, Any]]:
    while (pair := labelling.ask(queue)) is not None:
        yield pair


def cast(labelling: Labelling, queue: str = "random", count: int = 1_000) -> list[str]:
    """Votes for the reply that is shown first; returns the keys of the pairs."""
    keys: list[str] = []
    for pair in asked(labelling, queue):
        labelling.vote(pair["key"], queue, "first", seconds=1.5)
        keys.append(pair["key"])
        if len(keys) == count:
            break
    return keys


def lines_of(gold: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gold.read_text().splitlines()]


# What is asked


def test_every_pair_is_asked_about_once_in_the_random_order(labelled: Path, gold: Path) -> None:
    keys = cast(Labelling(labelled, gold, "ann", seed=3))
    assert keys == random_order((row["key"] for row in label_runs.rows_of(labelled)), 3)
    assert [line["key"] for line in lines_of(gold)] == keys


def test_the_uncertain_queue_begins_with_what_the_judge_is_least_sure_of(labelled: Path, gold: Path) -> None:
    sureness = {row["key"]: row["confidence"] for row in label_runs.rows_of(labelled)}
    keys = cast(Labelling(labelled, gold, "ann"), "uncertain")
    assert [sureness[key] for key in keys] == sorted(sureness.values()) and len(set(keys)) == 40


def test_a_pair_is_asked_about_without_what_it_must_not_show(labelled: Path, gold: Path) -> None:
    for pair in (Labelling(labelled, gold, "ann").ask(queue) for queue in ("random", "uncertain")):
        assert pair is not None and set(pair) == {"key", "id", "prompt", "first", "second", "blind"}


def test_a_pair_of_the_uncertain_queue_is_asked_about_in_the_random_one_another_day(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    some = set(cast(labelling, "uncertain", 10))
    assert not some & set(cast(labelling))  # their verdicts have just been shown
    assert set(cast(Labelling(labelled, gold, "ann"))) == some
    assert Labelling(labelled, gold, "ann").ask("uncertain") is None


def test_a_skipped_pair_is_asked_about_in_the_next_session(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    first = labelling.ask("random")
    assert first is not None
    shown = labelling.vote(first["key"], "random", "skip")
    assert (shown["judge"], shown["confidence"]) == (None, None)
    assert first["key"] not in cast(labelling, count=5)
    assert Labelling(labelled, gold, "ann").ask("random") == first
    assert cast(Labelling(labelled, gold, "bob"), count=1) == [first["key"]]


def test_a_pair_whose_verdict_was_shown_is_not_labelled_blind(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    first, second = list(labelling._pairs.order("random"))[:2]
    labelling.seen(first)
    assert cast(labelling, count=1) == [second]
    open_at_the_time = labelling.ask("random")
    assert open_at_the_time is not None
    labelling.seen(open_at_the_time["key"])
    assert labelling.vote(open_at_the_time["key"], "random", "tie")["blind"] is False
    labelling.vote(second, "random", "tie")  # again, after its own verdict
    assert [line["blind"] for line in lines_of(gold)] == [True, False, False]
    assert labelling.standing()["labels"] == 1
    assert cast(Labelling(labelled, gold, "ann"), count=1) == [first]


@pytest.mark.parametrize("who", ["ann", "bob", "cem"])
def test_a_vote_means_the_same_whatever_side_was_shown_first(labelled: Path, gold: Path, who: str) -> None:
    labelling = Labelling(labelled, gold, who)
    for pair in asked(labelling):
        chosen = "first" if pair["first"].endswith("one") else "second"
        shown = labelling.vote(pair["key"], "random", chosen)
        row = next(row for row in label_runs.rows_of(labelled) if row["key"] == pair["key"])
        judge = pair[shown["judge"]]
        assert judge == row["a" if row["p_a"] > 0.5 else "b"] and shown["confidence"] == row["confidence"]
    lines = lines_of(gold)
    assert {line[line["human"]].endswith("one") for line in lines} == {True}
    assert {line["shown_first"] for line in lines} == {"a", "b"}


# Runs of replies, and others

TEXTS = st.sampled_from(["", " ", "yes", "yes ", "no", "\u2028", "\n\nHuman: hi", "x" * 300, "ü"])
REPLY = st.tuples(TEXTS, st.sampled_from([None, None, "truncated"]))
CONTENT = st.sampled_from(["Q?", "Human: hi", "\n\nHuman: Q?\n\nAssistant:", "a\tb", " spaced "])


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sample run, whose rows a test may replace."""
    folder = tmp_path_factory.mktemp("replies") / "run"
    sample_runs.run(["Q?"], folder, Player(sample_runs.seeded, "m", seeds=True), n=2)
    return folder


@given(st.lists(st.tuples(CONTENT, st.lists(REPLY, min_size=1, max_size=5)), min_size=1, max_size=4), st.booleans())
def test_the_pairs_of_replies_are_those_that_would_be_judged(
    replies: Path, prompts: list[Any], has_system: bool
) -> None:
    rows = []
    for position, (content, texts) in enumerate(prompts):
        turns = [{"role": "user", "content": content}]
        if has_system:
            turns = [{"role": "system", "content": "S"}, *turns, {"role": "assistant", "content": "ok"}, *turns]
        drawn = [Candidate(text=text, model="m", sample=n, problem=why) for n, (text, why) in enumerate(texts)]
        rows.append(
            Candidates.model_validate(
                {"id": f"q{position}", "position": position, "prompt": turns, "replies": drawn, "seed": 0,
                 "usage": Usage(), "calls": ()}
            ).model_dump_json()
        )  # fmt: skip
    (replies / "candidates.jsonl").write_text("".join(row + "\n" for row in rows))
    (replies / "gold.jsonl").unlink(missing_ok=True)
    check_pairs(replies)


def check_pairs(run: Path) -> None:
    """The random queue asks about the pairs of a run that a judge would be asked about, with their texts."""
    items = {item.key: item for _, item in read_pairs(run) if isinstance(item, Contest)}
    wanted = {key: item for key, item in items.items() if not identical(str(item.a), str(item.b))}
    labelling = Labelling(run, annotator="ann")
    keys = []
    for pair in asked(labelling):
        keys.append(pair["key"])
        item = wanted[pair["key"]]
        assert {pair["first"], pair["second"]} == {item.a, item.b} and pair["prompt"] == list(item.messages)
        labelling.vote(pair["key"], "random", "skip")
    assert keys == random_order(wanted, 0)


def test_revisions_are_pairs_with_the_first_reply(tmp_path: Path) -> None:
    items = [
        revision(0, "second", "third"), revision(1, None, "second"), revision(2, "first"), revision(3, None),
        revision(4, "second", "second"), lost(5), revision(6, "second", "first", "third"),
    ]  # fmt: skip
    check_pairs(make_run(tmp_path / "run", items))


@pytest.mark.parametrize("name", ["generate-finished", "sample-half", "ungated-half", "best-of-finished", "label-half"])
def test_pairs_of_runs_of_version_0_1_0_are_asked_about(tmp_path: Path, name: str) -> None:
    run = tmp_path / name
    shutil.copytree(Path(__file__).parents[1] / "folders-0.1.0" / name, run)
    if name != "label-half":
        check_pairs(run)
        return
    lines = (run / "labels.jsonl").read_text().splitlines(keepends=True)
    keys = {json.loads(line)["key"] for line in lines if line.endswith("\n")}
    assert set(cast(Labelling(run, annotator="ann"))) == keys


def test_votes_on_replies_certify_the_labels_of_a_judge_asked_later(tmp_path: Path) -> None:
    run = tmp_path / "replies"
    sample_runs.run(sample_runs.PROMPTS, run, Player(sample_runs.seeded, "m", seeds=True), n=4)
    labelling = Labelling(run, annotator="ann")
    assert len(cast(labelling, count=55)) == 55
    assert labelling.standing()["agreement"] is None
    with pytest.raises(UsageError, match="the queue uncertain needs a judge's labels"):
        labelling.ask("uncertain")
    label_runs.run(run, tmp_path / "labels", label_runs.scorer())
    assert calibrate_judge(tmp_path / "labels", gold=run / "gold.jsonl").metrics.n == 55


def test_rows_that_are_added_are_asked_about(tmp_path: Path, labelled: Path, gold: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes((labelled / "run.json").read_bytes())
    lines = (labelled / "labels.jsonl").read_text().splitlines(keepends=True)
    labelling = Labelling(run, gold, "ann")
    assert labelling.ask("random") is None
    with (run / "labels.jsonl").open("a") as file:
        file.write("".join(lines[:20]) + lines[20][:50])
    first = cast(labelling)
    assert len(first) == 20
    with (run / "labels.jsonl").open("a") as file:
        file.write(lines[20][50:] + "".join(lines[21:]) + lines[3])
    assert len({*first, *cast(labelling)}) == 40


def test_a_label_that_grows_is_one_pair_with_its_last_verdict_and_keeps_its_votes(
    tmp_path: Path, labelled: Path, gold: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes((labelled / "run.json").read_bytes())
    rows = label_runs.rows_of(labelled)[:4]
    with (run / "labels.jsonl").open("w") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    labelling = Labelling(run, gold, "ann")
    asked = labelling.ask("random")
    assert asked is not None
    labelling.vote(asked["key"], "random", "first")
    before = labelling.people(asked["key"])
    with (run / "labels.jsonl").open("a") as file:
        file.writelines(json.dumps(row | {"p_a": 0.875}, separators=(",", ":")) + "\n" for row in rows)
    [(start, human)] = labelling.people(asked["key"])
    assert (start > before[0][0], human) == (True, before[0][1])
    assert labelling.standing()["labels"] == 1 and len(cast(labelling)) == 3
    assert {pair.p_a for pair in map(labelling._pairs.pair, labelling._pairs.order("random")) if pair} == {0.875}


def test_the_pairs_of_a_row_are_those_of_its_last_line(tmp_path: Path, gold: Path) -> None:
    make_run(tmp_path / "run", [revision(0, "cut", "more"), revision(1, "kept"), revision(2, "gone")])
    labelling = Labelling(tmp_path / "run", gold, "ann")
    assert len(cast(labelling)) == 4
    with (tmp_path / "run" / "revisions.jsonl").open("ab") as file:
        for row in (revision(0, "whole", "more", "third"), revision(2, None)):
            file.write(row.model_dump_json().encode() + b"\n")
    labelling = Labelling(tmp_path / "run", tmp_path / "other.jsonl", "ann")
    texts = {labelling._pairs.pair(key).a for key in labelling._pairs.order("random")}  # type: ignore[union-attr]
    assert texts == {"whole", "more", "third", "kept"} and labelling.ask("random") is not None


def test_a_run_that_was_started_anew_is_not_asked_about_with_texts_of_other_pairs(tmp_path: Path, gold: Path) -> None:
    run = tmp_path / "run"
    label_runs.run(PAIRS[:10], run, label_runs.scorer())
    labelling = Labelling(run, gold, "ann")
    before = labelling.ask("random")
    assert before is not None
    others = [{**pair, "prompt": f"Other {pair['prompt']}"} for pair in PAIRS]
    label_runs.run(others, run, label_runs.scorer(), principles=1, force=True)  # its file is longer at once
    with pytest.raises(UsageError, match="the run has no pair"):
        labelling.vote(before["key"], "random", "first")
    assert not gold.exists()
    after = labelling.ask("random")
    assert after is not None and after["prompt"][0]["content"].startswith("Other ")


def test_a_run_without_pairs_is_refused(tmp_path: Path, labelled: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        Labelling(tmp_path)
    info = json.loads((labelled / "run.json").read_text())
    info["identity"]["command"] = "probe"
    (tmp_path / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="is a run of cai probe: pairs to label are in runs of cai label"):
        Labelling(tmp_path)


def test_a_pair_takes_few_bytes(tmp_path: Path, labelled: Path) -> None:
    (tmp_path / "run.json").write_bytes((labelled / "run.json").read_bytes())
    row = label_runs.rows_of(labelled)[0] | {"a": "word " * 200}
    with (tmp_path / "labels.jsonl").open("w") as file:
        for number in range(5_000):
            file.write(json.dumps(row | {"key": f"{number:032x}", "position": number}, separators=(",", ":")) + "\n")
    pairs = Pairs(tmp_path, 0)
    tracemalloc.start()
    pairs.follow()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == 5_000 and held < 5_000 * 100


# What is written


def test_what_is_taken_back_is_no_label_also_after_a_restart(labelled: Path, gold: Path) -> None:
    keys = cast(Labelling(labelled, gold, "ann"), count=3)
    cast(Labelling(labelled, gold, "bob"), count=5)
    [picked] = cast(Labelling(labelled, gold, "ann"), "uncertain", count=1)
    labelling = Labelling(labelled, gold, "ann")
    undone = [labelling.undo() for _ in range(5)]
    assert [pair and (pair["key"], pair["queue"]) for pair in undone] == [
        (picked, "uncertain"), *((key, "random") for key in reversed(keys)), None,
    ]  # fmt: skip
    people = [labels for labels in labelling._votes.people.verdicts().values()]
    assert people == [{"bob": labels["bob"]} for labels in people] and len(people) == 5


def test_a_label_that_is_taken_back_has_shown_its_verdict_and_a_skip_has_not(labelled: Path, gold: Path) -> None:
    cast(Labelling(labelled, gold, "ann"), count=1)
    labelling = Labelling(labelled, gold, "ann")
    pair = labelling.undo()
    assert pair is not None and pair["blind"] is False
    assert labelling.vote(pair["key"], "random", "second")["blind"] is False
    pair = labelling.ask("random")
    assert pair is not None
    labelling.vote(pair["key"], "random", "skip")
    assert labelling.undo() == {**pair, "queue": "random"}
    assert labelling.vote(pair["key"], "random", "second")["blind"] is True


def test_a_verdict_that_was_shown_is_known_after_a_restart(labelled: Path, gold: Path) -> None:
    [key] = cast(Labelling(labelled, gold, "ann"), count=1)
    Labelling(labelled, gold, "ann").undo()
    for queue in ("random", "uncertain"):
        later = Labelling(labelled, gold, "ann")
        assert key not in cast(later, queue)  # it stays one that was drawn, and has no label
        with pytest.raises(UsageError, match="has not asked"):
            later.vote(key, queue, "second")
    assert Labelling(labelled, gold, "ann").standing()["lost"] == 1
    assert cast(Labelling(labelled, gold, "bob"), count=1) == [key]


def test_without_a_judge_a_label_that_is_taken_back_is_asked_for_again(tmp_path: Path, gold: Path) -> None:
    run = make_run(tmp_path / "run", [revision(at, "second", initial=f"first {at}") for at in range(3)])
    [key] = cast(Labelling(run, gold, "ann"), count=1)
    Labelling(run, gold, "ann").undo()
    pair = Labelling(run, gold, "ann").ask("random")
    assert pair is not None
    assert (pair["key"], pair["blind"]) == (key, True)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 1 - 2**63])
def test_a_vote_of_any_seed_is_read_back(labelled: Path, gold: Path, seed: int) -> None:
    keys = cast(Labelling(labelled, gold, "ann", seed=seed), count=3)
    assert [(line["key"], line["seed"]) for line in lines_of(gold)] == [(key, seed) for key in keys]
    assert Labelling(labelled, gold, "ann", seed=seed).standing()["labels"] == 3


@pytest.mark.parametrize("seed", [2**63, -(2**63), 2**64, 10**23, 10**400])
def test_a_seed_that_no_vote_can_keep_is_refused(labelled: Path, gold: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="--seed"):
        Labelling(labelled, gold, "ann", seed=seed)


def test_two_people_who_vote_at_once_lose_nothing(labelled: Path, gold: Path) -> None:
    people = [Labelling(labelled, gold, who) for who in ("ann", "bob")]
    threads = [threading.Thread(target=cast, args=(labelling,)) for labelling in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines_of(gold)) == 80
    standings = [labelling.standing() for labelling in people]
    assert standings[0] == standings[1] and standings[0]["labels"] == 40
    assert [each["n"] for each in standings[0]["people"]] == [40]


def test_one_person_in_two_viewers_is_not_asked_again(labelled: Path, gold: Path) -> None:
    here, there = (Labelling(labelled, gold, "ann") for _ in range(2))
    keys = [key for _ in range(20) for labelling in (here, there) for key in cast(labelling, count=1)]
    assert len(set(keys)) == 40
    assert here.ask("random") is there.ask("random") is None


def test_the_standing_is_what_a_calibration_will_say(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann", agreement=0.95)
    assert labelling.standing() == {
        "queue": "random", "labels": 0, "needed": first_tested(0.95), "lost": 0, "agreement": None, "people": [],
    }  # fmt: skip
    for number, pair in enumerate(asked(labelling)):
        labelling.vote(pair["key"], "random", ["first", "second", "tie", "skip"][number % 4])
    standing, metrics = labelling.standing(), calibrate_judge(labelled, gold=gold).metrics
    assert (standing["labels"], standing["lost"]) == (metrics.n, 40 - metrics.n) == (30, 10)
    assert standing["agreement"] == {
        "value": pytest.approx(metrics.accuracy), "low": pytest.approx(metrics.interval[0]),
        "high": pytest.approx(metrics.interval[1]), "n": 30,
    }  # fmt: skip


def test_an_agreement_of_picked_pairs_is_not_shown(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    cast(labelling, "uncertain", 12)
    assert labelling.standing("uncertain")["labels"] == 12
    assert labelling.standing("uncertain")["agreement"] is labelling.standing("random")["agreement"] is None


@pytest.mark.parametrize("content", ["Notes.\n", '{"prompt": "Q?", "a": "1", "b": "2", "human": "a"}\n', "rows"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(labelled: Path, gold: Path, content: str) -> None:
    if content == "rows":
        content = (labelled / "labels.jsonl").read_text()
    gold.write_text(content)
    with pytest.raises(InputError, match=r"gold.jsonl:1: "):
        Labelling(labelled, gold, "ann")
    assert gold.read_text() == content


def test_a_file_that_is_replaced_is_read_anew(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    cast(labelling, count=5)
    lines = gold.read_text().splitlines(keepends=True)
    gold.write_text(lines[0])
    assert labelling.standing()["labels"] == 1
    edited = gold.with_name("edited")
    edited.write_text("".join(lines[:2]) + lines[2].replace('"human":"', '"human":null,"was":"') * 3)
    edited.replace(gold)
    assert (labelling.standing()["labels"], labelling.standing()["lost"]) == (2, 1)


def test_a_line_that_is_no_vote_stops_the_labelling_until_it_is_put_right(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    cast(labelling, count=2)
    votes = gold.read_text()
    with gold.open("a") as file:
        file.write("{broken}\n" + votes.replace('"ann"', '"bob"'))
    for _ in range(2):
        with pytest.raises(InputError, match=r"gold.jsonl:3: "):
            labelling.ask("random")
    gold.write_text(gold.read_text().replace("{broken}\n", ""))
    assert [each["n"] for each in labelling.standing()["people"]] == [2]


def test_a_vote_that_cannot_be_kept_is_none(labelled: Path, tmp_path: Path) -> None:
    gold = tmp_path / "none" / "gold.jsonl"
    labelling = Labelling(labelled, gold, "ann")
    pair = labelling.ask("random")
    assert pair is not None
    with pytest.raises(RunError, match=r"cannot write to .*the vote is not kept"):
        labelling.vote(pair["key"], "random", "first")
    assert labelling.ask("random") == pair and labelling.standing()["labels"] == 0
    gold.parent.mkdir()
    assert labelling.vote(pair["key"], "random", "first")["blind"] is True


def test_what_cannot_be_voted_is_refused(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann")
    key = cast(labelling, count=1)[0]
    picked = list(labelling._pairs.order("random"))[-1]  # such as a pair that is seen in the list
    cannot_be = [
        ("0" * 32, "random", "first"), (key, "other", "first"), (key, "random", "a"), ("x", "random", "tie"),
        (picked, "random", "first"), (key, "uncertain", "first"),
    ]  # fmt: skip
    for values in cannot_be:
        with pytest.raises(UsageError):
            labelling.vote(*values)
    assert len(lines_of(gold)) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\u202e", "x\0"])
def test_a_name_that_cannot_be_shown_is_refused(labelled: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--annotator"):
        Labelling(labelled, annotator=name)


def test_votes_on_pairs_of_other_runs_in_the_same_file_are_left_alone(labelled: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    others = [{**pair, "prompt": f"Other {pair['prompt']}"} for pair in PAIRS[:5]]
    label_runs.run(others, tmp_path / "other", label_runs.scorer())
    mine = cast(Labelling(labelled, gold, "ann"), count=2)
    cast(Labelling(tmp_path / "other", gold, "ann"))
    labelling = Labelling(labelled, gold, "ann")
    assert labelling.standing()["labels"] == 2
    undone = [labelling.undo() for _ in range(3)]
    assert [pair and pair["key"] for pair in undone] == [*reversed(mine), None]
    assert Labelling(tmp_path / "other", gold, "ann").standing()["labels"] == 5


def test_pairs_that_a_judge_has_labelled_come_before_those_of_replies(labelled: Path, replies: Path) -> None:
    wishes = Wishes(annotate=3, queue="uncertain", annotator="ann")
    Answers(Index(find_sources([replies, labelled])), wishes).check()
    with pytest.raises(UsageError, match="the queue uncertain needs a judge's labels"):
        Answers(Index(find_sources([replies])), wishes).check()
