"""A server command that serves no model: takes what `vllm` and `sglang` are told, answers as the stub does, or fails.

    python benchmarks/fake_server.py serve NAME --port 8000

It refuses options that vLLM 0.33 and SGLang 0.5.23 do not have. FAKE_SERVER in the environment, a JSON object, says how
it behaves; see Habits. `/health`, `/v1/models` and `/metrics` answer like vLLM's, adapters can be loaded as it runs,
and tokens (words) of a conversation whose beginning came before count as read from a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from stub import Connection, Stub

# Options and how many words follow each; None: any number.
VLLM = {
    "--host": 1, "--port": 1, "--served-model-name": 1, "--enable-prefix-caching": 0, "--max-logprobs": 1,
    "--scheduling-policy": 1, "--enable-prompt-tokens-details": 0, "--disable-uvicorn-access-log": 0, "--revision": 1,
    "--enable-lora": 0, "--max-lora-rank": 1, "--lora-modules": 1, "--data-parallel-size": 1, "--max-model-len": 1,
    "--gpu-memory-utilization": 1, "--dtype": 1, "--enforce-eager": 0,
}  # fmt: skip
SGLANG = {
    "--model-path": 1, "--host": 1, "--port": 1, "--served-model-name": 1, "--schedule-policy": 1,
    "--enable-priority-scheduling": 0, "--schedule-low-priority-values-first": 0, "--default-priority-value": 1,
    "--disable-priority-preemption": 0, "--enable-cache-report": 0, "--log-level-http": 1, "--revision": 1,
    "--enable-lora": 0, "--lora-paths": 1, "--data-parallel-size": 1, "--context-length": 1, "--mem-fraction-static": 1,
}  # fmt: skip


@dataclass
class Habits:
    """What the server does.

    says: printed at the start; status: with which it then exits. late: seconds until it is ready; never: it never is.
    dies_after: answers until it exits with status 1, after it has printed `last`. ignores_term: SIGTERM is not heard.
    forks: it has a child in its own group and one in a group of its own, which ignore SIGTERM. log: a file that gets
    each request, and before that the command line. latency: seconds of an answer.
    """

    says: str = ""
    status: int | None = None
    late: float = 0.0
    never: bool = False
    dies_after: int | None = None
    last: str = ""
    ignores_term: bool = False
    forks: bool = False
    log: str | None = None
    latency: float = 0.0
    words: int = 40


@dataclass
class Server(Stub):
    """The stub as this server: by what names it goes, and which conversations it has seen."""

    names: tuple[str, ...] = ()
    has_priorities: bool = False
    habits: Habits = field(default_factory=Habits)
    answered: int = 0
    beginnings: set[int] = field(default_factory=set)
    asked_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0

    def cached(self, messages: list[dict[str, Any]]) -> int:
        """Words of the longest beginning that has been seen; all of this one's are seen from now on."""
        so_far, words, cached = 0, 0, 0
        for message in messages:
            so_far = hash((so_far, message["role"], message["content"]))
            words += len(message["content"].split())
            if so_far in self.beginnings:
                cached = words
            self.beginnings.add(so_far)
        self.asked_tokens += words
        self.cached_tokens += cached
        return cached

    def metrics(self) -> str:
        """The counters that benchmarks read of vLLM."""
        counts = {
            "prompt_tokens_total": self.asked_tokens,
            "generation_tokens_total": self.written_tokens,
            "prefix_cache_queries_total": self.asked_tokens,
            "prefix_cache_hits_total": self.cached_tokens,
            "num_preemptions_total": 0,
        }
        return "".join(f'vllm:{name}{{engine="0"}} {count}.0\n' for name, count in counts.items())

    def note(self, what: Any) -> None:
        if self.habits.log is not None:
            with open(self.habits.log, "ab") as file:
                file.write(orjson.dumps(what) + b"\n")


