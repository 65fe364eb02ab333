"""The reward of an OpenRLHF training, from a `cai reward-server`; seen with OpenRLHF 0.11.

    cai reward-server -c harmless --judge openai:gpt-4.1-mini --max-cost 20 --port 8300
    export CAI_REWARD_URL=http://127.0.0.1:8300/score CAI_REWARD_TOKEN=…    # the server prints both
    python -m openrlhf.cli.train_ppo_ray … \\
        --reward.remote_url examples/reward_openrlhf.py --data.label_key question

(`--remote_rm_url` before 0.11.) OpenRLHF asks about one reply at a time, so the server must score by point, not by
group. It hands over the prompt as its chat template writes it; the judge is shown the label in its place if there is
one, so name the column of the bare question as the label. A reward that is unknown is an error, which OpenRLHF logs:
the sample has then no reward.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

END = re.compile(r"(?:<\|[^|<>]+\|>|<end_of_turn>|</s>|\s)+\Z")  # the tokens that end a reply


def reward_func(queries: list[str], prompts: list[str], labels: list[str | None]) -> dict[str, Any]:
    """The rewards of replies, as OpenRLHF asks for them; queries: prompts with their replies."""
    import torch

    rewards = torch.tensor([reward_of(*each) for each in zip(queries, prompts, labels, strict=True)])
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}


def reward_of(query: str, prompt: str, label: str | None) -> float:
    _, found, reply = query.partition(prompt)  # a begin token may stand before
    if not found:
        raise ValueError(f"the prompt is not in the query: {query[:80]!r}")
    scored = post({"prompt": label or prompt, "replies": [END.sub("", reply)]})
    [reward] = scored["rewards"]
    if reward is None:
        raise ValueError(f"the reward is unknown: {scored['problems'][0]}")
    return reward


def post(body: dict[str, Any]) -> dict[str, Any]:
    """What the server answers; an error says what it has to say."""
    headers = {"Authorization": f"Bearer {os.environ['CAI_REWARD_TOKEN']}"}
    request = Request(os.environ["CAI_REWARD_URL"], json.dumps(body).encode(), headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:  # no proxy sees the token
            return json.load(answer)
    except HTTPError as error:
        raise RuntimeError(f"the reward server answers {error.code}: {json.load(error)['problem']}") from None
