"""Runs in batches at the stub server, and how it is told to behave."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from stub import Stub, stub

import cai
from cai.calls import limits
from cai.calls.batches import follow
from cai.calls.batches.waves import Batches
from cai.folder.journal.batches import BatchJournal
from cai.models.remote.batch import anthropic

PROVIDERS = ("openai", "anthropic")
PATHS = {"openai": "/v1", "anthropic": "", "azure": "/openai/v1", "groq": "/openai/v1"}  # of their base URLs
# As parameters: each needs its SDK.
SDKS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}, of the extra cloud"),
    )
    for name in PROVIDERS
]
ROWS = ("revisions.jsonl", "candidates.jsonl", "labels.jsonl", "dropped.jsonl")
CUTS = (*ROWS, "sft.jsonl", "dpo.jsonl", "kto.jsonl", "README.md")
PROMPTS = [{"id": f"p{number}", "prompt": f"Question number {number}?"} for number in range(6)]
PAIRS = [
    {"id": f"c{number}", "prompt": f"Question {number}?", "chosen": f"It is {number}.", "rejected": "No."}
    for number in range(6)
]


@contextmanager
def batch_server() -> Iterator[Server]:
    """A stub server that takes batches."""
    with stub("--marker", "POISON", "--mode", "400") as running:
        yield Server(running)


class Server:
    """The stub, seen as a provider of batches."""

    def __init__(self, running: Stub) -> None:
        self.stub, self.url = running, running.url

    def behave(self, **knobs: Any) -> None:
        """Forget what was, and behave like this."""
        self.tell(anew=True, **knobs)

    def tell(self, **knobs: Any) -> dict[str, Any]:
        """Change how it behaves; what it has done so far."""
        asked = Request(self.url + "/knobs", json.dumps(knobs).encode() if knobs else None)
        with build_opener(ProxyHandler({})).open(asked, timeout=30) as reply:
            state: dict[str, Any] = json.load(reply)
        return state

    def did(self, verb: str) -> list[str]:
        """What it did of one kind, such as create."""
        return [line for line in self.tell()["log"] if line.startswith(verb)]

    def stats(self) -> dict[str, Any]:
        return self.stub.stats()

    def base(self, provider: str) -> str:
        return self.url + PATHS[provider]


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait nowhere: the stub's clock moves when it is looked at."""
    monkeypatch.setattr(follow, "POLL", (0.002, 0.002))
    monkeypatch.setattr(follow, "LIST_AGAIN", 0.01)
    monkeypatch.setattr(follow, "CROWDED_WAIT", 0.01)
    monkeypatch.setattr(limits, "BACKOFF", 0.002)
    monkeypatch.setattr(anthropic, "LOOK_AGAIN", 0.002)
    for provider in PATHS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", "none")


def generated(
    server: Server, out: Path, provider: str = "openai", prompts: Any = PROMPTS, **settings: Any
) -> list[Any]:
    """The rows of a generate run."""
    common = {"model": f"{provider}:m", "base_url": server.base(provider), "out": out, "rounds": 1}
    return list(cai.generate(prompts, "harmless", **{**common, **settings}))


def sampled(server: Server, out: Path, provider: str = "openai", **settings: Any) -> list[Any]:
    """The rows of a sample run."""
    return list(cai.sample(PROMPTS, f"{provider}:m", n=2, base_url=server.base(provider), out=out, **settings))


def labelled(server: Server, out: Path, provider: str = "openai", **settings: Any) -> list[Any]:
    """The rows of a label run."""
    common = {"judge": f"{provider}:m", "base_url": server.base(provider), "out": out, "min_confidence": 0.6}
    return list(cai.label(PAIRS, "harmless", **{**common, **settings}))


KINDS = {"generate": generated, "sample": sampled, "label": labelled}


def cuts(folder: Path) -> dict[str, bytes]:
    """The rows, in input order, and the exports of a run."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in CUTS}
    for name in ROWS:
        if name in found:
            lines = sorted(found[name].splitlines(), key=lambda line: json.loads(line)["position"])
            found[name] = b"\n".join(lines)
    return found


def killed(method: str, side: str, nth: int, play: Callable[[], object]) -> None:
    """Play in a process of its own, which dies before or after the nth call of a method; or ends, if that never comes.

    It is forked from this one: to import all that a run needs takes longer than the run.
    """
    child = os.fork()
    if not child:
        try:
            _die_at(method, side, nth)
            play()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)


def _die_at(method: str, side: str, nth: int) -> None:
    owner, name = method.split(".")
    kind = {"Batches": Batches, "BatchJournal": BatchJournal, "Follower": follow.Follower}[owner]
    real, calls = getattr(kind, name), itertools.count(1)

    def dying(*arguments: Any, **more: Any) -> Any:
        comes = next(calls) == nth
        if comes and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **more)
        if comes:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kind, name, dying)