class Answering(Connection):
    """A connection to the server."""

    stub: Server

    def handle(self, method: bytes, path: str, head: bytes, body: bytes) -> None:
        server = self.stub
        if path == "/health":
            return self.write(200, b"")
        if path == "/v1/models":
            models = [{"id": name, "object": "model", "max_model_len": 4096} for name in server.names]
            return self.write(200, orjson.dumps({"object": "list", "data": models}))
        if path == "/metrics":
            return self.write(200, server.metrics().encode(), "text/plain")
        if method == b"POST" and path.endswith("_lora_adapter"):
            return self.write(*self.adapted(path, orjson.loads(body)))
        if method == b"POST" and path.endswith("/completions"):
            payload = orjson.loads(body)
            server.note(payload)
            refusal = self.refusal(payload)
            if refusal is not None:
                return self.write(*refusal)
            server.cached(payload.get("messages") or [])
            if server.answered == server.habits.dies_after:
                print(server.habits.last, flush=True)
                os._exit(1)
            server.answered += 1
            server.written_tokens += server.habits.words
            payload.pop("priority", None)  # an answer does not depend on when it is given
            if payload.get("return_token_ids"):
                return self.write(*self.drawn(payload))
            body = orjson.dumps(payload)
        return super().handle(method, path, head, body)

    def adapted(self, path: str, payload: dict[str, Any]) -> tuple[int, bytes]:
        """Load or unload an adapter while the server runs."""
        server, name = self.stub, payload["lora_name"]
        server.note({"path": path, **payload})
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "False") != "True":
            return 404, b'{"detail":"Not Found"}'
        if path.endswith("/unload_lora_adapter"):
            if name not in server.names:
                return 404, b'{"error":{"message":"The lora adapter cannot be found."}}'
            server.names = tuple(other for other in server.names if other != name)
        elif not Path(payload["lora_path"], "adapter_model.safetensors").exists():
            return 404, b'{"error":{"message":"No adapter found."}}'
        else:
            server.names = tuple(dict.fromkeys((*server.names, name)))
        return 200, b"Success"

    def drawn(self, payload: dict[str, Any]) -> tuple[int, bytes]:
        """Replies in tokens, below the highest of the prompt's: the nth follows from the seed and n."""
        most, ends = max(payload["prompt"]), payload["stop_token_ids"]
        choices = []
        for number in range(payload["n"]):
            dice = random.Random(payload["seed"] + number)
            tokens = [dice.randrange(1, most) for _ in range(payload["max_tokens"])]
            place = next((place for place, token in enumerate(tokens) if token in ends), None)
            finish = "length" if place is None else "stop"
            tokens = tokens[: None if place is None else place + 1]
            choices.append({"index": number, "text": "", "token_ids": tokens, "finish_reason": finish})
        choices.reverse()  # they come as they are finished
        return 200, orjson.dumps({"object": "text_completion", "model": payload["model"], "choices": choices})

    def refusal(self, payload: dict[str, Any]) -> tuple[int, bytes] | None:
        if payload["model"] not in self.stub.names:
            message = f"The model `{payload['model']}` does not exist."
            return 404, orjson.dumps({"error": {"message": message, "type": "NotFoundError", "code": 404}})
        if payload.get("priority") and not self.stub.has_priorities:
            message = "Got priority but Priority scheduling is not enabled."
            return 400, orjson.dumps({"error": {"message": message, "type": "BadRequestError", "code": 400}})
        return None


def read(words: list[str]) -> argparse.Namespace:
    """The command line; exits with 2, as argparse does, for an option that the server does not have."""
    parser = argparse.ArgumentParser(prog="fake_server", allow_abbrev=False)
    is_sglang = "--model-path" in words
    parser.add_argument("verb", choices=["serve"])
    if not is_sglang:
        parser.add_argument("model_path")
    for name, count in (SGLANG if is_sglang else VLLM).items():
        parser.add_argument(name, **({"action": "store_true"} if count == 0 else {}))
    return parser.parse_args(words)


def names_of(args: argparse.Namespace) -> tuple[str, ...]:
    """What the models that it serves are called."""
    module = json.loads(getattr(args, "lora_modules", None) or getattr(args, "lora_paths", None) or "{}")
    names = [args.served_model_name or args.model_path, module.get("name") or module.get("lora_name")]
    return tuple(filter(None, names))


def fork() -> None:
    """A child in this group, and one in a group of its own; SIGTERM ends neither."""
    sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for alone in (False, True):
        subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=alone)


async def serve(server: Server, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Answering(server), host, port, backlog=4096)
    await listening.serve_forever()


def main() -> None:
    args = read(sys.argv[1:])
    habits = Habits(**json.loads(os.environ.get("FAKE_SERVER", "{}")))
    server = Server(latency=habits.latency, words=habits.words, vllm=True, names=names_of(args), habits=habits)
    server.has_priorities = getattr(args, "scheduling_policy", None) == "priority" or args.enable_priority_scheduling
    server.note(sys.argv[1:])
    if habits.says:
        print(habits.says, flush=True)
    if habits.forks:
        fork()
    if habits.ignores_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if habits.status is not None:
        sys.exit(habits.status)
    time.sleep(1e9 if habits.never else habits.late)
    asyncio.run(serve(server, args.host, int(args.port)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
