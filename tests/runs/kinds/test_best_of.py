"""Best-of runs: a judge compares the replies to every prompt, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from best_runs import PROMPTS, rewarder, run, setup, writer
from label_runs import mute, scorer, scores, votes
from label_runs import rows_of as labels_of
from label_runs import run as label_run
from players import Player, digits
from sample_runs import PROMPTS as ALL
from sample_runs import cutting, rows_of, seeded
from sample_runs import run as sample_run
from seldom import seldom
from terminal import cai as command

import cai
from cai.calls.model import call_seed
from cai.cli.runs import _play as play
from cai.errors import BudgetReached, CallRejected, RunError, ServerDown, Unreadable, UsageError
from cai.folder.journal.store import cost_of, read_calls
from cai.records import Completion
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import SampleSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings


def sft_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]


# What is asked


def test_the_replies_are_those_of_a_sample_run_and_the_labels_those_of_a_label_run(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "best", scorer(), best_of=3, principles=2, seed=5)
    sample_run(PROMPTS, tmp_path / "plain", writer(), n=3, seed=5)
    assert rows_of(tmp_path / "best") == rows_of(tmp_path / "plain")
    label_run(tmp_path / "plain", tmp_path / "labels", scorer(), seed=5, principles=2)
    assert labels_of(tmp_path / "best" / "labels") == labels_of(tmp_path / "labels")


def test_the_winner_has_the_highest_mean_probability_of_beating_the_others(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", scorer(), best_of=4)
    won: dict[tuple[str, str], list[float]] = {}
    for label in labels_of(tmp_path / "out" / "labels"):
        won.setdefault((label["prompt_id"], label["a"]), []).append(label["p_a"])
        won.setdefault((label["prompt_id"], label["b"]), []).append(1 - label["p_a"])
    means = {reply: sum(ps) / 3 for reply, ps in won.items()}
    rows = sft_of(tmp_path / "out")
    assert len(rows) == 6 and len({row["from"] for row in rows}) > 1
    for row in rows:
        own = {text: mean for (prompt, text), mean in means.items() if prompt == row["id"]}
        assert row["completion"][0]["content"] == max(own, key=lambda text: own[text])
        assert row["score"] == pytest.approx(max(own.values())) and row["best_of"] == 4


def test_a_reward_model_is_asked_once_about_every_reply_and_the_highest_wins(tmp_path: Path) -> None:
    judge = rewarder()
    run(PROMPTS, tmp_path / "out", judge, best_of=8)
    assert sum(judge.asked.values()) == 6 * 8
    for row, candidates in zip(sft_of(tmp_path / "out"), rows_of(tmp_path / "out"), strict=True):
        texts = [reply["text"] for reply in candidates["replies"]]
        assert row["completion"][0]["content"] == max(texts, key=lambda text: digits(text) % 1000)
        assert (row["judge"], row["protocol"]) == ("reward-1", "reward")


def test_a_sample_run_that_is_there_already_is_only_judged(tmp_path: Path) -> None:
    sample_run(PROMPTS, tmp_path / "out", writer(), n=3)
    run(PROMPTS, tmp_path / "out", scorer(), model := writer(), best_of=3)
    assert not model.asked and len(sft_of(tmp_path / "out")) == 6


# What cannot be judged


def test_unusable_replies_do_not_compete_and_the_only_usable_one_wins_unjudged(tmp_path: Path) -> None:
    run(ALL, tmp_path / "out", scorer(), writer(cutting(2)), best_of=2)
    candidates = rows_of(tmp_path / "out")
    alone = {row["id"] for row in candidates if any(reply["problem"] for reply in row["replies"])}
    rows = sft_of(tmp_path / "out")
    assert alone and [row["id"] for row in rows] == [row["id"] for row in candidates]
    assert {row["id"] for row in rows if not row["judged"]} == alone
    usable = {row["id"]: [reply["text"] for reply in row["replies"] if not reply["problem"]] for row in candidates}
    for row in rows:
        assert row["completion"][0]["content"] in usable[row["id"]]
        assert (row["score"] is None, row["judge"] is None, row["labels"] == []) == (not row["judged"],) * 3


def test_replies_of_one_text_count_once(tmp_path: Path) -> None:
    def repeats(payload: dict[str, Any]) -> Completion:
        return Completion(f"reply {digits(payload) % 2}", "stop", "m")

    run(ALL, tmp_path / "out", scorer(), writer(repeats))
    texts = {row["id"]: {reply["text"] for reply in row["replies"]} for row in rows_of(tmp_path / "out")}
    assert {len(each) for each in texts.values()} == {1, 2}
    rows = sft_of(tmp_path / "out")
    assert {row["id"] for row in rows} == texts.keys() and {row["best_of"] for row in rows} == {3}
    assert {row["id"] for row in rows if row["judged"]} == {name for name, each in texts.items() if len(each) == 2}


def test_no_readable_verdict_drops_the_prompt_and_so_does_a_tie(tmp_path: Path) -> None:
    def even(payload: dict[str, Any]) -> Completion:
        return Completion("", "length", "judge-1", scores=(-0.7, -0.7))

    for name, answer, reason in (("mute", mute, "invalid_vote"), ("even", even, "low_confidence")):
        run(PROMPTS[:3], tmp_path / name, scorer(answer), best_of=2)
        drops = rows_of(tmp_path / name, "dropped.jsonl")
        assert {(drop["stage"], drop["reason"]) for drop in drops} == {("sft", reason)} and len(drops) == 3


def test_a_judge_that_cannot_be_read_ends_the_run_before_much_is_asked(tmp_path: Path) -> None:
    judge = scorer(mute)
    with pytest.raises(Unreadable, match=r"median letter mass 0\.03 of the first 20 pairs, such as: the letters have"):
        run([{"prompt": f"Question {n}?"} for n in range(99)], tmp_path / "out", judge, concurrency=64)
    assert sum(judge.asked.values()) == 20 * 2


def test_a_prompt_with_a_pair_that_the_judge_refuses_is_dropped_alone(tmp_path: Path) -> None:
    def refuses(payload: dict[str, Any]) -> Completion:
        if "Question 3?" in payload["messages"][0]["content"]:
            raise CallRejected("content_filter", "no")
        return scorer().answer(payload)

    run(PROMPTS, tmp_path / "out", scorer(refuses))
    [drop] = rows_of(tmp_path / "out", "dropped.jsonl")
    assert (drop["id"], drop["reason"]) == ("q3", "invalid_vote") and len(sft_of(tmp_path / "out")) == 5


# The run


def test_the_same_rows_come_at_concurrency_1_and_64_and_of_two_models(tmp_path: Path) -> None:
    for name, concurrency in (("a", 1), ("b", 64)):
        run(PROMPTS, tmp_path / name, scorer(), writer(), writer(name="other"), best_of=2, concurrency=concurrency)
    for file in ("sft.jsonl", "README.md", "dropped.jsonl"):
        texts = [(tmp_path / name / file).read_text() for name in "ab"]
        assert texts[0] == texts[1]
    rows = sft_of(tmp_path / "a")
    assert {row["best_of"] for row in rows} == {4}
    assert {len(row["labels"]) for row in rows} == {1}  # both models reply alike


@pytest.mark.parametrize("part", [0, 1])
def test_a_run_that_was_stopped_in_either_part_asks_nothing_twice_and_ends_with_the_same_rows(
    tmp_path: Path, part: int
) -> None:
    calm, judge, model = scorer(), scorer(), writer()
    run(PROMPTS, tmp_path / "whole", calm)

    async def some() -> None:
        made = setup(PROMPTS, tmp_path / "out", judge, model, concurrency=1)
        for number, session in enumerate(made.sessions()):
            async with aclosing(session.rows()) as rows:
                async for _ in rows:
                    if number == part:
                        return

    asyncio.run(some())
    assert not (tmp_path / "out" / "sft.jsonl").exists()
    run(PROMPTS, tmp_path / "out", judge, model)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert (tmp_path / "out" / "sft.jsonl").read_bytes() == (tmp_path / "whole" / "sft.jsonl").read_bytes()
    assert judge.asked.keys() == calm.asked.keys() and sum(judge.asked.values()) <= sum(calm.asked.values()) + 2


@pytest.mark.parametrize("change", [{"constitution": "honest"}, {"protocol": "vote"}, {"best_of": 2}])
def test_another_way_to_compare_is_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    run(PROMPTS[:1], tmp_path / "out", scorer(), writer())
    with pytest.raises(RunError, match="is another run: "):
        run(PROMPTS[:1], tmp_path / "out", scorer(), writer(), **change)


def test_a_higher_limit_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    judge, model = scorer(), writer()
    for limit in (2, 5):
        run(file, tmp_path / "out", judge, model, limit=limit)
        assert len(sft_of(tmp_path / "out")) == limit
    assert set(judge.asked.values()) == set(model.asked.values()) == {1}


def test_the_cap_holds_over_both_parts_and_all_sessions(tmp_path: Path) -> None:
    def replies(payload: dict[str, Any]) -> Completion:
        return replace(seeded(payload), input_tokens=100, output_tokens=100)

    def judges(payload: dict[str, Any]) -> Completion:
        return replace(scores(payload), input_tokens=1000, output_tokens=1000)

    def resume(count: int) -> None:
        judge, model = scorer(judges), writer(replies)
        judge.provider = model.provider = "openai"
        given = {"best_of": 2, "price": "10,10", "max_cost": 0.1, "max_tokens": 100, "concurrency": 1}
        prompts = [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(count)]
        run(prompts, tmp_path / "out", judge, model, **given)

    resume(2)
    with pytest.raises(BudgetReached, match=r"0\.0980 spent"):
        resume(40)
    assert sum(cost_of(folder) or 0.0 for folder in (tmp_path / "out", tmp_path / "out" / "labels")) <= 0.1


def test_another_way_to_compare_is_refused_before_further_replies_are_paid_for(tmp_path: Path) -> None:
    run(PROMPTS[:2], tmp_path / "out", scorer(), best_of=2, principles=2)
    model = writer()
    with pytest.raises(RunError, match=r"labels is another run: it has --principles 2, and 1 is less"):
        run(PROMPTS, tmp_path / "out", scorer(), model, best_of=2, principles=1)
    assert not model.asked
    run(PROMPTS, tmp_path / "out", scorer(), model, best_of=2, principles=1, force=True)
    assert len(sft_of(tmp_path / "out")) == 6


@pytest.mark.parametrize("content", seldom(["", "{", "[]", "{}", '{"identity": 3}'], ["{", "{}"]))
@pytest.mark.parametrize("part", [".", "labels"])
def test_a_damaged_run_json_is_started_over_if_that_is_asked_for(tmp_path: Path, part: str, content: str) -> None:
    run(PROMPTS[:2], tmp_path, scorer(), best_of=2)
    (tmp_path / part / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json (is damaged|cannot be read).* use --force to start anew"):
        run(PROMPTS[:2], tmp_path, scorer(), best_of=2)
    run(PROMPTS[:2], tmp_path, scorer(), best_of=2, force=True)
    assert len(sft_of(tmp_path)) == 2


def test_a_judge_that_stops_leaves_the_best_of_what_is_judged_and_the_summary_says_so(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def resume(count: int, answers: int) -> dict[str, Any]:
        judge = scorer()

        def dies(payload: dict[str, Any]) -> Completion:
            if sum(judge.asked.values()) > answers:
                raise ServerDown("gone")
            return scores(payload)

        judge.answer = dies
        with suppress(ServerDown):
            play(setup(PROMPTS[:count], tmp_path / "out", judge, concurrency=1), True)
        summary: dict[str, Any] = json.loads(capfdbinary.readouterr().out)
        return summary

    first = resume(1, 99)
    assert (first["stopped"], first["usage"]["calls"], first["cost_usd"]) == (None, 3 + 6, 0.0)
    second = resume(6, 11)
    assert (second["stopped"], second["usage"]["calls"]) == ("gone", 18 + 6 + 11)
    assert second["best_of"]["prompts"] == 6
    rows = sft_of(tmp_path / "out")
    assert [(row["id"], len(row["labels"])) for row in rows] == [
        ("q0", 2),
        ("q1", 2),
    ]  # not q2, of which a pair is judged
    assert len(labels_of(tmp_path / "out" / "labels")) > 6  # of q2 two pairs are judged, and not the third
    notes = cai.export_run(tmp_path / "out", best=True).notes
    assert "the run is unfinished (gone): rerun its command to resume; these are the rows so far" in notes
    assert resume(6, 99)["stopped"] is None and len(sft_of(tmp_path / "out")) == 6


def test_where_no_two_replies_can_be_used_the_only_ones_win(tmp_path: Path) -> None:
    def first(payload: dict[str, Any]) -> Completion:
        return replace(seeded(payload), finish="stop" if payload["seed"] in firsts else "length")

    prompts = PROMPTS[:3]
    firsts = {call_seed(0, prompt["id"], "assistant", 0) for prompt in prompts}
    run(prompts, tmp_path / "out", judge := scorer(), writer(first), best_of=2)
    assert not judge.asked and [row["judged"] for row in sft_of(tmp_path / "out")] == [False] * 3


@pytest.mark.parametrize(("most", "length"), [(100, 1024), (3000, 3000)])
def test_a_judge_that_votes_may_write_as_much_as_max_tokens_says_and_a_plan_counts_it(
    tmp_path: Path, most: int, length: int
) -> None:
    given: dict[str, Any] = {"best_of": 2, "max_tokens": most}
    plan = estimate(setup(PROMPTS, tmp_path / "out", Player(votes, "judge"), **given))
    run(PROMPTS, tmp_path / "out", Player(votes, "judge"), **given)
    asked = [call.request["payload"]["max_tokens"] for call in read_calls(tmp_path / "out" / "labels")]
    assert set(asked) == {length}
    judge = plan.roles["judge"]
    assert judge.output_tokens == judge.calls * length // 2
    assert plan.roles["assistant"].output_tokens == 12 * most // 2
    assert "every two of 2 replies to a prompt are compared: 1 pair" in plan.notes


def test_a_plan_that_starts_over_counts_no_pair_twice(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", scorer(), best_of=2)
    calls = [
        sum(
            role.calls
            for role in estimate(setup(PROMPTS, tmp_path / "out", scorer(), best_of=2, **given)).roles.values()
        )
        for given in ({}, {"force": True})
    ]
    assert calls == [0, 6 * 2 + 6 * 2]


@pytest.mark.parametrize("sampled", [False, True])
def test_a_plan_counts_both_parts(tmp_path: Path, sampled: bool) -> None:
    judge, model = scorer(), writer()
    if sampled:
        sample_run(PROMPTS, tmp_path / "out", model, n=3)
    plan = estimate(setup(PROMPTS, tmp_path / "out", judge, model))
    before = sum(model.asked.values())
    run(PROMPTS, tmp_path / "out", judge, model)
    assert plan.roles["assistant"].calls == sum(model.asked.values()) - before == (0 if sampled else 18)
    assert plan.roles["judge"].calls == sum(judge.asked.values()) == 6 * math.comb(3, 2) * 2
    assert (plan.prompts, plan.finished, plan.unit) == (6, 6 if sampled else 0, "prompts")


# What cannot go together


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n": 4, "best_of": 4, "judge": "J"}, "-n and --best-of both say how many replies are drawn: name one"),
        ({"best_of": 4}, "--best-of needs who picks the best: --judge SPEC"),
        ({"best_of": 1, "judge": "J"}, "--best-of 1 must be greater than or equal to 2"),
        ({"best_of": 4, "judge": "J", "temperature": 0}, "--best-of 4 at --temperature 0 gives the same reply 4 times"),
        ({"judge": "J"}, "--judge is for picking the best of several replies: name --best-of N, too"),
        ({"constitution": "harmless"}, "--constitution is for picking the best"),
        ({"principles": 2}, "--principles is for picking the best"),
        ({"best_of": 17, "judge": "J"}, "--best-of: every two of 17 replies are 136 pairs a prompt; name at most 16"),
        ({"best_of": 2, "judge": "J", "protocol": "reason"}, "--protocol reason: beliefs after reasoning are cut to"),
        ({"best_of": 2, "judge": "J", "protocol": "reward"}, "recorded:"),
        ({"best_of": 2, "judge": "reward:some/model", "protocol": "vote"}, "reward:some/model is a reward model: its"),
        ({"best_of": 2, "judge": "reward:some/model", "constitution": "harmless"}, "--constitution: reward:some/model"),
        ({"best_of": 2, "judge": "J", "constitution": 7}, "--constitution 7 must be of type str | pathlib.Path | cai"),
        ({"best_of": 2, "judge": "J", "constitution": "harmles"}, "no constitution 'harmles': "),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_with_what_to_do(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    (recorded := tmp_path / "x.jsonl").touch()
    given = given | ({"judge": f"recorded:{recorded}"} if given.get("judge") == "J" else {})
    with pytest.raises(cai.CaiError) as refused:
        SampleRun(PROMPTS, make_settings(SampleSettings, {"model": f"recorded:{recorded}", **given}))
    assert str(refused.value).startswith(told)


def test_a_language_model_as_reward_judge_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "words" / "model.safetensors").touch()
    (recorded := tmp_path / "x.jsonl").touch()
    given = {"model": f"recorded:{recorded}", "best_of": 2, "judge": f"reward:{tmp_path / 'words'}"}
    with pytest.raises(UsageError, match="is not a reward model"):
        list(cai.sample(PROMPTS, out=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"base_url": "http://127.0.0.1:1/v1"}, {"headers": {"X-Key": "secret"}}])
def test_the_keys_of_one_provider_do_not_go_to_the_judge_of_another(tmp_path: Path, given: dict[str, Any]) -> None:
    settings = {"model": "openai:a", "best_of": 2, "judge": "anthropic:b", "out": tmp_path / "out", **given}
    with pytest.raises(UsageError, match="would go to anthropic and openai alike, keys included"):
        SampleRun(PROMPTS, make_settings(SampleSettings, settings))


# Through both doors


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run of recorded answers: of each two replies the judge prefers the longer one."""
    replies = {"q0": ["Yes.", "Yes, of course."], "q1": ["No, never at all.", "No."], "q2": ["Maybe.", "Perhaps not."]}
    with (tmp_path / "recorded.jsonl").open("w") as file:
        for name, texts in replies.items():
            for index, text in enumerate(texts):
                file.write(json.dumps({"id": name, "role": "assistant", "index": index, "reply": text}) + "\n")
            first = len(texts[0]) > len(texts[1])
            for index in range(2):
                letters = {"A": -0.2, "B": -1.8} if first == (index == 0) else {"A": -1.8, "B": -0.2}
                answer = {"id": f"{name}:0-1", "role": "judge", "index": index, "reply": "A", "logprobs": [letters]}
                file.write(json.dumps(answer) + "\n")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS[:3]))
    spec = f"recorded:{tmp_path / 'recorded.jsonl'}"
    return {"model": spec, "best_of": 2, "judge": spec, "principles": 1, "out": tmp_path / "out"}


