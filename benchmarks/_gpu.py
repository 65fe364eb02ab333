"""A row of the GPU table, and how many floating-point operations its steps need by the model's shape.

Plain arithmetic, the same for every implementation: what is computed twice to save memory, or on padding, counts for
nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

MARK = "measured: "  # before the line with which a measuring process ends
RANK = 16  # of the adapters, by default of both
ONLINE = ("rloo", "grpo")
GROUP, BATCH, REPLY = 4, 16, 128  # replies to a prompt, replies of a step, tokens of a reply; the same for both
# Dense bfloat16, half of what NVIDIA's data sheets give with sparsity; the first name whose words are the device's.
PEAKS = {
    "H200 NVL": 835e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H200": 989e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A Llama: `heads` of the queries, `groups` of keys and values, `inner` units of the MLP."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head: int  # units of a head
    vocabulary: int
    tied: bool  # whether the embedding is the head, too

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the matrices of one layer."""
        wide, narrow = self.heads * self.head, self.groups * self.head
        attention = [(self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden)]
        return [*attention, (self.hidden, self.inner), (self.hidden, self.inner), (self.inner, self.hidden)]

    @property
    def matrices(self) -> int:
        """Weights that every token is multiplied with: not the embedding, which is looked up, but the head."""
        return self.layers * sum(a * b for a, b in self.linears) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrices + norms + (0 if self.tied else self.vocabulary * self.hidden)

    def adapter(self, rank: int, *, few: bool = False) -> int:
        """Weights of a LoRA adapter on all of the layers' matrices; few: on those of queries and values alone."""
        query, _, value, *_ = self.linears
        return self.layers * sum(rank * (a + b) for a, b in ([query, value] if few else self.linears))


SHAPES = {  # SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B, from their config.json
    "135M": Shape(576, 1536, 30, 9, 3, 64, 49152, tied=True),
    "1B": Shape(2048, 8192, 16, 32, 8, 64, 128256, tied=True),
    "8B": Shape(4096, 14336, 32, 32, 8, 128, 128256, tied=False),
}
TINY = Shape(64, 128, 2, 4, 2, 16, 1024, tied=True)


def per_token(shape: Shape, context: float, *, adapter: int | None = None, reference: bool = False) -> float:
    """FLOPs of a training step for each token; context: `mean_context` of the rows.

    Forward 2 a weight, and the scores and sums of attention over half of the context, since it is causal (Kaplan et al.
    2020, arXiv 2001.08361, section 2.1); backward twice that. adapter: its weights, where it alone is trained; the
    others have no gradients then, which saves a third of their part. reference: each step has a forward pass of the
    reference model, too.
    """
    attention = shape.layers * 4 * shape.heads * shape.head * context / 2
    forward = 2 * shape.matrices + attention
    step = 3 * forward
    if adapter is not None:
        step = 2 * 2 * shape.matrices + 3 * attention + 3 * 2 * adapter
    return step + (forward if reference else 0)


def mean_context(lengths: Sequence[int]) -> float:
    """The mean length of the row that a token is in: tokens of long rows are more, and each sees more."""
    return sum(length * length for length in lengths) / sum(lengths)


def utilisation(tokens_per_second: float, flops: float, peak: float) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), a share of `peak`."""
    return tokens_per_second * flops / peak


def peak_of(device: str) -> float | None:
    """FLOPs a second of a device by its name; None for one that is not listed, and for a part of one (MIG)."""
    if re.search(r"\bMIG\b", device):
        return None
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device)), None)


@dataclass(frozen=True)
class Case:
    """A row of the table. `defaults`: nothing is set but what trains, and the other columns are what comes of it."""

    size: str
    method: Literal["sft", "dpo", "rloo", "grpo"]
    who: str = "cai"
    full: bool = False
    defaults: bool = False
    layout: str = "none"  # of the rows: none (padded), padding_free, packed
    liger: bool = False
    reference: str = "once"  # or each_step
    rollouts: str = "here"  # of rloo and grpo, who writes the replies: this process or vllm

    @property
    def name(self) -> str:
        parts = [self.size, self.method, self.who, "full" if self.full else "lora"]
        if self.defaults:
            return "-".join([*parts, "defaults"])
        if self.method in ONLINE:
            return "-".join([*parts, self.rollouts])
        parts += [self.layout, *(["liger"] if self.liger else []), *([self.reference] if self.method == "dpo" else [])]
        return "-".join(parts)

    @property
    def server(self) -> str | None:
        """The command that serves, in an environment of its own."""
        return os.environ.get("CAI_VLLM") or shutil.which("vllm")

    def missing(self, device: str) -> str | None:
        """Why it cannot be measured here; None where it can."""
        if self.rollouts == "vllm" and self.server is None:
            return "there is no command vllm: set CAI_VLLM"
        if self.layout != "none" and self.method == "dpo":
            return "TRL 1.16 pads DPO"
        if self.layout != "none" and find_spec("flash_attn") is None:
            return "flash-attn is not installed"
        if self.liger and device == "cpu":
            return "liger kernels need a GPU"
        if self.liger and find_spec("liger_kernel") is None:
            return "liger-kernel is not installed"
        return None
