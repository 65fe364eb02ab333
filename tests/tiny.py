"""Tiny random models and tokenizers, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Our own, in the manner of ChatML with a system message of its own where the conversation has none.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are tiny.<|im_end|>\n' }}{% endif %}" + PLAIN
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = ["The quiet river runs past the old mill.", "user asks and the assistant answers", "Reply A or Reply B"]


def tokenizer(template: str | None = CHATML, *, metaspace: bool = False) -> Any:
    """Byte-level, or in the manner of SentencePiece, which puts a space before every text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<|endoftext|>" if metaspace else None))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = [chr(i) for i in range(32, 127)] + ["\n"]
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*SENTENCES, "\n\n\n\n", "a\n\nb"] * 3, trainer)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>")
    words.add_special_tokens({"additional_special_tokens": SPECIAL[:2]})
    words.chat_template = template
    return words


def framed(frame: str, words: Any = None) -> Any:
    """A tokenizer that puts tokens around every text, as those of many base models do; $A is the text."""
    from tokenizers import processors

    words = words or tokenizer()
    special = [(token, words.convert_tokens_to_ids(token)) for token in SPECIAL]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    return words


def model(
    folder: Path, template: str | None = CHATML, *, context: int = 256, seed: int = 0, spread: float = 0.1
) -> Path:
    """A random two-layer Llama with that tokenizer, in a folder; spread: of its weights, 0.3 for one that is sure."""
    import torch
    import transformers

    words = tokenizer(template)
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, initializer_range=spread,
        eos_token_id=words.eos_token_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def written(folder: Path, words: Any, kind: str = "Llama", dtype: str = "float32", **changed: Any) -> Path:
    """A random model that a GGUF file can hold, Llama or Qwen2, with the tokenizer `words`; changed: settings."""
    import torch
    import transformers

    words.save_pretrained(folder)
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(words) + 2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "eos_token_id": words.eos_token_id, "bos_token_id": None, "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": False, "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
    } | changed  # fmt: skip
    made = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.3)
    made.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def broken(folder: Path, base: Path) -> Path:
    """The model of `base` in another folder, where the loss of a text with a ~ is no number."""
    import torch
    import transformers

    words, whole = (
        kind.from_pretrained(base) for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM)
    )
    [token] = words("~")["input_ids"]
    with torch.no_grad():
        whole.get_input_embeddings().weight[token] = float("nan")
    words.save_pretrained(folder)
    whole.save_pretrained(folder)
    return folder


def taught(folder: Path, lessons: dict[str, str], steps: int = 50) -> Path:
    """The model in a folder, trained until it continues these prompts like that."""
    import torch
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)
    made = transformers.AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    batch = []
    for prompt, answer in lessons.items():
        ids = [words.encode(text, add_special_tokens=False) for text in (prompt, answer)]
        batch.append((torch.tensor([ids[0] + ids[1]]), torch.tensor([[-100] * len(ids[0]) + ids[1]])))
    for _ in range(steps):
        loss = sum(made(input_ids=ids, labels=labels).loss for ids, labels in batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.save_pretrained(folder)
    return folder