def test_the_command_line_tells_counts_means_and_lengths(recorded: dict[str, Any], tmp_path: Path) -> None:
    words = [word for name, value in recorded.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = command("sample", str(tmp_path / "prompts.jsonl"), *words, "--json")
    info, err = json.loads(done.stdout), done.stderr
    assert info["rows"] == 3 and info["dropped"] == {}
    best = info["best_of"]
    assert (best["prompts"], best["longest_won"], best["longest_chance"]) == (3, 1.0, 0.5)
    assert best["mean_p"] == pytest.approx(1 / (1 + math.exp(-1.6)))
    assert "mean probability that the best reply is better than another: 0.832" in err
    assert "the longest reply is the best in 100%; 50% by chance" in err
    assert "cai train sft" in err and "votes: 0.0% invalid; 0% of the others flip" in err
    assert info["usage"]["calls"] == 6 + 6
    assert "| spent on the replies | 6 calls" in (tmp_path / "out" / "README.md").read_text()


def test_python_gives_the_replies_and_leaves_the_best_in_the_folder(recorded: dict[str, Any]) -> None:
    rows = sorted(cai.sample(PROMPTS[:3], **recorded), key=lambda row: row.position)
    assert [len(row.replies) for row in rows] == [2, 2, 2]
    assert [row["from"] for row in sft_of(recorded["out"])] == ["sample 1", "sample 0", "sample 1"]
    before = (recorded["out"] / "sft.jsonl").read_bytes()
    (recorded["out"] / "sft.jsonl").unlink()
    cai.export_run(recorded["out"], best=True)
    assert (recorded["out"] / "sft.jsonl").read_bytes() == before


def test_python_needs_a_folder_for_the_best(recorded: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="best_of needs out"):
        cai.sample(PROMPTS[:3], **recorded | {"out": None})
