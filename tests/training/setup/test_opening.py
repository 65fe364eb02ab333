"""An adapter as the start of a training: what is opened, what trains, and what comes out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
import accelerate
import datasets
import tiny
import torch
import transformers
import trl
from adapters import adapter
from safetensors.torch import load_file

from cai.errors import UnknownModel
from cai.training.setup.opening import Stopper, ends_of, join_processes, open_model, open_tokenizer, shape_of
from cai.weights.bases import find_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.model(tmp_path / "base")


@pytest.fixture
def tuned(base: Path, tmp_path: Path) -> Path:
    return adapter(tmp_path / "sft", str(base), scale=0.1)


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    return found


def test_an_adapter_is_opened_on_its_base_with_its_own_tokenizer(base: Path, tuned: Path) -> None:
    (tuned / "chat_template.jinja").write_text("{{ messages[0].content }}")
    one, below = find_base(str(tuned)), find_base(str(base))
    words = open_tokenizer(one, None, chats=True)
    assert words.chat_template == "{{ messages[0].content }}"
    assert shape_of(one) == shape_of(below)
    assert ends_of(one, words) == ends_of(below, words) == {words.eos_token_id}
    model, plain = open_model(one, "float32", "sdpa"), transformers.AutoModelForCausalLM.from_pretrained(tuned)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
    assert all("lora" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_an_adapter_that_is_damaged_is_a_one_line_error(tuned: Path) -> None:
    (tuned / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UnknownModel, match="cannot load") as caught:
        open_model(find_base(str(tuned)), "float32", "sdpa")
    assert "\n" not in str(caught.value)


def test_dpo_goes_on_from_an_adapter_against_a_frozen_copy_of_it(base: Path, tuned: Path, tmp_path: Path) -> None:
    start = find_base(str(tuned))
    model = open_model(start, "float32", "sdpa")
    said = [{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]
    rows = [{"prompt": [{"role": "user", "content": str(n)}], "chosen": said[0], "rejected": said[1]} for n in range(4)]
    args = trl.DPOConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, learning_rate=1e-2, max_steps=2, logging_steps=1,
        per_device_train_batch_size=4, report_to=[], disable_tqdm=True, save_strategy="no",
        activation_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=open_tokenizer(start, None, chats=True),
    )  # fmt: skip
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)  # the reference is the adapter it starts from
    assert losses[1] < 0.6
    trainer.save_model(str(tmp_path / "out"))
    before, after = weights(tuned), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    reference = weights(tmp_path / "out" / "ref")
    assert all(torch.equal(before[key], reference[key]) for key in before)
    assert find_base(str(tmp_path / "out")).place == str(base)  # one adapter, on the first base


def test_a_ctrl_c_while_the_processes_agree_counts_after_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    stopper = Stopper(told.append, join_processes())
    gather = accelerate.utils.gather_object

    def interrupted(wishes: list[bool]) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return gather(wishes)

    with stopper.listening():
        monkeypatch.setattr(accelerate.utils, "gather_object", interrupted)
        assert not stopper.agreed()
        monkeypatch.setattr(accelerate.utils, "gather_object", gather)
        assert stopper.agreed()
    assert told[0].startswith("stopping after this step")
