"""The reward of TRL's GRPOTrainer or RLOOTrainer, from a `cai reward-server`; seen with TRL 1.16.

`cai train grpo` needs no server. This is for a TRL with vLLM, whose packages cannot be installed beside cai's:

    cai reward-server -c harmless --judge openai:gpt-4.1-mini --scoring group --max-cost 20 --port 8300
    export CAI_REWARD_URL=http://127.0.0.1:8300/score CAI_REWARD_TOKEN=…    # the server prints both

    trainer = GRPOTrainer(model, reward_funcs=[judge_reward], args=GRPOConfig(…), train_dataset=…)

Each process asks for the replies that are its own. With --scoring group these must be whole groups, so make
per_device_train_batch_size * steps_per_generation a multiple of num_generations: TRL does not ask for that. A reward
that is unknown is None, which TRL leaves out.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

AT_ONCE = 16  # groups that the server is asked about


def judge_reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """The rewards of replies, as TRL asks for them: those to one prompt side by side."""
    bodies = []
    for prompt, group in groupby(zip(prompts, completions, strict=True), key=lambda pair: pair[0]):
        bodies.append({"prompt": prompt, "replies": [text_of(reply) for _, reply in group]})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [reward for scored in pool.map(post, bodies) for reward in scored["rewards"]]


def text_of(completion: Any) -> str:
    """The text of a reply, which TRL writes as a conversation if the prompts are conversations."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def post(body: dict[str, Any]) -> dict[str, Any]:
    """What the server answers; an error says what it has to say."""
    headers = {"Authorization": f"Bearer {os.environ['CAI_REWARD_TOKEN']}"}
    request = Request(os.environ["CAI_REWARD_URL"], json.dumps(body).encode(), headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:  # no proxy sees the token
            return json.load(answer)
    except HTTPError as error:
        raise RuntimeError(f"the reward server answers {error.code}: {json.load(error)['problem']}") from None
