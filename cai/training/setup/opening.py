"""Opens what a training needs first: tokenizer, weights and size of the base model; the machine and its processes."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.packages import need
from cai.sources.files import path_of
from cai.sources.yamlfile import read_regular
from cai.training.setup.before import trainings_of
from cai.training.setup.embeddings import end_of_turn
from cai.training.setup.plan import Machine, Shape
from cai.training.setup.quantize import quantization_of
from cai.weights.bases import Base
from cai.weights.loading import end_tokens, load_config, load_model, load_tokenizer, reasons


def need_train() -> None:
    """Raise MissingExtra if a package of the `train` extra is not installed."""
    need("cai train", "train", "torch", "trl", "peft", "accelerate", "datasets")


def open_tokenizer(base: Base, chat_template: str | None, *, chats: bool) -> Any:
    """The tokenizer, an adapter's own if it has one, with the chat template of a file if one is named.

    chats: whether rows need a template. Raises UsageError if they do and there is none.
    """
    words = load_tokenizer(base)
    if chat_template is not None:
        try:
            words.chat_template = read_regular(path_of(chat_template)).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"chat_template {chat_template} cannot be read: {error}") from None
        end = end_of_turn(words)
        if end is not None and words.convert_tokens_to_ids(end) not in ends_of(base, words):
            words.eos_token = end
    if chats and not words.chat_template:
        raise UsageError(
            f"{base.spec} is a base model, and its tokenizer has no chat template: name a Jinja file with "
            "chat_template, such as that of the model you will compare it with"
        )
    return words


def lacks_sft(base: Base, tokenizer: Any, chat_template: str | None) -> str | None:
    """Why a model has not been taught to reply, as far as its files show; None: it has, or that is not known.

    A tokenizer without a chat template is that of a base model, and so was one that a training gave a template; unless
    one of the trainings before this one was by SFT.
    """
    trainings = [record.get("identity") or {} for _, record in trainings_of(base.adapter or Path(base.place))]
    if any(identity.get("method") == "sft" for identity in trainings):
        return None
    if chat_template is not None:  # which may have taken the place of its own
        tokenizer = load_tokenizer(base)
    given = any((identity.get("config") or {}).get("chat_template") for identity in trainings)
    if tokenizer.chat_template and not given:
        return None
    return "its tokenizer has no chat template" + (" but the one of a training" if given else "")


def ends_of(base: Base, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a reply, by the tokenizer and by what the model generates with."""
    from transformers import GenerationConfig

    with reasons(base.spec):
        try:
            config = GenerationConfig.from_pretrained(base.place, revision=base.commit or "main")
        except OSError:  # not every model has one
            config = load_config(base).get_text_config()
    return frozenset(end_tokens(config, tokenizer))


def shape_of(base: Base) -> Shape:
    """The model's size, from its config only."""
    import torch
    from transformers import AutoModelForCausalLM

    with reasons(base.spec):
        config = load_config(base)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or 1 << 20
    parameters = sum(p.numel() for p in empty.parameters())
    sizes = parameters, text.num_hidden_layers, text.hidden_size, context, text.vocab_size, text.num_attention_heads
    return Shape(*sizes, name=type(empty).__name__, kernels=kernels_of(empty))


def kernels_of(model: Any) -> tuple[str, ...]:
    """The ways to compute attention that a model of transformers supports, besides eager.

    Some models name the only flash attention that they can use, kernels from the hub; these are not asked for.
    """
    kernels: tuple[str, ...] = ("sdpa",) if model._supports_sdpa else ()
    if model._supports_flash_attn and not getattr(model, "_compatible_flash_implementations", None):
        kernels += ("flash_attention_2", "flash_attention_3")
    return kernels


def open_model(base: Base, dtype: str, attention: str, *, scores: bool = False, quantize: str | None = None) -> Any:
    """The model with weights of `dtype`, an adapter on it ready to train; UnknownModel with transformers' own reason.

    scores: with a new head that gives a number, for a reward model. quantize: as the config has it.
    """
    import torch

    model = load_model(
        base,
        getattr(torch, dtype),
        rewards=scores,
        new_head=scores,
        trains=True,
        quantization=quantization_of(quantize, dtype),
        attn_implementation=attention,
    )
    if base.adapter is not None:
        model.peft_config["default"].base_model_name_or_path = base.place  # where it was may be gone
    return model


def finite(folder: Path) -> bool:
    """Whether all weights of a folder's safetensors are numbers."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if not all(file.get_tensor(name).isfinite().all() for name in file.keys()):  # noqa: SIM118
                return False
    return True


def this_machine(devices: int = 1) -> Machine:
    """The first NVIDIA GPU with its free memory, else the CPU; devices: how many such train together."""
    import torch

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        flash = importlib.util.find_spec("flash_attn") is not None
        return Machine("cuda", torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported(), flash, devices)
    # Emulated without instructions for it, bfloat16 is slower than float32. The two tests are torch's own.
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = any(getattr(torch.cpu, name, bool)() for name in tests)
    name = f"a CPU {'with' if fast else 'without'} bfloat16 instructions"
    free = importlib.import_module("psutil").virtual_memory().available // devices
    return Machine("cpu", name, free, fast, flash_attention=False, devices=devices)


# Processes


def join_processes() -> Any:
    """accelerate's state of the processes that train together, as `accelerate launch` started them; often one alone."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


class Stopper:
    """On Ctrl-C, `stop` is set, and the training stops after its step; a second one interrupts at once.

    Of several processes a second one changes nothing: their launcher passes on the one that the terminal sent to all.
    """

    def __init__(self, tell: Callable[[str], None], processes: Any) -> None:
        self.stop = False
        self._tell = tell
        self._processes = processes

    def agreed(self) -> bool:
        """Whether the training is to stop: all processes stop after the same step."""
        from accelerate.utils import gather_object

        agreed = any(gather_object([self.stop]))
        if agreed:  # else a Ctrl-C since then counts after the next step
            self.stop = True
        return agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle Ctrl-C; not in another thread than the main one, which alone gets signals from Python."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def on_signal(number: int, frame: Any) -> None:
            message = "stopping after this step"
            if self._processes.num_processes == 1:
                signal.signal(signal.SIGINT, before)
                message += "; Ctrl-C again stops at once and loses the steps since the last checkpoint"
            if not self.stop:
                self._tell(message)
            self.stop = True

        signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
