"""What a training config leaves open, settled from data, model size and machine, each value with its reason.

Plain arithmetic. Sizes are in bytes, lengths in tokens. Knows nothing of rows, tokenizers or trainers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from cai.errors import UsageError
from cai.training.data.masks import Lengths, choose_length, measure
from cai.training.data.rows import Method
from cai.training.setup.config import Loaded, Origin

# Learning rates: LoRA, full. Full SFT is TRL's; LoRA wants about ten times that of full fine-tuning, whatever the
# method (Schulman et al. 2025, "LoRA Without Regret"). Full DPO: Tunstall et al. 2023 (Zephyr), section 4.
LEARNING_RATES: dict[Method, tuple[float, float]] = {
    "sft": (2e-4, 2e-5),
    "dpo": (5e-6, 5e-7),
    "kto": (5e-6, 5e-7),
    "reward": (1e-4, 1e-5),
}
LENGTH_CAP = {"cuda": 4096, "cpu": 512}  # tokens; on a CPU a step of 16 such rows takes minutes with 135M parameters
TOKENS_AT_ONCE = {"cuda": 16_384, "cpu": 1024}  # of one forward pass: more fills no device better
HEADROOM = 0.8  # share of the memory that is planned with
# Activations a token and layer, in bytes for each hidden unit, 16-bit and without the attention matrix, which no
# kernel in use keeps: Korthikanti et al. 2022 (arXiv 2205.05198), equation 1. With checkpoints only the layer's input.
ACTIVATION, CHECKPOINT = 34, 2
LOGIT = 10  # bytes: 16 bits, float32 for the loss, and its gradient; `sft` alone makes them all at once
SAVES = 10  # checkpoints and evaluations of a run
EVALUATING = 0.2  # most of the training's time that evaluations may take, at a third of its cost a row (no backward)
# Sequences that a row puts through the model at once: both replies; of kto, the reply and a mismatched one.
WIDTH: dict[Method, int] = {"sft": 1, "dpo": 2, "kto": 2, "reward": 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to train on. memory: free bytes of the device."""

    device: Literal["cuda", "cpu"]
    name: str
    memory: int
    bfloat16: bool  # fast, not merely possible
    flash_attention: bool
    devices: int = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model; context: the most tokens it was made for; vocabulary: tokens it can tell apart."""

    parameters: int
    layers: int
    hidden: int
    context: int
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that was settled, where it came from, and why."""

    name: str
    value: Any
    origin: Origin
    why: str = ""

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.name} {value} ({self.origin}{f': {self.why}' if self.why else ''})"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was open, settled; `settings` says how."""

    learning_rate: float
    max_length: int
    truncation: Lengths
    dtype: Literal["bfloat16", "float32"]
    attention: str
    packing: str
    gradient_checkpointing: bool
    rows_at_once: int
    accumulation: int
    steps: int
    save_every: int
    eval_every: int
    settings: tuple[Setting, ...]


def resolve(
    method: Method,
    loaded: Loaded,
    lengths: list[int],
    shape: Shape,
    machine: Machine,
    *,
    held: int = 0,
    kept: int | None = None,
) -> Plan:
    """Settle what the config leaves open; lengths: of the rows that train; held: rows to evaluate.

    kept: how many of the rows a step will see, once those that do not fit are known; None: all.

    Raises UsageError for what the machine or the model cannot do.
    """
    settling, full = _Settling(loaded), loaded.config.full
    lora = f"LoRA of rank {loaded.config.lora.rank}"
    settling.tell("trains", "all weights" if full else lora, loaded.origin("full" if full else "lora.rank"))
    rate = LEARNING_RATES[method][full]
    why = f"{method} of {'all weights' if full else 'a LoRA adapter'}"
    rate = settling.settle("learning_rate", rate, "default", why)
    length = _settle_length(settling, lengths, min(LENGTH_CAP[machine.device], shape.context), shape.context)
    dtype, attention, packing = _settle_kernels(settling, method, machine)
    rows, accumulation, checkpoints = _settle_batch(settling, method, shape, machine, length, dtype)
    effective = rows * accumulation * machine.devices
    steps, save, evaluate = _settle_steps(settling, len(lengths) if kept is None else kept, effective, held)
    return Plan(
        rate, length, measure(lengths, length), dtype, attention, packing, checkpoints, rows, accumulation, steps,
        save, evaluate, tuple(settling.settled),
    )  # fmt: skip


