"""Runs that are played in shards, and what they come to together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kept import IN_ANY_ORDER, call_keys, rows
from steady import Steady

import cai

DROPPED = "dropped.jsonl"
SPENT = re.compile(rb"\| spent .*")
# A prompt that comes again in another shard, under another id and under the same; an id that another prompt has; what
# is no prompt; and what a model cuts off or answers with nothing.
PROMPTS: tuple[Any, ...] = (
    {"id": "a", "prompt": "What is salt?"},
    {"id": "b", "prompt": "Why is the sky blue? [truncated reply]"},
    {"id": "c", "prompt": "What is salt?"},
    {"id": "a", "prompt": "An id that another prompt has."},
    "{broken",
    {"id": "d", "prompt": "What is rust?"},
    {"prompt": "A prompt without an id."},
    {"id": "c", "prompt": "The id of a prompt that came twice."},
    {"nothing": True},
    {"id": "e", "prompt": "What is glass? [empty reply]"},
    {"prompt": "A prompt without an id."},
    {"id": "f", "prompt": "Why is the sky blue? [truncated reply]"},
    {"id": "g", "prompt": "What is bread?"},
    {"id": "d", "prompt": "Who was first?"},
)


def written(file: Path, prompts: Sequence[Any] = PROMPTS) -> Path:
    """A file of prompts, of which those that are text are lines as they are."""
    lines = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in prompts]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def at(server: Steady, **more: Any) -> dict[str, Any]:
    """The settings of a run that asks a server."""
    return {"base_url": server.url + "/v1", "concurrency": 4, **more}


def generate(prompts: Any, out: Path, server: Steady, **more: Any) -> None:
    """Play a generate run, or one of its shards, to its end."""
    settings = at(server, **{"model": "openai:writer", "rounds": 1, "out": out, "price": "1000,2000", **more})
    for _ in cai.generate(prompts, "harmless", **settings):
        pass


def played(folder: Path, server: Steady, count: int, prompts: Any = PROMPTS, **more: Any) -> Path:
    """The folder of a run that was played in shards."""
    file = written(folder / "prompts.jsonl", prompts)
    for shard in shards(count):
        generate(file, folder / "run", server, shard=shard, **more)
    return folder / "run"


def shards(count: int) -> Iterator[str]:
    """What `--shard` is for each of so many shards."""
    return (f"{number}/{count}" for number in range(count))


def folders(out: Path) -> list[Path]:
    """The folders of the shards of a run, in order."""
    return sorted((out / "shards").glob("*-of-*"))


def lines(runs: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The rows and drops of runs together, in the order of the input, without what cuts have left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in IN_ANY_ORDER:
        files = [run / name for run in runs if (run / name).exists()]
        every = [row for file in files for row in rows(file) if row.get("stage") not in ("sft", "dpo", "pairs", "kto")]
        found[name] = sorted(every, key=lambda row: row["position"])
    return found


def calls(runs: Sequence[Path]) -> list[str]:
    """The keys of all calls that runs have paid for."""
    return sorted(key for run in runs for key in call_keys(run))


EXPORTS = ("sft.jsonl", "dpo.jsonl", "kto.jsonl", "dropped.jsonl")


def exports(out: Path) -> dict[str, bytes]:
    """What an export has written into a folder: training rows, drops, and the card without what was spent."""
    files = {name: (out / name).read_bytes() for name in EXPORTS if (out / name).exists()}
    card = (out / "README.md").read_bytes()
    return files | {"README.md": SPENT.sub(b"", card)}
