"""Preference training on tiny random models, beside TRL's own trainers on the same rows."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import datasets
import peft
import tiny
import torch
import transformers
import trl
from shared import ROOT
from trainings import said

from cai.calls.model import Call
from cai.errors import InputError, LossNotFinite, UsageError
from cai.models import open_model
from cai.records import Request, Sampling
from cai.training.data.dataset import load_rows
from cai.training.data.rows import TrainingRow, rows_of
from cai.training.data.tokens import Encoded, Masker
from cai.training.setup.config import load_config
from cai.training.trainers.dpo import NLL_WEIGHT, Pairs, SoftDPO, cross_entropy, gap_scaled, with_nll
from cai.training.trainers.kto import MixedKTO
from cai.training.trainers.loop import Recorder, with_hooks
from cai.training.trainers.preferences import Preferences
from cai.training.trainers.reward import Scored, SoftReward

pytestmark = pytest.mark.usefixtures("quiet_datasets")

WORDS = ["river", "mill", "bridge", "stone", "old", "quiet", "field", "rain", "tea", "knife", "boat", "road"]


def pairs(count: int = 16, **columns: Any) -> datasets.Dataset:
    """Pairs of replies of different lengths; a column is a value for all rows, or a list."""
    rows = []
    for i in range(count):
        a, b = WORDS[i % 12], WORDS[(i * 5 + 3) % 12]
        row = {
            "id": f"r{i}",
            "row": i,
            "prompt": said("user", f"Where is the {a}?"),
            "chosen": said("assistant", f"Past the {b}." * (1 + i % 3)),
            "rejected": said("assistant", f"No {a} is here, nor any {b}."),
        }
        rows.append(row | {name: of[i] if isinstance(of, list) else of for name, of in columns.items()})
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("tiny"), tiny.PLAIN, context=512, spread=0.3)


def common(out: Path, **given: Any) -> dict[str, Any]:
    """Arguments of every trainer: float32 on the CPU, every step logged, nothing written."""
    basic = {
        "output_dir": str(out),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
    }
    return basic | given


def curve(trainer: Any, key: str = "loss") -> list[float]:
    """`key` of every training step."""
    trainer.train()
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def parts(folder: Path) -> dict[str, Any]:
    return {
        "model": transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        "processing_class": transformers.AutoTokenizer.from_pretrained(folder),
    }


def dpo_trainer(**parts: Any) -> Any:
    return with_hooks("trl:DPOTrainer", SoftDPO)(**parts)


def reward_trainer(**parts: Any) -> Any:
    return with_hooks("trl:RewardTrainer", SoftReward)(**parts)


def dpo(folder: Path, out: Path, rows: Any, *, make: Any = dpo_trainer, lora: bool = False, **given: Any) -> Any:
    extra: dict[str, Any] = {}
    if lora:
        extra["peft_config"] = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    if "eval_dataset" in given:
        extra["eval_dataset"] = given.pop("eval_dataset")
    return make(args=trl.DPOConfig(**common(out, **given)), train_dataset=rows, **parts(folder), **extra)


def recorder(warnings: list[str]) -> Any:
    """The callback of a training that has no folder, and that nobody stops."""
    folder = SimpleNamespace(metrics=list, add=lambda metrics: None)
    stopper = SimpleNamespace(agreed=lambda: False)
    return with_hooks("transformers:TrainerCallback", Recorder)(folder, stopper, warnings.append, None)


SETUPS = [
    pytest.param({}, id="reference-beside", marks=pytest.mark.slow),
    pytest.param({"precompute_ref_log_probs": True}, id="reference-precomputed", marks=pytest.mark.slow),
    pytest.param({"lora": True}, id="lora", marks=pytest.mark.slow),
    pytest.param({"lora": True, "precompute_ref_log_probs": True}, id="lora-precomputed"),
]


@pytest.mark.parametrize("given", SETUPS)
def test_with_equal_settings_the_curves_are_those_of_trl(folder: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    stock = dpo(folder, tmp_path / "a", pairs(), make=trl.DPOTrainer, **given)
    losses = curve(stock)
    certain = dpo(folder, tmp_path / "b", pairs(p_chosen=1.0), loss_type=["cdpo"], **given)
    scaled = dpo(folder, tmp_path / "c", pairs(p_chosen=1.0), loss_type=["gap_scaled"], **given)
    plain = dpo(folder, tmp_path / "d", pairs(p_chosen=0.7), **given)
    assert len(losses) == 8 and losses[-1] < losses[0] - 0.05  # it learns: the comparison is not of constants
    assert curve(certain) == pytest.approx(losses, abs=1e-6)
    assert curve(scaled) == pytest.approx(losses, abs=1e-6)
    assert curve(plain) == pytest.approx(losses, abs=1e-6)  # a stock loss takes no notice of p
    for key in ("rewards/margins", "rewards/chosen", "logps/chosen", "entropy", "grad_norm"):
        theirs = [entry[key] for entry in stock.state.log_history if key in entry]
        ours = [entry[key] for entry in certain.state.log_history if key in entry]
        assert len(ours) == 8 and ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def batch(trainer: Any) -> dict[str, Any]:
    trainer.model.train()
    prepared: dict[str, Any] = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    return prepared


def trained(folder: Path, out: Path, p: Any, loss: str, **given: Any) -> Any:
    """A trainer whose policy has left its reference, so that D is not 0."""
    trainer = dpo(folder, out, pairs(p_chosen=p), loss_type=[loss], beta=0.5, **given)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return trainer


def gradient(trainer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    return torch.cat([w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None])


def swapped(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same pairs with chosen and rejected in each other's place."""
    doubled = ("input_ids", "attention_mask", "completion_mask")
    return {k: torch.cat(v.chunk(2)[::-1]) if k in doubled else v for k, v in inputs.items()}


