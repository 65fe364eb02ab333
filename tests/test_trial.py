"""A constitution's own examples before judges whose minds are known."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cai.models
from cai.cli import main
from cai.constitution import Constitution, load_constitution
from cai.errors import CallRejected, ConstitutionError, ModelStopped, RunError, UsageError
from cai.models import Abilities
from cai.records import Completion
from cai.trial import constitution_test, resolve_trial

REPLIES = re.compile(r"<reply_a>\n(.*?)\n</reply_a>\n\n<reply_b>\n(.*?)\n</reply_b>", re.S)
Mind = Callable[[str, str, str], float]  # of the question and both replies as shown: log odds that the first is better


class Judge(Fake):
    """A judge with a mind of its own; says nothing of letters where that is None."""

    def __init__(self, mind: Callable[[str, str, str], float | None], **can: Any) -> None:
        super().__init__()
        self.mind = mind
        self.can = Abilities(**({"logprobs": 20, "prefill": True} | can))

    async def send(self, payload: dict[str, Any]) -> Completion:
        text = "\n".join(turn["content"] for turn in payload["messages"])  # after reasons the frame is in the first
        await super().send(payload)
        found = REPLIES.search(text)
        assert found is not None
        odds = self.mind(text[found.end() :], found[1], found[2])
        if odds is None:
            return Completion("Well", "stop", "fake-1", logprobs=({"Well": -0.1},))
        listed = {"A": -math.log1p(math.exp(-odds)), "B": -math.log1p(math.exp(odds))}
        return Completion("A" if odds > 0 else "B", "stop", "fake-1", 100, 1, logprobs=(listed,))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Judge]:
    """Makes `fake:` a judge with this mind, and gives it back."""

    def make(mind: Callable[[str, str, str], float | None], **can: Any) -> Judge:
        judge = Judge(mind, **can)
        monkeypatch.setitem(cai.models.PROVIDERS, "fake", lambda name, connection: judge)
        return judge

    return make


def value(reply: str) -> float:
    """What a reply says it is worth, as in "+2 …"."""
    return float(reply.split()[0])


def law(*principles: dict[str, Any]) -> Constitution:
    return Constitution.model_validate({"name": "law", "version": "1.0.0", "principles": principles})


def principle(name: str, *examples: tuple[str, str], prompt: str | None = None) -> dict[str, Any]:
    tests = [{"prompt": prompt or f"{name}?", "better": better, "worse": worse} for better, worse in examples]
    return {"id": name, "choose": f"Choose by {name}.", "tests": tests}


TWO = law(principle("kind", ("+3 please", "-1 no"), ("+1 well", "0 so")), principle("brief", ("+1 yes", "+4 long")))


def fair(question: str, first: str, second: str) -> float:
    return value(first) - value(second)


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
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
    told = json.loads(json.dumps(constitution_test(TWO, "fake:x").summary()))
    assert (told["n"], told["holds"], told["fails"], told["passed"]) == (3, 2, 1, False)
    assert told["tests"][0]["principle"] == "kind"
    assert told["folder"] is None


def test_the_command_exits_1_where_an_example_fails(
    judged: Callable[..., Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    judge = judged(fair)
    Path("law.yaml").write_text(json.dumps(TWO.model_dump(mode="json", exclude_none=True)))
    assert command(monkeypatch, "constitution", "test", "law.yaml", "--judge", "fake:x") == 1
    assert "not held: brief 1 (fails)" in capsys.readouterr().out
    words = ("constitution", "test", "law.yaml", "--judge", "fake:x", "--principle", "kind", "--json")
    assert command(monkeypatch, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["passed"], len(judge.asked)) == (2, True, 6)
    [folder] = Path("runs").iterdir()
    assert told["folder"] == str(folder)


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of a command of cai, run in this process."""
    monkeypatch.setattr(sys, "argv", ["cai", *words])
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        logging.getLogger("cai").handlers.clear()
    return int(end.value.code or 0)
