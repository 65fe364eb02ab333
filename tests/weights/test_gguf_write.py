"""GGUF files of Llama and Qwen2 models, and of every way of cutting text that such a file has a name for."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
from seldom import seldom

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("gguf")
import families
import gguf
import tiny
import torch
import transformers
from scored import scores
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cai.errors import UsageError
from cai.models.inprocess.local import LocalModel
from cai.weights.gguf_write import SPLITS, split_of, write_gguf
from cai.weights.merge import merge

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="no openvino_genai")

PATTERNS = {name: (pattern, ignores) for pattern, (name, ignores) in SPLITS.items()}
# Text that the ways cut differently: numbers, contractions in capitals, and line breaks after dots and spaces.
HARD = "I'LL pay 12345, not 678.\n\nDON'T  go\n\n\n  there...\r\n 1999 (foo) _x"


def words_of(name: str) -> Any:
    """A byte-level BPE tokenizer that cuts text in the way of that name, and has merged what the way leaves whole."""
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in PATTERNS)
    made.pre_tokenizer = level
    if name == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level])
    elif name in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[name][0]), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    if name == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=tiny.SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([*tiny.SENTENCES, HARD, "12 34 45 678 99", "...\n\n  x\r\n\n"] * 4, trainer)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>")
    words.add_special_tokens({"additional_special_tokens": tiny.SPECIAL[:2], "pad_token": "<|endoftext|>"})
    words.chat_template = tiny.CHATML
    return words


def build(folder: Path, kind: str, words: Any, **changed: Any) -> Path:
    """A random model of that kind whose weights are F16, as those of the file are."""
    return tiny.written(folder, words, kind, "float16", **changed)


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen2", "Qwen2"), *((name, "Llama") for name in ("smollm", "gpt-2", *PATTERNS))]
)
def test_a_file_says_what_the_model_and_its_tokenizer_are(tmp_path: Path, name: str, kind: str) -> None:
    words = words_of(name)
    base = build(tmp_path / "base", kind, words)
    merge(base, tmp_path / "out", gguf=True)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")

    def fact(key: str) -> Any:
        return reader.fields[key].contents()

    arch = kind.lower()
    assert fact("general.architecture") == arch
    assert (fact("tokenizer.ggml.model"), fact("tokenizer.ggml.pre")) == ("gpt2", name)
    assert fact("tokenizer.ggml.tokens")[: len(words)] == words.convert_ids_to_tokens(range(len(words)))
    assert fact(f"{arch}.attention.head_count_kv") == 2 and fact(f"{arch}.rope.freq_base") == 5000.0
    assert fact("tokenizer.ggml.eos_token_id") == words.eos_token_id
    tensors = {tensor.name for tensor in reader.tensors}
    assert {"token_embd.weight", "output.weight", "blk.1.ffn_down.weight"} <= tensors
    assert ("blk.0.attn_q.bias" in tensors) == (kind == "Qwen2")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf").state_dict()
    for key, weight in transformers.AutoModelForCausalLM.from_pretrained(base).state_dict().items():
        assert torch.equal(read[key].half(), weight.half()), key


@openvino
@pytest.mark.parametrize(("name", "kind"), [("smollm", "Llama"), ("qwen2", "Qwen2"), ("qwen2", "Llama")])
def test_the_embedded_engine_scores_a_file_as_hf_scores_its_folder(tmp_path: Path, name: str, kind: str) -> None:
    users = [HARD, "Where is the old mill?", "Wie heißt der Fluß? 日本"]
    base = build(tmp_path / "base", kind, words_of(name))
    summary = merge(base, tmp_path / "out", gguf=True)
    assert summary.misread is None and summary.lines()[-1].endswith(f"cai chat {tmp_path / 'out.gguf'}")
    local, folder = scores(f"local:{tmp_path / 'out.gguf'}", users), scores(f"hf:{base}", users)
    assert float((local - folder).abs().max()) < 5e-3


@openvino
@pytest.mark.parametrize("turn", seldom(["{{ raise_exception('System role not supported') }}", ""], [""]))
def test_the_embedded_engine_puts_system_text_before_the_first_turn_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, turn: str
) -> None:
    words = words_of("smollm")
    words.chat_template = (
        f"{{% for m in messages %}}{{% if m['role'] == 'system' %}}{turn}{{% else %}}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    base = build(tmp_path / "base", "Llama", words)
    merge(base, tmp_path / "out", gguf=True)
    with caplog.at_level(logging.WARNING):
        for spec in (f"local:{tmp_path / 'out.gguf'}", f"hf:{base}"):
            with_role = scores(spec, ["Where?"], system="Be brief.")
            assert float((with_role - scores(spec, ["Be brief.\n\nWhere?"])).abs().max()) < 1e-3
            assert float((with_role - scores(spec, ["Where?"])).abs().max()) > 0.1
    assert caplog.text.count("has no system role") == 2


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe"])
def test_a_file_that_the_embedded_engine_would_cut_otherwise_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    summary = merge(build(tmp_path / "base", "Llama", words_of(name)), tmp_path / "out", gguf=True)
    assert (
        f"for llama.cpp; not for local:, by which text is cut by other rules than its tokenizer's, '{name}'"
        in (summary.lines()[-1])
    )
    with caplog.at_level(logging.WARNING):
        LocalModel(str(tmp_path / "out.gguf"))
    assert "answers are not quite the model's" in caplog.text


SLOWER = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def test_the_frequencies_of_llama_3_1_are_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = build(tmp_path / "base", "Llama", words_of("llama-bpe"), rope_parameters=SLOWER)
    summary = merge(base, tmp_path / "out", gguf=True)
    factors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}["rope_freqs.weight"]
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    plain = [5000.0 ** (-at / 16) for at in range(0, 16, 2)]
    assert (torch.tensor(plain) / torch.tensor(factors)).tolist() == pytest.approx(
        model.model.rotary_emb.inv_freq.tolist(), rel=1e-5
    )
    assert factors.min() == pytest.approx(1.0) and factors.max() == pytest.approx(8.0)
    assert summary.misread is not None and "frequencies of positions" in summary.misread
    with caplog.at_level(logging.WARNING):
        scores(f"hf:{tmp_path / 'out.gguf'}")
    assert "rope_freqs.weight, the frequencies of positions (as of Llama 3.1), are ignored" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"pre_tokenizer": pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\p{N}{1,4}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])},
        {"pre_tokenizer": pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PATTERNS["qwen2"][0]), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])},
        {"model": models.WordPiece({"[UNK]": 0, "a": 1})},
    ],
)  # fmt: skip
def test_a_tokenizer_that_no_file_can_name_has_no_name(changed: dict[str, Any]) -> None:
    words = words_of("qwen2")
    for part, value in changed.items():
        setattr(words.backend_tokenizer, part, value)
    assert split_of(words) is None


def test_merges_that_are_ignored_and_marks_that_are_composed_are_part_of_the_name() -> None:
    for name, other in (("qwen2", True), ("llama-bpe", False), ("smollm", True), ("gpt-2", True)):
        words = words_of(name)
        words.backend_tokenizer.model.ignore_merges = other
        assert split_of(words) is None
    for name in ("llama-bpe", "smollm", "gpt-2"):
        words = words_of(name)
        words.backend_tokenizer.normalizer = normalizers.NFC()
        assert split_of(words) is None


@pytest.mark.parametrize(
    ("kind", "changed", "told"),
    [
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window True"),
        ("Qwen2", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ("Qwen2", {"rope_parameters": SLOWER}, "rope_type 'llama3'"),
        ("Qwen2", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
)
def test_a_qwen2_of_another_kind_is_not_written(tmp_path: Path, kind: str, changed: dict[str, Any], told: str) -> None:
    base = build(tmp_path / "base", kind, words_of("qwen2"), **changed)
    with pytest.raises(UsageError, match=f"a qwen2 model with {told} is not written as GGUF"):
        merge(base, tmp_path / "out", gguf=True)


@pytest.mark.parametrize("name", ["gemma2", "bloom", "gpt2", "gemma3"])
def test_other_architectures_are_not_written(tmp_path: Path, name: str) -> None:
    base = families.model(tmp_path / "base", name)
    told: list[str] = []
    with pytest.raises(UsageError, match="only models of type llama or qwen2 are written as GGUF, and this is"):
        merge(base, tmp_path / "out", gguf=True, tell=told.append)
    assert told == [] and not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_name_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    words = tiny.tokenizer(metaspace=True)
    words.pad_token = "<|endoftext|>"
    base = build(tmp_path / "base", "Llama", words)
    with pytest.raises(UsageError, match="no GGUF file says how this tokenizer cuts text"):
        write_gguf(transformers.AutoModelForCausalLM.from_pretrained(base), words, tmp_path / "x.gguf")
