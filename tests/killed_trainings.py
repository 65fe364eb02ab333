"""An online training that is killed again and again: python tests/killed_trainings.py MODEL FOLDER KILLS

Its judge runs in this process, so that what was asked is known whatever becomes of the training. Each training is
forked from this process, which has imported everything once and trains nothing itself. Kills come in the middle of a
judge's calls and of a checkpoint in turn, at random moments. Prints what was seen as a JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trl
from reward_judges import law
from rewarded import train
from steady import Payload, Steady, steady
from torch import set_num_threads
from trainings import losses, weights

FLAGS = {"split": 1.0, "save_every": 1, "reply_length": 4}


class Slow(Steady):
    """Notes each question, and takes a moment for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = Counter[str]()

    def respond(self, path: str, payload: Payload) -> tuple[int, dict[str, Any]] | None:
        self.questions[json.dumps(payload, sort_keys=True)] += 1
        time.sleep(0.004)
        return super().respond(path, payload)


def trained(base: Path, out: Path, url: str, kills: int) -> None:
    judging = {"judge": f"openai:judge@{url}/v1", "constitution": law(1.0), "concurrency": 1}
    train("rloo", base, out, reward="judge", judging=judging, flags=FLAGS | {"epochs": 1.0 + kills / 3})


def forked(act: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def is_over(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) != (0, 0)


def kill_in(out: Path, server: Slow, kind: str, child: int) -> bool:
    """Kill a training in the middle of this; False if it ended before."""
    asked, seen = server.questions.total(), checkpoints(out)
    after = random.randrange(1, 20)
    while not is_over(child):
        if kind == "calls" and server.questions.total() >= asked + after:
            break
        if kind == "checkpoint" and checkpoints(out) - seen:
            time.sleep(random.uniform(0, 0.05))
            break
        time.sleep(0.001)
    else:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def checkpoints(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob("*")}


def main() -> None:
    base, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    assert trl.RLOOConfig and trl.RLOOTrainer  # imported before any fork
    set_num_threads(1)  # a pool of threads would not be in the forks
    random.seed(kills)
    done = Counter[str]()
    with steady(Slow) as server:
        whole, cut = folder / "whole", folder / "cut"
        _, status = os.waitpid(forked(lambda: trained(base, whole, server.url, kills)), 0)
        assert status == 0
        undisturbed = server.questions.copy()
        server.questions.clear()
        for number in range(kills):
            kind = ("calls", "checkpoint")[number % 2]
            done[kind] += kill_in(cut, server, kind, forked(lambda: trained(base, cut, server.url, kills)))
        _, status = os.waitpid(forked(lambda: trained(base, cut, server.url, kills)), 0)
        assert status == 0
        facts = {
            "kills": done,
            "same weights": weights(whole) == weights(cut),
            "same losses": losses(whole) == losses(cut),
            "same questions": undisturbed.keys() == server.questions.keys(),
            "asked twice": server.questions.total() - len(server.questions),
        }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