def test_the_gradient_of_cdpo_mixes_those_of_both_orders_through_the_model(folder: Path, tmp_path: Path) -> None:
    p = 0.8
    soft = trained(folder, tmp_path, p, "cdpo")
    inputs = batch(soft)
    one = {**inputs, "p_chosen": torch.ones(4)}
    better, worse = gradient(soft, one), gradient(soft, swapped(one))
    mixed = gradient(soft, inputs)
    assert mixed.abs().max() > 1e-3
    assert (mixed - p * better - (1 - p) * worse).norm() < 1e-6 * mixed.norm()
    soft.loss_types, soft.loss_weights, soft._soft = ["sigmoid"], [1.0], []
    assert (better - gradient(soft, one)).norm() < 1e-6 * better.norm()  # and g+ is TRL's own


def test_every_row_has_its_own_probability(folder: Path, tmp_path: Path) -> None:
    labels = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.95, 0.55] * 2
    trainer = trained(folder, tmp_path, labels, "gap_scaled")
    inputs = batch(trainer)
    assert inputs["p_chosen"].tolist() == pytest.approx([labels[row] for row in inputs["row"].tolist()])
    whole = float(trainer.compute_loss(trainer.model, inputs).detach())
    stock = {k: v for k, v in inputs.items() if k not in ("p_chosen", "row")}
    reference = torch.cat(trainer.compute_ref_log_probs(trainer.ref_model, stock))
    policy = torch.cat(trainer.compute_ref_log_probs(trainer.model, stock))
    chosen, rejected = (policy - reference).chunk(2)
    expected = gap_scaled(0.5 * (chosen - rejected), inputs["p_chosen"]).mean()
    assert (chosen - rejected).abs().min() > 1e-3
    assert whole == pytest.approx(float(expected), abs=1e-6)


def test_an_even_label_moves_no_weight_in_the_gap_scaled_form(folder: Path, tmp_path: Path) -> None:
    trainer = trained(folder, tmp_path, 0.5, "gap_scaled")
    inputs = batch(trainer)
    assert gradient(trainer, inputs).abs().max() == 0
    assert gradient(trainer, {**inputs, "p_chosen": torch.full((4,), 0.6)}).abs().max() > 1e-4


