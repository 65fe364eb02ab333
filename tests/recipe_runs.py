"""A recipe in a folder, played against the stub server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from forked import fork
from kept import environment
from recipes.conftest import known
from stub import Stub

from cai.recipes.play import CommandFailed, Playing, Wishes
from cai.recipes.reading import read_recipe
from cai.records import Values

RECIPE = """
name: small
vars: {model: "openai:tiny@URL/v1", prompts: prompts.jsonl, rounds: 1}
stages:
  draft:
    generate: {prompts: $prompts, model: $model, rounds: $rounds, concurrency: 4}
    export: {split: 0.5}
    expect: {rows: ">=6", dropped.truncated: "==0"}
  draws: {sample: {prompts: $prompts, model: $model, n: 2, concurrency: 4}}
  labels: {label: {source: "@draws", judge: $model, principles: 1, min_confidence: 0.5}}
  audited: {audit: {file: "@draft/sft.jsonl"}}
"""
PROMPTS = [f"Question {number}?" for number in range(6)]


class Bench:
    """A recipe in a folder, and what it runs."""

    def __init__(self, folder: Path, server: Stub) -> None:
        self.folder, self.server, self.asked = folder, server, server.stats()["requests"]
        self.path = folder / "recipe.yaml"
        self.words: list[list[str]] = []
        self.write(RECIPE)
        self.prompts(PROMPTS)

    def write(self, text: str) -> None:
        self.path.write_text(text.replace("URL", self.server.url))

    def prompts(self, texts: Sequence[str]) -> None:
        lines = (orjson.dumps({"id": text, "prompt": text}) + b"\n" for text in texts)
        (self.folder / "prompts.jsonl").write_bytes(b"".join(lines))

    def run(self, words: Sequence[str]) -> Values:
        self.words.append(list(words))
        ended = fork([*words, "--json"], self.folder, environment())
        if ended.status:
            raise CommandFailed(ended.stderr)
        values: Values = orjson.loads(ended.stdout)
        return values

    def play(self, *assignments: str, **wishes: Any) -> Playing:
        """Play it; gives what was played."""
        self.words = []
        playing = Playing(read_recipe(self.path, known(), assignments), self.folder / "out", Wishes(**wishes))
        playing.play(self.run, lambda line: None)
        return playing

    def calls(self) -> int:
        """How many calls were answered since the last time."""
        before, self.asked = self.asked, self.server.stats()["requests"]
        return int(self.asked - before)
