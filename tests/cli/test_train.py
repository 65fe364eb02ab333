"""The commands of training as users run them: what they take, what they show, and how they stop and go on."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from terminal import cai, failed, on_terminal

from cai.cli import train as cli_train
from cai.cli.train import flags_of
from cai.errors import UsageError
from cai.training.setup.config import keys_of, load_config
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and an environment without settings of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "WANDB_API_KEY", "WANDB_MODE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# Options


def test_every_method_has_its_command() -> None:
    listed = cai("train", "--help").stdout
    assert all(f"{method.summary[:40]}" in " ".join(listed.split()) for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_command_has_an_option_for_every_key_of_the_config_that_means_something_to_its_method(method: str) -> None:
    words = cai("train", method, "--help").stdout.split()
    keys = set(keys_of(method)) - {"lora.targets"}  # a list, which --set takes
    options = {f"--{key.replace('.', '-').replace('_', '-')}" for key in keys}
    everywhere = {"--out", "--model", "--config", "--eval-data", "--report-to", "--set", "--json", "--help"}
    assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} >= options | everywhere
    assert ("--loss" in words) == bool(METHODS[method].losses)


def test_every_option_sets_its_key_of_the_config() -> None:
    values: dict[str, Any] = {
        "full": True, "epochs": 2.0, "learning_rate": 1e-4, "batch_size": 4, "max_length": 64, "lora_rank": 8,
        "loss": "ipo", "beta": 0.2, "split": 0.9, "chat_template": "x", "seed": 1, "rows_at_once": 2,
        "report_to": "wandb", "nll": 0.1, "warmup": 0.2,
    }  # fmt: skip
    config = load_config(None, flags_of(values, ())).config.model_dump()
    changed = {name for name, value in config.items() if value != TrainConfig().model_dump()[name]}
    assert changed == {name for name in values if name not in ("lora_rank", "report_to")} | {"lora", "trl"}
    assert config["lora"]["rank"] == 8 and config["trl"] == {"report_to": "wandb"}


def test_an_option_that_is_not_given_leaves_the_file_as_it_is() -> None:
    assert flags_of({"full": None, "epochs": None}, ()) == {}


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("lora.targets=all-linear", "lora.targets", "all-linear"),
        ("lora.targets=[q_proj, v_proj]", "lora.targets", ["q_proj", "v_proj"]),
        ("trl.weight_decay=0.1", "trl.weight_decay", 0.1),
        ("trl.run_name=a=b", "trl.run_name", "a=b"),
        ("full=true", "full", True),
        ("trl={max_steps: 3}", "trl", {"max_steps": 3}),
    ],
)
def test_a_value_that_is_set_is_read_as_yaml(word: str, key: str, value: Any) -> None:
    assert flags_of({}, [word]) == {key: value}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "epochs"], "--set epochs must be KEY=VALUE"),
        (["--set", "=3"], "--set =3 must be KEY=VALUE"),
        (["--set", "epochs=["], "--set epochs=[: "),
        (["--set", "epochs="], "--set epochs= has no value"),
        (["--set", "epochs=null"], "--set epochs=null has no value"),
        (["--set", "loraa.rank=8"], "a dotted key is lora.KEY or trl.KEY"),
        (["--set", "epochs.x=8"], "a dotted key is lora.KEY or trl.KEY"),
        (["--set", "lora.rank.x=8"], "a dotted key is lora.KEY or trl.KEY"),
        (["--epochs", "2", "--set", "epochs=3"], "epochs is set twice"),
        (["--set", "epochs=2", "--set", "epochs=3"], "epochs is set twice"),
        (["--lora-rank", "2", "--set", "lora.rank=3"], "lora.rank is set twice"),
        (["--epochs", "many"], "'--epochs'"),
        (["--batch-sizes", "2"], "--batch-size"),
    ],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_told_in_one_line(words: list[str], told: str) -> None:
    line = failed("train", "dpo", "rows.jsonl", "--out", "out", *words)
    assert told in line and "a bug" not in line


def test_data_and_a_folder_must_be_named() -> None:
    assert "--out" in failed("train", "sft", "rows.jsonl")
    assert "'data'" in failed("train", "sft", "--out", "out")


def test_a_loss_is_not_an_option_of_sft() -> None:
    assert "--loss" in failed("train", "sft", "rows.jsonl", "--out", "out", "--loss", "ipo")


def test_a_key_set_with_another_one_around_it_is_not_set_twice() -> None:
    with pytest.raises(UsageError, match=r"lora and lora\.rank"):
        flags_of({"lora_rank": 4}, ["lora={alpha: 8}"])


# Training


def command(base: Path, method: str, *words: str) -> list[str]:
    """A command on rows that it writes; its steps see four rows."""
    pytest.importorskip("trl")
    turns = [[{"role": "user", "content": f"Question {n}?"}] for n in range(24)]
    replies = [[{"role": "assistant", "content": f"{word} {n}."}] for n in range(24) for word in ("Yes", "No")]
    rows: list[dict[str, Any]] = [
        {"id": str(n), "messages": turns[n] + replies[2 * n]}
        if method == "sft"
        else {"id": str(n), "prompt": turns[n], "chosen": replies[2 * n], "rejected": replies[2 * n + 1]}
        for n in range(24)
    ]
    Path("rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    own = ["--model", str(base), "--out", "out", "--split", "0.75", "--batch-size", "4", "--set", "samples=0"]
    return ["train", method, "rows.jsonl", *own, *words]


def test_a_training_says_what_it_settled_how_it_goes_and_what_to_type_next(base: Path) -> None:
    done = cai(*command(base, "dpo", "--learning-rate", "1e-3"))
    assert (done.returncode, done.stdout) == (0, "")
    told = done.stderr
    parts = (
        "rows.jsonl: 24 rows read", "learning_rate 0.001 (flag)", "loss sigmoid (data: ", "  reference ", "step 1/4 · ",
        "step 4/4 · ", "held-out rows after step 4: loss ", "out: dpo, 4 steps on 16 rows", "next: cai chat out",
    )  # fmt: skip
    places = [told.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), told
    assert re.search(
        r"  0:00 left after \d:\d\d · step 4/4 · loss \S+ · margin \S+ · accuracy \d+% · [\d,]+ tokens/s · \d\.\d GB\n",
        told,
    )
    assert "\x1b" not in told and "%|" not in told and "Warning" not in told


def test_a_training_on_rewards_is_planned_and_made_by_one_set_of_words(base: Path) -> None:
    Path("prompts.jsonl").write_text("".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(12)))
    words = ["grpo", "prompts.jsonl", "--reward", "format,0.5:length:10", "--generations", "4", "--batch-size", "8"]
    words += ["--reply-length", "4", "--split", "1", "--model", str(base), "--out", "out", "--set", "trl.max_steps=1"]
    planned = cai("plan", "train", *words)
    assert "grpo: 1 step on 1 batch of 4 replies to each of 2 prompts, of up to 4 tokens" in planned.stderr
    assert "no model is asked for rewards" in planned.stderr
    done = cai("train", *words)
    assert "generations 4 (flag)" in done.stderr
    assert "reward " in done.stderr
    assert "next: cai chat out" in done.stderr


def test_json_alone_goes_to_stdout_and_a_finished_training_tells_it_again(base: Path) -> None:
    words = command(base, "sft", "--json", "--full", "--learning-rate", "1e-3")
    first, again = cai(*words), cai(*words)
    found = json.loads(first.stdout)
    assert found == json.loads(Path("out/training.json").read_bytes())["summary"]
    assert (found["method"], found["rows"], found["steps"]) == ("sft", 16, 4)
    assert json.loads(again.stdout) == found and "out is finished: nothing to do" in again.stderr
    assert "cai merge" not in first.stderr  # there is no adapter


def test_ctrl_c_stops_after_the_step_and_the_same_command_goes_on(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command(base, "sft", "--epochs", "2")
    with monkeypatch.context() as patch:

        class Impatient(cli_train.TrainProgress):
            def on_metrics(self, metrics: Any) -> None:
                super().on_metrics(metrics)
                if metrics["step"] == 3 and "loss" in metrics:  # told after it: the fourth is the step that ends
                    os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(cli_train, "TrainProgress", Impatient)
        stopped = cai(*words)
    assert stopped.returncode == 130
    assert "stopping after this step" in stopped.stderr and stopped.stderr.endswith("interrupted\n")
    assert "step 5/8" not in stopped.stderr and "next:" not in stopped.stderr
    done = cai(*words)
    assert done.returncode == 0 and "resuming from " in done.stderr
    assert "step 4/8" not in done.stderr and "step 5/8" in done.stderr and "out: sft, 8 steps" in done.stderr


def test_options_go_before_the_config_file_and_both_are_told(base: Path) -> None:
    Path("train.yaml").write_text("epochs: 5\nseed: 7\nlora:\n  rank: 4\n  alpha: 8\ntrl:\n  weight_decay: 0.1\n")
    words = ["--config", "train.yaml", "--epochs", "1", "--set", "lora.rank=2", "--set", "trl.max_grad_norm=2"]
    done = cai(*command(base, "sft", *words))
    assert done.returncode == 0 and "trains LoRA of rank 2 (flag)" in done.stderr
    config = json.loads(Path("out/training.json").read_bytes())["identity"]["config"]
    assert (config["epochs"], config["seed"], config["lora"]["alpha"]) == (1, 7, 8)
    assert config["trl"] == {"weight_decay": 0.1, "max_grad_norm": 2}


def test_a_reporter_without_a_key_is_told_in_one_line(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("HOME", os.getcwd())
    done = cai(*command(base, "sft", "--report-to", "wandb"))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: wandb: ") and "a bug" not in last


@pytest.mark.parametrize(
    ("method", "told"),
    [("sft", "cai train dpo rows.jsonl"), ("reward", "no such file")],
)
def test_data_that_the_method_cannot_train_on_is_told_in_one_line(base: Path, method: str, told: str) -> None:
    words = command(base, "dpo")
    words[1] = method
    assert told in failed(*(word if told != "no such file" else word.replace("rows.", "row.") for word in words))


@pytest.mark.slow
def test_on_a_terminal_one_live_line_tells_of_the_steps(base: Path) -> None:
    status, written = on_terminal(command(base, "dpo"))
    assert status == 0 and "\x1b[2K" in written and "\x1b[?25h" in written.rpartition("\x1b[?25l")[2]
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)
    assert "loading the model" in plain and "step 4/4" in plain and "next: cai chat out" in plain
