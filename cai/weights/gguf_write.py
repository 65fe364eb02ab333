"""Writes a model of transformers as a GGUF file, which `local:` and llama.cpp read.

Only models of the Llama architecture with a byte-level BPE tokenizer. Metadata are those of the GGUF file the model
came from; for another model they are made from its config and tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import CaiError, UsageError
from cai.folder.files import need
from cai.records import Values
from cai.weights.gguf_read import copy_metadata, write_file

# What a GGUF file calls the one way of cutting text before merging that is written: OpenVINO GenAI 2026.4 cuts by rules
# of its own if it does not know a name, such as Llama 3's.
NAME = "smollm"
PLAIN = {
    "rope_type": "default",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}  # in a Llama's config


def check_gguf(config: Any, tokenizer: Any, source: Path | None = None) -> None:
    """UsageError for a model that `write_gguf` cannot write faithfully, as far as config and tokenizer show it."""
    need("--gguf", "local", "gguf")
    kind = getattr(config, "model_type", None)
    if kind != "llama":
        raise UsageError(f"only models of the Llama architecture are written as GGUF, and this is {kind!r}; use hf:")
    settings = PLAIN | config.to_dict() | config.rope_parameters
    for name, plain in PLAIN.items():
        if settings[name] != plain:
            raise UsageError(
                f"a Llama with {name} {settings[name]!r} is not written as GGUF (only with {plain!r}); use hf:"
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

    writer = gguf.GGUFWriter(target, "llama")
    if source is None:
        _add_metadata(writer, model.config, tokenizer, target.stem)
        extra = []
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
    match json.loads(tokenizer.backend_tokenizer.to_str()):
        case {
            "model": {"type": "BPE"},
            "normalizer": None,
            "pre_tokenizer": {
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                ]
            },
        }:
            pass
        case _:
            raise UsageError(
                "no GGUF file says how this tokenizer cuts text: known are byte-level BPE that takes digits one by "
                "one, as SmolLM's, and models that came from a GGUF file; use hf:"
            )
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    if whole not in (plain, [tokenizer.bos_token_id, *plain]):
        raise UsageError("the tokenizer puts more than a begin token around a text, which no GGUF file says; use hf:")


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """The weights by their GGUF names."""
    import gguf
    import numpy

    config = model.config
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
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


def _add_metadata(writer: Any, config: Any, tokenizer: Any, name: str) -> None:
    """The metadata of a model that does not come from a GGUF file."""
    import gguf

    size = config.head_dim or config.hidden_size // config.num_attention_heads
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
    writer.add_tokenizer_pre(NAME)
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