def test_swapped_replies_with_the_other_probability_are_the_same_loss(folder: Path, tmp_path: Path) -> None:
    trainer = trained(folder, tmp_path, 0.8, "cdpo")
    inputs = batch(trainer)
    other = {**swapped(inputs), "p_chosen": 1 - inputs["p_chosen"]}
    with torch.no_grad():
        one, two = trainer.compute_loss(trainer.model, inputs), trainer.compute_loss(trainer.model, other)
    assert float(one) == pytest.approx(float(two), abs=1e-5)
    unmoved = {**swapped(inputs), "p_chosen": inputs["p_chosen"]}
    assert abs(float(trainer.compute_loss(trainer.model, unmoved).detach()) - float(one)) > 1e-3


def test_the_nll_of_the_chosen_reply_is_added_with_its_weight(folder: Path, tmp_path: Path) -> None:
    rows = pairs(p_chosen=1.0)
    losses, weights = with_nll("cdpo", NLL_WEIGHT)
    ours = dpo(folder, tmp_path / "a", rows, loss_type=losses, loss_weights=weights)
    theirs = dpo(
        folder, tmp_path / "b", rows, make=trl.DPOTrainer, loss_type=["sigmoid", "sft"], loss_weights=[1.0, NLL_WEIGHT]
    )
    bare = dpo(folder, tmp_path / "c", rows, loss_type=["cdpo"])
    mixed = curve(ours)
    assert mixed == pytest.approx(curve(theirs), abs=1e-6)
    assert mixed[0] > curve(bare)[0] + 0.3


def test_each_part_of_a_mix_has_its_weight(folder: Path, tmp_path: Path) -> None:
    given = {"loss_weights": [0.3, 0.6], "max_steps": 3}
    ours = dpo(folder, tmp_path / "a", pairs(8, p_chosen=1.0), loss_type=["gap_scaled", "sft"], **given)
    theirs = dpo(folder, tmp_path / "b", pairs(8), make=trl.DPOTrainer, loss_type=["sigmoid", "sft"], **given)
    assert curve(ours) == pytest.approx(curve(theirs), abs=1e-6)


def test_our_columns_reach_no_model_and_outputs_change_no_loss(folder: Path, tmp_path: Path) -> None:
    trainer = trained(folder, tmp_path, 0.8, "cdpo")
    seen: set[str] = set()
    for model in (trainer.model, trainer.ref_model):
        model.register_forward_pre_hook(lambda _, args, named: seen.update(named), with_kwargs=True)
    inputs = batch(trainer)
    alone = trainer.compute_loss(trainer.model, inputs)
    both, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert float(both.detach()) == float(alone.detach()) and outputs.logits is not None
    assert "input_ids" in seen and not seen & {"p_chosen", "row"}
    assert {"p_chosen", "row"} <= set(inputs)


def test_stock_losses_pass_through_by_name(folder: Path, tmp_path: Path) -> None:
    names = ["ipo", "hinge", "sigmoid_norm", "apo_zero", "robust", "discopop", "bco_pair"]
    given = {"loss_type": names, "loss_weights": [0.01, 1, 2, 3, 4, 5, 6], "label_smoothing": 0.1, "max_steps": 4}
    ours = dpo(folder, tmp_path / "a", pairs(8, p_chosen=0.6), **given)
    theirs = dpo(folder, tmp_path / "b", pairs(8), make=trl.DPOTrainer, **given)
    assert curve(ours) == pytest.approx(curve(theirs), abs=1e-6)


def test_the_held_out_loss_reads_the_labels_too(folder: Path, tmp_path: Path) -> None:
    for given in ({}, {"precompute_ref_log_probs": True}):
        held = pairs(8, p_chosen=0.75)
        trainer = dpo(
            folder, tmp_path, pairs(p_chosen=0.9), loss_type=["cdpo"], max_steps=2, eval_dataset=held, **given
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)  # D is 0 before the first step
        trainer.train()
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] != pytest.approx(math.log(2), abs=1e-5)
        assert {"eval_rewards/margins", "eval_rewards/accuracies", "eval_logps/chosen"} <= set(metrics)


