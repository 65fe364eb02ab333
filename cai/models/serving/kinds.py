"""The servers that can be started: how each is called, what it is told, and what its log says if it fails.

An entry of KINDS is all that a server takes. Options are those of vLLM 0.33 and SGLang 0.5.23, read in their packages;
neither server has been run by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.models.serving.symptoms import OF_ALL, Symptom, symptom

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on its base model; rank: the highest of its matrices."""

    name: str
    folder: Path
    rank: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A server.

    command: its executable, of which `variable` may name another. verb: the subcommand that serves. prefix: of the
    variables of the environment that change what it does. model: the option before the model; "": none. arguments: what
    else it is told. adapted: the words that load an adapter. chosen: what a request to that adapter has besides.
    reserved: options that are set here, with what to do instead. environment: variables that it is given.
    """

    command: str
    variable: str
    verb: str
    prefix: str
    model: str
    arguments: tuple[str, ...]
    adapted: Callable[[Adapter], list[str]]
    chosen: Callable[[Adapter], dict[str, Any]]
    reserved: Mapping[str, str]
    symptoms: tuple[Symptom, ...]
    health: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)


ALWAYS_SET = {
    "--host": "it listens on 127.0.0.1 only",
    "--model": "name the model in the spec",
    "--model-path": "name the model in the spec",
    "--served-model-name": "it has the name of the spec",
}


def room_for(rank: int) -> int:
    """The least rank that vLLM can be told to make room for, of those that hold an adapter of this one."""
    return next((room for room in RANKS if room >= rank), rank)


def _of_vllm(adapter: Adapter) -> list[str]:
    module = json.dumps({"name": adapter.name, "path": str(adapter.folder)})
    return ["--enable-lora", "--max-lora-rank", str(room_for(adapter.rank)), "--lora-modules", module]


def _of_sglang(adapter: Adapter) -> list[str]:
    module = json.dumps({"lora_name": adapter.name, "lora_path": str(adapter.folder)})
    return ["--enable-lora", "--lora-paths", module]


UNKNOWN = r"unrecognized arguments|invalid choice|no such option"
KINDS: dict[str, Kind] = {
    "vllm": Kind(
        command="vllm",
        variable="CAI_VLLM",
        verb="serve",
        prefix="VLLM_",
        model="",
        arguments=(
            "--enable-prefix-caching",
            "--max-logprobs", "20",  # of which a judge reads its letters
            "--scheduling-policy", "priority",
            "--enable-prompt-tokens-details",  # tokens read from the prefix cache, in the usage of an answer
            "--disable-uvicorn-access-log",  # a line a call
        ),
        adapted=_of_vllm,
        chosen=lambda adapter: {},  # it goes by the name of the model
        reserved={**ALWAYS_SET, "--uds": ALWAYS_SET["--host"], "--api-key": "set VLLM_API_KEY, which both read"}
        | dict.fromkeys(("--scheduling-policy", "--max-logprobs"), "the method needs it as it is set"),
        symptoms=(
            symptom(UNKNOWN, "correct --server-arg, or install vllm 0.33 or newer for this server"),
            symptom(
                r"out of memory|OutOfMemoryError|free memory on device .* is less than|no available memory for the "
                r"cache|larger than the available KV cache",
                "the GPU has too little free memory: stop what else uses it (nvidia-smi), try --server-arg "
                "'--gpu-memory-utilization 0.8' or '--max-model-len 8192', or take a smaller or quantized model",
            ),
            symptom(r"LoRA rank \d+ is greater", "raise it: --server-arg '--max-lora-rank N'"),
            *OF_ALL,
        ),
        environment={"VLLM_NO_USAGE_STATS": "1"},  # nothing is asked but this server
    ),
    "sglang": Kind(
        command="sglang",
        variable="CAI_SGLANG",
        verb="serve",
        prefix="SGLANG_",
        model="--model-path",
        arguments=(
            "--schedule-policy", "fcfs",  # by priority, then by age
            "--enable-priority-scheduling",
            "--schedule-low-priority-values-first",
            "--default-priority-value", "0",
            "--disable-priority-preemption",  # a younger flow's call that has begun is not thrown away
            "--enable-cache-report",  # tokens read from the prefix cache, in the usage of an answer
            "--log-level-http", "warning",  # a line a call
        ),
        adapted=_of_sglang,
        chosen=lambda adapter: {"lora_path": adapter.name},
        reserved={**ALWAYS_SET, "--api-key": "it listens on 127.0.0.1 only"}
        | dict.fromkeys(("--schedule-policy", "--default-priority-value"), "the method needs it as it is set"),
        symptoms=(
            symptom(UNKNOWN, "correct --server-arg, or install sglang 0.5.23 or newer for this server"),
            symptom(
                r"out of memory|OutOfMemoryError|not enough memory",
                "the GPU has too little free memory: stop what else uses it (nvidia-smi), try --server-arg "
                "'--mem-fraction-static 0.8' or '--context-length 8192', or take a smaller or quantized model",
            ),
            *OF_ALL,
        ),
    ),
}  # fmt: skip
