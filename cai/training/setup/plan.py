"""What a training config leaves open, settled from data, model size and machine, each value with its reason.

Plain arithmetic. Sizes are in bytes, lengths in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cai.errors import UsageError
from cai.training.setup.config import Loaded, Origin
from cai.training.setup.methods import METHODS, Method

LENGTH_CAP = {"cuda": 4096, "cpu": 512}  # tokens; on a CPU a step of 16 such rows takes minutes with 135M parameters
STEP = 64  # tokens; sequence lengths are rounded up to it
COVERED = 0.99  # share of the rows that the chosen length holds whole
TOKENS_AT_ONCE = {"cuda": 16_384, "cpu": 1024}  # of one forward pass: more fills no device better
HEADROOM = 0.8  # share of the memory that is planned with
# Activations a token and layer, in bytes for each hidden unit, 16-bit and without the attention matrix, which no
# kernel in use keeps: Korthikanti et al. 2022 (arXiv 2205.05198), equation 1. With checkpoints only the layer's input.
ACTIVATION, CHECKPOINT = 34, 2
LOGIT = 10  # bytes: 16 bits, float32 for the loss, and its gradient
SAVES = 10  # checkpoints and evaluations of a run
EVALUATING = 0.2  # most of the training's time that evaluations may take, at a third of its cost a row (no backward)

Dtype = Literal["bfloat16", "float32"]


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
class Lengths:
    """How long the rows are, in tokens, and how many a limit cuts."""

    limit: int
    rows: int
    longest: int
    over: int  # rows longer than the limit
    tokens: int  # of all rows
    cut: int  # of these, beyond the limit

    def __str__(self) -> str:
        if not self.over:
            return f"no row exceeds {self.limit:,} tokens (longest {self.longest:,})"
        share = f"{self.over:,} of {self.rows:,} rows ({self.over / self.rows:.1%})"
        lost = f"{self.cut / self.tokens:.1%} of tokens"
        return f"{share} exceed {self.limit:,} tokens (longest {self.longest:,}); {lost} will be truncated"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that was settled, where it came from, and why."""

    name: str
    value: Any
    origin: Origin
    why: str = ""

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        why = f": {self.why}" if self.why else ""
        return f"{self.name} {value} ({self.origin}{why})"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was open, settled; `settings` says how."""

    learning_rate: float
    max_length: int
    truncation: Lengths
    dtype: Dtype
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
    method: str,
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
    settling = _Settling(loaded, METHODS[method], machine)
    rate = settling.rate(method)
    length = settling.length(lengths, shape.context)
    dtype, attention, packing = settling.kernels()
    rows, accumulation, checkpoints = settling.batch(shape, length, dtype)
    effective = rows * accumulation * machine.devices
    steps, save, evaluate = settling.steps(len(lengths) if kept is None else kept, effective, held)
    return Plan(
        learning_rate=rate,
        max_length=length,
        truncation=measure(lengths, length),
        dtype=dtype,
        attention=attention,
        packing=packing,
        gradient_checkpointing=checkpoints,
        rows_at_once=rows,
        accumulation=accumulation,
        steps=steps,
        save_every=save,
        eval_every=evaluate,
        settings=tuple(settling.settled),
    )


class _Settling:
    """The values settled so far; a value of the config overrides a computed one."""

    def __init__(self, loaded: Loaded, method: Method, machine: Machine) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self.method = method
        self.machine = machine
        self.settled: list[Setting] = []

    def note(self, name: str, value: Any, origin: Origin, why: str = "") -> None:
        self.settled.append(Setting(name, value, origin, why))

    def settle(self, name: str, value: Any, origin: Origin, why: str) -> Any:
        configured = getattr(self.config, name)
        if configured is None:
            self.note(name, value, origin, why)
            return value
        self.note(name, configured, self.loaded.origin(name))
        return configured

    def rate(self, method: str) -> float:
        if self.config.full:
            self.note("trains", "all weights", self.loaded.origin("full"))
            what = "all weights"
        else:
            self.note("trains", f"LoRA of rank {self.config.lora.rank}", self.loaded.origin("lora.rank"))
            what = "a LoRA adapter"
        rate: float = self.method.rates[self.config.full]
        rate = self.settle("learning_rate", rate, "default", f"{method} of {what}")
        return rate

    def length(self, lengths: list[int], context: int) -> int:
        cap = min(LENGTH_CAP[self.machine.device], context)
        why = f"holds 99 % of the rows whole, at most {cap:,}"
        length: int = self.settle("max_length", choose_length(lengths, cap), "data", why)
        if length > context:
            raise UsageError(f"max_length {length:,} exceeds the model's context of {context:,} tokens")
        return length

    def kernels(self) -> tuple[Dtype, str, str]:
        """dtype, attention, packing."""
        machine = self.machine
        fastest = "bfloat16" if machine.bfloat16 else "float32"
        dtype = self.settle("dtype", fastest, "hardware", machine.name)
        kernel = "sdpa"
        if machine.flash_attention and dtype == "bfloat16":
            kernel = "flash_attention_2"
        attention = self.settle("attention", kernel, "hardware", machine.name)
        if "packing" not in self.method.keys:
            return dtype, attention, "none"
        aligned = attention.startswith("flash")
        why = f"attention is {attention}"
        packing = self.settle("packing", "padding_free" if aligned else "none", "hardware", why)
        if packing != "none" and not aligned:
            raise UsageError(
                f"packing {packing!r} needs flash attention, or rows would read each other; here it is {attention}"
            )
        return dtype, attention, packing

    def batch(self, shape: Shape, length: int, dtype: str) -> tuple[int, int, bool]:
        """Rows of one forward pass on a device, passes a step, and whether activations are computed twice."""
        machine = self.machine
        wanted = self.config.batch_size
        share = max(1, wanted // machine.devices)
        rows, checkpoints = plan_memory(
            shape, machine, length * self.method.width, share, full=self.config.full, narrow=dtype == "bfloat16",
            logits=self.method.all_logits, checkpoints=self.config.gradient_checkpointing,
        )  # fmt: skip
        enough = [count for count in range(self.method.fewest, share + 1) if share % count == 0]
        if rows < self.method.fewest and enough:
            rows = enough[0]
        memory = f"{machine.memory / 2**30:.0f} GB free"
        checkpoints = self.settle("gradient_checkpointing", checkpoints, "hardware", memory)
        why = f"{memory}, {TOKENS_AT_ONCE[machine.device]:,} tokens at once"
        rows = self.settle("rows_at_once", rows, "hardware", why)
        accumulation = max(1, wanted // (rows * machine.devices))
        effective = rows * accumulation * machine.devices
        if self.loaded.origin("rows_at_once") in ("flag", "config file") and effective != wanted:
            raise UsageError(
                f"batch_size {wanted} is not made of rows_at_once {rows} on {machine.devices} devices: "
                f"it would be {effective}"
            )
        why = ""
        if effective != wanted:
            why = f"made of {rows} rows at once on {machine.devices} devices"
        self.note("batch_size", effective, self.loaded.origin("batch_size"), why)
        return rows, accumulation, checkpoints

    def steps(self, rows: int, effective: int, held: int) -> tuple[int, int, int]:
        """Steps of the run, and after how many it saves and evaluates; effective: rows of a step."""
        limit = self.config.trl.get("max_steps")
        steps = max(1, math.ceil(math.ceil(rows / effective) * self.config.epochs))
        if isinstance(limit, int) and limit > 0:  # TRL puts it before the epochs, whichever is more
            steps = limit
        rare = max(1, math.ceil(steps / SAVES))
        save = self.settle("save_every", rare, "data", f"a tenth of {steps:,} steps")
        if not held:
            return steps, save, rare
        times = min(SAVES, steps, max(1, int(EVALUATING * 3 * steps * effective / held)))
        often = "once" if times == 1 else f"{times} times"
        evaluate = self.settle("eval_every", max(1, math.ceil(steps / times)), "data", f"{often}, {held:,} rows each")
        return steps, save, evaluate


def measure(lengths: Sequence[int], limit: int) -> Lengths:
    """What a limit in tokens does to rows of these lengths; raises ValueError for none."""
    over = [length for length in lengths if length > limit]
    return Lengths(limit, len(lengths), max(lengths), len(over), sum(lengths), sum(over) - limit * len(over))


def choose_length(lengths: Sequence[int], cap: int) -> int:
    """The sequence length for rows of these lengths: holds 99 % of them whole, a multiple of 64, at most `cap`.

    A few long rows would otherwise decide the memory of every step.
    """
    ordered = sorted(lengths)
    longest = ordered[max(0, math.ceil(COVERED * len(ordered)) - 1)]
    return min(cap, math.ceil(longest / STEP) * STEP)


def plan_memory(
    shape: Shape, machine: Machine, length: int, most: int, *, full: bool, narrow: bool, logits: bool = False,
    checkpoints: bool | None = None,
) -> tuple[int, bool]:  # fmt: skip
    """Rows in one forward pass, a divisor of `most`, and whether activations are computed twice.

    narrow: arithmetic of 16 bits. logits: whether those of all tokens exist at once. checkpoints: decided by the user;
    None: only if not one row would fit without.
    """
    room = HEADROOM * machine.memory - _fixed(shape, full, narrow)
    unit = shape.hidden if narrow else 2 * shape.hidden
    output = shape.vocabulary * LOGIT if logits else 0
    plain = int(room // ((shape.layers * unit * ACTIVATION + output) * length))
    # With checkpoints, one layer at a time is computed again.
    saving = int(room // ((shape.layers * unit * CHECKPOINT + unit * ACTIVATION + output) * length))
    twice = plain < 1 if checkpoints is None else checkpoints
    enough = max(1, TOKENS_AT_ONCE[machine.device] // length)
    limit = max(1, min(most, enough, saving if twice else plain))
    return next(rows for rows in range(limit, 0, -1) if most % rows == 0), twice


def _fixed(shape: Shape, full: bool, narrow: bool) -> float:
    """Bytes of weights, gradients and Adam's state; of an adapter about a hundredth of the weights is trained."""
    if full:
        return shape.parameters * (18 if narrow else 16)  # float32 weights, gradients, two moments; a 16-bit copy
    return shape.parameters * (2 if narrow else 4) + shape.parameters * 0.01 * 16
