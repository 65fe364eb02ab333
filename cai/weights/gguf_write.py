"""Writes a model of transformers as a GGUF file, which `local:` and llama.cpp read.

Only models of the architectures of `KINDS` with a byte-level BPE tokenizer of `SPLITS`, SmolLM's or GPT-2's. Metadata
are those of the GGUF file the model came from; for another model they are made from its config and tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import CaiError, UsageError
from cai.packages import need
from cai.records import Values
from cai.weights.gguf_read import copy_metadata, write_file

ROPE: Values = {"rope_type": "default", "hidden_act": "silu"}
KINDS: dict[str, Values] = {  # by the model_type of a config, the values in it that a GGUF file cannot say otherwise
    "llama": {**ROPE, "attention_bias": False, "mlp_bias": False},
    "qwen2": {**ROPE, "use_sliding_window": False},
}
PAIRED = ("llama",)  # whose GGUF files have values of Q and K that rotate together side by side

# What a GGUF file calls the ways of cutting text before merging that are one pattern, and whether words that are tokens
# stay whole. llama.cpp knows all names, OpenVINO GenAI those of `gguf_read.CUTS_ALIKE`.
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}|{REST}": ("qwen2", False),
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}{{1,3}}|{REST}": ("llama-bpe", True),
}


def check_gguf(config: Any, tokenizer: Any, source: Path | None = None) -> None:
    """UsageError for a model that `write_gguf` cannot write faithfully, as far as config and tokenizer show it."""
    need("--gguf", "local", "gguf")
    kind = getattr(config, "model_type", None)
    if kind not in KINDS:
        raise UsageError(f"only models of type {' or '.join(KINDS)} are written as GGUF, and this is {kind!r}; use hf:")
    settings = KINDS[kind] | config.to_dict() | config.rope_parameters
    if kind in PAIRED and settings["rope_type"] == "llama3":
        settings["rope_type"] = "default"  # with the frequencies in the file
    for name, plain in KINDS[kind].items():
        if settings[name] != plain:
            raise UsageError(
                f"a {kind} model with {name} {settings[name]!r} is not written as GGUF (only with {plain!r}); use hf:"
            )
    if source is None:
        _check_tokenizer(config, tokenizer)
        return
    import gguf

    count = len(gguf.GGUFReader(source).get_field("tokenizer.ggml.tokens").data)
    if count != config.vocab_size:
        raise UsageError(f"the model has other tokens than {source}, whose {count:,} a GGUF file would name")


def write_gguf(model: Any, tokenizer: Any, target: Path, source: Path | None = None) -> None:
    """Write `model` to `target`, matrices as F16 and vectors as F32.

    Not as Q8_0: on the embedded model, an adapter's changes of 3e-4 met rounding errors of 1.05 times their size, half
    of the weights did not change at all, and F16 errs by 0.1 to 0.2 of them. OpenVINO reads neither F32 nor BF16.
    source: the GGUF file the model comes from, whose metadata are kept.
    Raises UsageError as `check_gguf` does and for weights of no place, CaiError for values that F16 cannot hold.
    """
    check_gguf(model.config, tokenizer, source)
    import gguf

    writer = gguf.GGUFWriter(target, model.config.model_type)
    if source is None:
        _add_metadata(writer, model.config, tokenizer, target.stem)
        extra = []
        if model.config.rope_parameters["rope_type"] == "llama3":
            writer.add_tensor("rope_freqs.weight", _slower(model.config))
    else:
        reader = gguf.GGUFReader(source)
        changed: Values = {"general.file_type": int(gguf.LlamaFileType.MOSTLY_F16)}
        if tokenizer.chat_template:
            changed["tokenizer.chat_template"] = tokenizer.chat_template
        copy_metadata(reader, writer, changed)
        if tokenizer.chat_template and reader.get_field("tokenizer.chat_template") is None:
            writer.add_chat_template(tokenizer.chat_template)
        extra = [tensor for tensor in reader.tensors if tensor.name.startswith("rope_freqs")]
    for name, array in _tensors(model):
        writer.add_tensor(name, array)
    for tensor in extra:
        writer.add_tensor(tensor.name, tensor.data)
    write_file(writer)


def _check_tokenizer(config: Any, tokenizer: Any) -> None:
    count = len(tokenizer)
    if count > config.vocab_size:
        raise UsageError(f"the tokenizer has {count:,} tokens and the model {config.vocab_size:,}: no GGUF file can be")
    if split_of(tokenizer) is None:
        raise UsageError(
            "no GGUF file says how this tokenizer cuts text: known are the byte-level BPE of SmolLM, GPT-2, Qwen2 and "
            "Llama 3, and models that came from a GGUF file; use hf:"
        )
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    if whole not in (plain, [tokenizer.bos_token_id, *plain]):
        raise UsageError("the tokenizer puts more than a begin token around a text, which no GGUF file says; use hf:")


def split_of(tokenizer: Any) -> str | None:
    """What a GGUF file calls the way in which a tokenizer cuts text before merging; None: it has no name for it.

    Qwen2's tokenizer also composes letters and their marks (NFC), which no reader of GGUF files does.
    """
    match json.loads(tokenizer.backend_tokenizer.to_str()):
        case {
            "model": {"type": "BPE", **model},
            "normalizer": None | {"type": "NFC"} as normalizer,
            "pre_tokenizer": {"pretokenizers": [first, {"type": "ByteLevel", "add_prefix_space": False, **level}]},
        }:
            whole = bool(model.get("ignore_merges"))
            if first == {"type": "Digits", "individual_digits": True} and level["use_regex"]:
                return None if whole or normalizer else "smollm"
            pattern = first.get("pattern", {}).get("Regex", "")
            if first.get("behavior") != "Isolated" or first.get("invert") or level["use_regex"]:
                return None
            name, ignores_merges = SPLITS.get(pattern, (None, None))
            if whole != ignores_merges or (normalizer and name != "qwen2"):
                return None
            return name
        case {
            "model": {"type": "BPE", "ignore_merges": False},
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        }:
            return "gpt-2"
    return None


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """The weights by their GGUF names."""
    import gguf
    import numpy

    config = model.config
    heads = {}
    if config.model_type in PAIRED:
        heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise UsageError(f"the weights {name} have no place in a GGUF file; use hf:")
        array = weight.detach().float().cpu().numpy()
        for end, count in heads.items():
            if name.endswith(end):
                # Rows of Q or K as GGUF has them: values that rotate together are neighbours, not half a head apart.
                paired = array.reshape(count, 2, -1, array.shape[1])
                array = paired.swapaxes(1, 2).reshape(array.shape)
        if array.ndim > 1:
            with numpy.errstate(over="ignore"):
                array = array.astype(numpy.float16)
        if not numpy.isfinite(array).all():
            raise CaiError(f"the weights {name} hold what F16 cannot: infinite, no number, or over 65,504; use hf:")
        yield gguf_name, array


def _slower(config: Any) -> Any:
    """By how much each frequency of Llama 3.1's RoPE is slower than that of plain RoPE."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    size = _head_size(config)
    plain = [config.rope_parameters["rope_theta"] ** (-at / size) for at in range(0, size, 2)]
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return (scaled.new_tensor(plain) / scaled).float().numpy()


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_metadata(writer: Any, config: Any, tokenizer: Any, name: str) -> None:
    """The metadata of a model that does not come from a GGUF file."""
    import gguf

    size = _head_size(config)
    facts = {
        "name": name,
        "file_type": int(gguf.LlamaFileType.MOSTLY_F16),
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "key_length": size,
        "value_length": size,
        "rope_dimension_count": size,
        "rope_freq_base": config.rope_parameters["rope_theta"],
        "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }
    for fact, value in facts.items():
        getattr(writer, f"add_{fact}")(value)
    _add_tokenizer(writer, config, tokenizer)


def _add_tokenizer(writer: Any, config: Any, tokenizer: Any) -> None:
    import gguf

    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    types = gguf.TokenType
    kinds = {
        token["id"]: int(types.CONTROL if token["special"] else types.USER_DEFINED) for token in facts["added_tokens"]
    }
    count = len(tokenizer)
    unused = range(count, config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_of(tokenizer))
    writer.add_token_list([*tokenizer.convert_ids_to_tokens(range(count)), *(f"[PAD{n}]" for n in unused)])
    writer.add_token_types([kinds.get(n, 1) for n in range(count)] + [int(types.UNUSED)] * len(unused))
    writer.add_token_merges([" ".join(merge) for merge in facts["model"]["merges"]])
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
        token = getattr(tokenizer, name)
        if token is not None:
            getattr(writer, f"add_{name}")(token)
    writer.add_add_bos_token(tokenizer.encode("a")[0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
