"""Label runs: every pair ends as a label or is dropped, the same at any concurrency, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from label_runs import lost, mute, rows_of, run, scorer, scores, setup, votes
from players import Player, digits
from sample_runs import PROMPTS, cutting, seeded
from sample_runs import run as sample_run
from seldom import seldom

from cai.engine.readability import CHECKED
from cai.errors import AuthenticationFailed, CallRejected, ModelStopped, RunError, SourceError, UsageError
from cai.folder.journal.store import read_calls
from cai.folder.lines import PAIR_BITS
from cai.judge.flows import is_valid
from cai.records import Completion, Label
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.pairs import read_pairs
from cai.runs.kinds.settings import LabelSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings

SAME = {"prompt": "Same?", "chosen": "Alike.", "rejected": "Alike. "}
PAIRS: list[Any] = [
    *({"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(30)),
    {"prompt": "Question 3?", "chosen": "no 3", "rejected": "yes 3"},  # the same two replies, the other way round
    {"prompt": "Question 4?", "id": "twice", "chosen": "yes 4", "rejected": "other 4"},
    {"prompt": "Question 5?", "id": "twice", "chosen": "yes 5", "rejected": "other 5"},
    SAME,
    {"prompt": "Empty?", "chosen": "", "rejected": "x"},
    17,
    {"prompt": "Several?", "replies": ["one", "two", "one", "three"]},
]


async def some_rows(made: LabelRun, out: Path, count: int) -> None:
    """Play a run until so many labels have come."""
    async with aclosing(made.rows()) as rows:
        async for _ in rows:
            count -= 1
            if not count:
                return


# Every pair has one end


def test_what_is_kept_and_what_is_dropped_are_all_that_came_in(tmp_path: Path) -> None:
    job = run(PAIRS, tmp_path / "out", scorer())
    rows, drops = rows_of(tmp_path / "out"), lost(tmp_path / "out")
    places = [position for position, _ in read_pairs(PAIRS)]
    assert sorted(row["position"] for row in [*rows, *drops]) == sorted(places)
    assert job.read == len(places) == job.finished + sum(job.dropped.values()) == len(rows) + len(drops)
    counts = {"duplicate_prompt": 3, "bad_input": 1, "identical": 2, "empty": 1}
    assert Counter(drop["reason"] for drop in drops) == counts
    cut = [row for row in rows_of(tmp_path / "out", "dropped.jsonl") if row["stage"] == "pairs"]
    assert len(rows_of(tmp_path / "out", "dpo.jsonl")) + len(cut) == len(rows)


def test_replies_that_are_the_same_cost_no_call(tmp_path: Path) -> None:
    judge = scorer()
    job = run([{"prompt": "Hi?", "replies": ["one", " one", "one"]}], tmp_path / "out", judge)
    assert not judge.asked and job.dropped == {"identical": 2, "duplicate_prompt": 1}
    [drop, *_] = lost(tmp_path / "out")
    assert drop["detail"] == "sample 0 and sample 1 are the same" and drop["key"] and drop["prompt"]


def test_a_label_says_what_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    run(PAIRS[:1], tmp_path / "out", scorer())
    [row] = rows_of(tmp_path / "out")
    label = Label.model_validate(row)
    assert len(label.votes) == 3 and len({vote.principle for vote in label.votes}) == 3
    assert label.z == pytest.approx(sum(vote.d or 0 for vote in label.votes) / 3)
    assert label.p_a == pytest.approx(1 / (1 + math.exp(-(label.z or 0))))
    assert all(vote.b == pytest.approx(1.5) and vote.ab.mass == pytest.approx(0.9) for vote in label.votes)
    assert label.confidence == max(label.p_a or 0, 1 - (label.p_a or 0)) and label.temperature is None
    assert label.human == ("a" if label.a == "yes 0" else "b")
    assert set(label.calls) == {call.key for call in read_calls(tmp_path / "out")} and len(label.calls) == 6
    assert (label.models, label.usage.input_tokens, label.protocol) == ({"judge": "judge-1"}, 54, "score")


def test_further_votes_are_further_calls_also_of_a_model_without_seeds(tmp_path: Path) -> None:
    judge = Player(lambda _: Completion("A", "stop", "judge-1"), "judge")
    run(PAIRS[:2], tmp_path / "out", judge)
    for row in rows_of(tmp_path / "out"):
        assert len(set(row["calls"])) == 18 and [vote["wave"] for vote in row["votes"]] == [0] * 3 + [1] * 3 + [2] * 3
        assert row["p_a"] == 0.5 and row["z"] == 0.0
    assert sum(judge.asked.values()) == 36 and set(judge.asked.values()) == {1, 2}  # of the later waves one text


def test_a_pair_that_a_model_refuses_is_dropped_alone_and_tried_again(tmp_path: Path) -> None:
    def fails(payload: dict[str, Any]) -> Completion:
        if "Question 7?" in payload["messages"][0]["content"]:
            raise CallRejected("model_error", "the server said no")
        return scores(payload)

    job = run(PAIRS[:12], tmp_path / "out", scorer(fails), concurrency=1)
    assert (job.finished, job.dropped) == (11, {"model_error": 1})
    judge = scorer()
    job = run(PAIRS[:12], tmp_path / "out", judge)
    assert (job.finished, job.skipped, sum(judge.asked.values())) == (1, 11, 6)
    assert lost(tmp_path / "out") == [] and len(rows_of(tmp_path / "out")) == 12


# The same rows


def test_the_same_labels_and_files_at_concurrency_1_and_64(tmp_path: Path) -> None:
    for name, concurrency in (("1", 1), ("64", 64)):
        judge = Player(votes, "judge", seeds=True)
        run(PAIRS, tmp_path / f"v{name}", judge, concurrency=concurrency, seed=3)
        run(PAIRS, tmp_path / f"s{name}", scorer(), concurrency=concurrency, seed=3)
    for kind in "vs":
        one, many = tmp_path / f"{kind}1", tmp_path / f"{kind}64"
        assert rows_of(one) == rows_of(many)
        for name in ("dpo.jsonl", "kto.jsonl"):
            assert (one / name).read_bytes() == (many / name).read_bytes()


def test_another_seed_draws_other_principles(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(PAIRS, tmp_path / str(seed), scorer(), seed=seed)
    first, second = ([[vote["principle"] for vote in row["votes"]] for row in rows_of(tmp_path / s)] for s in "01")
    assert first != second and len({principle for drawn in first for principle in drawn}) > 10


def test_a_label_does_not_depend_on_what_else_is_judged(tmp_path: Path) -> None:
    run(PAIRS, tmp_path / "all", scorer())
    run([PAIRS[-1]], tmp_path / "last", scorer())
    last = [row | {"position": 0} for row in rows_of(tmp_path / "last")]
    assert last == [row | {"position": 0} for row in rows_of(tmp_path / "all")][-len(last) :]


# Going on


@pytest.mark.parametrize("kind", ["score", "vote"])
def test_a_run_that_was_stopped_asks_nothing_twice_and_ends_with_the_same_rows(tmp_path: Path, kind: str) -> None:
    def player() -> Player:
        return scorer() if kind == "score" else Player(votes, "judge")

    whole, judge = player(), player()
    run(PAIRS, tmp_path / "whole", whole)
    asyncio.run(some_rows(setup(PAIRS, tmp_path / "out", judge, concurrency=4), tmp_path / "out", 9))
    assert 9 <= len(rows_of(tmp_path / "out")) < 20
    job = run(PAIRS, tmp_path / "out", judge)
    assert job.skipped >= 9 and rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert judge.asked.keys() == whole.asked.keys()
    assert sum(judge.asked.values()) <= sum(whole.asked.values()) + 8  # those on their way
    again = player()
    run(PAIRS, tmp_path / "out", again)
    assert not again.asked


def test_a_sample_run_that_has_grown_is_judged_where_it_is_new(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    model, judge = Player(seeded, "one", seeds=True), scorer()
    sample_run(prompts, tmp_path / "samples", model, n=3, limit=4)
    first = run(tmp_path / "samples", tmp_path / "out", judge)
    sample_run(prompts, tmp_path / "samples", model, n=3)
    second = run(tmp_path / "samples", tmp_path / "out", judge)
    assert (first.finished, second.finished, second.skipped) == (12, 24, 12)
    assert set(judge.asked.values()) == {1}
    assert {row["position"] >> PAIR_BITS for row in rows_of(tmp_path / "out")} == set(range(12))


def test_a_higher_limit_goes_on_with_the_next_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    judge = scorer()
    run(file, tmp_path / "out", judge, limit=10)
    job = run(file, tmp_path / "out", judge, limit=25)
    assert (job.skipped, job.finished) == (10, 15) and set(judge.asked.values()) == {1}
    run(file, tmp_path / "whole", scorer(), limit=25)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run that is through."""
    out = tmp_path_factory.mktemp("done") / "out"
    run([PAIRS[-1]], out, scorer())
    return out