class _Settling:
    """The values settled so far; what the config says goes before what is reckoned."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.config = loaded, loaded.config
        self.settled = list[Setting]()

    def tell(self, name: str, value: Any, origin: Origin, why: str = "") -> None:
        self.settled.append(Setting(name, value, origin, why))

    def settle(self, name: str, value: Any, origin: Origin, why: str) -> Any:
        given = getattr(self.config, name)
        if given is None:
            self.tell(name, value, origin, why)
            return value
        self.tell(name, given, self.loaded.origin(name))
        return given


def _settle_length(settling: _Settling, lengths: list[int], cap: int, context: int) -> int:
    why = f"holds 99 % of the rows whole, at most {cap:,}"
    length: int = settling.settle("max_length", choose_length(lengths, cap), "data", why)
    if length > context:
        raise UsageError(f"max_length {length:,} exceeds the model's context of {context:,} tokens")
    return length


def _settle_kernels(
    settling: _Settling, method: Method, machine: Machine
) -> tuple[Literal["bfloat16", "float32"], str, str]:
    """dtype, attention, packing."""
    dtype = settling.settle("dtype", "bfloat16" if machine.bfloat16 else "float32", "hardware", machine.name)
    flash = machine.flash_attention and dtype == "bfloat16"
    attention = settling.settle("attention", "flash_attention_2" if flash else "sdpa", "hardware", machine.name)
    if method != "sft":
        return dtype, attention, "none"
    aligned, why = attention.startswith("flash"), f"attention is {attention}"
    packing = settling.settle("packing", "padding_free" if aligned else "none", "hardware", why)
    if packing != "none" and not aligned:
        raise UsageError(
            f"packing {packing!r} needs flash attention, or rows would read each other; here it is {attention}"
        )
    return dtype, attention, packing


def _settle_batch(
    settling: _Settling, method: Method, shape: Shape, machine: Machine, length: int, dtype: str
) -> tuple[int, int, bool]:
    """Rows of one forward pass on a device, passes a step, and whether activations are computed twice."""
    config, loaded = settling.config, settling.loaded
    share = max(1, config.batch_size // machine.devices)
    rows, checkpoints = plan_memory(
        shape, machine, length * WIDTH[method], share, full=config.full, narrow=dtype == "bfloat16",
        logits=method == "sft", checkpoints=config.gradient_checkpointing,
    )  # fmt: skip
    if method == "kto" and rows == 1 and share > 1:  # its estimate of the KL divergence pairs the rows of a batch
        rows = next(n for n in range(2, share + 1) if share % n == 0)
    memory = f"{machine.memory / 2**30:.0f} GB free"
    checkpoints = settling.settle("gradient_checkpointing", checkpoints, "hardware", memory)
    why = f"{memory}, {TOKENS_AT_ONCE[machine.device]:,} tokens at once"
    rows = settling.settle("rows_at_once", rows, "hardware", why)
    accumulation = max(1, config.batch_size // (rows * machine.devices))
    effective = rows * accumulation * machine.devices
    if loaded.origin("rows_at_once") in ("flag", "config file") and effective != config.batch_size:
        raise UsageError(
            f"batch_size {config.batch_size} is not made of rows_at_once {rows} on {machine.devices} devices: "
            f"it would be {effective}"
        )
    why = "" if effective == config.batch_size else f"made of {rows} rows at once on {machine.devices} devices"
    settling.tell("batch_size", effective, loaded.origin("batch_size"), why)
    return rows, accumulation, checkpoints


def _settle_steps(settling: _Settling, rows: int, effective: int, held: int) -> tuple[int, int, int]:
    """Steps of the run, and after how many it saves and evaluates; effective: rows of a step."""
    limit = settling.config.trl.get("max_steps")
    steps = max(1, math.ceil(math.ceil(rows / effective) * settling.config.epochs))
    if isinstance(limit, int) and limit > 0:  # TRL lets it go before the epochs, whichever is more
        steps = limit
    save = rare = max(1, math.ceil(steps / SAVES))
    save = settling.settle("save_every", save, "data", f"a tenth of {steps:,} steps")
    if not held:
        return steps, save, rare
    times = min(SAVES, steps, max(1, int(EVALUATING * 3 * steps * effective / held)))
    why = f"{'once' if times == 1 else f'{times} times'}, {held:,} rows each"
    return steps, save, settling.settle("eval_every", max(1, math.ceil(steps / times)), "data", why)


def plan_memory(
    shape: Shape, machine: Machine, length: int, most: int, *, full: bool, narrow: bool, logits: bool = False,
    checkpoints: bool | None = None,
) -> tuple[int, bool]:  # fmt: skip
    """Rows in one forward pass, a divisor of `most`, and whether activations are computed twice.

    narrow: arithmetic of 16 bits. logits: whether those of all tokens exist at once. checkpoints: decided by the user;
    None: only where not one row would fit without.
    """
    room = HEADROOM * machine.memory - _fixed(shape, full, narrow)
    wide = 1 if narrow else 2

    def fitting(checkpointed: bool) -> int:
        token = shape.layers * shape.hidden * (CHECKPOINT if checkpointed else ACTIVATION) * wide
        extra = shape.hidden * ACTIVATION * wide if checkpointed else 0  # the one layer that is computed again
        extra += shape.vocabulary * LOGIT if logits else 0
        return int(room // ((token + extra) * length))

    twice = fitting(False) < 1 if checkpoints is None else checkpoints
    enough = max(1, TOKENS_AT_ONCE[machine.device] // length)
    limit = max(1, min(most, enough, fitting(twice)))
    return next(rows for rows in range(limit, 0, -1) if most % rows == 0), twice


def _fixed(shape: Shape, full: bool, narrow: bool) -> float:
    """Bytes of weights, gradients and Adam's state; of an adapter about a hundredth of the weights is trained."""
    if full:
        return shape.parameters * (18 if narrow else 16)  # float32 weights, gradients, two moments; a 16-bit copy
    return shape.parameters * (2 if narrow else 4) + shape.parameters * 0.01 * 16
