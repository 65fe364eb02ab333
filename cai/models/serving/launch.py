"""What is to be served: the command, its words, and its environment; equal ones are one server."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cai.calls.model import Serving
from cai.disk.reading import read_object
from cai.errors import UsageError
from cai.models.serving.commands import find_command
from cai.models.serving.kinds import KINDS, Adapter, Kind
from cai.sources.files import path_of
from cai.weights.bases import base_at, check_kind

DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "HF_HOME")  # of the environment, that tell servers apart
PARALLEL = ("--data-parallel-size", "-dp", "--dp-size", "--dp")
PORT = "--port"


@dataclass(frozen=True, slots=True)
class Launch:
    """A server as it is started, but for its port.

    spec: of the model, for messages. name: what requests call the model. command: the program and its first words.
    words: what it is told.
    """

    kind: Kind
    spec: str
    name: str
    command: tuple[str, ...]
    words: tuple[str, ...]
    options: Serving
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment, beside those of its kind

    @property
    def key(self) -> str:
        """16 hex digits, equal for servers that answer alike, whether they are kept or not."""
        chosen = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(self.kind.prefix)}
        chosen |= {name: os.environ.get(name, "") for name in DEVICES}
        chosen |= self.variables
        told = [self.command, self.words, chosen]
        return hashlib.sha256(json.dumps(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def port(self) -> int | None:
        """The port that the user has chosen; None: any that is free."""
        chosen = value_of((PORT,), self.words)
        return None if chosen is None else int(chosen)

    def line(self, port: int) -> list[str]:
        """The whole command line of a server at a port."""
        listening = [PORT, str(port)] if self.port is None else []
        return [*self.command, *self.words, *listening]

    def environment(self) -> dict[str, str]:
        """What the server gets: tools of its own environment, such as ninja, come first."""
        folder = os.path.dirname(self.command[0])
        path = os.environ.get("PATH", os.defpath)
        return {
            **self.kind.environment,
            **os.environ,
            **self.variables,
            "PATH": os.pathsep.join(filter(None, (folder, path))),
        }


@dataclass(frozen=True, slots=True)
class Served:
    """A model to be served, as its files say.

    name: what requests call it; that of a folder has the hash of its weights. place: where the server finds it.
    """

    name: str
    place: str
    revision: str | None
    adapter: Adapter | None


def served(spec: str, name: str) -> Served:
    """A model by its name on the hub, its folder, or the folder of a LoRA adapter.

    Raises UsageError for a path that holds no language model, CaiError if the base of an adapter cannot be found.
    """
    base = base_at(spec, name)
    check_kind(base, rewards=False)
    path = path_of(name)
    if path.exists():
        name = f"{path.resolve().name}@{base.mark}"
    adapter = None
    if base.adapter is not None:
        adapter = Adapter(name, base.adapter, rank_of(base.adapter))
    return Served(name, base.place, base.commit, adapter)


def rank_of(folder: Path) -> int:
    """The highest rank of an adapter's matrices."""
    config = read_object(folder / "adapter_config.json")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=8)


def launch_of(provider: str, spec: str, model: Served, options: Serving) -> Launch:
    """How a model is served; UsageError if there is no command, or an option is set here."""
    kind = KINDS[provider]
    own = own_arguments(provider, options.arguments)
    words = [*filter(None, (kind.model,)), model.place, "--host", "127.0.0.1", *kind.arguments]
    if model.revision:
        words += ["--revision", model.revision]
    # A server that has two models of one name takes the base for both.
    words += ["--served-model-name", model.name if model.adapter is None else model.place]
    if model.adapter is not None:
        words += kind.adapted(model.adapter)
    return Launch(kind, spec, model.name, tuple(find_command(provider, options.command)), (*words, *own), options)


def own_arguments(provider: str, arguments: str | Sequence[str]) -> list[str]:
    """The words of --server-arg, each of which may be several; UsageError for those that are set here."""
    texts = [arguments] if isinstance(arguments, str) else arguments
    try:
        words = [word for text in texts for word in shlex.split(text)]
    except ValueError as error:
        raise UsageError(f"--server-arg cannot be read as words ({error}): {shlex.join(texts)}") from None
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        advice = KINDS[provider].reserved.get(name)
        if advice is not None:
            raise UsageError(f"--server-arg must not hold {name}: {advice}")
    for names in (PARALLEL, (PORT,)):
        number = value_of(names, words)
        if number is not None and not (number.isdecimal() and int(number) > 0):
            raise UsageError(f"--server-arg: {names[0]} {number!r} must be a whole number from 1 on")
    return words


def replicas(arguments: Sequence[str]) -> int:
    """How many copies of the model share the work."""
    return int(value_of(PARALLEL, arguments) or 1)


def value_of(names: Iterable[str], words: Sequence[str]) -> str | None:
    """The value of an option on a command line, the last one counts; None if it is not there."""
    found = None
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else next(iter(words[place + 1 : place + 2]), "")
    return found
