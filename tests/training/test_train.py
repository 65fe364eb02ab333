"""Training by SFT: the loss is on the replies, an interruption changes nothing, and what goes wrong is reported."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
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
from trainings import chats, ctrl_c, lines, losses, record, weights, write_lines
from trainings import train as train_any

from cai.disk.writing import unwritten
from cai.errors import LossNotFinite, RunError, UsageError
from cai.training.report.samples import greedy_replies, read_samples
from cai.training.setup.opening import this_machine
from cai.weights.bases import find_base

ROOT = Path(__file__).resolve().parents[2]


def train(base: Path, out: Path, data: Any = None, /, **more: Any) -> Any:
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "learning_rate": 1e-2} | more.pop("flags", {})
    return train_any("sft", chats() if data is None else data, out=out, model=str(base), flags=flags, **more)


# The loss


def nll(model: Any, words: Any, conversations: list[Any]) -> float:
    """The mean over the tokens of all last replies, by hand."""
    total, count = 0.0, 0
    for turns in conversations:
        before = words.apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"]
        reply = words(turns[-1]["content"], add_special_tokens=False)["input_ids"] + [words.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([before + reply])).logits[0].float().log_softmax(-1)
        total -= sum(float(logits[len(before) - 1 + i, token]) for i, token in enumerate(reply))
        count += len(reply)
    return total / count


def test_the_loss_is_that_of_the_last_replies_and_of_nothing_else(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    turns = (
        ("user", "First"),
        ("assistant", "An earlier reply that is bad."),
        ("user", "Second"),
        ("assistant", "Ok."),
    )
    data = [{"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]} for n in range(3)]
    held = chats(9)[8:]
    write_lines(tmp_path / "d.eval.jsonl", held)
    train(base, tmp_path / "out", write_lines(tmp_path / "d.jsonl", data), flags={"split": None, "batch_size": 3})
    first = losses(tmp_path / "out")[1]
    assert first == pytest.approx(nll(model, words, [row["messages"] for row in data]), abs=1e-5)
    summary = record(tmp_path / "out")["summary"]
    expected = nll(model, words, [row["messages"] for row in held])
    assert summary["metrics"]["eval_loss_before"] == pytest.approx(expected, abs=1e-5)


def test_an_adapter_is_trained_and_makes_the_replies_likelier(base: Path, tmp_path: Path) -> None:
    summary = train(base, tmp_path / "out", flags={"epochs": 3.0}, report=True)
    assert summary.metrics["eval_loss"] < summary.metrics["eval_loss_before"] - 0.5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "training.json"} <= names
    assert {"README.md", "loss.png", "samples.jsonl"} <= names
    assert not names & {"training_args.bin", "model.safetensors"}
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    held = [row["messages"] for row in chats() if row["id"] in eval_ids()]
    assert nll(model, words, held) == pytest.approx(summary.metrics["eval_loss"], rel=0.02)


def eval_ids() -> set[str]:
    from cai.training.data.dataset import load_rows

    return {row.id for row in load_rows(chats(), "sft", split=0.8).eval}


def test_all_weights_are_trained_on_request(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out", flags={"full": True, "learning_rate": 1e-3}, report=True)
    before = transformers.AutoModelForCausalLM.from_pretrained(base)
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    changed = [
        name for name, weight in after.state_dict().items() if not torch.equal(weight, before.state_dict()[name])
    ]
    assert len(changed) == len(before.state_dict())
    assert not (tmp_path / "out" / "adapter_config.json").exists()


# Interruption


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"full": True, "learning_rate": 1e-3}, marks=pytest.mark.slow),
        {"dtype": "bfloat16", "lora.dropout": 0.1},
    ],
)
def test_an_interrupted_training_that_goes_on_is_the_undisturbed_one(
    base: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    flags = {"epochs": 2.0, "save_every": 4, **flags}
    train(base, tmp_path / "whole", flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", flags=flags, progress=ctrl_c(5))
    assert max(losses(tmp_path / "cut")) == 6
    assert not record(tmp_path / "cut")["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(base, tmp_path / "cut", flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_kill_in_the_middle_of_a_checkpoint_falls_back_to_the_one_before(base: Path, tmp_path: Path) -> None:
    flags = {"epochs": 2.0, "save_every": 3}
    train(base, tmp_path / "whole", flags=flags)
    out = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (out / "checkpoints" / "checkpoint-10" / "trainer_state.json").unlink()
    data = record(out)
    del data["summary"]
    (out / "training.json").write_bytes(orjson.dumps(data | {"finished": False}))
    messages: list[str] = []
    train(base, out, flags=flags, tell=messages.append)
    assert any("resuming from" in line and line.endswith("checkpoint-9") for line in messages)
    assert losses(out) == losses(tmp_path / "whole")


def test_a_finished_training_is_not_repeated(base: Path, tmp_path: Path) -> None:
    first = train(base, tmp_path / "out")
    seen: list[Any] = []
    assert train(base, tmp_path / "out", progress=seen.append) == first
    assert not seen
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert train(base, moved).folder == moved


def test_a_finished_training_whose_weights_are_gone_makes_them_again(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out")
    before = weights(tmp_path / "out"), losses(tmp_path / "out")
    (tmp_path / "out" / "adapter_model.safetensors").unlink()
    messages: list[str] = []
    train(base, tmp_path / "out", tell=messages.append)
    assert any("its weights are gone" in line for line in messages)
    assert (weights(tmp_path / "out"), losses(tmp_path / "out")) == before


@pytest.mark.parametrize(
    ("batch", "message"),
    [(64, "after step 1 the weights .* are not all finite; "), (12, "checkpoint-1 holds such weights, too: delete")],
)
def test_weights_that_are_no_numbers_are_no_product(base: Path, tmp_path: Path, batch: int, message: str) -> None:
    flags = {"learning_rate": 1e39, "batch_size": batch, "warmup": 0.0, "save_every": 1, "schedule": "constant"}
    with pytest.raises(LossNotFinite, match=message):
        train(base, tmp_path / "out", flags={"split": 1, **flags})
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


HUB = """
import json, sys
from pathlib import Path
from cai.errors import CaiError
from cai.training.train import train
hub, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = [{"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "A."}]} for n in range(8)]
for commit in ("a" * 40, "b" * 40):
    (hub / "refs" / "main").write_text(commit)
    try:
        train("sft", rows, out=out, model="hf:org/tiny", flags={"batch_size": 4, "samples": 0, "split": 1})
    except CaiError as error:
        print(error)
    print(json.loads((out / "adapter_config.json").read_bytes())["revision"])
"""


@pytest.mark.slow
def test_a_model_that_changed_on_the_hub_is_another_training(base: Path, tmp_path: Path) -> None:
    hub = tmp_path / "home" / "hub" / "models--org--tiny"
    (hub / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(base, hub / "snapshots" / commit)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HUB, str(hub), str(tmp_path / "out")]
    process = subprocess.run(
        command, env=os.environ | environment, cwd=tmp_path, text=True, capture_output=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    before, message, after = process.stdout.splitlines()
    assert before == after == "a" * 40
    old, new = "a" * 40, "b" * 40
    assert f"holds another training: model is 'org/tiny@{old}' there, 'org/tiny@{new}' now" in message


def test_weights_may_be_read_by_whom_the_config_beside_them_may(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out")
    modes = {path.stat().st_mode for path in (tmp_path / "out").glob("adapter_*")}
    assert len(modes) == 1


def test_a_folder_of_another_training_is_refused_with_the_difference(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out")
    with pytest.raises(RunError, match=r"config\.learning_rate is 0\.01 there, 0\.02 now"):
        train(base, tmp_path / "out", flags={"learning_rate": 0.02})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        train(base, tmp_path / "other")


def test_other_rows_from_python_are_another_training(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out")
    with pytest.raises(RunError, match="holds another training: data"):
        train(base, tmp_path / "out", chats(24, q3="Another answer."))


def test_a_template_of_the_home_folder_is_known_by_its_content(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.jinja").write_text(tiny.CHATML)
    train(base, tmp_path / "out", flags={"chat_template": "~/t.jinja"})
    (tmp_path / "t.jinja").write_text(tiny.CHATML.replace("You are tiny.", "You are small."))
    with pytest.raises(RunError, match="chat_template is"):
        train(base, tmp_path / "out", flags={"chat_template": "~/t.jinja"})


def test_a_training_of_one_step_learns(base: Path, tmp_path: Path) -> None:
    summary = train(base, tmp_path / "out", chats(6), flags={"split": 0.7, "batch_size": 16})
    assert summary.steps == 1
    assert summary.metrics["eval_loss"] != summary.metrics["eval_loss_before"]


@pytest.mark.slow
def test_the_loss_of_held_out_rows_does_not_depend_on_how_many_are_taken_at_once(base: Path, tmp_path: Path) -> None:
    data = chats(24, **{f"q{n}": "Word " * (n + 1) for n in range(24)})
    values = [
        train(base, tmp_path / str(n), data, flags={"rows_at_once": n, "split": 0.5}).metrics["eval_loss_before"]
        for n in (1, 2, 4)
    ]
    assert values == pytest.approx([values[0]] * 3, abs=1e-5)


def test_tokens_are_counted_through_interruptions_and_step_0_is_evaluated_once(base: Path, tmp_path: Path) -> None:
    def counts(out: Path) -> list[float]:
        assert sum("eval_loss" in line and line["step"] == 0 for line in lines(out)) == 1
        return [line[name] for line in lines(out) for name in ("num_tokens", "eval_num_tokens") if name in line]

    train(base, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", progress=ctrl_c(2))
    shutil.rmtree(tmp_path / "cut" / "checkpoints")  # as if it had been killed before the first one
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", progress=ctrl_c(2))
    train(base, tmp_path / "cut")
    assert counts(tmp_path / "cut") == counts(tmp_path / "whole")


def test_the_replies_to_samples_are_counted_for_whoever_watches(base: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    train(base, tmp_path / "out", progress=seen.append, report=True)
    asked = [each for each in seen if "replies" in each]
    assert {each["when"] for each in asked} == {"before", "after"}
    assert all(each["replies"] < each["of"] and 1 <= each["token"] <= each["most"] for each in asked)


def test_samples_that_fail_do_not_cost_the_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("no memory for samples")

    monkeypatch.setattr("cai.training.report.samples.greedy_replies", fail)
    summary = train(base, tmp_path / "out", report=True)
    assert record(tmp_path / "out")["finished"]
    assert "no samples after: OutOfMemoryError: no memory for samples" in summary.notes


def test_a_session_that_goes_on_keeps_what_the_first_one_settled(base: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "out", progress=ctrl_c(2))
    data = record(tmp_path / "out")
    data["settled"]["rows_at_once"] = 2  # as on a day with less memory
    (tmp_path / "out" / "training.json").write_bytes(orjson.dumps(data))
    messages: list[str] = []
    train(base, tmp_path / "out", tell=messages.append)
    assert "rows_at_once 2 (resumed)" in messages
    plan = {each["name"]: each for each in record(tmp_path / "out")["plan"]}
    assert plan["max_length"]["origin"] == "data"
    assert (plan["rows_at_once"]["value"], plan["rows_at_once"]["origin"]) == (2, "resumed")


# What goes wrong


def test_a_loss_that_is_no_number_stops_before_the_weights_and_names_the_rows(base: Path, tmp_path: Path) -> None:
    model = tiny.broken(tmp_path / "broken", base)
    with pytest.raises(LossNotFinite) as caught:
        train(model, tmp_path / "out", chats(24, q6="Answer ~ 6."), flags={"split": 1, "save_every": 1})
    text = str(caught.value)
    assert "the loss is nan at step " in text and "q6" in text
    step = int(text.split("at step ")[1].split()[0])
    assert step > 1 and f"checkpoint-{step - 1} is from before" in text
    checkpoint = tmp_path / "out" / "checkpoints" / f"checkpoint-{step - 1}" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    assert all(weight.isfinite().all() for weight in load_file(checkpoint).values())
    assert max(losses(tmp_path / "out")) == step - 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits on file sizes")
def test_torch_save_on_a_full_disk_is_told_and_a_file_that_cannot_be_read_is_not(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RuntimeError) as unsaved:
            torch.save(torch.zeros(100_000), tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    torch.save(torch.zeros(100_000), tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", 200_000)
    with pytest.raises(RuntimeError) as unread:
        torch.load(tmp_path / "a.pt")
    assert (unwritten(unsaved.value), unwritten(unread.value)) == ("the disk is full", None)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits on file sizes")
@pytest.mark.parametrize("flags", seldom([{}, {"full": True, "learning_rate": 1e-3}], [{}]))
def test_a_checkpoint_that_cannot_be_written_is_told_and_the_training_goes_on_from_the_one_before(
    base: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    import resource

    flags = {"save_every": 2, **flags}
    train(base, tmp_path / "whole", flags=flags)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 3 and "loss" in metrics:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(RunError, match=r"cannot write to .*cut: \w.*; free some space there"):
            train(base, tmp_path / "cut", flags=flags, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    messages: list[str] = []
    train(base, tmp_path / "cut", flags=flags, tell=messages.append)
    assert any(line.startswith("resuming from") and line.endswith("checkpoint-2") for line in messages)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_out_of_memory_goes_on_with_fewer_rows_at_once_and_the_same_batch(base: Path, tmp_path: Path) -> None:
    left = [True]

    def fill(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 3 and left:
            left.clear()
            raise torch.OutOfMemoryError("out of memory")

    messages: list[str] = []
    summary = train(base, tmp_path / "out", flags={"save_every": 2}, progress=fill, tell=messages.append)
    assert any("continuing with 2" in line for line in messages)
    train(base, tmp_path / "calm")
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "calm"), abs=1e-4)
    assert record(tmp_path / "out")["settled"]["rows_at_once"] == 2
    assert summary.steps == max(losses(tmp_path / "calm"))


def test_rows_that_do_not_fit_are_dropped_cut_and_counted(base: Path, tmp_path: Path) -> None:
    data = chats(10)
    data[3]["messages"][0]["content"] = "Word " * 60
    data[5]["messages"][1]["content"] = "Word " * 60
    messages: list[str] = []
    summary = train(base, tmp_path / "out", data, flags={"split": 1, "max_length": 72}, tell=messages.append)
    assert (summary.rows, summary.dropped) == (9, {"too_long": 1})
    assert any("2 of 10 rows (20.0%) exceed 72 tokens" in line for line in messages)
    facts = record(tmp_path / "out")
    assert facts["data"]["read"] == facts["data"]["train"] + sum(facts["data"]["dropped"].values())
    [dropped] = lines(tmp_path / "out", "dropped.jsonl")
    assert dropped["reason"] == "too_long" and dropped["detail"].startswith("row q")
    assert facts["truncation"]["over"] == 2


def test_a_base_model_needs_a_chat_template_and_takes_one(tmp_path: Path) -> None:
    base = tiny.model(tmp_path / "base", template=None)
    with pytest.raises(UsageError, match="no chat template"):
        train(base, tmp_path / "out")  # nothing is learnt yet, so the folder is free for another try
    (tmp_path / "chat.jinja").write_text(tiny.CHATML)
    train(base, tmp_path / "out", flags={"chat_template": str(tmp_path / "chat.jinja")})
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.CHATML


def test_any_argument_of_trl_reaches_the_trainer(base: Path, tmp_path: Path) -> None:
    summary = train(base, tmp_path / "out", flags={"trl.max_steps": 2})
    assert summary.steps == 2
    with pytest.raises(UsageError, match="did you mean 'weight_decay'"):
        train(base, tmp_path / "b", flags={"trl.weigth_decay": 0.1})


def test_metrics_reach_tensorboard(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(base, tmp_path / "out", flags={"trl.report_to": "tensorboard"})
    [events] = (tmp_path / "out" / "checkpoints" / "runs").rglob("events*")
    assert b"train/loss" in events.read_bytes()


def test_what_was_done_is_in_the_record(base: Path, tmp_path: Path) -> None:
    data = [row | {"constitution": "harmless@1.0.0", "model": "m"} for row in chats()]
    train(base, tmp_path / "out", data)
    facts = record(tmp_path / "out")
    assert facts["data"]["origins"] == {"constitution": ["harmless@1.0.0"], "model": ["m"]}
    assert facts["versions"]["trl"] and facts["versions"]["torch"]
    assert facts["model"]["mark"] == find_base(str(base)).mark
    assert {"name": "dtype", "value": "float32", "origin": "flag", "why": ""} in facts["plan"]
    assert facts["seconds"] > 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai:gpt-4.1", "cannot be trained here"),
        ("./no/such/folder", "no such folder"),
        ("weights.gguf", "no such file"),
    ],
)
def test_a_model_that_cannot_be_trained_is_told(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_base(spec)


def test_an_adapter_is_trained_on_and_what_it_cannot_become_is_told(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "a")
    messages: list[str] = []
    summary = train(tmp_path / "a", tmp_path / "b", flags={"split": 0.8, "samples": 1}, tell=messages.append)
    assert f"trains the adapter {tmp_path / 'a'} further (flag)" in messages
    first, second = (record(tmp_path / name)["summary"]["metrics"] for name in ("a", "b"))
    assert second["eval_loss_before"] == pytest.approx(first["eval_loss"], abs=1e-3)
    assert summary.metrics["eval_loss"] < first["eval_loss"]
    configs = [orjson.loads((tmp_path / name / "adapter_config.json").read_bytes()) for name in ("a", "b")]
    assert configs[0]["base_model_name_or_path"] == configs[1]["base_model_name_or_path"] == str(base)
    [sample] = read_samples(tmp_path / "b")
    words = transformers.AutoTokenizer.from_pretrained(base)
    adapter = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert greedy_replies(adapter, words, [sample.prompt], most_tokens=sample.most_tokens) == [sample.before]
    with pytest.raises(UsageError, match="all weights are to be trained: merge it into its base model"):
        train(tmp_path / "a", tmp_path / "c", flags={"full": True})
    with pytest.raises(UsageError, match=r"leave lora\.rank out"):
        train(tmp_path / "a", tmp_path / "c", flags={"lora.rank": 4})


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="pickled"):
        find_base(str(tmp_path))


def test_the_machine_is_described() -> None:
    machine = this_machine()
    assert machine.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert machine.memory > 2**28


@pytest.mark.slow
def test_the_embedded_model_is_trained_from_its_own_weights(tmp_path: Path) -> None:
    summary = train_any(
        "sft",
        chats(6),
        out=tmp_path / "out",
        flags={"split": 0.7, "batch_size": 2, "trl.max_steps": 1},
        model="local",
        report=True,
    )
    assert summary.metrics["loss"] < 8
    config = orjson.loads((tmp_path / "out" / "adapter_config.json").read_bytes())
    assert Path(config["base_model_name_or_path"], "model.safetensors").exists()