def test_other_rows_can_be_evaluated_with_an_adapter_whose_reference_is_precomputed(
    folder: Path, tmp_path: Path
) -> None:
    rows = pairs(8, p_chosen=0.9)
    trainer = dpo(folder, tmp_path, rows, lora=True, loss_type=["cdpo"], max_steps=1, precompute_ref_log_probs=True)
    trainer.train()
    assert math.isfinite(trainer.evaluate(pairs(4, p_chosen=0.9))["eval_loss"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing 0.1 has no effect on sigmoid"),
        ({"label_smoothing": 0.1, "loss_type": ["cdpo"]}, "label_smoothing 0.1 has no effect on cdpo"),
        ({"loss_type": ["robust"], "label_smoothing": 0.5}, "robust needs a label_smoothing"),
        ({"padding_free": True}, "padding_free has no effect"),
        ({"loss_type": ["cdpo"], "ld_alpha": 0.5}, "ld_alpha 0.5 cannot be combined"),
        ({"loss_type": ["cdpo"], "use_weighting": True}, "use_weighting True cannot be combined"),
        ({"loss_type": ["gap_scaled"], "f_divergence_type": "forward_kl"}, "f_divergence_type 'forward_kl' cannot"),
    ],
)
def test_settings_without_effect_or_meaning_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dpo_trainer(args=trl.DPOConfig(**common(tmp_path, **given)), train_dataset=pairs(4, p_chosen=0.8), model=None)


@pytest.mark.parametrize(
    ("method", "kind", "loss", "label"),
    [
        ("dpo", Pairs, "cdpo", "p_chosen"),
        ("dpo", Pairs, "gap_scaled", "p_chosen"),
        ("reward", Scored, "soft", "p_chosen"),
        ("reward", Scored, "margin", "margin"),
    ],
)
def test_rows_without_the_label_that_a_loss_reads_are_refused_before_the_model_is_read(
    tmp_path: Path, method: str, kind: Any, loss: str, label: str
) -> None:
    loaded = load_config(None, {"loss": loss})
    data = load_rows(pairs(4, **{label: [0.8, 0.9, None, 1.0]}).to_list(), method, split=1)
    with pytest.raises(InputError, match=f"row r2 has no {label}, which the loss {loss} reads of every row"):
        kind(data, loaded, None, (), tmp_path)
    held = dataclasses.replace(data, train=data.train[:2], eval=data.train[2:])
    with pytest.raises(InputError, match=f"row r2 has no {label}"):
        kind(held, loaded, None, (), tmp_path)


def test_a_stock_loss_takes_rows_that_nobody_judged(folder: Path, tmp_path: Path) -> None:
    rows = on_disk([*written(4, p_chosen=0.8), *written(4)], tmp_path, COLUMNS)
    trainer = dpo(folder, tmp_path, rows, max_steps=2, eval_dataset=rows)
    assert len(curve(trainer)) == 2
    assert "eval_loss" in trainer.evaluate()


COLUMNS = ("chosen_ids", "rejected_ids")


def on_disk(
    rows: list[Encoded], folder: Path, columns: tuple[str, ...], label: str | None = None, *, joined: bool = False
) -> Any:
    """The rows as the trainers of a method with such columns and label write them."""
    method: Any = SimpleNamespace(folder=folder, columns=columns, label=label, joined=joined)
    return Preferences.dataset(method, rows)


WORDS_OF_TINY = tiny.tokenizer(tiny.PLAIN)


def encoded(rows: list[TrainingRow]) -> list[Encoded]:
    """The rows in tokens, as the trainers of preferences are given them."""
    found = list(Masker(WORDS_OF_TINY, [WORDS_OF_TINY.eos_token_id], whole=True).encode(rows))
    assert all(isinstance(row, Encoded) for row in found)
    return [row for row in found if isinstance(row, Encoded)]