@pytest.mark.parametrize(
    "change", [{"min_confidence": 0.9}, {"concurrency": 2}, {"limit": 5}, {"pairing": "best-worst"}, {"max_tokens": 99}]
)  # fmt: skip
def test_what_decides_no_label_may_change(done: Path, change: dict[str, Any]) -> None:
    judge = scorer()
    run([PAIRS[-1]], done, judge, **change)
    assert not judge.asked


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed is 0 there, 1 now"), ({"principles": 2}, "it has --principles 3, and 2 is less"),
     ({"protocol": "vote"}, "binding.protocol is 'score' there, 'vote' now"), ({"extra_body": {"x": 1}}, "extra_body"),
     ({"pairing": "final"}, "pairing is 'all' there, 'final' now"), ({"templates": "fewshot"}, "binding.templates")],
)  # fmt: skip
def test_what_decides_the_labels_may_not_change_and_is_named(done: Path, change: dict[str, Any], named: str) -> None:
    before = rows_of(done)
    judge = Player(scores, "judge", scoring=True, prefill=True, completion=True)
    with pytest.raises(RunError) as refused:
        run([PAIRS[-1]], done, judge, **change)
    assert named in str(refused.value) and "--force" in str(refused.value)
    assert rows_of(done) == before


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_damaged_label_is_named_when_a_run_goes_on(tmp_path: Path, place: str) -> None:
    run(PAIRS[:30], tmp_path / "out", scorer())
    path = tmp_path / "out" / "labels.jsonl"
    lines = path.read_text().splitlines()
    number = 0 if place == "first" else 29
    lines[number] = lines[number].replace('"votes"', '"vetos"')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=rf"labels\.jsonl: line {number + 1} is damaged"):
        run(PAIRS[:30], tmp_path / "out", scorer())


