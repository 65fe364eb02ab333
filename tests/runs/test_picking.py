"""Best-of runs: a judge picks one reply of every prompt, the same at any concurrency, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from best_runs import PROMPTS, rewarder, run, setup, writer
from label_runs import mute, odds_of, scorer, votes
from label_runs import rows_of as labels_of
from label_runs import run as label_run
from players import Player, digits
from sample_runs import PROMPTS as ALL
from sample_runs import cutting, rows_of
from terminal import cai as command

import cai
from cai.errors import CallRejected, RunError, Unreadable, UsageError
from cai.folder.store import read_calls
from cai.judge.belief import probability
from cai.records import Completion
from cai.runs.plan import estimate
from cai.runs.sample import resolve
from cai.runs.session import Job
from cai.runs.settings import SampleSettings, make_settings

# Who wins


def test_the_winner_has_the_highest_mean_probability_of_beating_the_others(tmp_path: Path) -> None:
    job = run(PROMPTS, tmp_path / "out", scorer(), best_of=4, principles=3)
    rows = rows_of(tmp_path / "out")
    assert job.finished == len(rows) == 6
    for row in rows:
        best, won = row["best"], dict[int, list[float]]()
        for pair in best["comparisons"]:
            p = probability(pair["z"], 1.0)
            won.setdefault(pair["a"], []).append(p)
            won.setdefault(pair["b"], []).append(1 - p)
        assert [(pair["a"], pair["b"]) for pair in best["comparisons"]] == [
            (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
        ]  # fmt: skip
        assert best["scores"] == pytest.approx([sum(won[n]) / 3 for n in range(4)])
        assert best["scores"][best["winner"]] == max(best["scores"]) and best["judged"]
        assert (best["protocol"], best["judge"], best["constitution"]["name"]) == ("score", "judge-1", "harmless")
        assert len(row["calls"]) == 4 + 6 * 6 and row["usage"]["input_tokens"] == 4 * 5 + 36 * 9
    assert len({row["best"]["winner"] for row in rows}) > 1


def test_a_pair_is_asked_about_as_a_label_run_of_the_same_replies_asks(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", scorer(), seed=5, principles=2)
    label_run(tmp_path / "out", tmp_path / "labels", scorer(), seed=5, principles=2)
    labels = {(row["prompt_id"], row["a_from"], row["b_from"]): row for row in labels_of(tmp_path / "labels")}
    for row in rows_of(tmp_path / "out"):
        for pair in row["best"]["comparisons"]:
            label = labels.pop((row["id"], f"sample {pair['a']}", f"sample {pair['b']}"))
            assert (label["z"], label["votes"]) == (pair["z"], pair["votes"])
    assert not labels


def test_a_reward_model_gives_every_reply_a_number_and_the_highest_wins(tmp_path: Path) -> None:
    judge = rewarder()
    run(PROMPTS, tmp_path / "out", judge, best_of=20)
    for row in rows_of(tmp_path / "out"):
        best = row["best"]
        assert best["scores"] == [digits(reply["text"]) % 1000 / 100 for reply in row["replies"]]
        assert best["scores"][best["winner"]] == max(best["scores"])
        assert (best["comparisons"], best["constitution"], best["templates"]) == ([], None, None)
        assert len(row["calls"]) == 40
    assert sum(judge.asked.values()) == 120


def test_a_judge_that_likes_the_first_place_best_does_not_let_the_place_decide(tmp_path: Path) -> None:
    def biased(payload: dict[str, Any]) -> Completion:
        return Completion("", "length", "judge-1", scores=(-0.1, -0.1 - abs(odds_of(payload) + 50)))

    run(ALL, tmp_path / "a", scorer(biased), best_of=2)
    rows = rows_of(tmp_path / "a")
    flips = [
        vote["ab"]["choice"] == vote["ba"]["choice"] for row in rows for vote in row["best"]["comparisons"][0]["votes"]
    ]
    assert all(flips) and {row["best"]["winner"] for row in rows} == {0, 1}
    assert any("of the votes name the same place" in note for note in cai.export_run(tmp_path / "a").notes)


# What cannot be judged


def test_unusable_replies_do_not_compete_and_a_single_usable_one_wins_unjudged(tmp_path: Path) -> None:
    judge = scorer()
    run(ALL, tmp_path / "out", judge, writer(cutting(2)), best_of=2)
    rows = rows_of(tmp_path / "out")
    alone = [row for row in rows if any(reply["problem"] for reply in row["replies"])]
    assert alone and len(alone) < len(rows)
    for row in alone:
        best = row["best"]
        assert row["replies"][best["winner"]]["problem"] is None
        assert (best["judged"], best["judge"], best["scores"]) == (False, None, [None, None])
        assert len(row["calls"]) == 2
    cut = {row["id"]: row for row in rows_of_sft(tmp_path / "out")}
    assert not any(cut[row["id"]]["judged"] for row in alone) and cut[alone[0]["id"]]["score"] is None


def rows_of_sft(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]


def test_replies_of_one_text_are_judged_once_and_share_their_score(tmp_path: Path) -> None:
    def repeats(payload: dict[str, Any]) -> Completion:
        return Completion(f"reply {digits(payload) % 2}", "stop", "m")

    judge = scorer()
    run(PROMPTS, tmp_path / "out", judge, writer(repeats))
    for row in rows_of(tmp_path / "out"):
        best, texts = row["best"], [reply["text"] for reply in row["replies"]]
        assert len(best["comparisons"]) == len(set(texts)) - 1
        assert len(set(zip(texts, best["scores"], strict=True))) == len(set(texts))
        assert best["judged"] == (len(set(texts)) == 2) and best["winner"] == texts.index(texts[best["winner"]])


def test_no_readable_verdict_drops_the_prompt_and_so_does_a_tie(tmp_path: Path) -> None:
    job = run(PROMPTS[:3], tmp_path / "mute", scorer(mute), best_of=2)
    assert job.dropped == {"invalid_vote": 3} and not rows_of(tmp_path / "mute")
    [drop, *_] = rows_of(tmp_path / "mute", "dropped.jsonl")
    assert drop["stage"] == "judge" and "of the probability" in drop["detail"]

    def even(payload: dict[str, Any]) -> Completion:
        return Completion("", "length", "judge-1", scores=(-0.7, -0.7))

    job = run(PROMPTS[:3], tmp_path / "even", scorer(even), best_of=4)
    assert job.dropped == {"low_confidence": 3}
    [drop, *_] = rows_of(tmp_path / "even", "dropped.jsonl")
    assert drop["detail"] == "replies 0 and 1 and 2 and 3 share the highest score, 0.5"


def test_a_judge_that_cannot_be_read_ends_the_run_before_much_is_asked(tmp_path: Path) -> None:
    judge = scorer(mute)
    with pytest.raises(Unreadable, match=r"median letter mass 0\.03 of the first 20 pairs, such as: the letters have"):
        run([{"prompt": f"Question {n}?"} for n in range(99)], tmp_path / "out", judge, concurrency=64)
    assert sum(judge.asked.values()) == 20 * 2


def test_a_call_that_the_judge_refuses_drops_its_prompt_alone(tmp_path: Path) -> None:
    def refuses(payload: dict[str, Any]) -> Completion:
        if "Question 3?" in payload["messages"][0]["content"]:
            raise CallRejected("content_filter", "no")
        return scorer().answer(payload)

    job = run(PROMPTS, tmp_path / "out", scorer(refuses))
    assert job.dropped == {"content_filter": 1} and job.finished == 5


# The run


def test_the_same_rows_come_at_concurrency_1_and_64_and_of_two_models(tmp_path: Path) -> None:
    for name, concurrency in (("a", 1), ("b", 64)):
        run(PROMPTS, tmp_path / name, scorer(), writer(), writer(name="other"), best_of=2, concurrency=concurrency)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    for file in ("sft.jsonl", "README.md", "dropped.jsonl"):
        texts = [(tmp_path / name / file).read_text() for name in "ab"]
        assert texts[0] == texts[1]
    assert len(rows_of(tmp_path / "a")[0]["best"]["scores"]) == 4


def test_a_run_that_was_stopped_asks_nothing_twice_and_ends_with_the_same_rows(tmp_path: Path) -> None:
    calm, judge, model = scorer(), scorer(), writer()
    run(PROMPTS, tmp_path / "whole", calm)

    async def some() -> None:
        made = setup(PROMPTS, tmp_path / "out", judge, model, concurrency=2)
        async with aclosing(Job(made, tmp_path / "out").rows()) as rows:
            async for _ in rows:
                if sum(judge.asked.values()) > 12:
                    return

    asyncio.run(some())
    before = len(rows_of(tmp_path / "out"))
    assert 0 < before < 6
    job = run(PROMPTS, tmp_path / "out", judge, model)
    assert job.skipped == before and rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert (tmp_path / "out" / "sft.jsonl").read_bytes() == (tmp_path / "whole" / "sft.jsonl").read_bytes()
    assert judge.asked.keys() == calm.asked.keys()
    assert sum(judge.asked.values()) <= sum(calm.asked.values()) + 2


@pytest.mark.parametrize(
    "change", [{"best_of": 2}, {"principles": 2}, {"constitution": "honest"}, {"protocol": "logprob"}]
)
def test_another_way_to_pick_is_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    run(PROMPTS[:1], tmp_path / "out", scorer(), writer())
    with pytest.raises(RunError, match="is another run: "):
        run(PROMPTS[:1], tmp_path / "out", scorer(), writer(), **change)


def test_a_higher_limit_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    judge = scorer()
    run(file, tmp_path / "out", judge, writer(), limit=2)
    job = run(file, tmp_path / "out", judge, writer(), limit=5)
    assert (job.skipped, job.finished, len(rows_of_sft(tmp_path / "out"))) == (2, 3, 5)
    assert sum(judge.asked.values()) == 5 * 6


@pytest.mark.parametrize("kind", ["score", "vote", "reward"])
def test_a_plan_counts_what_the_run_then_asks(tmp_path: Path, kind: str) -> None:
    judge = {"score": scorer, "vote": lambda: Player(votes, "judge"), "reward": rewarder}[kind]()
    model = writer()
    plan = estimate(setup(PROMPTS, tmp_path / "out", judge, model))
    run(PROMPTS, tmp_path / "out", judge, model)
    asked = sum(judge.asked.values())
    assert plan.roles["assistant"].calls == sum(model.asked.values()) == 18
    if kind == "vote":
        assert plan.roles["judge"].calls == 6 * 3 * 2 and plan.most_calls == 18 + 3 * 6 * 3 * 2
        assert plan.roles["judge"].calls <= asked <= 3 * plan.roles["judge"].calls
    else:
        assert plan.roles["judge"].calls == asked == (6 * 3 if kind == "reward" else 6 * 3 * 2)
        assert plan.most_calls == plan.calls == 18 + asked
    pairs = "every two of 3 replies are compared: 3 pairs, 6 questions a prompt"
    assert any(pairs in note for note in plan.notes) == (kind != "reward")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n": 4, "best_of": 4, "judge": "J"}, "-n and --best-of both say how many replies are drawn: name one"),
        ({"best_of": 4}, "--best-of needs who picks the best: --judge SPEC"),
        ({"best_of": 1, "judge": "J"}, "--best-of 1 must be a whole number from 2 to 1000"),
        ({"best_of": 4, "judge": "J", "temperature": 0}, "--best-of 4 at --temperature 0 gives the same reply 4 times"),
        ({"judge": "J"}, "--judge is for picking the best of several replies: name --best-of N, too"),
        ({"constitution": "harmless"}, "--constitution is for picking the best"),
        ({"principles": 2}, "--principles is for picking the best"),
        ({"best_of": 17, "judge": "J"}, "--best-of: every two of 17 replies are 136 pairs a prompt; name at most 16"),
        ({"best_of": 2, "judge": "J", "protocol": "reason"}, "--protocol reason: beliefs after reasoning are cut to"),
        ({"best_of": 2, "judge": "J", "protocol": "reward"}, "recorded:"),
        ({"best_of": 2, "judge": "reward:some/model", "protocol": "vote"}, "reward:some/model is a reward model: its"),
        ({"best_of": 2, "judge": "reward:some/model", "constitution": "harmless"}, "--constitution: reward:some/model"),
        ({"best_of": 2, "judge": "J", "constitution": 7}, "--constitution 7 must be text, a path or a constitution"),
        ({"best_of": 2, "judge": "J", "constitution": "harmles"}, "no constitution 'harmles': "),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_with_what_to_do(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    (recorded := tmp_path / "x.jsonl").touch()
    given = given | ({"judge": f"recorded:{recorded}"} if given.get("judge") == "J" else {})
    with pytest.raises(cai.CaiError) as refused:
        resolve(PROMPTS, make_settings(SampleSettings, {"model": f"recorded:{recorded}", **given}))
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
    assert (best["judged"], best["unjudged"], best["longest_won"], best["longest_chance"]) == (3, 0, 1.0, 0.5)
    assert best["winner_score"] == pytest.approx(probability(1.6, 1.0)) and best["mean_score"] == pytest.approx(0.5)
    assert "mean score of the winners 0.832, of all replies 0.500" in err
    assert "the longest reply won 100%; 50% if length did not count" in err
    assert "cai train sft" in err and "votes: 0.0% invalid; 0% of the others flip" in err


def test_python_gives_the_same_rows_with_and_without_a_folder(recorded: dict[str, Any]) -> None:
    kept = sorted(cai.sample(PROMPTS[:3], **recorded), key=lambda row: row.position)
    loose = sorted(cai.sample(PROMPTS[:3], **recorded | {"out": None}), key=lambda row: row.position)
    assert kept == loose and [row.best.winner for row in kept if row.best is not None] == [1, 0, 1]
    assert len(list(read_calls(recorded["out"]))) == 3 * 4