def as_read(row: dict[str, Any], **fields: Any) -> TrainingRow:
    """A row of `pairs` as it is read from a file."""
    replies = {"reply": row["chosen"][0]["content"], "rejected": row["rejected"][0]["content"]}
    return TrainingRow(id=row["id"], prompt=tuple(row["prompt"]), key="k", **replies | fields)


def written(count: int = 6, **fields: Any) -> list[Encoded]:
    """Rows of `pairs` in tokens."""
    return encoded([as_read(row, **fields) for row in pairs(count).to_list()])


def test_rows_on_disk_are_the_tokens_that_were_read(tmp_path: Path) -> None:
    rows = written(p_chosen=0.8, margin=1.4)
    found = on_disk(rows, tmp_path, COLUMNS, "p_chosen").to_list()
    assert [row["row"] for row in found] == list(range(6))
    for row, read in zip(found, rows, strict=True):
        assert (row["prompt_ids"], row["p_chosen"]) == (read.prompt, 0.8)
        assert "margin" not in row
        assert (row["chosen_ids"], row["rejected_ids"]) == read.replies
    assert on_disk(rows, tmp_path, COLUMNS, "p_chosen").to_list() == found and len(list(tmp_path.iterdir())) == 1
    on_disk(written(p_chosen=0.7), tmp_path, COLUMNS, "p_chosen")
    assert on_disk(rows, tmp_path, COLUMNS, "margin")["margin"][:] == [1.4] * 6
    assert len(list(tmp_path.iterdir())) == 3


def test_writers_at_the_same_time_end_with_one_folder(tmp_path: Path) -> None:
    rows = written(p_chosen=0.8)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: on_disk(rows, tmp_path, COLUMNS)["row"][:], range(8)))
    assert found == [list(range(len(rows)))] * 8
    assert len(list(tmp_path.iterdir())) == 1


def test_graded_replies_and_whole_conversations_have_their_own_columns(tmp_path: Path) -> None:
    [graded] = encoded([TrainingRow("a", ({"role": "user", "content": "Tea?"},), "Yes.", "k", label=True)])
    assert on_disk([graded], tmp_path, ("completion_ids",), "label").to_list() == [
        {"row": 0, "prompt_ids": graded.prompt, "completion_ids": graded.replies[0], "label": True}
    ]
    [pair] = written(1)
    [row] = on_disk([pair], tmp_path, COLUMNS, joined=True)
    assert (row["chosen_ids"], row["rejected_ids"]) == tuple(pair.prompt + reply for reply in pair.replies)


def test_the_reference_is_computed_once_for_rows_on_disk(folder: Path, tmp_path: Path) -> None:
    rows = written(p_chosen=0.8)
    given: dict[str, Any] = {"loss_type": ["cdpo"], "precompute_ref_log_probs": True, "max_steps": 2}
    first = dpo(folder, tmp_path / "out", on_disk(rows, tmp_path, COLUMNS, "p_chosen"), **given)
    kept = sorted(tmp_path.glob("rows-*/cache-*"))
    again = dpo(folder, tmp_path / "out", on_disk(rows, tmp_path, COLUMNS, "p_chosen"), **given)
    assert sorted(tmp_path.glob("rows-*/cache-*")) == kept != []  # nothing is computed anew
    assert list(again.train_dataset["ref_chosen_logps"]) == list(first.train_dataset["ref_chosen_logps"])
    assert curve(again) == curve(first)


def long_rows() -> list[dict[str, Any]]:
    rows = pairs(12).to_list()
    for i, row in enumerate(rows):
        row["prompt"] = said("user", "the quiet river " * (i * 3))
    return rows


PLAIN_TEXT = [{"id": f"p{i}", "prompt": f"Text {i}: ", "chosen": "good" * i, "rejected": "bad"} for i in range(1, 5)]