# A judge that cannot be read


def test_a_judge_that_does_not_answer_with_a_letter_is_stopped_after_twenty_pairs(tmp_path: Path) -> None:
    judge = scorer(mute)
    with pytest.raises(ModelStopped) as stopped:
        run(PAIRS, tmp_path / "out", judge, concurrency=1)
    assert "median letter mass 0.03 of the first 20 pairs, such as: the letters have 0.03" in str(stopped.value)
    assert "--protocol vote" in str(stopped.value)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == CHECKED and {row["z"] for row in rows} == {row["p_a"] for row in rows} == {None}
    assert sum(judge.asked.values()) == 6 * CHECKED
    assert rows_of(tmp_path / "out", "dpo.jsonl") == []


def test_such_a_judge_is_stopped_again_before_it_is_asked_anything(tmp_path: Path) -> None:
    for _ in range(2):
        judge = scorer(mute)
        with pytest.raises(ModelStopped):
            run(PAIRS, tmp_path / "out", judge, concurrency=1)
    assert not judge.asked


def test_the_first_twenty_pairs_are_those_of_all_sessions_together(tmp_path: Path) -> None:
    asyncio.run(some_rows(setup(PAIRS, tmp_path / "out", scorer(mute), concurrency=1), tmp_path / "out", 12))
    before, judge = len(rows_of(tmp_path / "out")), scorer(mute)
    with pytest.raises(ModelStopped, match="of the first 20 pairs"):
        run(PAIRS, tmp_path / "out", judge, concurrency=1)
    assert sum(judge.asked.values()) <= 6 * (CHECKED - before)


def test_a_judge_that_can_be_read_mostly_goes_on_and_what_it_did_not_say_is_no_half(tmp_path: Path) -> None:
    def at_times(payload: dict[str, Any]) -> Completion:
        return mute(payload) if digits(payload) % 4 == 0 else scores(payload)

    job = run(PAIRS, tmp_path / "out", scorer(at_times))
    rows = [Label.model_validate(row) for row in rows_of(tmp_path / "out")]
    assert job.stopped is None and any(not is_valid(vote) for row in rows for vote in row.votes)
    for row in rows:
        valid = [vote.d for vote in row.votes if vote.d is not None]
        assert row.z == (pytest.approx(sum(valid) / len(valid)) if valid else None)
        assert (row.p_a is None) == (row.confidence is None) == (not valid)


