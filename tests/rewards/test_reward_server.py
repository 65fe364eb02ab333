"""The command `cai reward-server`, in a process of its own, against a stub judge."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from forked import command
from pages import ROOT
from stub import Stub, stub
from terminal import failed

from cai import read_calls

TOKEN = "secret-of-a-test"
REPLIES = [f"Reply number {number}." for number in range(20)]


class Running:
    """A server that runs; alone: in a process of its own, which can be killed."""

    def __init__(self, judge: Stub, out: Path, *words: str, alone: bool = False, token: str = TOKEN) -> None:
        typed = ["reward-server", "--judge", "openai:some/judge", "--base-url", f"{judge.url}/v1", "--out", str(out)]
        started = [sys.executable, "-m", "cai", *typed, *words] if alone else command(*typed, *words)
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "CAI_REWARD_TOKEN": token, "OPENAI_API_KEY": "none"}
        self.process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        assert self.process.stdout is not None
        self.token = token or self._printed()
        self.address = self.process.stdout.readline().strip()

    def _printed(self) -> str:
        """The token that the command made and says how to pass on."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline().strip()
        assert line.startswith("export CAI_REWARD_TOKEN="), line
        return line.partition("=")[2]

    def post(self, replies: list[str]) -> dict[str, Any]:
        body = json.dumps({"prompt": "How?", "replies": replies}).encode()
        request = Request(self.address, body, {"Authorization": f"Bearer {self.token}"})
        with build_opener(ProxyHandler({})).open(request, timeout=60) as reply:
            values: dict[str, Any] = json.load(reply)
        return values

    def end(self, number: int) -> str:
        """Send a signal; what the command wrote to stderr."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@contextmanager
def running(judge: Stub, out: Path, *words: str, **how: Any) -> Iterator[Running]:
    server = Running(judge, out, *words, **how)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def test_a_kill_costs_no_finished_call_again(tmp_path: Path) -> None:
    asked = ("--protocol", "decide", "--concurrency", "2", "-k", "1")
    with stub("--latency", "0.02") as judge:
        with running(judge, tmp_path / "kept", *asked, alone=True) as server:

            def post() -> None:
                with suppress(URLError, ConnectionError):
                    server.post(REPLIES)

            thread = threading.Thread(target=post)
            thread.start()
            while judge.stats()["requests"] < 8:
                time.sleep(0.005)
            server.end(signal.SIGKILL)
            thread.join()
        paid = len(list(read_calls(tmp_path / "kept")))
        assert 0 < paid < len(REPLIES)
        with running(judge, tmp_path / "kept", *asked) as server:
            rewards = server.post(REPLIES)["rewards"]
            assert None not in rewards
            assert server.post(REPLIES)["rewards"] == rewards
            told = server.end(signal.SIGINT)
        stats = judge.stats()
    assert stats["unique"] == len(REPLIES)
    assert stats["duplicates"] <= 2  # those in flight at the kill
    assert "40 replies rated, 0 unknown" in told
    assert f"{paid + len(REPLIES)} answered from the folder" in told


def test_group_scoring_and_the_cap_reach_the_server(tmp_path: Path) -> None:
    with stub("--vllm") as judge:
        words = ("--scoring", "group", "-k", "1", "--max-cost", "1", "--price", "1,1", "--protocol", "logprob")
        with running(judge, tmp_path / "kept", *words) as server:
            values = server.post(REPLIES[:3])
            told = server.end(signal.SIGTERM)
        assert sum(values["rewards"]) == pytest.approx(0)
        assert "6 calls" in told and "0.0000 USD" not in told
        assert "by group" in told and TOKEN not in told


def test_without_a_token_it_makes_one_and_says_so(tmp_path: Path) -> None:
    with stub() as judge, running(judge, tmp_path / "kept", "--protocol", "decide", token="") as server:
        assert len(server.token) >= 32
        assert len(server.post(["a"])["rewards"]) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--scoring", "pairs"), "--scoring"),
        (("--judge", "openai:x", "--max-cost", "1"), "state it with --price IN,OUT"),
        (("--protocol", "reward"), "is not a reward model"),
        (("-c", "harmles"), "did you mean 'harmless'"),
        (("--host", "192.0.2.1"), "--host 192.0.2.1: not an address of this machine"),
        (("--out", "{runs}"), "holds something else (revisions.jsonl)"),
    ],
)
def test_what_cannot_be_is_said_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], problem: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "revisions.jsonl").touch()
    typed = [word.replace("{runs}", str(tmp_path / "runs")) for word in words]
    out = () if "--out" in words else ("--out", str(tmp_path / "kept"))
    assert problem in failed("reward-server", "--judge", "openai:gpt-4.1-mini", *out, *typed)


# The examples for trainers elsewhere


def example(name: str) -> Any:
    """An example as a trainer loads it, by its path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that the examples find."""
    with stub() as judge, running(judge, tmp_path / "kept", "--protocol", "decide", "-k", "1") as server:
        monkeypatch.setenv("CAI_REWARD_URL", server.address)
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        yield server


def test_verl_gets_the_reward_of_a_reply(scored: Running) -> None:
    compute_score = example("reward_verl").compute_score
    expected = scored.post(["So."])["rewards"][0]
    info = {"prompt": [{"role": "user", "content": "How?"}]}
    verls = {"data_source": "own", "ground_truth": "", "extra_info": info}
    assert compute_score(solution_str="So.", **verls) == expected
    with pytest.raises(RuntimeError, match="the reward server answers 400: prompt: "):
        compute_score(solution_str="So.", **{**verls, "extra_info": {"prompt": []}})


def test_verl_is_told_what_stands_for_an_unknown_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    verl = example("reward_verl")
    monkeypatch.setattr(verl, "post", lambda body: {"rewards": [None], "problems": ["blocked"]})
    info = {"prompt": [{"role": "user", "content": "How?"}]}
    assert verl.compute_score("own", "So.", "", info, unknown=-1.0) == -1.0
    with pytest.raises(ValueError, match=r"blocked.*reward_kwargs\.unknown"):
        verl.compute_score("own", "So.", "", info)


def test_openrlhf_gets_the_rewards_of_replies(scored: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(tensor=tuple))  # importing it takes seconds
    reward_func = example("reward_openrlhf").reward_func
    [expected] = scored.post(["So."])["rewards"]
    prompt = "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n"
    answer = reward_func([f"<s>{prompt}So.<|im_end|>\n"], [prompt], ["How?"])
    assert answer == {"rewards": (expected,), "scores": (expected,), "extra_logs": {}}
    with pytest.raises(ValueError, match="the prompt is not in the query"):
        reward_func(["another"], [prompt], ["How?"])


def test_trl_gets_the_rewards_of_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, replies = ["How?"] * 3 + ["Why?"] * 2, ["a", "b", "c", "a", "a"]
    chats = {
        "prompts": [[{"role": "user", "content": prompt}] for prompt in prompts],
        "completions": [[{"role": "assistant", "content": reply}] for reply in replies],
    }
    judge_reward = example("reward_trl").judge_reward
    with stub("--vllm") as judge, running(judge, tmp_path / "kept", "--scoring", "group", "-k", "1") as server:
        monkeypatch.setenv("CAI_REWARD_URL", server.address)
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        expected = [*server.post(["a", "b", "c"])["rewards"], None, None]
        assert judge_reward(prompts=prompts, completions=replies, answer=["x"] * 5) == expected
        assert judge_reward(**chats) == expected