@pytest.mark.parametrize("plain", [False, True])
def test_the_tokens_of_pairs_are_those_that_trl_would_make(folder: Path, tmp_path: Path, plain: bool) -> None:
    rows = PLAIN_TEXT if plain else long_rows()
    data = datasets.Dataset.from_list([row | {"row": place} for place, row in enumerate(rows)])
    read = [rows_of(row, 1, "dpo")[0] if plain else as_read(row) for row in rows]
    unlimited = {"max_length": None}
    for trainer, joined in (
        (dpo(folder, tmp_path / "a", data, make=trl.DPOTrainer, **unlimited), False),
        (reward(folder, tmp_path / "b", data, make=trl.RewardTrainer, **unlimited), True),
    ):
        ours = on_disk(encoded(read), tmp_path, COLUMNS, joined=joined)
        for mine, other in zip(ours, trainer.train_dataset.sort("row"), strict=True):
            assert [mine[name] for name in COLUMNS] == [other[name] for name in COLUMNS]
            assert joined or mine["prompt_ids"] == other["prompt_ids"]


@pytest.mark.parametrize("method", ["dpo", "reward"])
@pytest.mark.parametrize("limit", [30, 58, 66, 67, 90, 10_000])  # prompts have 30 and 66 tokens, a row has 58
def test_rows_that_trl_would_drop_are_dropped_beforehand(folder: Path, tmp_path: Path, limit: int, method: str) -> None:
    rows = [row | {"row": place} for place, row in enumerate(long_rows())]
    data = datasets.Dataset.from_list(rows)
    make, kind = (dpo, trl.DPOTrainer) if method == "dpo" else (reward, trl.RewardTrainer)
    kept = set(make(folder, tmp_path, data, make=kind, max_length=limit).train_dataset["row"])
    fit = (Pairs if method == "dpo" else Scored).fit
    ours = {
        place
        for place, row in enumerate(encoded([as_read(row) for row in rows]))
        if isinstance(fit(None, row, limit), Encoded)  # type: ignore[arg-type]
    }
    assert kept == ours and (ours or limit == 30)


def classifier(folder: Path) -> dict[str, Any]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    torch.manual_seed(4)
    torch.nn.init.normal_(model.score.weight, std=0.2)
    return {"model": model, "processing_class": transformers.AutoTokenizer.from_pretrained(folder)}


def reward(folder: Path, out: Path, rows: Any, *, make: Any = reward_trainer, extra: Any = (), **given: Any) -> Any:
    settings = trl.RewardConfig(**common(out, **{"max_steps": 4} | given))
    return make(args=settings, train_dataset=rows, **classifier(folder), **dict(extra))


def test_a_reward_with_certain_labels_learns_as_with_trl(folder: Path, tmp_path: Path) -> None:
    theirs = curve(reward(folder, tmp_path / "a", pairs(), make=trl.RewardTrainer))
    assert theirs[-1] != pytest.approx(theirs[0], abs=1e-3)
    assert curve(reward(folder, tmp_path / "b", pairs(p_chosen=1.0))) == pytest.approx(theirs, abs=1e-6)
    assert curve(reward(folder, tmp_path / "c", pairs())) == pytest.approx(theirs, abs=1e-6)


def test_a_reward_with_margins_learns_as_with_trl(folder: Path, tmp_path: Path) -> None:
    margins = [0.1 * i for i in range(16)]
    theirs = curve(reward(folder, tmp_path / "a", pairs(margin=margins), make=trl.RewardTrainer))
    ours = reward(folder, tmp_path / "b", pairs(margin=margins))
    assert curve(ours) == pytest.approx(theirs, abs=1e-6)


def test_a_soft_reward_is_the_cross_entropy_of_every_row(folder: Path, tmp_path: Path) -> None:
    labels = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.95, 0.55] * 2
    trainer = reward(folder, tmp_path, pairs(p_chosen=labels))
    inputs = batch(trainer)
    with torch.no_grad():
        logits = trainer.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        chosen, rejected = logits.squeeze(-1).chunk(2)
        expected = cross_entropy(chosen - rejected, inputs["p_chosen"]).mean()
        found = trainer.compute_loss(trainer.model, inputs)
    assert (chosen - rejected).abs().max() > 0.01
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert inputs["p_chosen"].tolist() == pytest.approx([labels[row] for row in inputs["row"].tolist()])