def test_votes_that_cannot_be_read_stop_a_run_too(tmp_path: Path) -> None:
    judge = Player(lambda _: Completion("Both are fine.", "stop", "judge-1"), "judge")
    with pytest.raises(ModelStopped, match=r"names no letter: 'Both are fine.'; word judge.jinja"):
        run(PAIRS, tmp_path / "out", judge, concurrency=1)


def test_a_refused_key_ends_the_run_for_the_pairs_that_wait_to_be_admitted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: dict[str, Any]) -> Completion:
        raise AuthenticationFailed("wrong key")

    monkeypatch.setattr("cai.calls.feed.FINISH_WITHIN", 3600)  # nobody may be left waiting for that
    made = setup(PAIRS, tmp_path / "out", scorer(refuse), concurrency=64)
    with pytest.raises(AuthenticationFailed):
        asyncio.run(asyncio.wait_for(some_rows(made, tmp_path / "out", 1), 60))


# Plans


def test_a_plan_counts_exactly_what_the_run_then_asks(tmp_path: Path) -> None:
    judge = scorer()
    plan = estimate(setup(PAIRS, tmp_path / "out", judge))
    assert not judge.asked
    job = run(PAIRS, tmp_path / "out", judge)
    assert plan.calls == sum(judge.asked.values()) and set(judge.asked.values()) == {1}
    assert plan.output_tokens == 0 and plan.unit == "pairs"
    assert plan.prompts + plan.unusable == job.read


def test_a_plan_of_a_run_that_was_stopped_counts_what_is_left(tmp_path: Path) -> None:
    judge = scorer()
    asyncio.run(some_rows(setup(PAIRS, tmp_path / "out", judge, concurrency=1), tmp_path / "out", 9))
    rows = len(rows_of(tmp_path / "out"))
    plan = estimate(setup(PAIRS, tmp_path / "out", judge))
    assert plan.finished == rows
    run(PAIRS, tmp_path / "whole", whole := scorer())
    assert plan.calls == sum(whole.asked.values()) - 6 * rows


@pytest.mark.parametrize("settled", [True, False])
def test_a_plan_of_votes_says_how_many_are_asked_at_least_and_at_most(tmp_path: Path, settled: bool) -> None:
    def vote(payload: dict[str, Any]) -> Completion:
        first, second = re.findall(r"<reply_[ab]>\n(.*?)\n</reply_[ab]>", payload["messages"][0]["content"])
        return Completion("A" if first > second or not settled else "B", "stop", "judge-1")

    judge = Player(vote, "judge")
    plan = estimate(setup(PAIRS, tmp_path / "out", judge))
    run(PAIRS, tmp_path / "out", judge)
    assert sum(judge.asked.values()) == (plan.calls if settled else plan.most_calls)
    assert plan.most_calls == 3 * plan.calls


def test_a_plan_counts_the_reasons_that_the_judge_reads_again(tmp_path: Path) -> None:
    letters = estimate(setup(PAIRS, tmp_path / "letters", scorer()))
    reasons = estimate(setup(PAIRS, tmp_path / "reasons", scorer(), protocol="reason"))
    assert reasons.calls == 2 * letters.calls
    assert reasons.input_tokens > 2 * letters.input_tokens + 256 * letters.calls


