"""Tokens of a chat template that a base model does not know are learnt, and adapters that hold embeddings merge."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import families
import peft
import tiny
import torch
import transformers
from safetensors.torch import load_file
from trainings import chats, pairs, record, train

from cai.calls.model import Call
from cai.errors import UnknownModel, UsageError
from cai.models import open_model
from cai.records import Request, Sampling
from cai.training.setup.embeddings import end_of_turn, unknown_tokens
from cai.weights.merge import merge

FLAGS = {"split": 1, "batch_size": 4, "rows_at_once": 2, "dtype": "float32", "learning_rate": 1e-2}
MARKS = ["<|im_start|>", "<|im_end|>"]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "chatml.jinja"
    path.write_text(tiny.PLAIN)
    return path


def base_model(folder: Path, *, tied: bool = False, eos: str = "<|endoftext|>") -> Path:
    """A model without a chat template, whose tokenizer has the tokens of ChatML and ends texts with another."""
    words = tiny.tokenizer(None)
    words.eos_token = eos
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=tied,
        eos_token_id=words.eos_token_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def embedded(out: Path) -> set[str]:
    """The layers outside the blocks that an adapter holds."""
    return {name for name in load_file(out / "adapter_model.safetensors") if "layers" not in name}


def greedy(spec: str, text: str = "Question 3?") -> Any:
    async def ask() -> Any:
        model = open_model(spec)
        await model.start()
        try:
            messages = ({"role": "user", "content": text},)
            request = Request("assistant", messages, max_tokens=12, temperature=0.0)
            return await model.send(model.payload(Call(request, "r", 0, 0, Sampling())))
        finally:
            await model.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("tied", "dtype"),
    [
        (False, "bfloat16"),
        pytest.param(True, "float32", marks=pytest.mark.slow),
        pytest.param(False, "float32", marks=pytest.mark.slow),
        pytest.param(True, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_base_model_learns_chatml_stops_and_merges(tmp_path: Path, template: Path, tied: bool, dtype: str) -> None:
    base = base_model(tmp_path / "base", tied=tied)
    told: list[str] = []
    rows = chats(8, **{f"q{n}": "Yes." for n in range(8)})
    flags = FLAGS | {"chat_template": str(template), "epochs": 12.0, "dtype": dtype}
    train("sft", rows, out=tmp_path / "out", model=str(base), flags=flags, tell=told.append)
    assert any("its embeddings train, too" in line for line in told)
    held = load_file(tmp_path / "out" / "adapter_model.safetensors")
    learnt = {name: weight for name, weight in held.items() if name.endswith("embed_tokens.weight")}
    [weight] = learnt.values()
    before = transformers.AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    marks = transformers.AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(MARKS)
    assert weight.dtype == torch.float32 and ((weight - before)[marks].abs().max(dim=1).values > 1e-3).all()
    answer = greedy(f"hf:{tmp_path / 'out'}")
    assert (answer.text, answer.finish) == ("Yes.", "stop")
    summary = merge(tmp_path / "out", tmp_path / "merged")
    assert summary.difference is not None and summary.difference < 1e-3
    assert greedy(f"hf:{tmp_path / 'merged'}").text == "Yes."


@pytest.mark.parametrize("method", seldom(["dpo", "reward"], ["reward"]))
def test_preferences_with_embeddings_have_the_reference_of_the_base(
    tmp_path: Path, template: Path, method: str
) -> None:
    base = base_model(tmp_path / "base")
    found = []
    for reference in ("once", "each_step") if method == "dpo" else (None,):
        out = tmp_path / str(reference)
        flags = FLAGS | {"chat_template": str(template), "epochs": 2.0, "reference": reference}
        train(method, pairs(8), out=out, model=str(base), flags=flags)
        assert any(name.endswith("embed_tokens.weight") for name in embedded(out))
        found.append(load_file(out / "adapter_model.safetensors"))
    for name, weight in found[0].items():
        assert (weight - found[-1][name]).abs().max() < 1e-6


def test_the_embeddings_stay_if_the_user_says_so_and_train_if_asked(tmp_path: Path, template: Path) -> None:
    base = base_model(tmp_path / "base")
    flags = FLAGS | {"chat_template": str(template), "lora.embeddings": False}
    train("sft", chats(8), out=tmp_path / "frozen", model=str(base), flags=flags)
    assert embedded(tmp_path / "frozen") == set()
    chat = tiny.model(tmp_path / "chat")
    train("sft", chats(8), out=tmp_path / "plain", model=str(chat), flags=FLAGS)
    assert embedded(tmp_path / "plain") == set()
    assert "embeddings" not in record(tmp_path / "plain")["identity"]["config"]["lora"]
    train("sft", chats(8), out=tmp_path / "asked", model=str(chat), flags=FLAGS | {"lora.embeddings": True})
    assert len(embedded(tmp_path / "asked")) == 2


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    (tmp_path / "other.jinja").write_text(tiny.PLAIN.replace("im_end", "turn_end"))
    with pytest.raises(UsageError, match="a folder with a tokenizer and embeddings that have the template's tokens"):
        flags = FLAGS | {"chat_template": str(tmp_path / "other.jinja")}
        train("sft", chats(8), out=tmp_path / "out", model=str(base), flags=flags)


@pytest.mark.parametrize("how", ["at the mean", "at zero", "at one place", "trained"])
def test_embeddings_that_were_never_trained_are_seen(tmp_path: Path, how: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.model(tmp_path / "base"))
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    ids = words.convert_tokens_to_ids(MARKS)
    table = model.get_input_embeddings().weight
    places = {"at the mean": table.mean(dim=0), "at zero": torch.zeros(32), "at one place": torch.ones(32)}
    if how in places:
        with torch.no_grad():
            table[ids] = places[how] + 1e-5 * torch.randn(2, 32)
    assert sorted(unknown_tokens(model, words)) == (sorted(MARKS) if how in places else [])


def test_a_model_to_which_tokens_were_added_learns_them(tmp_path: Path) -> None:
    folder = families.model(tmp_path / "base", "qwen2", None)
    words = tiny.tokenizer(tiny.PLAIN.replace("im_", "turn_"))
    words.add_special_tokens({"additional_special_tokens": ["<|turn_start|>", "<|turn_end|>"]})
    words.eos_token = "<|turn_end|>"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(words))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    told: list[str] = []
    train("sft", chats(8), out=tmp_path / "out", model=str(folder), flags=FLAGS, tell=told.append)
    assert any("does not know" in line and "<|turn_end|>" in line for line in told)
    assert embedded(tmp_path / "out")


def test_the_end_of_turn_is_the_token_after_the_reply() -> None:
    assert end_of_turn(tiny.tokenizer(tiny.PLAIN)) == "<|im_end|>"
    assert (
        end_of_turn(tiny.tokenizer("{% for m in messages %}{{ m.content }}\n<|endoftext|>{% endfor %}"))
        == "<|endoftext|>"
    )
    assert end_of_turn(tiny.tokenizer("{% for m in messages %}{{ m.content }} END{% endfor %}")) is None
    assert end_of_turn(tiny.tokenizer("{{ raise_exception('no') }}")) is None


def resized(folder: Path, base: Path, *, added: int, saves: bool) -> Path:
    """An adapter as other trainers make it: the tokenizer has more tokens than the base, and the embeddings, too."""
    words = transformers.AutoTokenizer.from_pretrained(base)
    words.chat_template = tiny.PLAIN
    words.add_special_tokens({"additional_special_tokens": [f"<|new_{n}|>" for n in range(added)]})
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(words))
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        modules_to_save=["embed_tokens", "lm_head"] if saves else None,
    )  # fmt: skip
    tuned = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    tuned.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("saves", [True, False], ids=["modules-to-save", "saved-by-peft"])
@pytest.mark.parametrize("added", seldom([1, 7, 64], [7]))
def test_an_adapter_with_a_resized_vocabulary_answers_and_merges(tmp_path: Path, added: int, saves: bool) -> None:
    base = base_model(tmp_path / "base")
    tuned = resized(tmp_path / "tuned", base, added=added, saves=saves)
    summary = merge(tuned, tmp_path / "merged")
    assert summary.difference is not None and summary.difference < 1e-3
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(words)
    assert greedy(f"hf:{tuned}").text == greedy(f"hf:{tmp_path / 'merged'}").text


def test_an_adapter_for_another_vocabulary_without_embeddings_is_refused(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    tuned = resized(tmp_path / "tuned", base, added=3, saves=True)
    path = tuned / "adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file({name: weight for name, weight in load_file(path).items() if "layers" in name}, path)
    with pytest.raises(UnknownModel, match="cannot load"):
        merge(tuned, tmp_path / "merged")
