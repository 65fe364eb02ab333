"""With equal settings tokens and losses are those of TRL's own trainers, called plainly on the same rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import datasets
import peft
import tiny
import trl
from trainings import lines, said, train

from cai.training.data.rows import TrainingRow
from cai.training.data.tokens import Encoded, Masker

pytestmark = pytest.mark.usefixtures("quiet_datasets")

# TRL learns what a template puts after the end of turn, and we do not: here that is nothing.
BETWEEN = (
    "{% for m in messages %}{{ ('' if loop.first else '\n') + '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)
KEYS = ("loss", "rewards/margins", "rewards/chosen", "logps/chosen", "num_tokens")


def pairs(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "prompt": said("user", f"Question {n}?"),
            "chosen": said("assistant", "Past the river. " * (1 + n % 3)),
            "rejected": said("assistant", f"No mill is here, nor {n} boats."),
        }
        for n in range(count)
    ]


def theirs(base: Path, out: Path, rate: float, full: bool, once: bool) -> list[dict[str, float]]:
    """The log of TRL's trainer."""
    arguments = trl.DPOConfig(
        output_dir=str(out), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=rate,
        lr_scheduler_type="cosine", warmup_steps=1, num_train_epochs=2, seed=3, bf16=False, use_cpu=True,
        max_length=128, activation_checkpointing=False, beta=0.3, loss_type=["sigmoid"], precompute_ref_log_probs=once,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    lora = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = trl.DPOTrainer(
        model=str(base), args=arguments, train_dataset=datasets.Dataset.from_list(pairs()),
        peft_config=None if full else lora,
    )  # fmt: skip
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


CASES = [(False, True), (True, False), (False, False), (True, True)]  # all weights, and the reference computed once


@pytest.mark.parametrize(("full", "once"), seldom(CASES, CASES[:1]))
def test_with_equal_settings_the_losses_are_those_of_trl(tmp_path: Path, full: bool, once: bool) -> None:
    base = tiny.model(tmp_path / "base", BETWEEN)
    rate = 3e-3 if full else 1e-2
    expected = theirs(base, tmp_path / "theirs", rate, full, once)
    flags = {
        "split": 1, "rows_at_once": 4, "batch_size": 8, "learning_rate": rate, "warmup": 0.2, "epochs": 2, "seed": 3,
        "dtype": "float32", "max_length": 128, "loss": "sigmoid", "nll": 0, "beta": 0.3, "full": full,
        "reference": "once" if once else "each_step",
    }  # fmt: skip
    train("dpo", pairs(), out=tmp_path / "ours", model=str(base), flags=flags)
    found = [line for line in lines(tmp_path / "ours") if "loss" in line]
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert expected[-1]["loss"] < expected[0]["loss"] - 0.1  # it learns: the comparison is not of constants
    for key in KEYS:
        assert [line[key] for line in found] == pytest.approx([entry[key] for entry in expected], abs=1e-4), key


# Tokens

LAST = said("user", "Hi?")
CHATS = [
    (LAST, "\n\nYes.", "\nNo."),  # melts into the line break of the template
    (LAST, "Yes.", "\n\n\n\nNo."),
    (said("user", "Hi?") + said("assistant", "a\n") + said("user", "b\n\n"), "Yes. ", " No."),
]
TEXTS = [
    ("The quiet ri", "ver runs past the mill.", "vet"),
    ("The quie", "t river", "t"),
    ("Reply ", "A", " or B"),
    ("user", " asks<|im_end|>", " asks\n"),
    ("The mill.<|im_end|>", "\nuser", " old"),
]
TOKENIZERS = {
    "bytes": tiny.tokenizer(tiny.PLAIN),
    "spaces": tiny.tokenizer(tiny.PLAIN, metaspace=True),
    "begun": tiny.framed("<|endoftext|> $A"),
    "ended": tiny.framed("$A <|im_end|>"),
}


def prepared(words: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the preparation of TRL's own trainer of reward models leaves them."""
    args = SimpleNamespace(max_length=None, truncation_mode="keep_start", dataset_num_proc=None)
    trainer = SimpleNamespace(_tokenizer=words, calculate_KL=False)
    table: list[dict[str, Any]] = trl.RewardTrainer._prepare_dataset(
        trainer, datasets.Dataset.from_list(rows), words, args, "train"
    ).to_list()
    return table


@pytest.mark.parametrize("chats", [True, False], ids=["chats", "texts"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_reward_model_reads_the_tokens_of_trl_even_if_they_span_the_border_of_prompt_and_reply(
    name: str, chats: bool
) -> None:
    words = TOKENIZERS[name]
    masker = Masker(words, [words.eos_token_id], whole=True)
    spans = 0
    for prompt, chosen, rejected in CHATS if chats else TEXTS:
        row = TrainingRow("row", tuple(prompt) if chats else prompt, chosen, "k", rejected=rejected)
        [pair] = masker.encode([row])
        if isinstance(pair, str):  # it cannot be shown which tokens are the reply's
            assert name in ("spaces", "ended") and "cannot be told apart" in pair
            continue
        one, other = (said("assistant", reply) if chats else reply for reply in (chosen, rejected))
        [theirs] = prepared(words, [{"prompt": prompt, "chosen": one, "rejected": other}])
        assert [pair.prompt + reply for reply in pair.replies] == [theirs["chosen_ids"], theirs["rejected_ids"]]
        alone = Masker(words, [words.eos_token_id]).encode([row])
        spans += any(isinstance(each, Encoded) and len(each.prompt) > len(pair.prompt) for each in alone)
    assert spans or name in ("spaces", "ended"), "the tokenizer must merge here, or this shows nothing"