# A target


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two replies to each of twelve prompts, some of them cut; of late prompts some pairs are kept."""
    sample_run(PROMPTS, tmp_path / "samples", Player(cutting(6), "one", seeds=True), n=2, seed=6)
    return tmp_path / "samples"


def aimed(samples: Path, out: Path, judge: Player, sampler: Player, **given: Any) -> LabelRun:
    return setup(samples, out, judge, sampler, **{"target": 30, "max_candidates": 6, "min_confidence": 0.85, **given})


def sampler() -> Player:
    return Player(cutting(6), "one", seeds=True)


def kept(folder: Path) -> list[dict[str, Any]]:
    return rows_of(folder, "dpo.jsonl")


def test_replies_are_drawn_until_enough_pairs_are_kept_and_no_more(tmp_path: Path, samples: Path) -> None:
    judge, model = scorer(), sampler()
    aimed(samples, tmp_path / "out", judge, model, concurrency=1).finish()
    plain = scorer()
    run(samples, tmp_path / "plain", plain, min_confidence=0.85)
    assert len(kept(tmp_path / "plain")) < len(kept(tmp_path / "out")) <= 30
    rows = rows_of(tmp_path / "out")
    served = {row["id"].split(":")[0] for row in kept(tmp_path / "out")}
    replies = Counter(row["b_from"] for row in rows)
    assert set(replies) <= {f"sample {n}" for n in range(6)} and "sample 2" in replies
    assert len({row["position"] for row in rows}) == len(rows) and set(judge.asked.values()) == {1}
    assert set(model.asked.values()) == {1}
    if len(kept(tmp_path / "out")) < 30:  # given up: every prompt has a pair, or all the replies it may have
        numbers = {
            (row["id"].split(":")[0], row["id"].split("-")[-1]) for row in [*rows, *lost(tmp_path / "out")] if row["id"]
        }
        prompts = {row["id"] for row in rows_of(samples, "candidates.jsonl")}
        assert all((prompt, "5") in numbers for prompt in prompts - served)


@pytest.mark.parametrize("further", seldom([-1, 1, 2, 100], [-1, 2]))
def test_the_same_pairs_are_kept_towards_a_target_at_concurrency_1_and_64(
    tmp_path: Path, samples: Path, further: int
) -> None:
    run(samples, tmp_path / "plain", scorer(), min_confidence=0.85)
    target = len(kept(tmp_path / "plain")) + further
    assert "q9:0-1" in {row["id"] for row in kept(tmp_path / "plain")}  # further pairs of earlier prompts come after it
    for name, concurrency in (("1", 1), ("64", 64)):
        made = aimed(samples, tmp_path / name, scorer(), sampler(), concurrency=concurrency, target=target)
        made.finish()
    assert kept(tmp_path / "1") == kept(tmp_path / "64")
    assert len(kept(tmp_path / "1")) == target or (further == 100 and len(kept(tmp_path / "1")) < target)
    assert len(rows_of(tmp_path / "1")) < len(rows_of(tmp_path / "64")) or further == 100


@pytest.mark.slow
def test_a_run_towards_a_target_that_was_stopped_anywhere_ends_with_the_same_pairs(tmp_path: Path) -> None:
    sample_run(PROMPTS[:4], tmp_path / "samples", Player(seeded, "one", seeds=True), n=2, seed=5)

    def made(name: str, judge: Player, model: Player) -> LabelRun:
        return aimed(
            tmp_path / "samples", tmp_path / name, judge, model, concurrency=1, max_candidates=4, min_confidence=0.75
        )

    whole_judge, whole_model = scorer(), sampler()
    made("whole", whole_judge, whole_model).finish()
    whole = rows_of(tmp_path / "whole")
    assert {"q0:0-2", "q0:1-2"} <= {
        row["id"] for row in kept(tmp_path / "whole")
    }  # the first serves the prompt already
    for count in range(1, len(whole)):
        judge, model, out = scorer(), sampler(), tmp_path / str(count)
        asyncio.run(some_rows(made(str(count), judge, model), out, count))
        made(str(count), judge, model).finish()
        assert rows_of(out) == whole and kept(out) == kept(tmp_path / "whole")
        assert judge.asked.keys() == whole_judge.asked.keys() and model.asked.keys() == whole_model.asked.keys()


def test_a_pair_that_was_on_its_way_when_a_run_was_killed_counts_towards_its_target(tmp_path: Path) -> None:
    class Slow(Player):
        async def send(self, payload: dict[str, Any]) -> Completion:
            if "Question 0?" in repr(payload):
                await asyncio.Event().wait()
            return await super().send(payload)

    replies = [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(12)]
    sample_run(replies, tmp_path / "samples", Player(seeded, "one", seeds=True), n=2)

    def made(name: str, judge: Player) -> LabelRun:
        given = {"concurrency": 64, "target": 3, "max_candidates": 3, "min_confidence": 0.5}
        return aimed(tmp_path / "samples", tmp_path / name, judge, sampler(), **given)

    made("whole", scorer()).finish()
    killed = Slow(scores, "judge", scoring=True, prefill=True)
    asyncio.run(some_rows(made("killed", killed), tmp_path / "killed", 4))
    made("killed", scorer()).finish()
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
    assert kept(tmp_path / "whole")[0]["prompt_id"] == "q0"


def test_a_target_that_is_reached_asks_nothing_more_and_a_higher_one_goes_on(tmp_path: Path, samples: Path) -> None:
    judge, model = scorer(), sampler()
    for target in (4, 8):
        aimed(samples, tmp_path / "out", judge, model, target=target, concurrency=1).finish()
        assert len(kept(tmp_path / "out")) == target
    assert set(judge.asked.values()) == {1}
    again = scorer()
    aimed(samples, tmp_path / "out", again, sampler(), target=8).finish()
    assert not again.asked


def test_prompts_that_have_one_reply_get_their_first_pair_by_a_further_one(tmp_path: Path) -> None:
    sample_run(PROMPTS, tmp_path / "samples", Player(seeded, "one", seeds=True), n=1)
    judge, model = scorer(), sampler()
    for _ in range(2):
        made = aimed(tmp_path / "samples", tmp_path / "out", judge, model, max_candidates=3, target=100)
        made.finish()
    rows, drops = rows_of(tmp_path / "out"), lost(tmp_path / "out")
    assert Counter(drop["stage"] for drop in drops)["source"] == 12
    assert {row["a_from"] for row in rows} >= {"sample 0"} and {row["b_from"] for row in rows} == {
        "sample 1",
        "sample 2",
    }
    assert set(judge.asked.values()) == {1}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"target": 5}, "--target and --max-candidates go together"),
        ({"model": "local"}, "--model draws further replies for --target"),
        ({"target": 5, "max_candidates": 4}, "--target draws further replies to the prompts of a sample run"),
        ({"agreement": 0.8}, "--agreement needs pairs that people have labelled"),
        ({"agreement": 1.0, "gold": "x"}, "--agreement 1 can never be certified"),
        ({"target": 5, "max_candidates": 4, "pairing": "best-worst"}, "--target counts every pair"),
        ({"gold": "x", "calibration": "y"}, "--gold makes a calibration and --calibration brings one"),
        (
            {"protocol": "reason", "min_confidence": 0.7},
            "--protocol reason: uncalibrated beliefs after reasoning are cut",
        ),
        ({"protocol": "reason"}, "--protocol reason: uncalibrated beliefs after reasoning are cut"),
        ({"protocol": "letters"}, "--protocol 'letters' must be"),
        ({"min_confidence": 0.4}, "--min-confidence 0.4 must be greater than or equal to 0.5"),
        ({"pairing": "none"}, "--pairing 'none' must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_asked(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    (tmp_path / "judge.jsonl").touch()
    with pytest.raises(UsageError) as refused:
        LabelRun(PAIRS, make_settings(LabelSettings, {"judge": f"recorded:{tmp_path / 'judge.jsonl'}", **given}))
    assert str(refused.value).startswith(told)


def test_pairs_that_a_source_does_not_have_are_refused_before_anything_is_asked(tmp_path: Path, samples: Path) -> None:
    for source in (samples, written(tmp_path / "pairs.jsonl", PAIRS[:3])):
        with pytest.raises(UsageError, match="--pairing final is for generate runs"):
            setup(source, tmp_path / "out", scorer(), pairing="final")


def test_a_source_in_which_nothing_is_a_pair_is_an_error_that_names_the_first_problem(tmp_path: Path) -> None:
    for _ in range(2):  # the same command says the same
        with pytest.raises(SourceError, match=r"none of 2 records can be used; line 1: no pair of replies"):
            run([{"text": "x"}, {"prompt": "Q?", "chosen": "", "rejected": "y"}], tmp_path / "out", scorer())


# Gold pairs: judged first, and of no use where they say too little


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def gold_pairs(count: int, right: Callable[[int], bool]) -> list[dict[str, Any]]:
    """Pairs of which people prefer what the judge of these tests does, where `right` says so."""
    rows = []
    for n in range(count):
        first, second = f"one {n}", f"two {n}"
        better = digits(first) % 2001 > digits(second) % 2001
        rows.append({"input": f"Gold {n}?", "output_1": first, "output_2": second, "label": 1 + (better != right(n))})
    return rows


def test_what_gold_cannot_tell_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    unlabelled = written(tmp_path / "gold.jsonl", [{"prompt": "Q?", "replies": ["a", "b"]}])
    with pytest.raises(SourceError, match="no pair says which reply people prefer: --gold needs"):
        setup(PAIRS, tmp_path / "out", scorer(), gold=unlabelled)


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (
            gold_pairs(49, lambda n: n % 5 > 0),
            r"--gold .*: 49 pairs are too few for a temperature: .* come without --gold",
        ),
        (gold_pairs(80, lambda n: n % 2 > 0), r"--gold .*: the temperature is at the bound of what is tried \(100\)"),
    ],
)
def test_gold_that_tells_nothing_ends_the_run_before_the_rest_is_judged(
    tmp_path: Path, gold: list[dict[str, Any]], told: str
) -> None:
    judge = scorer()
    with pytest.raises(UsageError, match=told):
        labelled_with_gold(tmp_path, judge, gold)
    assert not any("Question" in asked for asked in judge.asked)
    assert not (tmp_path / "out" / "calibration.json").exists()


def labelled_with_gold(tmp_path: Path, judge: Player, gold: list[dict[str, Any]], **given: Any) -> list[LabelRun]:
    file = written(tmp_path / "gold.jsonl", gold)
    made = setup(PAIRS[:30], tmp_path / "out", judge, gold=file, **{"min_confidence": None, **given})
    jobs = []
    for job in made.sessions():
        job.finish()
        jobs.append(job)
    return jobs


def test_gold_pairs_are_judged_after_reasoning_too_whatever_confidence_is_kept(tmp_path: Path) -> None:
    def answer(payload: dict[str, Any]) -> Completion:
        return scores(payload) if payload["score"] else Completion(f"Reasons {digits(payload)}.", "stop", "judge-1")

    judge = Player(answer, "judge", scoring=True, prefill=True)
    gold, rest = labelled_with_gold(tmp_path, judge, gold_pairs(60, lambda n: n % 5 > 0), protocol="reason")
    assert (gold.info["rows"], rest.info["rows"]) == (60, 30) and rest.calibration is not None


def test_the_folder_of_another_run_is_refused_before_its_gold_is_paid_for(tmp_path: Path) -> None:
    run(PAIRS[:5], tmp_path / "out", scorer())
    judge = scorer()
    with pytest.raises(RunError, match="is another run"):
        labelled_with_gold(tmp_path, judge, gold_pairs(60, lambda n: n % 5 > 0), seed=7)
    assert not judge.asked and not (tmp_path / "out" / "gold").exists()


def test_a_target_over_several_models_asks_which_one(tmp_path: Path) -> None:
    models = Player(seeded, "one", seeds=True), Player(seeded, "two", seeds=True)
    sample_run(PROMPTS, tmp_path / "samples", *models, n=2)
    with pytest.raises(UsageError, match=r"the sample run has 2 models .*: say which by --model"):
        setup(tmp_path / "samples", tmp_path / "out", scorer(), target=5, max_candidates=6)
    spec = f"recorded:{tmp_path / 'two.jsonl'}"
    two = Player(seeded, "two", seeds=True)
    made = setup(tmp_path / "samples", tmp_path / "out", scorer(), two, target=99, max_candidates=6, model=spec)
    made.finish()
    asked = {(call["messages"][0]["content"], call["seed"]) for call in map(eval, two.asked)}
    before = {(call["messages"][0]["content"], call["seed"]) for call in map(eval, models[1].asked)}
    assert asked and not asked & before  # its own numbers go on where those of the sample run ended


def test_a_calibration_serves_the_judge_it_was_made_for_and_no_other(tmp_path: Path) -> None:
    labelled_with_gold(tmp_path, scorer(), gold_pairs(60, lambda n: n % 5 > 0))
    file = tmp_path / "out" / "calibration.json"
    run(PAIRS[:5], tmp_path / "next", scorer(), calibration=file, min_confidence=None)
    temperatures = {row["temperature"] for row in rows_of(tmp_path / "next")}
    assert temperatures == {row["temperature"] for row in rows_of(tmp_path / "out")} != {None}
    with pytest.raises(UsageError, match=r"--calibration .* was made for a different judge: .*principles"):
        setup(PAIRS, tmp_path / "other", scorer(), calibration=file, min_confidence=None, principles=1)