@pytest.mark.parametrize("lora", [False, True])
def test_a_trained_reward_model_is_a_judge(folder: Path, tmp_path: Path, lora: bool) -> None:
    extra: dict[str, Any] = {"eval_dataset": pairs(4, p_chosen=0.8)}
    if lora:
        extra["peft_config"] = peft.LoraConfig(
            r=4, task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"]
        )
    trainer = reward(folder, tmp_path, pairs(p_chosen=0.8), max_steps=2, extra=extra)
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    trainer.save_model(str(tmp_path / "judge"))
    messages = ({"role": "user", "content": "Where is the tea?"}, {"role": "assistant", "content": "Past the mill."})

    async def score() -> tuple[float, ...]:
        model = open_model(f"reward:{tmp_path / 'judge'}")
        await model.start()
        try:
            asked = Call(Request("judge", messages, score=("",)), "r", 0, 1, Sampling())
            return (await model.send(model.payload(asked))).scores
        finally:
            await model.close()

    [given] = asyncio.run(score())
    ids = trainer.processing_class.apply_chat_template([dict(m) for m in messages], return_dict=False)
    with torch.inference_mode():
        assert given == pytest.approx(float(trainer.model.eval()(torch.tensor([ids])).logits[0, 0]), abs=1e-4)


def replies(desirable: int, undesirable: int) -> datasets.Dataset:
    rows = pairs(desirable + undesirable).to_list()
    return datasets.Dataset.from_list(
        [
            {"row": i, "prompt": row["prompt"], "completion": row["chosen"], "label": i < desirable}
            for i, row in enumerate(rows)
        ]
    )


def kto(folder: Path, out: Path, rows: Any, **given: Any) -> Any:
    open_weights: dict[str, Any] = {"desirable_weight": None, "undesirable_weight": None}
    settings = trl.KTOConfig(**common(out, **{"max_steps": 2} | open_weights | given))
    return with_hooks("trl:KTOTrainer", MixedKTO)(args=settings, train_dataset=rows, **parts(folder))


def test_kto_weighs_the_rarer_label_by_the_counts_and_mixes_the_rows(folder: Path, tmp_path: Path) -> None:
    trainer = kto(folder, tmp_path, replies(4, 12))
    assert (trainer.desirable_weight, trainer.undesirable_weight) == (3.0, 1.0)
    order = list(trainer.train_dataset["row"])
    assert sorted(order) == list(range(16)) and order != sorted(order)
    again = kto(folder, tmp_path, replies(4, 12))
    assert list(again.train_dataset["row"]) == order
    assert all(math.isfinite(loss) for loss in curve(trainer))


def test_weights_of_the_users_own_stay(folder: Path, tmp_path: Path) -> None:
    trainer = kto(folder, tmp_path, replies(4, 12), desirable_weight=2.0)
    assert (trainer.desirable_weight, trainer.undesirable_weight) == (2.0, 1.0)
    alike = kto(folder, tmp_path, replies(4, 12), desirable_weight=1.0, undesirable_weight=1.0)
    assert (alike.desirable_weight, alike.undesirable_weight) == (1.0, 1.0)


