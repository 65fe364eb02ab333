"""Replies that a judge rates each by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from reward_judges import Rater, judge, law, rewards

from cai.engine.templates.sets import load_templates
from cai.errors import TemplateError, UsageError
from cai.records import Completion
from cai.rewards.scoring import CLIP

REPLIES = ["+1 a", "-2 b", "+0.5 c"]
ANYHOW = [{"logprobs": 20}, {"logprobs": 0, "scoring": True}, {"logprobs": 0, "decisions": 2, "decides": True}]


@pytest.mark.parametrize("can", ANYHOW)
def test_a_reward_is_the_log_odds_however_the_judge_gives_them(tmp_path: Path, can: dict[str, int]) -> None:
    assert rewards(judge(tmp_path, Rater(**can)), REPLIES) == pytest.approx([1, -2, 0.5])


def test_a_word_counts_as_three_to_one(tmp_path: Path) -> None:
    assert rewards(judge(tmp_path, Rater(logprobs=0)), REPLIES) == pytest.approx([1.0986, -1.0986, 1.0986], abs=1e-4)


def test_certainty_is_clipped(tmp_path: Path) -> None:
    assert rewards(judge(tmp_path, Rater()), ["+9 a", "-9 b"]) == pytest.approx([CLIP, -CLIP])


@pytest.mark.parametrize("can", ANYHOW)
def test_all_principles_count_by_weight(tmp_path: Path, can: dict[str, int]) -> None:
    rater = Rater(lambda reply, rule: {"Rule 0": 1.0, "Rule 1": 2.0, "Rule 2": -3.0}[rule], **can)
    assert rewards(judge(tmp_path, rater, law(1, 1, 2)), ["a"]) == pytest.approx([-0.75])
    assert rater.calls == (2 if "decisions" in can else 3)


def test_principles_are_drawn_for_the_prompt_and_the_same_for_its_replies(tmp_path: Path) -> None:
    ruled = dict[str, set[str]]()

    def mind(reply: str, rule: str) -> float:
        ruled.setdefault(reply, set()).add(rule)
        return 0.0

    reward = judge(tmp_path, Rater(mind), law(*[1.0] * 9), principles=2)
    rewards(reward, ["a", "b", "c"])
    assert ruled["a"] == ruled["b"] == ruled["c"] and len(ruled["a"]) == 2
    for number in range(5):
        rewards(reward, [f"{number} d", f"{number} e"], prompt=f"Question {number}?")
        assert ruled[f"{number} d"] == ruled[f"{number} e"]
    assert len(set(map(frozenset, ruled.values()))) > 1


def test_an_unreadable_answer_is_left_out_and_without_any_other_the_reward_is_unknown(tmp_path: Path) -> None:
    class Vague(Rater):
        def _answer(self, payload: dict[str, object]) -> Completion:
            self.mass = (
                0.4 if "Rule 1" in repr(payload) or "b" in repr(payload["messages"]).split("<reply>")[1][:8] else 1.0
            )
            return super()._answer(payload)

    reward = judge(tmp_path, Vague(), law(1, 1))
    assert rewards(reward, ["+1 a", "+1 b"]) == pytest.approx([1, None])


def test_a_call_that_is_refused_leaves_its_reply_unknown(tmp_path: Path) -> None:
    from cai.errors import CallRejected

    class Filtering(Rater):
        def _answer(self, payload: dict[str, object]) -> Completion:
            if "filtered" in repr(payload):
                raise CallRejected("content_filter", "blocked")
            return super()._answer(payload)

    assert rewards(judge(tmp_path, Filtering()), ["+1 a", "+1 filtered"]) == [pytest.approx(1), None]


def test_a_plan_knows_the_calls(tmp_path: Path) -> None:
    assert judge(tmp_path, Rater(), law(1, 1), principles=1).most_calls(8) == 8
    assert judge(tmp_path, Rater(decisions=2, decides=True), law(1, 1, 1)).most_calls(8) == 16


def test_templates_without_the_question_are_refused(tmp_path: Path) -> None:
    assert not load_templates("fewshot").by_name.get("screen")
    with pytest.raises(TemplateError, match=r"no screen\.jinja"):
        judge(tmp_path, Rater(completion=True), templates="fewshot")


@pytest.mark.parametrize(
    ("can", "settings", "problem"),
    [
        ({}, {"protocol": "reason"}, "--scoring group"),
        ({"reward": True}, {}, "--reward rater:one"),
        ({"chat": False}, {}, "no chat template"),
        ({"logprobs": 0}, {"protocol": "logprob"}, "use --protocol vote"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_call(
    tmp_path: Path, can: dict[str, bool], settings: dict[str, str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        judge(tmp_path, Rater(**can), **settings)
