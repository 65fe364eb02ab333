"""What a training config leaves open, settled from data, model size and machine, each value with its reason.

Plain arithmetic. Sizes are in bytes, lengths in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from cai.errors import UsageError
from cai.texts.wording import counted
from cai.training.setup.config import Loaded, Origin, Setting
from cai.training.setup.methods import METHODS

LENGTH_CAP = {"cuda": 4096, "cpu": 512}  # tokens; on a CPU a step of 16 such rows takes minutes with 135M parameters
STEP = 64  # tokens; sequence lengths are rounded up to it
COVERED = 0.99  # share of the rows that the chosen length holds whole
TOKENS_AT_ONCE = {"cuda": 16_384, "cpu": 1024}  # of one forward pass: more fills no device better
HEADROOM = 0.8  # share of the memory that is planned with
# Activations a token and layer, in bytes for each hidden unit, 16-bit and without the attention matrix: Korthikanti et
# al. 2022 (arXiv 2205.05198), equation 1. With checkpoints only the layer's input. The matrix, which eager attention
# alone keeps, is bytes for each head and token that a token may attend to.
ACTIVATION, CHECKPOINT, MATRIX = 34, 2, 5
# Bytes for each weight, by whether all weights train, and in 16 bits: float32 weights, gradients and Adam's two
# moments, with a 16-bit copy; of an adapter, the frozen weights and the same for about a hundredth of them.
WEIGHT = {(True, True): 18, (True, False): 16, (False, True): 2 + 0.16, (False, False): 4 + 0.16}
# The same for frozen weights of 4 bits with the constants of their blocks (Dettmers et al. 2023, arXiv 2305.14314,
# section 3), and an adapter as above; embeddings and head stay as they are.
QUANTIZED = (4 + 0.127) / 8 + 0.16
LOGIT = 10  # bytes: 16 bits, float32 for the loss, and its gradient
SAVES = 10  # checkpoints and evaluations of a run
EVALUATING = 0.2  # most of the training's time that evaluations may take, at a third of its cost a row (no backward)

T = TypeVar("T")


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
    """The size of a model; context: the most tokens it was made for; vocabulary: tokens it distinguishes.

    kernels: the ways to compute attention that its class supports, besides eager. heads: of a layer's attention.
    """

    parameters: int
    layers: int
    hidden: int
    context: int
    vocabulary: int = 0
    heads: int = 0
    name: str = "the model"
    kernels: tuple[str, ...] = ("sdpa", "flash_attention_2", "flash_attention_3")


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
        return f"{share} exceed {self.limit:,} tokens (longest {self.longest:,}); {lost} are beyond the limit"


class Plan:
    """What a config leaves open, settled: a value of the config overrides a computed one. `settings` says how.

    lengths: of the rows that train. `schedule` settles the rest, once the rows that fit `max_length` are counted.
    Raises UsageError for what the machine or the model cannot do.
    """

    def __init__(self, method: str, loaded: Loaded, lengths: list[int], shape: Shape, machine: Machine) -> None:
        self._loaded = loaded
        self._method = METHODS[method]
        self._machine = machine
        self.settings: list[Setting] = []
        config = loaded.config
        lora = "lora.rank", f"LoRA of rank {config.lora.rank}", "a LoRA adapter"
        key, trains, what = ("full", "all weights", "all weights") if config.full else lora
        self.settings.append(Setting("trains", trains, loaded.origin(key)))
        if config.quantize is not None:
            self.settings.append(Setting("quantize", config.quantize, loaded.origin("quantize"), "the frozen weights"))
        rate = self._method.rates[config.full]
        self.learning_rate = self._settle("learning_rate", rate, "default", f"{method} of {what}")
        cap = min(LENGTH_CAP[machine.device], shape.context)
        why = f"holds 99 % of the rows whole, at most {cap:,}"
        self.max_length = self._settle("max_length", choose_length(lengths, cap), "data", why)
        if self.max_length > shape.context:
            raise UsageError(f"max_length {self.max_length:,} exceeds the model's context of {shape.context:,} tokens")
        self.truncation = measure(lengths, self.max_length)
        self._settle_kernels(shape)
        self._settle_batch(shape)

    def _settle(self, name: str, value: T, origin: Origin, why: str) -> T:
        setting = self._loaded.setting(name, value, origin, why)
        self.settings.append(setting)
        return cast(T, setting.value)

    def _settle_kernels(self, shape: Shape) -> None:
        machine = self._machine
        fastest = "bfloat16" if machine.bfloat16 else "float32"
        self.dtype = self._settle("dtype", fastest, "hardware", machine.name)
        wanted = ["sdpa"]
        if machine.flash_attention and self.dtype == "bfloat16":
            wanted.insert(0, "flash_attention_2")
        kernel = next((kernel for kernel in wanted if kernel in shape.kernels), "eager")
        why = machine.name
        if kernel != wanted[0]:
            why += f"; {shape.name} does not support {wanted[0]}"
        self.attention = self._settle("attention", kernel, "hardware", why)
        if self.attention not in ("eager", *shape.kernels):
            raise UsageError(
                f"attention {self.attention}: {shape.name} does not support it; leave it out, or take eager"
            )
        self.packing = "none"
        if "packing" not in self._method.keys:
            return
        aligned = self.attention.startswith("flash")
        unpadded = "padding_free" if aligned else "none"
        self.packing = self._settle("packing", unpadded, "hardware", f"attention is {self.attention}")
        if self.packing != "none" and not aligned:
            raise UsageError(
                f"packing {self.packing!r} needs flash attention, or rows would attend to each other; here it is "
                f"{self.attention}"
            )

    def _settle_batch(self, shape: Shape) -> None:
        """Rows of one forward pass on a device, passes a step, and whether activations are computed twice."""
        machine, config, method = self._machine, self._loaded.config, self._method
        share = max(1, config.batch_size // machine.devices)
        rows, checkpoints = plan_memory(
            shape, machine, self.max_length * method.width, share, full=config.full,
            narrow=self.dtype == "bfloat16", fewest=method.fewest, logits=method.all_logits,
            checkpoints=config.gradient_checkpointing, matrix=self.attention == "eager",
            quantized=config.quantize is not None,
        )  # fmt: skip
        memory = f"{machine.memory / 2**30:.0f} GB free"
        self.gradient_checkpointing = self._settle("gradient_checkpointing", checkpoints, "hardware", memory)
        why = f"{memory}, {TOKENS_AT_ONCE[machine.device]:,} tokens at once"
        self.rows_at_once = rows = self._settle("rows_at_once", rows, "hardware", why)
        self.devices = machine.devices
        self.accumulation = max(1, config.batch_size // (rows * machine.devices))
        self.rows_a_step = rows * self.accumulation * machine.devices
        why = ""
        if self.rows_a_step != config.batch_size:
            why = f"made of {rows} rows at once on {machine.devices} devices"
            if self._loaded.origin("rows_at_once") in ("flag", "config file"):
                raise UsageError(
                    f"batch_size {config.batch_size} is not made of rows_at_once {rows} on {machine.devices} devices: "
                    f"it would be {self.rows_a_step}"
                )
        self.settings.append(Setting("batch_size", self.rows_a_step, self._loaded.origin("batch_size"), why))

    def schedule(self, rows: int, eval_rows: int, boundary: int = 1) -> None:
        """Settle the steps for so many rows that train, and after how many of them to save and to evaluate.

        boundary: a checkpoint can be resumed from after this many steps, and after multiples of them.
        """
        config = self._loaded.config
        self.steps = math.ceil(math.ceil(rows / self.rows_a_step) * config.epochs)
        limit = config.trl.get("max_steps")
        if isinstance(limit, int) and limit > 0:  # TRL puts it before the epochs, whichever is more
            self.steps = limit
        tenth = math.ceil(self.steps / SAVES / boundary) * boundary
        self.save_every = self._settle("save_every", tenth, "data", f"a tenth of {counted(self.steps, 'step')}")
        self._check_boundary("save_every", self.save_every, boundary)
        self.eval_every = tenth
        if eval_rows:
            times = evaluations(self.steps, self.rows_a_step, eval_rows)
            often = "once" if times == 1 else f"{times} times"
            why = f"{often}, {counted(eval_rows, 'row each')}"
            every = math.ceil(self.steps / times / boundary) * boundary
            self.eval_every = self._settle("eval_every", every, "data", why)
            self._check_boundary("eval_every", self.eval_every, boundary)

    def _check_boundary(self, key: str, steps: int, boundary: int) -> None:
        if steps % boundary:
            raise UsageError(
                f"{key} {steps} is not a multiple of iterations {boundary}: a step in between learns from replies that "
                "are in no checkpoint"
            )


def evaluations(steps: int, rows_a_step: int, eval_rows: int) -> int:
    """How often held-out rows are evaluated, besides before the first step."""
    most = int(EVALUATING * 3 * steps * rows_a_step / eval_rows)
    return min(SAVES, steps, max(1, most))


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
    shape: Shape, machine: Machine, length: int, most: int, *, full: bool, narrow: bool, fewest: int = 1,
    logits: bool = False, checkpoints: bool | None = None, matrix: bool = False, quantized: bool = False,
) -> tuple[int, bool]:  # fmt: skip
    """Rows in one forward pass, a divisor of `most` and `fewest` or more, and whether activations are computed twice.

    narrow: arithmetic of 16 bits. logits: whether those of all tokens exist at once; matrix: whether those of the
    attention do. quantized: whether the frozen weights have 4 bits. checkpoints: decided by the user; None: only if not
    one row would fit without.
    """
    wide = 1 if narrow else 2
    weights = shape.parameters * WEIGHT[full, narrow]
    if quantized:
        weights = shape.parameters * QUANTIZED + 2 * shape.vocabulary * shape.hidden * 2 * wide
    room = HEADROOM * machine.memory - weights
    unit = wide * shape.hidden
    layer = unit * ACTIVATION + wide * shape.heads * length * MATRIX * matrix
    output = shape.vocabulary * LOGIT * logits
    plain = int(room // ((shape.layers * layer + output) * length))
    # With checkpoints, one layer at a time is computed again.
    saving = int(room // ((shape.layers * unit * CHECKPOINT + layer + output) * length))
    twice = plain < 1 if checkpoints is None else checkpoints
    limit = min(TOKENS_AT_ONCE[machine.device] // length, saving if twice else plain)
    divisors = [rows for rows in range(fewest, most + 1) if most % rows == 0] or [1]
    return max((rows for rows in divisors if rows <= limit), default=divisors[0]), twice