def test_kto_is_refused_a_batch_of_one_and_rows_of_one_label(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch size of 2 or more"):
        kto(folder, tmp_path, replies(4, 4), per_device_train_batch_size=1)
    with pytest.raises(UsageError, match="kto needs rows of both labels"):
        kto(folder, tmp_path, replies(8, 0))


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_the_tokens_of_graded_replies_are_those_that_trl_would_make(folder: Path, tmp_path: Path, loss: str) -> None:
    rows = [{"row": i, **row, "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(long_rows())]
    read = [as_read(row, rejected=None, label=row["label"]) for row in rows]
    settings = {"max_length": None, "loss_type": loss}
    columns = ["row", "prompt", "completion", "label"]
    stock = kto(folder, tmp_path, datasets.Dataset.from_list(rows).select_columns(columns), **settings)
    ours = kto(folder, tmp_path, on_disk(encoded(read), tmp_path, ("completion_ids",), "label"), **settings)
    names = ["row", "prompt_ids", "completion_ids", "label"]
    assert [[row[name] for name in names] for row in ours.train_dataset] == [
        [row[name] for name in names] for row in stock.train_dataset
    ]
    if loss == "kto":
        replies = list(ours.train_dataset["completion_ids"])
        assert list(ours.train_dataset["KL_completion_ids"]) == [replies[-1], *replies[:-1]]


def test_a_loss_that_is_no_number_stops_with_the_rows_and_before_the_step(folder: Path, tmp_path: Path) -> None:
    trainer = dpo(folder, tmp_path, pairs(p_chosen=0.9), loss_type=["cdpo"], learning_rate=0.0)
    whole = trainer.model.lm_head.weight.clone()
    seen: list[int] = []
    inner = trainer.compute_loss

    def poisoned(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        loss = inner(model, inputs, *rest, **named)
        seen[:] = inputs["row"].tolist()
        return loss * float("nan") if trainer.state.global_step == 2 else loss

    trainer.compute_loss = poisoned
    with pytest.raises(LossNotFinite, match=r"the loss is nan at step 3$") as caught:
        trainer.train()
    assert caught.value.rows == tuple(seen)
    assert torch.equal(trainer.model.lm_head.weight, whole)


def test_a_training_that_unlearns_both_replies_is_told_while_it_runs(folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    trainer = dpo(folder, tmp_path, pairs(), loss_type=["apo_down"], max_steps=12)  # lowers both, the chosen less
    trainer.add_callback(recorder(heard))
    trainer.train()
    unlearned = [line for line in heard if "chosen replies become less probable" in line]
    assert len(unlearned) == 1
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["rewards/chosen"] < 0 < last["rewards/margins"]


def test_a_calm_training_is_not_interrupted(folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    trainer = dpo(folder, tmp_path, pairs(p_chosen=0.8), loss_type=["cdpo"], max_steps=12, learning_rate=1e-5)
    trainer.add_callback(recorder(heard))
    trainer.train()
    assert heard == []


def test_a_gradient_that_is_no_number_stops_before_the_step(folder: Path, tmp_path: Path) -> None:
    trainer = dpo(folder, tmp_path, pairs(p_chosen=0.9), loss_type=["cdpo"])
    trainer.add_callback(recorder([]))
    weight = trainer.model.model.norm.weight
    weight.register_hook(lambda grad: grad / 0 if trainer.state.global_step == 2 else grad)
    with pytest.raises(LossNotFinite, match="a gradient is not a number at step 3"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


TWO = """
import sys
from pathlib import Path
import datasets
import trl
from test_soft_labels import curve, dpo

folder, out, precomputed, lora = Path(sys.argv[1]), Path(sys.argv[2]), *(word == "True" for word in sys.argv[3:])
rows = datasets.load_from_disk(out / "rows")  # where both processes find the log-probabilities of the reference
given = {"precompute_ref_log_probs": precomputed, "lora": lora, "per_device_train_batch_size": 2}
stock = dpo(folder, out, rows.remove_columns(["p_chosen"]), make=trl.DPOTrainer, **given)
theirs = curve(stock)
ours = curve(dpo(folder, out, rows, loss_type=["cdpo"], **given))
assert stock.args.world_size == 2 and len(ours) == 8 and theirs[-1] < theirs[0] - 0.05
assert max(abs(one - two) for one, two in zip(ours, theirs, strict=True)) < 1e-6, (ours, theirs)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("precomputed", [False, True])
def test_two_processes_learn_as_with_trl(folder: Path, tmp_path: Path, precomputed: bool, lora: bool) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    pairs(16, p_chosen=1.0).save_to_disk(tmp_path / "rows")
    paths = [str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, str(folder), str(tmp_path), str(precomputed), str(lora)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
