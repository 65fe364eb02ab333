"""A constitution's own examples before judges whose minds are known."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trial_judges import Judge, command, fair

import cai.models
from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.errors import CallRejected, ConstitutionError, InputError, ModelStopped, RunError, UsageError
from cai.evaluation.ablation import Left, ablate
from cai.evaluation.bench import judge_bench
from cai.evaluation.trial import constitution_test, resolve_trial
from cai.folder.lines import read_rows
from cai.records import Label

Mind = Callable[[str, str, str], float]  # of the question and both replies as shown: log odds that the first is better


def law(*principles: dict[str, Any]) -> Constitution:
    return Constitution.model_validate({"name": "law", "version": "1.0.0", "principles": principles})


def principle(name: str, *examples: tuple[str, str], prompt: str | None = None) -> dict[str, Any]:
    tests = [{"prompt": prompt or f"{name}?", "better": better, "worse": worse} for better, worse in examples]
    return {"id": name, "choose": f"Choose by {name}.", "tests": tests}


TWO = law(principle("kind", ("+3 please", "-1 no"), ("+1 well", "0 so")), principle("brief", ("+1 yes", "+4 long")))


# What an example comes to


def test_an_example_holds_where_both_orders_prefer_the_better_reply(judged: Callable[..., Judge]) -> None:
    judged(fair)
    report = constitution_test(TWO, "fake:x")
    assert [(one.principle, one.number, one.state) for one in report.outcomes] == [
        ("kind", 1, "holds"), ("kind", 2, "holds"), ("brief", 1, "fails")
    ]  # fmt: skip
    assert report.counts == {"holds": 2, "flips": 0, "fails": 1, "invalid": 0}
    first = report.outcomes[0]
    assert first.shown_first == first.shown_second == first.p == pytest.approx(1 / (1 + math.exp(-4)))
    assert first.mass == pytest.approx(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(gap=st.floats(-3, 3), bias=st.floats(-3, 3))
def test_the_state_follows_from_preference_and_bias(judged: Callable[..., Judge], gap: float, bias: float) -> None:
    if min(abs(gap), abs(gap + bias), abs(gap - bias)) < 1e-6:  # on the edge rounding decides
        return
    judged(lambda question, first, second: bias + (gap if first == "good" else -gap))
    [outcome] = constitution_test(law(principle("one", ("good", "bad"))), "fake:x").outcomes
    assert outcome.p == pytest.approx(1 / (1 + math.exp(-gap)))  # whatever the bias
    assert outcome.state == ("fails" if gap < 0 else "flips" if abs(bias) > gap else "holds")
    assert outcome.shown_first == pytest.approx(1 / (1 + math.exp(-gap - bias)))
    assert outcome.shown_second == pytest.approx(1 / (1 + math.exp(-gap + bias)))


def test_a_judge_that_follows_the_place_holds_nothing(judged: Callable[..., Judge]) -> None:
    judged(lambda question, first, second: 5.0 + 0.1 * fair(question, first, second))
    report = constitution_test(TWO, "fake:x")
    assert [one.state for one in report.outcomes] == ["flips", "flips", "fails"]


def test_a_reading_that_does_not_count_makes_the_example_invalid(judged: Callable[..., Judge]) -> None:
    judged(lambda question, first, second: None if first == "0 so" else fair(question, first, second))
    report = constitution_test(TWO, "fake:x")
    outcome = report.outcomes[1]
    assert (outcome.state, outcome.p, outcome.shown_first) == ("invalid", None, None)
    assert outcome.problem is not None and "neither letter" in outcome.problem
    assert [one.number for one in report.failed] == [2, 1]


def test_an_example_that_is_dropped_is_invalid_and_says_why(judged: Callable[..., Judge]) -> None:
    judge = judged(fair)

    def refuse(text: str, time: int) -> None:
        if "+4 long" in text:
            raise CallRejected("content_filter", "the provider refused to read it")

    judge.behave = refuse
    report = constitution_test(TWO, "fake:x")
    assert [one.state for one in report.outcomes] == ["holds", "holds", "invalid"]
    assert "content_filter" in (report.outcomes[2].problem or "")


def test_votes_in_words_hold_where_every_vote_does(judged: Callable[..., Judge]) -> None:
    judged(fair, logprobs=0)
    report = constitution_test(TWO, "fake:x")
    assert report.protocol == "vote"
    assert [one.state for one in report.outcomes] == ["holds", "holds", "fails"]
    assert (report.outcomes[0].shown_first, report.outcomes[0].mass) == (1.0, None)
    judged(lambda question, first, second: 1.0, logprobs=0)
    split = constitution_test(TWO, "fake:x").outcomes[0]
    assert (split.state, split.shown_first, split.shown_second, split.p) == ("fails", 1.0, 0.0, 0.5)


# Under which principle


def test_each_example_is_judged_under_its_own_principle_alone(judged: Callable[..., Judge]) -> None:
    judge = judged(fair)
    constitution_test(TWO, "fake:x")
    assert len(judge.asked) == 6  # three examples in both orders
    for text in judge.asked:
        [asked] = re.findall(r"Choose by (\w+)", text)
        assert f"User: {asked}?" in text


def test_one_pair_can_stand_under_two_principles_the_other_way_round(judged: Callable[..., Judge]) -> None:
    torn = law(principle("long", ("+1 a", "0 b"), prompt="same"), principle("short", ("0 b", "+1 a"), prompt="same"))
    judged(lambda question, first, second: fair("", first, second) * (1 if "by long" in question else -1))
    assert [one.state for one in constitution_test(torn, "fake:x").outcomes] == ["holds", "holds"]


def test_one_principle_can_be_tested_alone(judged: Callable[..., Judge]) -> None:
    judge = judged(fair)
    report = constitution_test(TWO, "fake:x", principle="brief")
    assert [one.principle for one in report.outcomes] == ["brief"]
    assert len(judge.asked) == 2
    with pytest.raises(UsageError, match="did you mean 'brief'"):
        constitution_test(TWO, "fake:x", principle="breif")


def test_the_built_in_examples_can_all_be_asked(judged: Callable[..., Judge]) -> None:
    judged(lambda question, first, second: 0.5)
    for name in ("harmless", "helpful", "honest", "hhh"):
        built_in = load_constitution(name)
        report = constitution_test(built_in, "fake:x")
        assert len(report.outcomes) == sum(len(each.tests) for each in built_in.principles) > 0
        assert report.counts["invalid"] == 0


# What cannot be tested


def test_without_examples_it_is_said_how_to_write_one(judged: Callable[..., Judge]) -> None:
    judged(fair)
    with pytest.raises(ConstitutionError, match=r"no principle has a test: write some .* tests: "):
        constitution_test(law(principle("kind")), "fake:x")
    with pytest.raises(ConstitutionError, match="principle 'brief' has no test"):
        constitution_test(law(principle("kind", ("a", "b")), principle("brief")), "fake:x", principle="brief")


def test_an_example_of_a_principle_that_words_no_choice_is_an_error(judged: Callable[..., Judge]) -> None:
    judged(fair)
    mute = {"id": "mute", "critique": "Find faults.", "revise": "Mend them."}
    mute["tests"] = [{"prompt": "p", "better": "a", "worse": "b"}]  # type: ignore[assignment]
    with pytest.raises(ConstitutionError, match="'mute' has tests but no 'choose'"):
        constitution_test(law(principle("kind"), mute), "fake:x")


def test_a_reward_model_cannot_be_asked_by_principle(judged: Callable[..., Judge]) -> None:
    judged(fair, logprobs=0, reward=True)
    with pytest.raises(UsageError, match="reads no principle"):
        constitution_test(TWO, "fake:x")


def test_settings_of_training_data_are_refused() -> None:
    with pytest.raises(UsageError, match="'min_confidence' is for labels"):
        constitution_test(TWO, "fake:x", min_confidence=0.9)


# What is kept


def test_running_again_asks_only_what_changed(judged: Callable[..., Judge], tmp_path: Path) -> None:
    judge = judged(fair)
    once = constitution_test(TWO, "fake:x", out=tmp_path / "run")
    assert (once.folder, len(judge.asked)) == (str(tmp_path / "run"), 6)
    assert constitution_test(TWO, "fake:x", out=tmp_path / "run") == once
    assert len(judge.asked) == 6
    first = TWO.principles[0].model_copy(update={"choose": "Choose by kindness."})
    changed = TWO.model_copy(update={"principles": (first, TWO.principles[1])})
    assert changed.hash != TWO.hash
    constitution_test(changed, "fake:x", out=tmp_path / "run")
    assert len(judge.asked) == 10  # two examples under the new wording, in both orders
    alone = constitution_test(changed, "fake:x", out=tmp_path / "run", principle="brief")
    assert (len(alone.outcomes), len(judge.asked)) == (1, 10)


def test_what_was_finished_before_a_stop_is_not_asked_again(judged: Callable[..., Judge], tmp_path: Path) -> None:
    judge = judged(fair)

    def stop(text: str, time: int) -> None:
        if "by brief" in text:
            raise ModelStopped("no more")

    judge.behave, judge.concurrency = stop, 1
    with pytest.raises(ModelStopped, match="no more"):
        constitution_test(TWO, "fake:x", out=tmp_path / "run")
    answered = len(judge.answered)
    judge.behave = lambda text, time: None
    assert len(constitution_test(TWO, "fake:x", out=tmp_path / "run").outcomes) == 3
    assert answered == 4
    assert len(judge.answered) == 6


def test_a_damaged_label_is_named(judged: Callable[..., Judge], tmp_path: Path) -> None:
    judged(fair)
    constitution_test(TWO, "fake:x", out=tmp_path)
    path = tmp_path / "labels.jsonl"
    assert len(list(read_rows(path, Label))) == 3
    path.write_bytes(path.read_bytes().replace(b'"votes":', b'"vetos":', 1))
    with pytest.raises(RunError, match=r"labels.jsonl: line 1 is damaged"):
        list(read_rows(path, Label))


def test_the_folder_of_another_run_is_left_alone(judged: Callable[..., Judge], tmp_path: Path) -> None:
    judged(fair)
    other = tmp_path / "other"
    other.mkdir()
    info = json.dumps({"format": 1, "identity": {"command": "label"}})
    (other / "run.json").write_text(info)
    (other / "labels.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="is another run"):
        constitution_test(TWO, "fake:x", out=other)
    assert ((other / "run.json").read_text(), (other / "labels.jsonl").read_text()) == (info, "{}\n")


def test_by_default_judges_and_protocols_have_folders_of_their_own(judged: Callable[..., Judge]) -> None:
    judged(fair)
    named = [resolve_trial(TWO, None, {"judge": "fake:x", **more}).out for more in ({}, {"protocol": "vote"})]
    assert len(set(named)) == 2
    assert all(out.parent == Path("runs") and out.name.startswith("law-tests-") for out in named)


def test_it_can_be_called_where_a_loop_runs(judged: Callable[..., Judge]) -> None:
    judged(fair)

    async def inside() -> int:
        return len(constitution_test(TWO, "fake:x").outcomes)

    assert asyncio.run(inside()) == 3


# What is told


def test_the_table_names_what_does_not_hold(judged: Callable[..., Judge]) -> None:
    judged(fair)
    lines = list(constitution_test(law(*TWO.model_dump()["principles"], principle("bare")), "fake:x").lines())
    assert "kind  (2 of 2 hold)" in lines and "brief  (0 of 1 hold)" in lines
    assert "3 tests: 2 hold in both orders, 1 fail" in lines
    assert "principles without a test: bare" in lines
    assert lines[-1] == "not held: brief 1 (fails)"


def test_the_summary_is_plain_json(judged: Callable[..., Judge]) -> None:
    judged(fair)
    output = json.loads(json.dumps(constitution_test(TWO, "fake:x").summary()))
    assert (output["n"], output["holds"], output["fails"], output["passed"]) == (3, 2, 1, False)
    assert output["tests"][0]["principle"] == "kind"
    assert output["folder"] is None


def test_the_command_exits_1_where_an_example_fails(
    judged: Callable[..., Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    judge = judged(fair)
    Path("law.yaml").write_text(json.dumps(TWO.model_dump(mode="json", exclude_none=True)))
    assert command(monkeypatch, "constitution", "test", "law.yaml", "--judge", "fake:x") == 1
    output = capsys.readouterr()
    assert "not held: brief 1 (fails)" in output.out and "3 tests judged" in output.err
    assert "error: law.yaml: 1 of 3 tests do not hold in both orders" in output.err.splitlines()
    assert command(monkeypatch, "constitution", "test", "law.yaml", "--judge", "fake:x", "--json") == 1
    told_json = capsys.readouterr()
    assert json.loads(told_json.out)["passed"] is False and "tests do not hold" in told_json.err
    words = ("constitution", "test", "law.yaml", "--judge", "fake:x", "--principle", "kind", "--json")
    assert command(monkeypatch, *words) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["holds"], output["passed"], len(judge.asked)) == (2, True, 6)
    [folder] = Path("runs").iterdir()
    assert output["folder"] == str(folder)


# Leaving a principle out

LAWREF = {"name": "law", "version": "1.0.0", "hash": "0" * 16}
Said = tuple[float, float] | None  # d and b of a vote; None: invalid


def log_sigma(odds: float) -> float:
    return -math.log1p(math.exp(-odds))


def reading(odds: float | None) -> dict[str, Any]:
    if odds is None:
        return {"problem": "names no letter"}
    choice = "first" if odds > 0 else "second" if odds < 0 else None
    return {"first": log_sigma(odds), "second": log_sigma(-odds), "mass": 1.0, "choice": choice}


def label_of(
    said: dict[str, Said], human: str | None = None, *, weights: dict[str, float] | None = None, **more: Any
) -> Label:
    """A label by letters; with weights, that were counted."""
    votes, total, heavy = [], 0.0, 0.0
    for name, one in said.items():
        weight = (weights or {}).get(name, 1.0)
        d, b = one or (None, None)
        ab, ba = (None, None) if one is None else (one[0] + one[1], one[1] - one[0])
        votes.append({"principle": name, "weight": weight, "ab": reading(ab), "ba": reading(ba), "d": d, "b": b})
        if d is not None:
            total, heavy = total + weight * d, heavy + weight
    z = total / heavy if heavy else None
    fields = {"z": z, "votes": votes, "human": human, "protocol": "logprob", "temperature": None} | more
    return Label.model_validate(
        {
            "id": "x", "position": 0, "key": "k", "prompt_id": "x", "prompt": [{"role": "user", "content": "hi"}],
            "a": "a", "b": "b", "a_from": "a", "b_from": "b", "a_model": None, "b_model": None, "p_a": None,
            "confidence": None, "constitution": LAWREF, "templates": "t", "models": {"judge": "j"}, "seed": 0,
            "usage": {}, "calls": [], **fields,
        }
    )  # fmt: skip


def swapped(label: Label) -> Label:
    """The same label with its replies changed about."""
    votes = tuple(
        vote.model_copy(update={"ab": vote.ba, "ba": vote.ab, "d": None if vote.d is None else -vote.d})
        for vote in label.votes
    )
    human = {"a": "b", "b": "a", None: None}[label.human]
    return label.model_copy(update={"votes": votes, "human": human, "z": None if label.z is None else -label.z})


def by_name(labels: list[Label], **more: Any) -> dict[str, Left]:
    return {one.principle: one for one in ablate(labels, **more).principles}


VOTES = st.none() | st.tuples(st.integers(-12, 12).map(lambda n: n / 4), st.integers(-8, 8).map(lambda n: n / 4))
LABELS = st.lists(
    st.builds(
        label_of,
        st.dictionaries(st.sampled_from("pqrs"), VOTES, min_size=1),
        st.sampled_from(["a", "b", None]),
    ),
    min_size=1,
    max_size=8,
)


def test_four_pairs_are_counted_as_by_hand() -> None:
    labels = [
        label_of({"p": (3.0, 0.5), "q": (-1.0, 0.0)}, "a"),  # z 1; without p -1: turns; without q 3
        label_of({"p": (2.0, 1.5), "q": (1.0, 1.0)}, "b"),  # z 1.5; without p 1, without q 2
        label_of({"p": (0.5, 0.0), "q": None}, "a"),  # p alone
        label_of({"p": (-0.2, 0.0), "q": (-2.2, 0.0)}),  # z -1.2; without q -0.2: below 0.7
    ]
    result = ablate(labels, min_confidence=0.7)  # log odds of 0.7: 0.847
    assert [one.principle for one in result.principles] == ["p", "q"]  # what changes more comes first
    p, q = result.principles
    assert (p.pairs, p.rest, p.alone, p.turned, p.gained, p.lost, p.changes) == (4, 3, 1, 1, 0, 0, 2)
    assert (q.pairs, q.rest, q.alone, q.turned, q.gained, q.lost, q.changes) == (3, 3, 0, 0, 0, 1, 1)
    assert (p.win_rate, q.win_rate) == (1.0, pytest.approx(2 / 3))
    assert (p.agrees_with_rest, q.agrees_with_rest) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (p.invalid_vote_rate, q.invalid_vote_rate) == (0, 0.25)
    assert (p.strength, p.bias) == (pytest.approx(5.7 / 4), 0.5)
    assert (p.people, p.people_pairs) == (-0.5, 2)  # a was right of the first, b stays wrong of the second
    assert (q.people, q.people_pairs) == (0, 2)
    assert (result.pairs, result.protocol, result.weighted) == (4, "logprob", None)


@given(LABELS, st.sampled_from([0.5, 0.6, 0.7, 0.9]))
def test_what_would_change_is_what_the_mean_of_the_others_says(labels: list[Label], least: float) -> None:
    def sign(z: float) -> int:
        return (z > 0) - (z < 0)

    def sure(z: float) -> float:
        return 1 / (1 + math.exp(-abs(z)))

    if any(abs(sure(sum(ds) / len(ds)) - least) < 1e-9 for one in labels for ds in _subsets(one)):
        return  # on the edge rounding decides
    result = by_name(labels, min_confidence=least)
    for name, left in result.items():
        turned = gained = lost = alone = pairs = 0
        for label in labels:
            ds = {vote.principle: vote.d for vote in label.votes if vote.d is not None}
            if name not in ds:
                continue
            pairs += 1
            whole = sum(ds.values()) / len(ds)
            others = [d for other, d in ds.items() if other != name]
            if not others:
                alone += 1
                continue
            rest = sum(others) / len(others)
            turned += sign(rest) != sign(whole)
            gained += sure(whole) < least <= sure(rest)
            lost += sure(rest) < least <= sure(whole)
        assert (left.pairs, left.alone, left.turned, left.gained, left.lost) == (pairs, alone, turned, gained, lost)
    assert set(result) == {vote.principle for label in labels for vote in label.votes}


def _subsets(label: Label) -> list[list[float]]:
    ds = [vote.d for vote in label.votes if vote.d is not None]
    return [part for part in [ds, *(ds[:n] + ds[n + 1 :] for n in range(len(ds)))] if part]


@given(LABELS)
def test_which_reply_is_called_a_changes_nothing(labels: list[Label]) -> None:
    assert by_name(list(map(swapped, labels))) == by_name(labels)


def test_where_both_ways_give_z_pairs_under_the_same_principles_were_weighted() -> None:
    weights = {"p": 1.0, "q": 2.0, "r": 3.0}
    label = label_of({"p": (1.0, 0.0), "q": (-1.0, 0.0), "r": (1.0, 0.0)}, weights=weights)  # z is 1/3 either way
    assert ablate([label]).weighted is True
    assert by_name([label])["r"].turned == 1  # the rest is -1/3, or 0
    other = label_of({"p": (1.0, 0.0)}, weights=weights)
    assert ablate([label, other]).weighted is False


@given(LABELS, st.randoms())
def test_the_order_of_the_labels_changes_nothing(labels: list[Label], chance: Any) -> None:
    other = list(labels)
    chance.shuffle(other)
    assert by_name(other) == by_name(labels)


def test_votes_count_by_weight_where_the_labels_did() -> None:
    weights = {"p": 4.0, "q": 1.0, "r": 1.0}
    said = {"p": (1.0, 0.0), "q": (-1.0, 0.0), "r": (-2.0, 0.0)}
    heavy, plain = label_of(said, weights=weights), label_of(said, weights=weights, z=-2 / 3)
    assert ablate([heavy]).weighted is True
    assert ablate([plain]).weighted is False
    assert by_name([heavy])["q"].win_rate == 0  # z is 1/6
    assert by_name([plain])["q"].win_rate == 1
    assert (by_name([heavy])["p"].turned, by_name([plain])["p"].turned) == (1, 0)
    with pytest.raises(InputError, match="z does not follow from the votes"):
        ablate([heavy, plain])


def test_a_label_that_was_changed_is_noticed(tmp_path: Path) -> None:
    rows = [label_of({"p": (1.0, 0.0)}), label_of({"p": (1.0, 0.0)}, z=1.1)]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    with pytest.raises(InputError, match=r"labels\.jsonl:2: z does not follow"):
        ablate(tmp_path)


def test_votes_in_words_are_counted() -> None:
    def vote(name: str, ab: str, ba: str, wave: int = 0) -> dict[str, Any]:
        return {"principle": name, "weight": 1.0, "wave": wave, "ab": {"choice": ab}, "ba": {"choice": ba}}

    for_a, for_b, place = ("first", "second"), ("second", "first"), ("first", "first")
    votes = [vote("p", *for_a), vote("q", *for_b), vote("p", *for_a, 1), vote("q", *place, 1)]
    z = math.log(5.5) - math.log(3.5)  # 5 of 8 for a
    result = ablate([label_of({}, "a", z=z, votes=votes, protocol="vote")], min_confidence=0.6)
    p, q = result.principles
    assert (p.principle, p.win_rate, p.agrees_with_rest, p.turned, p.lost) == ("p", 1, 0, 1, 0)
    assert (q.win_rate, q.agrees_with_rest, q.turned, q.gained, q.people) == (0, 0, 0, 0, 0)
    assert (p.strength, p.bias, p.people) == (None, None, -1)
    assert result.protocol == "vote"


def test_beliefs_after_reasoning_end_at_six_tenths() -> None:
    sure = label_of({"p": (9.0, 0.0), "q": (0.1, 0.0)}, protocol="reason")
    assert by_name([sure], min_confidence=0.6)["p"].lost == 1
    assert by_name([sure], min_confidence=0.7)["p"].lost == 0  # no such belief is so sure


def test_labels_of_a_reward_model_can_be_ablated_if_it_is_told_principles() -> None:
    with pytest.raises(InputError, match="reads no principle"):
        ablate([label_of({}, protocol="reward", rewards=(1.0, 0.0), z=1.0)])
    votes = {"p": (3.0, 0.0), "q": (-1.0, 0.0)}
    assert by_name([label_of(votes, protocol="conditioned")])["p"] == by_name([label_of(votes)])["p"]


def test_labels_of_two_runs_cannot_be_ablated_together() -> None:
    one = label_of({"p": (1.0, 0.0)})
    with pytest.raises(InputError, match="another constitution than in the first label"):
        ablate([one, label_of({"p": (1.0, 0.0)}, constitution=LAWREF | {"hash": "1" * 16})])


@pytest.mark.parametrize(
    ("text", "problem"), [("{}\n", ":1: is not a row of labels"), ("{\n", "not JSON"), ("", "no rec")]
)
def test_what_holds_no_labels_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=r"without a labels\.jsonl"):
        ablate(tmp_path)
    (tmp_path / "labels.jsonl").write_text(text)
    with pytest.raises(InputError, match=problem):
        ablate(tmp_path)
    with pytest.raises(UsageError, match=r"0\.5 to 1"):
        ablate(tmp_path, min_confidence=0.3)


def test_principles_that_do_nothing_or_work_against_the_rest_are_named() -> None:
    labels = [label_of({"p": (3.0, 0.0), "q": (3.1, 0.0), "r": (-0.1, 0.0), "s": None}) for _ in range(6)]
    notes = list(ablate(labels).notes())
    assert notes[0] == "never answered in both orders: s"
    assert notes[1].startswith("decide nothing: ") and "r (6)" in notes[1]
    assert notes[2:] == ["r contradicts the rest: they agree on 0% of 6 pairs"]


def test_a_label_run_can_be_ablated_whole(
    judged: Callable[..., Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(lambda question, first, second: 0.3 + fair("", first, second) * (-1 if "number 1" in question else 1))
    three = law(*({"id": f"n{n}", "choose": f"Choose reply number {n}.", "weight": n + 1.0} for n in range(3)))
    pairs = [{"prompt": f"Q{n}", "a": f"{n} a", "b": "2.5 b", "human": "b"} for n in range(6)]
    for count, weighted in ((3, True), (2, False)):
        out = tmp_path / str(count)
        labels = list(cai.label(pairs, three, judge="fake:x", principles=count, out=out, min_confidence=0.5))
        result = ablate(out)
        assert (result.weighted, result.principles) == (weighted, ablate(labels).principles)
        assert {one.principle: one.bias for one in result.principles} == pytest.approx(
            dict.fromkeys(("n0", "n1", "n2"), 0.3)
        )
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "constitution", "ablate", "3") == 0
    assert "n1 contradicts the rest: they agree on 0% of 6 pairs" in capsys.readouterr().out
    assert command(monkeypatch, "constitution", "ablate", "3", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["pairs"], output["weighted"], len(output["principles"])) == (6, True, 3)


def test_a_built_in_constitution_is_named_as_the_command_takes_it(judged: Callable[..., Judge], tmp_path: Path) -> None:
    judged(fair)
    run = resolve_trial(load_constitution("hhh"), None, {"judge": "fake:x", "out": tmp_path / "trial"})
    assert run.command_line == "cai constitution test hhh --judge fake:x"
    (tmp_path / "gold.jsonl").write_text('{"prompt": "q", "chosen": "2", "rejected": "1"}\n')
    judge_bench(tmp_path / "gold.jsonl", "fake:x", "hhh", out=tmp_path / "bench")
    [bench] = (tmp_path / "bench").iterdir()
    assert "--constitution hhh" in json.loads((bench / "run.json").read_bytes())["command"]
