"""Online training reaches a known optimum, stays near its reference, and says what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
import tiny
import torch
import transformers
from rewarded import Judge, likes_a, named, questions, train
from safetensors.torch import load_file
from trainings import chats, lines, record, write_lines
from trainings import train as train_any

import cai
from cai.errors import InputError, ModelStopped, UsageError
from cai.training.data.dataset import load_rows
from cai.training.setup.config import load_config
from cai.training.train import _judging


def chance_of_a(folder: Path) -> float:
    """How probable a model finds it to begin its reply with the letter a."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = words.apply_chat_template([{"role": "user", "content": "Question 99?"}], add_generation_prompt=True)
    with torch.no_grad():
        chances = model(torch.tensor([ids["input_ids"]])).logits[0, -1].softmax(-1)
    return sum(float(chances[token]) for text, token in words.get_vocab().items() if text.startswith("a"))


@pytest.mark.parametrize(
    ("method", "steps", "flags"),
    [
        ("rloo", 16, {"generations": 8}),
        pytest.param("grpo", 16, {"generations": 8}, marks=pytest.mark.slow),
        pytest.param("ppo", 24, {"generations": 2, "iterations": 2}, marks=pytest.mark.slow),  # each step is clipped
    ],
)
def test_the_model_learns_the_one_token_that_is_rewarded(
    sure: Path, tmp_path: Path, method: str, steps: int, flags: dict[str, Any]
) -> None:
    flags = {"batch_size": 64, "rows_at_once": 64, "trl.max_steps": steps, **flags}
    summary = train(method, sure, tmp_path / "out", data=questions(60), flags=flags)
    assert summary.steps == steps
    assert chance_of_a(sure) < 0.1
    assert chance_of_a(tmp_path / "out") > 0.6  # of all three, so they agree


def test_metrics_say_what_a_training_on_rewards_is_watched_by(base: Path, tmp_path: Path) -> None:
    flags = {"samples": 2, "trl.max_steps": 2, "reply_length": 4}
    reward = [likes_a, (0.5, named("odd", lambda replies: [n % 2 or None for n in range(len(replies))]))]
    summary = train("rloo", base, tmp_path / "out", reward=reward, flags=flags, report=True)
    [first, last] = [line for line in lines(tmp_path / "out") if "loss" in line]
    assert first["rewards/odd/unknown"] == 0.5
    assert {"rewards/likes_a/mean", "reward", "kl", "entropy", "frac_reward_zero_std"} <= set(last)
    assert {"completions/mean_length", "replies/boilerplate", "replies/distinct_2"} <= set(last)
    assert first["kl"] == pytest.approx(0, abs=1e-6)  # the policy is still the reference
    assert summary.metrics["reward"] == last["reward"]
    assert {"eval_reward", "eval_reward_before"} <= set(summary.metrics)
    assert record(tmp_path / "out")["identity"]["config"]["reward"] == "1:likes_a,0.5:odd"
    assert (tmp_path / "out" / "replies.png").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "replies.png" in card
    assert "by RLOO" in card


