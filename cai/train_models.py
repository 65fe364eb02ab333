"""What a training starts from: a model on the hub, in a folder or in a GGUF file, its size, and the machine.

Weights come from safetensors or GGUF only, and no code that comes with them runs. A GGUF file is dequantised once, into
the cache: an adapter needs a folder to name as its base. Knows files and transformers; nothing of rows or trainers.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import CaiError, MissingExtra, UnknownModel, UsageError
from cai.models.hf import quiet
from cai.models.weights import cache_folder, default_weights, fingerprint
from cai.train_plan import Machine, Shape

log = logging.getLogger("cai")

HOSTED = ("openai", "anthropic", "vllm", "recorded", "reward")


@dataclass(frozen=True, slots=True)
class Base:
    """A model that can be trained. place: a folder, or a name on the hub; mark: equal for equal files."""

    spec: str
    place: str
    mark: str


def need_train(what: str = "training") -> None:
    """Raises MissingExtra where a package of the `train` extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "trl", "peft", "accelerate", "datasets")):
        raise MissingExtra(what, "train")


def find_base(spec: str) -> Base:
    """The model that `local`, a folder, a `.gguf` file or a name on the hub means; an `hf:` before it changes nothing.

    Raises UsageError for what cannot be trained here, CaiError where a GGUF file cannot be unpacked.
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind in HOSTED:
        raise UsageError(f"{spec} cannot be trained here; name local, a folder, a .gguf file, or a model on the hub")
    name = rest if colon and kind in ("hf", "local") and rest else spec
    path = Path(name).expanduser()
    if name == "local" or path.suffix == ".gguf":
        if name != "local" and not path.is_file():
            raise UsageError(f"{spec}: no such file")
        folder = unpacked(default_weights() if name == "local" else path)
        return Base(spec, str(folder), fingerprint(folder))
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UsageError(f"{spec}: no such folder")
        return Base(spec, name, name)
    parts = {part.name for part in path.iterdir()} if path.is_dir() else set()
    if "adapter_config.json" in parts and "config.json" not in parts:
        raise UsageError(f"{spec} is a LoRA adapter: put it into its base model first: cai merge {spec}")
    if "config.json" not in parts:
        raise UsageError(f"{spec}: the folder has no config.json, so it holds no transformers model")
    if not any(part.endswith(".safetensors") for part in parts):
        raise UsageError(f"{spec}: the folder has no .safetensors weights (pickled ones can run code and are refused)")
    return Base(spec, str(path.resolve()), fingerprint(path))


def unpacked(gguf: Path) -> Path:
    """The folder of a GGUF file's weights in float32, which holds them exactly; made once, in the cache."""
    folder = cache_folder() / f"{gguf.stem}-float32-{fingerprint(gguf)}"
    if (folder / "config.json").exists():
        return folder
    _need_gguf()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    log.info("%s: dequantising into %s (once)", gguf.name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as scratch, quiet():
            made = Path(scratch) / "model"
            packed = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype="float32", quantization_config=GgufConfig(dequantize=True), **place
            )
            # What was loaded from a GGUF file refuses to be saved, dequantised or not: its weights move to a model that
            # was not.
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(gguf.parent, **place), dtype="float32")
            model.load_state_dict(packed.state_dict())
            model.save_pretrained(made)
            AutoTokenizer.from_pretrained(gguf.parent, **place).save_pretrained(made)
            made.rename(folder)
    except OSError as error:
        if (folder / "config.json").exists():  # another process was faster
            return folder
        raise CaiError(f"cannot unpack {gguf} into {folder}: {error}; free some space, or set CAI_CACHE") from error
    return folder


def _need_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("a GGUF file", "local")


def open_tokenizer(base: Base, chat_template: str | None, *, chats: bool) -> Any:
    """The tokenizer, with the chat template of a file where one is named.

    chats: whether rows need a template. Raises UsageError where there is none for them.
    """
    from transformers import AutoTokenizer

    with _told(base), quiet():
        words = AutoTokenizer.from_pretrained(base.place, trust_remote_code=False)
    if chat_template is not None:
        try:
            words.chat_template = Path(chat_template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"chat_template {chat_template} cannot be read: {error}") from None
    if chats and not words.chat_template:
        raise UsageError(
            f"{base.spec} is a base model, its tokenizer has no chat template: name a Jinja file with chat_template, "
            "such as that of the model you will compare it with"
        )
    return words


def ends_of(base: Base, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a reply, by the tokenizer and by what the model generates with."""
    from transformers import AutoConfig, GenerationConfig

    with _told(base):
        try:
            given = GenerationConfig.from_pretrained(base.place).eos_token_id
        except OSError:  # not every model has one
            given = getattr(AutoConfig.from_pretrained(base.place).get_text_config(), "eos_token_id", None)
    ids = [*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)


def shape_of(base: Base) -> Shape:
    """The model's size, from its config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _told(base):
        config = AutoConfig.from_pretrained(base.place, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or 1 << 20
    return Shape(sum(p.numel() for p in empty.parameters()), text.num_hidden_layers, text.hidden_size, context)


def open_model(base: Base, dtype: str, attention: str) -> Any:
    """The model with weights of `dtype`; raises UnknownModel with transformers' own reason."""
    import torch
    from transformers import AutoModelForCausalLM

    with _told(base), quiet():
        return AutoModelForCausalLM.from_pretrained(
            base.place,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
        )


def this_machine() -> Machine:
    """The first NVIDIA GPU with its free memory, else the CPU."""
    import torch

    devices = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        flash = importlib.util.find_spec("flash_attn") is not None
        return Machine("cuda", torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported(), flash, devices)
    # Emulated where there are no instructions for it, bfloat16 is slower than float32. The two tests are torch's own.
    fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    name = "a CPU with bfloat16 instructions" if fast else "a CPU without bfloat16 instructions"
    return Machine(
        "cpu",
        name,
        importlib.import_module("psutil").virtual_memory().available,
        fast,
        flash_attention=False,
        devices=devices,
    )


@contextmanager
def _told(base: Base) -> Iterator[None]:
    """transformers raises a dozen kinds of errors; each means that this model cannot be used."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        raise UnknownModel(f"cannot load {base.spec}: {type(error).__name__}: {reason}") from error
