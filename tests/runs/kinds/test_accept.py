"""Runs whose revisions a judge must prefer: what is asked of whom, what stands, and the pairs that follow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, Asked, Habits, Mode, answer, chat, in_chain, leaning, listed, says, serving, turns_of
from stored_runs import revisions_of
from terminal import cai

from cai.errors import RunError, Unreadable, UsageError
from cai.judge.accept import HELPFULNESS
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings
from cai.training.provenance import provenance

SHOWN = re.compile(r"<reply_a>\n(.*?)\n</reply_a>\n\n<reply_b>\n(.*?)\n</reply_b>\n\n(.*)", re.S)
BIAS = 1.5  # of the judge, towards the reply that is shown first
WORTH = {  # log odds of a text against "first reply", under the principle of a round and under that of helpfulness
    "better": (1.0, 0.5),
    "useless": (1.0, -0.5),  # keeps to the principle, and helps nobody
    "off": (-1.0, 0.5),
    "worse": (-1.0, -0.5),
    "even": (0.0, 0.0),
    "first": (0.0, 0.0),
}


def judged(asked: str) -> Answer:
    """A judge who reads the first word of each text."""
    found = SHOWN.search(asked)
    assert found is not None
    which = int(found[3].startswith(str(HELPFULNESS.choose)))
    first, second = (WORTH[text.split()[0]][which] for text in found.groups()[:2])
    return leaning("A", "B", first - second + BIAS)


def chain(asked: Asked) -> Answer:
    """Writer, critic, reviser and judge in one; a prompt says what becomes of its reply."""
    if b"<reply_a>" in asked.raw:
        return judged(turns_of(asked)[0])
    return in_chain(asked, lambda prompt: "first reply", revised)


def revised(turns: list[str]) -> str:
    return f"{turns[0].split()[0]} revision {len(turns)} after {turns[1]!r}"


def mute(asked: Asked) -> Answer:
    """The same, of a judge who says something else."""
    if b"<reply_a>" in asked.raw:
        return answer(chat("Well", choice={"logprobs": listed(("Well", -0.1), ("So", -3.0))}))
    return chain(asked)


def half_mute(asked: Asked) -> Answer:
    """The same, of a judge who speaks of helpfulness alone."""
    return chain(asked) if str(HELPFULNESS.choose).encode()[:60] in asked.raw else mute(asked)


def words(asked: Asked) -> Answer:
    """The same, of a judge who names a letter, and the first of texts that are equal."""
    if b"<reply_a>" not in asked.raw:
        return chain(asked)
    found = SHOWN.search(asked.payload["messages"][0]["content"])
    assert found is not None
    first, second = (sum(WORTH[each.split()[0]]) for each in found.groups()[:2])
    return says("A" if first >= second else "B")(asked)


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    modes = {"chain": Mode(chain), "mute": Mode(mute), "half-mute": Mode(half_mute), "words": Mode(words)}
    with serving(modes) as habits:
        yield habits


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def run(server: Habits, out: Path, prompts: list[str], mode: str = "chain", **more: Any) -> GenerateRun:
    settings = {"model": "openai:m", "base_url": server.url(mode), "accept": "openai:j", "gate": False, "rounds": 1}
    made = GenerateRun(prompts, make_settings(GenerateSettings, {**settings, "out": out, **more}))
    return made


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


PROMPTS = [f"{word} {number}: how?" for number, word in enumerate(("better", "useless", "off", "worse", "even"))]


@pytest.mark.parametrize(("prompt", "stays"), list(zip(PROMPTS, ("revision", *["reply"] * 4), strict=True)))
def test_a_revision_must_be_better_under_both_principles(
    server: Habits, tmp_path: Path, prompt: str, stays: str
) -> None:
    run(server, tmp_path / "out", [prompt]).finish()
    [row] = revisions_of(tmp_path / "out")
    [turn] = row.rounds
    assert turn.acceptance is not None
    assert turn.acceptance.accepted == (stays == "revision") == turn.changed
    if stays == "reply":
        assert (turn.revision, row.final) == (None, row.initial)
        assert str(turn.acceptance.rejected).startswith(prompt.split()[0])
    else:
        assert (turn.acceptance.rejected, row.final) == (None, turn.revision)


def test_the_bias_for_a_place_is_taken_out(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", PROMPTS).finish()
    for row, worth in zip(revisions_of(tmp_path / "out"), WORTH.values(), strict=False):
        acceptance = row.rounds[0].acceptance
        assert acceptance is not None
        assert [vote.principle for vote in acceptance.votes] == [row.rounds[0].principle, "helpfulness"]
        assert [vote.d for vote in acceptance.votes] == pytest.approx(worth, abs=1e-9)
        assert [vote.b for vote in acceptance.votes] == pytest.approx([BIAS, BIAS])
        assert acceptance.z == pytest.approx(sum(worth) / 2, abs=1e-9)
        assert acceptance.helpfulness == "built-in"


def test_a_principle_without_a_valid_vote_is_no_disagreement(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", PROMPTS, "half-mute").finish()
    accepted = [row.rounds[0].acceptance for row in revisions_of(tmp_path / "out")]
    assert [each is not None and each.z is not None and not each.accepted for each in accepted] == [True] * 5
    assert not lines(tmp_path / "out" / "dpo.jsonl")
    assert {drop["reason"] for drop in lines(tmp_path / "out" / "dropped.jsonl")} == {"invalid_vote"}


def test_the_pairs_of_a_run_are_those_of_which_the_judge_is_sure_either_way(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(server, out, PROMPTS).finish()
    better, worse = lines(out / "dpo.jsonl")
    assert (better["chosen_from"], better["rejected_from"]) == ("round 1", "initial")
    assert (worse["chosen_from"], worse["rejected_from"]) == ("initial", "round 1")
    for pair in (better, worse):
        assert pair["judged"] and pair["p_chosen"] == pytest.approx(1 / (1 + math.exp(-0.75)))
        assert pair["margin"] == pytest.approx(0.75)
    assert worse["chosen"][0]["content"] == "first reply"
    assert worse["rejected"][0]["content"].startswith("worse revision")
    dropped = [drop for drop in lines(out / "dropped.jsonl") if drop["stage"] == "dpo"]
    assert [drop["reason"] for drop in dropped] == ["low_confidence"] * 3
    assert "the judge accepted 1 of 5 revisions" in " ".join(run_notes(out))
    card = (out / "README.md").read_text()
    assert "1 of 5 revisions" in card and "unjudged" not in card
    assert "| accept | `openai:j` | `tiny-2026` |" in card
    made = provenance(out)
    assert made is not None and (made["judge"], made["protocol"]) == ("openai:j", "logprob")


def calls(server: Habits) -> int:
    return sum(bool(asked.raw) for asked in server.asked("chain"))


def run_notes(out: Path) -> list[str]:
    from cai.export.export import export_run

    return list(export_run(out).notes)


def test_a_second_round_criticises_the_reply_that_stands(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(server, out, PROMPTS[:2], rounds=2).finish()
    accepted, kept = revisions_of(out)
    assert "after 'first reply'" in str(accepted.rounds[0].revision)
    assert 'after "better revision' in str(accepted.rounds[1].acceptance and accepted.rounds[1].acceptance.rejected)
    assert kept.final == kept.initial
    assert all("after 'first reply'" in str(turn.acceptance and turn.acceptance.rejected) for turn in kept.rounds)


def test_a_higher_bar_keeps_more_replies(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", PROMPTS[:1], accept_at=0.65).finish()
    [row] = revisions_of(tmp_path / "out")
    acceptance = row.rounds[0].acceptance
    assert acceptance is not None and acceptance.p is not None
    assert acceptance.p > 0.65 and not acceptance.accepted  # but not under helpfulness


def test_a_revision_that_repeats_the_reply_is_not_judged(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving({"same": Mode(answer(chat("first reply")))}) as same:
        run(same, out, ["anything"], "same").finish()
        assert sum(bool(asked.raw) for asked in same.asked("same")) == 3
    [row] = revisions_of(out)
    assert row.rounds[0].acceptance is None and not row.rounds[0].changed
    assert [drop["reason"] for drop in lines(out / "dropped.jsonl")] == ["identical"]


def test_a_revision_with_a_fault_of_its_text_is_rejected_unjudged(server: Habits, tmp_path: Path) -> None:
    def answers(asked: Asked) -> Answer:
        assert b"<reply_a>" not in asked.raw, "a judge was asked"
        if b"Write only the new reply" in asked.raw:
            return says("Here is the revised reply: Knock on the door.")(asked)
        return chain(asked)

    out = tmp_path / "out"
    with serving({"leak": Mode(answers)}) as leaking:
        run(leaking, out, ["Neighbour?"], "leak").finish()
    [row] = revisions_of(out)
    acceptance = row.rounds[0].acceptance
    assert acceptance is not None and (acceptance.fault, acceptance.votes, acceptance.p) == ("preamble_leak", (), None)
    assert row.final == row.initial == "first reply"
    assert len(lines(out / "sft.jsonl")) == 1
    assert [(drop["stage"], drop["reason"]) for drop in lines(out / "dropped.jsonl")] == [("dpo", "preamble_leak")]
    assert "rejected unjudged for a fault of its text: preamble_leak" in cai("show", str(out)).stdout


def test_a_judge_in_words_votes_and_an_even_vote_keeps_the_reply(
    server: Habits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    out = tmp_path / "out"
    run(server, out, PROMPTS, "words", model="anthropic:m", accept="anthropic:j").finish()
    acceptances = [row.rounds[0].acceptance for row in revisions_of(out)]
    assert [each is not None and each.accepted for each in acceptances] == [True, True, False, False, False]
    assert all(each is not None and each.protocol == "vote" for each in acceptances)
    even = acceptances[-1]
    assert even is not None and even.p == 0.5 and len(even.votes) == 6  # split votes are asked three times


def test_a_judge_who_says_something_else_stops_the_run_with_advice(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Unreadable, match=r"the judge does not answer A or B: .*; name another --accept"):
        run(server, out, [f"better {number}: how?" for number in range(60)], "mute", concurrency=32).finish()
    assert 20 <= len(revisions_of(out)) < 60
    with pytest.raises(Unreadable, match="the judge does not answer A or B"):
        run(server, out, [f"better {number}: how?" for number in range(60)], "mute", concurrency=32).finish()


def test_a_constitution_may_have_its_own_principle_of_helpfulness(server: Habits, tmp_path: Path) -> None:
    law = tmp_path / "law.yaml"
    law.write_text(
        "name: own\nversion: 1.0.0\nprinciples:\n  - {id: kind, text: Be kind.}\n"
        "  - {id: helpful, critique: Is it useful?, revise: Make it useful., choose: Choose the useful one., "
        "weight: 0.000001}\n"
    )
    run(server, tmp_path / "out", PROMPTS[:1], constitution=law).finish()
    [row] = revisions_of(tmp_path / "out")
    acceptance = row.rounds[0].acceptance
    assert acceptance is not None and acceptance.helpfulness == "constitution"
    assert [vote.principle for vote in acceptance.votes] == ["kind", "helpful"]


def test_a_plan_counts_what_the_judge_is_asked(server: Habits, tmp_path: Path) -> None:
    plan = estimate(run(server, tmp_path / "out", PROMPTS, rounds=2))
    assert plan.roles["accept"].calls == 5 * 2 * 4  # prompts, rounds; two principles in both orders
    assert plan.roles["accept"].model == "openai:j"
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on_to_the_same_rows(server: Habits, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    run(server, whole, PROMPTS, rounds=2, concurrency=64).finish()
    run(server, half, PROMPTS, rounds=2, limit=2, concurrency=1).finish()
    before = calls(server)
    run(server, half, PROMPTS, rounds=2, concurrency=1).finish()
    assert calls(server) - before == sum(len(row.calls) for row in revisions_of(whole)[2:])
    assert revisions_of(half) == revisions_of(whole)
    for name in ("sft.jsonl", "dpo.jsonl", "dropped.jsonl"):
        assert (half / name).read_bytes() == (whole / name).read_bytes()


def test_who_accepts_is_part_of_what_a_run_is(server: Habits, tmp_path: Path) -> None:
    first = run(server, tmp_path / "a", PROMPTS).identity
    assert first["models"]["accept"] == "openai:j"
    for change in ({"accept": "openai:other"}, {"accept_at": 0.6}):
        assert run(server, tmp_path / "a", PROMPTS, **change).identity != first
    plain = run(server, tmp_path / "a", PROMPTS, accept=None).identity
    assert plain.keys() == first.keys() - {"accept"}


def test_a_bar_without_a_judge_is_refused() -> None:
    with pytest.raises(UsageError, match="--accept-at is for --accept"):
        make_settings(GenerateSettings, {"accept_at": 0.6})


def test_a_run_without_acceptance_is_another_one_and_the_refusal_is_short(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", PROMPTS[:1]).finish()
    with pytest.raises(
        RunError, match=r"accept is set there, not set now; models\.accept is 'openai:j' there, not set now"
    ):
        run(server, tmp_path / "out", PROMPTS[:1], accept=None).finish()
