"""Training on preferences: what the losses are told, what interruption changes, what each row gave when evaluated."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import tiny
import torch
import transformers
from measured import log_prob, reply_tokens, settled
from trainings import ctrl_c, graded, lines, losses, pairs, record, weights, write_lines
from trainings import train as train_any

from cai.errors import CaiError, InputError, LossNotFinite, UsageError
from cai.training.trainers.dpo import NLL_WEIGHT


def train(method: Any, base: Path, out: Path, data: Any = None, /, **more: Any) -> Any:
    rate = {"dpo": 1e-3, "kto": 1e-3, "reward": 1e-2}[method]
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "learning_rate": rate} | more.pop("flags", {})
    rows = (graded() if method == "kto" else pairs()) if data is None else data
    return train_any(method, rows, out=out, model=str(base), flags=flags, **more)


# What is learnt


@pytest.mark.parametrize("method", seldom(["dpo", "kto", "reward"], ["dpo"]))
def test_replies_that_are_preferred_are_told_from_the_others(base: Path, tmp_path: Path, method: str) -> None:
    flags = {"epochs": 4.0, "samples": 2, "save_every": 8}
    summary = train(method, base, tmp_path / "out", flags=flags, report=True)
    if method == "reward":
        assert summary.metrics["eval_accuracy"] == 1.0
    else:
        assert summary.metrics["eval_rewards/chosen"] > summary.metrics["eval_rewards/rejected"] + 0.05
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "training.json"} <= names
    assert {"README.md", "loss.png"} <= names and ("samples.jsonl" in names) == (method != "reward")
    assert not names & {"training_args.bin", ".rows"}


@pytest.mark.parametrize("reference", ["once", "each_step"])
@pytest.mark.parametrize("loss", seldom(["sigmoid", "cdpo"], ["cdpo"]))
def test_every_held_out_pair_is_measured_under_the_model_and_its_reference(
    base: Path, tmp_path: Path, loss: str, reference: str
) -> None:
    train("dpo", base, tmp_path / "out", pairs(p_chosen=0.9), flags={"loss": loss, "reference": reference})
    by_id = {row["id"]: row for row in pairs()}
    words = transformers.AutoTokenizer.from_pretrained(base)
    models = {"ref_": base, "": tmp_path / "out"}
    last = [line for line in lines(tmp_path / "out", "eval.jsonl") if line["step"] == max(losses(tmp_path / "out"))]
    assert len(last) == len({line["id"] for line in last}) == record(tmp_path / "out")["data"]["eval"] > 2
    for start, place in models.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(place)
        for line in last:
            for side in ("chosen", "rejected"):
                by_hand = log_prob(model, words, by_id[line["id"]], side)
                assert line[f"{start}logp_{side}"] == pytest.approx(by_hand, abs=2e-3)


def test_every_held_out_pair_has_its_rewards(base: Path, tmp_path: Path) -> None:
    summary = train("reward", base, tmp_path / "out")
    last = [line for line in lines(tmp_path / "out", "eval.jsonl") if line["step"] == summary.steps]
    right = sum(line["reward_chosen"] > line["reward_rejected"] for line in last) / len(last)
    assert right == pytest.approx(summary.metrics["eval_accuracy"])


# The loss


def test_the_loss_comes_from_the_labels(base: Path, tmp_path: Path) -> None:
    told: list[str] = []
    train("dpo", base, tmp_path / "soft", pairs(8, p_chosen=0.8), tell=told.append)
    assert "loss cdpo (data: every pair has p_chosen)" in told
    some = pairs(8)
    some[0]["p_chosen"] = 0.8
    train("dpo", base, tmp_path / "hard", some, tell=told.append)
    assert "loss sigmoid (data: 7 of 8 pairs have no p_chosen)" in told
    assert settled(tmp_path / "soft") | {"loss": "", "nll": 0} == settled(tmp_path / "hard") | {"loss": "", "nll": 0}
    train("reward", base, tmp_path / "reward", pairs(8, p_chosen=0.8), tell=told.append)
    assert "loss soft (data: every pair has p_chosen)" in told


def test_a_soft_label_of_half_teaches_less_than_a_sure_one(base: Path, tmp_path: Path) -> None:
    flags = {"nll": 0, "epochs": 2.0}
    margins = [
        train("dpo", base, tmp_path / str(p), pairs(p_chosen=p), flags=flags).metrics["eval_rewards/margins"]
        for p in (0.5, 1.0)
    ]
    assert abs(margins[0]) < 0.3 * margins[1]


@pytest.mark.slow
def test_robust_takes_the_flip_rate_from_the_labels(base: Path, tmp_path: Path) -> None:
    train("dpo", base, tmp_path / "out", pairs(8, p_chosen=0.8), flags={"loss": "robust"})
    assert settled(tmp_path / "out")["label_smoothing"] == pytest.approx(0.2)
    with pytest.raises(UsageError, match=r"set trl\.label_smoothing"):
        train("dpo", base, tmp_path / "no", pairs(8), flags={"loss": "robust"})
    train("dpo", base, tmp_path / "own", pairs(8), flags={"loss": "robust", "trl.label_smoothing": 0.2})
    assert losses(tmp_path / "out") == losses(tmp_path / "own")
    train("dpo", base, tmp_path / "other", pairs(8), flags={"loss": "robust", "trl.label_smoothing": 0.1})
    assert settled(tmp_path / "other")["label_smoothing"] == 0.1
    assert losses(tmp_path / "other") != losses(tmp_path / "own")


def test_before_the_first_step_the_loss_is_log_2_and_the_nll_of_the_chosen_replies(base: Path, tmp_path: Path) -> None:
    flags = {"split": 1, "batch_size": 6, "rows_at_once": 6}
    for name, more in (("mixed", {}), ("bare", {"nll": 0})):
        train("dpo", base, tmp_path / name, pairs(6, p_chosen=0.9), flags=flags | more)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    total = sum(log_prob(model, words, row, "chosen") for row in pairs(6))
    count = sum(reply_tokens(words, row, "chosen") for row in pairs(6))
    assert losses(tmp_path / "bare")[1] == pytest.approx(math.log(2), abs=1e-5)
    assert losses(tmp_path / "mixed")[1] == pytest.approx(math.log(2) - NLL_WEIGHT * total / count, abs=1e-4)


@pytest.mark.slow
def test_kto_has_two_losses_which_part_when_mismatched_replies_become_likelier(base: Path, tmp_path: Path) -> None:
    for loss in ("kto", "apo_zero_unpaired"):
        flags = {"loss": loss, "split": 1, "learning_rate": 1e-2, "epochs": 4.0}
        train("kto", base, tmp_path / loss, graded(8), flags=flags)
    assert losses(tmp_path / "kto") != pytest.approx(losses(tmp_path / "apo_zero_unpaired"), abs=1e-3)


def test_the_labels_of_a_reward_model_reach_its_loss(base: Path, tmp_path: Path) -> None:
    found = {}
    for name, p, flags in (("sure", 1.0, {}), ("hard", 0.6, {"loss": "hard"}), ("soft", 0.6, {})):
        train("reward", base, tmp_path / name, pairs(8, p_chosen=p), flags=flags)
        found[name] = losses(tmp_path / name)
    assert found["sure"] == pytest.approx(found["hard"], abs=1e-6)
    assert found["soft"] != pytest.approx(found["hard"], abs=1e-3)


@pytest.mark.parametrize(
    ("method", "flags", "told"),
    [
        ("dpo", {"loss": "sigmoyd"}, "did you mean 'sigmoid'"),
        ("reward", {"loss": "sift"}, "did you mean 'soft'"),
        ("reward", {"beta": 0.1}, r"beta \(flag\) is a setting of dpo, kto, .*, not of reward"),
        ("kto", {"nll": 0.1}, r"nll \(flag\) is a setting of dpo, .*, not of kto"),
        ("dpo", {"packing": "packed"}, r"packing \(flag\) is a setting of sft, not of dpo"),
        ("dpo", {"loss": "cdpo"}, "p_chosen"),
        ("kto", {"batch_size": 1}, "batch size of 2 or more"),
        ("dpo", {"rows_at_once": 3}, "batch_size 4 is not made of rows_at_once 3"),
        ("dpo", {"lora.targets": "nolayer"}, "cannot be set up: .*nolayer"),
        ("dpo", {"trl.optim": "nope"}, "TRL refuses an argument"),
        ("dpo", {"trl.report_to": "mlfow"}, "no tracker is called 'mlfow'; did you mean 'mlflow'"),
        ("dpo", {"trl.loss_type": "ipo"}, "is set by the key 'loss'"),
        ("reward", {"trl.beta": 1.0}, "TRL's trainer has no argument 'beta'"),
    ],
)
def test_a_setting_that_cannot_be_is_told(
    base: Path, tmp_path: Path, method: str, flags: dict[str, Any], told: str
) -> None:
    with pytest.raises(CaiError, match=told):
        train(method, base, tmp_path / "out", flags=flags)


# Rows


@pytest.mark.parametrize("method", ["dpo", "kto", "reward"])
def test_rows_that_do_not_fit_are_dropped_and_counted(base: Path, tmp_path: Path, method: str) -> None:
    data = graded(12) if method == "kto" else pairs(12)
    data[3]["prompt"][0]["content"] = "Word " * 60
    told: list[str] = []
    summary = train(method, base, tmp_path / "out", data, flags={"split": 1, "max_length": 128}, tell=told.append)
    assert (summary.rows, summary.dropped) == (11, {"too_long": 1})
    assert any("the first is row q3: " in line for line in told)


def test_a_conversation_that_the_template_refuses_drops_the_row(tmp_path: Path) -> None:
    strict = "{% for m in messages %}{% if '#' in m['content'] %}{{ raise_exception('no #') }}{% endif %}{% endfor %}"
    base = tiny.model(tmp_path / "base", strict + tiny.CHATML)
    data = pairs(12)
    data[3]["prompt"].insert(0, {"role": "system", "content": "Be # brief."})
    summary = train("dpo", base, tmp_path / "out", data, flags={"split": 1})
    assert (summary.rows, summary.dropped) == (11, {"bad_input": 1})


def test_a_template_that_ends_no_reply_is_refused_for_every_method(tmp_path: Path) -> None:
    endless = tiny.CHATML.replace("m['content'] + '<|im_end|>\n' }}{% endfor %}", "m['content'] + '\n' }}{% endfor %}")
    assert endless != tiny.CHATML
    base = tiny.model(tmp_path / "base", endless)
    for method in ("dpo", "kto", "reward"):
        with pytest.raises(UsageError, match="would not learn to stop"):
            train(method, base, tmp_path / method)


@pytest.mark.parametrize("method", ["dpo", "kto", "reward"])
def test_text_that_could_open_turns_of_its_own_does_not_train(base: Path, tmp_path: Path, method: str) -> None:
    data = graded(12) if method == "kto" else pairs(12)
    data[3]["prompt"][0]["content"] = "Hello<|im_end|>\n<|im_start|>assistant\nHi"
    data[5]["completion" if method == "kto" else "chosen"][0]["content"] = "Yes<|im_end|>"
    data[8]["completion" if method == "kto" else "rejected"][0]["content"] = "No<|im_end|>"
    told: list[str] = []
    summary = train(method, base, tmp_path / "out", data, flags={"split": 1}, tell=told.append)
    assert (summary.rows, summary.dropped) == (9, {"role_mixup": 3})
    assert any(line.startswith("dropped: role_mixup 3; the first is row q3") for line in told)


def test_held_out_rows_that_all_fall_out_leave_nothing_held_out(base: Path, tmp_path: Path) -> None:
    held = pairs(3, held=True)
    for row in held:
        row["prompt"][0]["content"] = f"Other {row['id']}<|im_end|>"
    write_lines(tmp_path / "d.eval.jsonl", held)
    data = write_lines(tmp_path / "d.jsonl", pairs(12))
    summary = train("dpo", base, tmp_path / "out", data, flags={"split": None})
    found = record(tmp_path / "out")["data"]
    assert (summary.eval_rows, found["held_back"], found["read"]) == (0, "nothing", 15)
    assert "no row is held back: nothing will be evaluated" in summary.notes


def test_one_row_that_is_left_is_not_trained_on(base: Path, tmp_path: Path) -> None:
    data = pairs(3)
    for row in data[1:]:
        row["chosen"][0]["content"] = "Yes<|im_end|>"
    with pytest.raises(InputError, match="only one row can train"):
        train("dpo", base, tmp_path / "out", data, flags={"split": 1})


def test_a_plain_row_that_just_does_not_fit_is_counted(base: Path, tmp_path: Path) -> None:
    words = transformers.AutoTokenizer.from_pretrained(base)
    data = [
        {"id": f"p{n}", "prompt": f"Text {n}: ", "chosen": f"good {n}" + " and so on" * n, "rejected": "bad"}
        for n in range(8)
    ]
    longest = len(words(data[-1]["prompt"] + data[-1]["chosen"])["input_ids"])
    for limit, kept in ((longest + 1, 8), (longest, 7)):
        summary = train("reward", base, tmp_path / str(limit), data, flags={"split": 1, "max_length": limit})
        assert (summary.rows, sum(summary.dropped.values())) == (kept, 8 - kept)


def test_mismatched_replies_of_ktos_evaluation_are_mixed(base: Path, tmp_path: Path) -> None:
    import datasets
    import trl

    from cai.training.trainers.kto import MixedKTO
    from cai.training.trainers.loop import with_hooks

    rows = [row | {"label": label} for row in graded(8) for label in (True, False)]
    settings = {"per_device_train_batch_size": 2, "use_cpu": True, "report_to": [], "bf16": False}
    trainer = with_hooks("trl:KTOTrainer", MixedKTO)(
        args=trl.KTOConfig(output_dir=str(tmp_path), gradient_checkpointing=None, **settings),
        model=transformers.AutoModelForCausalLM.from_pretrained(base),
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows),
    )
    order = [row["id"] for row in trainer.eval_dataset]
    assert sorted(order) == sorted(row["id"] for row in rows) and order != [row["id"] for row in rows]


@pytest.mark.parametrize("full", seldom([False, True], [False]))
def test_the_head_of_a_reward_model_trains_in_float32(base: Path, tmp_path: Path, full: bool) -> None:
    from safetensors.torch import load_file

    flags = {"dtype": "bfloat16", "learning_rate": 1e-4, "epochs": 2.0, "full": full}
    train("reward", base, tmp_path / "out", flags=flags)
    name = "model" if full else "adapter_model"
    [head] = [weight for key, weight in load_file(tmp_path / "out" / f"{name}.safetensors").items() if "score" in key]
    assert head.dtype == torch.float32
    transformers.set_seed(0)
    fresh = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).score.weight
    assert (head != fresh).all(), "most steps of 1e-4 are lost in bfloat16"


# Interruption


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        pytest.param("dpo", {}, marks=pytest.mark.slow),
        ("dpo", {"reference": "each_step", "dtype": "bfloat16"}),
        pytest.param("dpo", {"full": True}, marks=pytest.mark.slow),
        pytest.param("kto", {}, marks=pytest.mark.slow),
        pytest.param("reward", {"dtype": "bfloat16"}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_that_goes_on_is_the_undisturbed_one(
    base: Path, tmp_path: Path, method: str, flags: dict[str, Any]
) -> None:
    flags = {"epochs": 2.0, "save_every": 4, **flags}
    train(method, base, tmp_path / "whole", flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train(method, base, tmp_path / "cut", flags=flags, progress=ctrl_c(5))
    assert max(losses(tmp_path / "cut")) == 6
    train(method, base, tmp_path / "cut", flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    if method != "kto":
        assert lines(tmp_path / "cut", "eval.jsonl") == lines(tmp_path / "whole", "eval.jsonl")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_session_that_goes_on_asks_the_reference_no_more(base: Path, tmp_path: Path) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".rows").rglob("*.arrow")}

    with pytest.raises(KeyboardInterrupt):
        train("dpo", base, tmp_path / "out", progress=ctrl_c(2))
    before = written()
    assert any("cache" in path.name for path in before)
    with pytest.raises(KeyboardInterrupt):
        train("dpo", base, tmp_path / "out", progress=ctrl_c(4))
    assert written() == before


def test_a_reference_that_was_interrupted_goes_on_where_it_was(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.training.trainers.preferences.PART", 8)
    train("dpo", base, tmp_path / "whole")
    seen: list[int] = []

    def stop(metrics: Mapping[str, Any]) -> None:
        if "of" in metrics:
            seen.append(metrics["reference_rows"])
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("dpo", base, tmp_path / "cut", progress=stop)
    asked = len(seen)
    assert asked < 6, "it stops at once"
    seen += [0] * 10
    train("dpo", base, tmp_path / "cut", progress=stop)
    assert len(seen) - 10 - asked < 6, "what was asked is not asked again"
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_progress_of_the_reference_counts_every_row(base: Path, tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    train("dpo", base, tmp_path / "out", progress=seen.append)
    counts = [(metrics["reference_rows"], metrics["of"]) for metrics in seen if "reference_rows" in metrics]
    assert counts == sorted(counts) and counts[-1] == (24, 24)


# What goes wrong


def test_a_loss_that_is_no_number_names_its_rows(base: Path, tmp_path: Path) -> None:
    data = pairs(24)
    data[6]["chosen"][0]["content"] = "Answer ~ 6."
    with pytest.raises(LossNotFinite, match=r"the loss is nan at step \d+ \(row .*q6") as caught:
        train(
            "dpo", tiny.broken(tmp_path / "broken", base), tmp_path / "out", data, flags={"split": 1, "save_every": 1}
        )
    step = int(str(caught.value).split("at step ")[1].split()[0])
    assert step == 1 or f"checkpoint-{step - 1} is from before" in str(caught.value)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "out").values())


def test_a_preference_training_goes_on_with_an_adapter_and_leaves_one(base: Path, tmp_path: Path) -> None:
    sft = [
        {"id": row["id"], "messages": [*row["prompt"], *row["chosen"]]} for row in pairs()
    ]  # fmt: skip
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "learning_rate": 1e-2, "epochs": 2.0}
    train_any("sft", sft, out=tmp_path / "sft", model=str(base), flags=flags)
    summary = train("dpo", tmp_path / "sft", tmp_path / "dpo", flags={"epochs": 2.0})
    assert summary.metrics["eval_rewards/margins"] > 0
    words = transformers.AutoTokenizer.from_pretrained(base)
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dpo")
    by_id = {row["id"]: row for row in pairs()}
    for line in (line for line in lines(tmp_path / "dpo", "eval.jsonl") if line["step"] == summary.steps):
        row = by_id[line["id"]]
        assert line["ref_logp_chosen"] == pytest.approx(log_prob(before, words, row, "chosen"), abs=2e-3)
        assert line["logp_chosen"] == pytest.approx(log_prob(after, words, row, "chosen"), abs=2e-3)
    config = orjson.loads((tmp_path / "dpo" / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == str(base)
    assert not (tmp_path / "dpo" / "ref").exists()
    with pytest.raises(UsageError, match="a reward model needs a head of its own"):
        train("reward", tmp_path / "sft", tmp_path / "reward")
