"""What is loaded is whole and of the kind that was asked for, or it is refused in one line."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
import tiny
import torch
import transformers
from adapters import adapter
from safetensors.torch import load_file, save_file

from cai.errors import CaiError, UnknownModel, UsageError
from cai.models.inprocess.hf import HFModel
from cai.models.inprocess.reward import RewardModel
from cai.weights.bases import find_base
from cai.weights.loading import load_config, load_model, load_tokenizer
from cai.weights.vendors import quiet

NEVER_THERE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.model(tmp_path / "base")


def reward(folder: Path, base: Path, labels: int = 1) -> Path:
    """A full reward model with the body of a language model."""
    made = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    made.config.pad_token_id = 0
    made.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the weights of a file."""
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


def configure(folder: Path, name: str = "config.json", **changed: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_weights_that_a_file_lacks_are_not_made_up(base: Path) -> None:
    change(base / "model.safetensors", lambda weights: weights.pop(NEVER_THERE))
    with pytest.raises(UnknownModel, match=rf"cannot load .*base: the model lacks {NEVER_THERE}: its files") as caught:
        load_model(find_base(str(base)), torch.float32)
    assert "\n" not in str(caught.value)


def test_weights_that_have_no_place_are_not_dropped(base: Path) -> None:
    configure(base, num_hidden_layers=1)
    with pytest.raises(UnknownModel, match=r"the model has no place for model\.layers\.1.* and 6 more: its files"):
        load_model(find_base(str(base)), torch.float32)


def test_tied_weights_are_whole(base: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(base)
    config.tie_word_embeddings = True
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    model = load_model(find_base(str(tmp_path / "tied")), torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize(("own", "others", "told"), [(3, 2, "has no place for"), (2, 3, "lacks")])
def test_an_adapter_of_a_deeper_or_shallower_model_is_refused(tmp_path: Path, own: int, others: int, told: str) -> None:
    folders = {}
    for layers in (own, others):
        folders[layers] = tiny.model(tmp_path / f"of{layers}")
        config = transformers.AutoConfig.from_pretrained(folders[layers])
        config.num_hidden_layers = layers
        transformers.LlamaForCausalLM(config).save_pretrained(folders[layers])
    made = adapter(tmp_path / "a", str(folders[own]), record=False, target_modules=["q_proj", "v_proj"])
    configure(made, "adapter_config.json", base_model_name_or_path=str(folders[others]))
    with pytest.raises(UnknownModel, match=rf"the adapter, for .*of{others}, {told} .*layers\.2\..* 1 more:"):
        load_model(find_base(str(made)), torch.float32)


def test_an_adapter_trains_only_where_it_is_asked_to(base: Path, tmp_path: Path) -> None:
    made = find_base(str(adapter(tmp_path / "a", str(base))))
    asleep, awake = (load_model(made, torch.float32, trains=trains) for trains in (False, True))
    assert not any(weight.requires_grad for weight in asleep.parameters())
    assert {"lora" in name for name, weight in awake.named_parameters() if weight.requires_grad} == {True}


def test_a_reward_model_is_no_language_model(base: Path, tmp_path: Path) -> None:
    full = reward(tmp_path / "full", base)
    light = adapter(tmp_path / "light", str(base), task_type="SEQ_CLS", modules_to_save=["score"])
    for folder in (full, light):
        with pytest.raises(UsageError, match=r"is a reward model .*: it gives a reply a number, and writes nothing"):
            load_model(find_base(str(folder)), torch.float32)
        with pytest.raises(UsageError, match="writes nothing"):
            HFModel(str(folder))  # before anything is loaded


def test_a_language_model_is_no_reward_model(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    with pytest.raises(UsageError, match=r"is not a reward model: its adapter is for CAUSAL_LM, not for SEQ_CLS"):
        load_model(find_base(str(made)), torch.float32, rewards=True)
    for folder in (base, made):
        with pytest.raises(UsageError, match="is not a reward model"):
            RewardModel(str(folder))
    with pytest.raises(UsageError, match="is not a reward model: it has 2 labels"):
        load_model(find_base(str(reward(tmp_path / "two", base, labels=2))), torch.float32, rewards=True)


def test_a_reward_model_without_its_head_is_refused(base: Path, tmp_path: Path) -> None:
    full = reward(tmp_path / "full", base)
    change(full / "model.safetensors", lambda weights: weights.pop("score.weight"))
    light = adapter(tmp_path / "light", str(base), task_type="SEQ_CLS", modules_to_save=["score"])
    change(light / "adapter_model.safetensors", lambda weights: weights.pop("base_model.model.score.weight"))
    for folder in (full, light):
        with pytest.raises(UnknownModel, match=r"score\.weight"):
            load_model(find_base(str(folder)), torch.float32, rewards=True)


def test_a_reward_model_may_begin_as_a_language_model(base: Path) -> None:
    made = load_model(find_base(str(base)), torch.float32, rewards=True, new_head=True)
    assert made.score.weight.shape[0] == 1
    change(base / "model.safetensors", lambda weights: weights.pop(NEVER_THERE))
    with pytest.raises(UnknownModel, match=f"lacks {NEVER_THERE}"):
        load_model(find_base(str(base)), torch.float32, rewards=True, new_head=True)


def test_a_sound_adapter_with_a_head_of_its_own_raises_no_alarm(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "light", str(base), task_type="SEQ_CLS", modules_to_save=["score"])
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    vendor = logging.getLogger("transformers")
    vendor.addHandler(handler)
    level = transformers.logging.get_verbosity()
    try:
        load_model(find_base(str(made)), torch.float32, rewards=True)
        assert told == []
        assert transformers.logging.get_verbosity() == level
        transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        assert "score.weight" in "".join(told)  # it would be heard
    finally:
        vendor.removeHandler(handler)


def test_an_adapter_in_half_precision_answers_on_a_base_in_half_precision(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    made = adapter(tmp_path / "a", str(base), target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    answer = load_model(find_base(str(made)), torch.bfloat16)(input_ids=torch.arange(9)[None])
    assert torch.isfinite(answer.logits).all()


@pytest.mark.parametrize("damage", ['{"architectures": ["Llama', "[]", "\udcff".encode("utf-8", "surrogateescape")])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json", "training.json"])
def test_damaged_files_are_one_line_that_names_them(base: Path, tmp_path: Path, name: str, damage: str | bytes) -> None:
    folder = base if name == "config.json" else adapter(tmp_path / "a", str(base))
    (folder / name).write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(CaiError, match=rf"{name} (cannot be read|is damaged): .*put the file back as it was") as caught:
        HFModel(str(folder))
    assert "\n" not in str(caught.value)
    assert "bug" not in str(caught.value)


def test_what_cannot_be_loaded_is_one_line_with_the_reason(base: Path) -> None:
    made = find_base(str(base))
    for part in base.glob("tokenizer*"):
        part.unlink()
    with pytest.raises(UnknownModel, match=r"cannot load .*base: ") as caught:
        load_tokenizer(made)
    assert "\n" not in str(caught.value)
    (base / "config.json").write_text('{"model_type": "of-nobody"}')
    with pytest.raises(UnknownModel, match=r"cannot load .*base: ValueError: .*of-nobody"):
        load_config(made)


def test_of_old_names_only_a_vendors_use_is_kept_quiet() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet():
            for module in ("peft.tuners.lora", "transformers.modeling_utils", "cai.weights.loading", "peftish"):
                warnings.warn_explicit("an old name", FutureWarning, module, 1, module)
            warnings.warn_explicit("a loss of precision", UserWarning, "peft", 1, "peft")
    assert [warning.filename for warning in shown] == ["cai.weights.loading", "peftish", "peft"]
