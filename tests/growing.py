"""Runs that grow step by step, and the server that they ask, which counts its questions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from forked import Ended, fork
from kept import environment
from steady import Payload, Steady, step_of

LIMITS = ("max_tokens", "max_completion_tokens")
SPENT = re.compile(rb"\| spent .*")
KEYS = re.compile(rb',"calls":.*')
WIDTH = 4  # calls in flight
EXPORTS = ("sft.jsonl", "dpo.jsonl", "kto.jsonl", "dropped.jsonl", "README.md")


class Even(Steady):
    """A server that answers as models do: a limit only cuts an answer, and a seed decides nothing if all is greedy.

    Nor does it decide a vote, so that a run made at once has those of one that grew.

    whole: how many answers were not cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole = 0

    def respond(self, path: str, payload: Payload) -> tuple[int, dict[str, Any]] | None:
        asked = {name: value for name, value in payload.items() if name not in LIMITS}
        if not asked.get("temperature") or step_of(payload) == "judge":
            asked.pop("seed", None)
        response = super().respond(path, asked)
        if response is not None and response[0] == 200:
            choice = response[1]["choices"][0]
            if step_of(payload) in ("reply", "revision", "critique"):
                _cut(choice, min(payload[name] for name in LIMITS if name in payload))
            self.whole += choice["finish_reason"] != "length"
        return response


def _cut(choice: dict[str, Any], most: int) -> None:
    words = choice["message"]["content"].split()
    if len(words) > most:
        choice["message"]["content"] = " ".join(words[:most])
        choice["finish_reason"] = "length"


@dataclass(frozen=True)
class Asked:
    """What a command asks for."""

    prompts: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def having(self, **options: object) -> Asked:
        """The same with other options; None takes one away."""
        changed = dict(self.options) | {name: str(value) for name, value in options.items()}
        return replace(self, options=tuple((name, value) for name, value in changed.items() if value != "None"))

    def option(self, name: str) -> str | None:
        return dict(self.options).get(name)


@dataclass(frozen=True)
class Bench:
    """A folder to work in, and a server."""

    folder: Path
    server: Even

    def run(self, asked: Asked, out: str, *command: str, **end: Any) -> Ended:
        """Run a command on the prompts; `end` says where it is killed."""
        file = self.folder / f"{out.replace('/', '-')}.jsonl"
        file.write_text("".join(f"{prompt}\n" for prompt in asked.prompts))
        options = [
            word for name, value in asked.options for word in (f"{'-' if len(name) == 1 else '--'}{name}", value)
        ]
        words = [*command, file.name, *options, "--out", out]
        return self.type(*words, **end)

    def type(self, *words: str, **end: Any) -> Ended:
        """Run any command with the server behind its models."""
        more = ["--base-url", self.server.url + "/v1", "--concurrency", str(WIDTH)]
        return partial(fork, folder=self.folder, environment=environment())([*words, *more], **end)

    def label(self, source: str, principles: int, protocol: str = "logprob") -> int:
        """Have the replies of a run labelled; returns how many calls that takes, which a plan has said before."""
        words = ["label", source, "-c", "harmless", "--judge", "openai:judge", "-k", str(principles)]
        words += ["--protocol", protocol, "--out", f"{source}-judged"]
        plan = self.type("plan", *words, "--json")
        assert plan.status == 0, plan.stderr
        before = self.server.answered
        ended = self.type(*words, "--min-confidence", "0.5")
        assert ended.status == 0, ended.stderr
        answered = self.server.answered - before
        if protocol != "vote":  # which asks again while the votes are split
            assert json.loads(plan.stdout)["calls"] == answered
        return answered

    def exports(self, out: str) -> dict[str, bytes]:
        """The training rows of a folder, its drops without the keys of their calls, which depend on the limit, and its
        card without what was spent and the name of the folder, which the file has.
        """
        files = {name: self.folder / out / name for name in EXPORTS if (self.folder / out / name).exists()}
        contents = {name: path.read_bytes() for name, path in files.items()}
        contents["README.md"] = SPENT.sub(b"", contents["README.md"].replace(out.encode(), b"OUT"))
        contents["dropped.jsonl"] = KEYS.sub(b"", contents["dropped.jsonl"])
        return contents


def prompt(number: int | str, mark: str = "") -> str:
    """A prompt as a line of a file."""
    return json.dumps({"id": f"r{number}", "prompt": f"Question {number}?{mark}"})