class AlikeLater(Judge):
    """A reward that sees no difference between replies after the first batch that is learnt from."""

    async def __call__(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        rewards = await super().__call__(prompts, replies)
        return rewards if self.calls == 1 else [1.0] * len(replies)


@pytest.mark.parametrize(("method", "shares"), [("rloo", {1.0}), ("grpo", {1.0}), ("ppo", {None})])
def test_groups_whose_replies_get_one_reward_are_counted(
    base: Path, tmp_path: Path, method: str, shares: set[float | None]
) -> None:
    flags = {"split": 1.0, "trl.max_steps": 3, "iterations": 1}
    train(method, base, tmp_path / "out", reward=AlikeLater(), flags=flags)
    later = [line.get("frac_reward_zero_std") for line in lines(tmp_path / "out") if "loss" in line][1:]
    assert set(later) == shares  # ppo compares no replies with each other


def test_ppo_has_no_other_loss(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trl\.loss_type has no effect on ppo"):
        train("ppo", base, tmp_path / "out", flags={"trl.loss_type": "vespo"})


@pytest.mark.parametrize("method", ["rloo", "grpo", "ppo"])
def test_an_adapter_that_is_trained_further_is_the_reference(base: Path, tmp_path: Path, method: str) -> None:
    taught = {"split": 1.0, "learning_rate": 1e-1, "batch_size": 4, "dtype": "float32", "trl.max_steps": 4}
    train_any("sft", chats(8), out=tmp_path / "sft", model=str(base), flags=taught)
    flags = {"trl.max_steps": 1, "split": 1.0, "iterations": 1, "beta": 1.0}
    train(method, tmp_path / "sft", tmp_path / "out", flags=flags)
    [line] = [line for line in lines(tmp_path / "out") if "loss" in line]
    assert line["kl"] == pytest.approx(0, abs=1e-6)  # it would be large against the base
    assert not {path.name for path in (tmp_path / "out").iterdir()} & {"ref", "value"}


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_is_learnt_from_replies_that_are_cut_if_they_are_masked(
    sure: Path, tmp_path: Path, masks: bool
) -> None:
    flags = {"generations": 8, "batch_size": 16, "trl.max_steps": 2, "mask_truncated": masks, "split": 1.0}
    train("rloo", sure, tmp_path / "out", data=questions(8), flags=flags)  # replies of one token, so all are cut
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    learnt = any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)
    assert learnt != masks


def test_the_prompts_of_a_run_are_those_of_its_rows_each_once(tmp_path: Path) -> None:
    answers = [
        {"id": row["id"], "role": "assistant", "index": n, "reply": f"{n}."} for row in questions(3) for n in (0, 1)
    ]
    model = f"recorded:{write_lines(tmp_path / 'answers.jsonl', answers)}"
    list(cai.sample(questions(3), model, n=2, out=tmp_path / "run"))
    read = load_rows(tmp_path / "run", "rloo", split=1.0)
    assert [row.prompt[-1]["content"] for row in read.train] == [row["prompt"] for row in questions(3)]
    assert all(not row.reply for row in read.train)


def test_a_cap_that_no_process_can_hold_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-cost 1 cannot hold over 2 processes: start one"):
        _judging({"max_cost": 1.0}, load_config(), SimpleNamespace(num_processes=2))


# Bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"batch_size": 10, "rows_at_once": 5},
            "batch_size 10 does not give each of 1 process whole groups of 4 replies",
        ),
        ({"batch_size": 400}, "prompts cannot make a step of 100"),
        ({"iterations": 2, "save_every": 3}, "save_every 3 is not a multiple of iterations 2"),
        ({"reply_length": 300}, "exceed 256"),
        ({"trl.steps_per_generation": 2}, "trl.steps_per_generation cannot be set"),
        ({"trl.num_generations": 2}, "is set by the key 'generations'"),
        ({"generations": 1}, "generations"),
        ({"discount": 0.5}, "discount .* is a setting of ppo, not of rloo"),
        ({"loss": "dapo"}, "loss .* is a setting of .*, not of rloo"),
    ],
)
def test_what_no_step_can_be_made_of_is_refused(
    base: Path, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, InputError), match=message):
        train("rloo", base, tmp_path / "out", flags=flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"full": True}, "ppo trains two adapters"),
        ({"trl.scale_rewards": "none"}, "trl.scale_rewards is of grpo"),
    ],
)
def test_what_ppo_cannot_do_is_refused(base: Path, tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train("ppo", base, tmp_path / "out", flags=flags)


def test_a_training_on_rewards_needs_one(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rloo needs a reward"):
        train("rloo", base, tmp_path / "out", reward=None)
    with pytest.raises(UsageError, match="did you mean 'length'"):
        train("rloo", base, tmp_path / "out", reward="lenght")


def test_a_base_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    bare = tiny.model(tmp_path / "bare", template=None)
    with pytest.raises(UsageError, match="no chat template"):
        train("rloo", bare, tmp_path / "out")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda replies: [float("nan")] * len(replies), "the reward bad returned nan"),
        (lambda replies: [1.0], "the reward bad returned 1 numbers for 16 replies"),
        (lambda replies: 1 / 0, "the reward bad failed: ZeroDivisionError"),
    ],
)
def test_a_reward_that_is_no_reward_is_named(base: Path, tmp_path: Path, answers: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train("rloo", base, tmp_path / "out", reward=named("bad", answers), flags={"split": 1.0})


def test_a_training_that_gets_no_reward_stops(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.training.trainers.online.rollouts.UNRATED", 2)
    unknown = named("unknown", lambda replies: [None] * len(replies))
    with pytest.raises(ModelStopped, match="2 batches of replies in a row got no reward at all from unknown"):
        train("rloo", base, tmp_path / "out", reward=unknown, flags={"split": 1.0})


# Prompts


def test_prompts_come_from_any_rows_and_each_once(base: Path, tmp_path: Path) -> None:
    rows = [*questions(8), *questions(2), {"id": "none", "reply": "alone"}]
    data = load_rows(rows, "rloo", split=1.0)
    assert len(data.train) == 8
    assert [drop.reason for drop in data.dropped] == ["duplicate_prompt", "duplicate_prompt", "bad_input"]
    assert [row.prompt for row in load_rows(chats(3), "rloo", split=1.0).train] == [
        tuple(row["messages"][:1]) for row in chats(3)
    ]
