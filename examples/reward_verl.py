"""The reward of a verl training, from a `cai reward-server`; seen with verl 0.9.

    cai reward-server -c harmless --judge openai:gpt-4.1-mini --max-cost 20 --port 8300
    export CAI_REWARD_URL=http://127.0.0.1:8300/score CAI_REWARD_TOKEN=…    # the server prints both
    python -m verl.trainer.main_ppo … \\
        reward.custom_reward_function.path=examples/reward_verl.py \\
        +reward.custom_reward_function.reward_kwargs.unknown=0.0

verl asks about one reply at a time, so the server must score by point, not by group. It hands over no prompt: put that
into your data's column `extra_info`, as {"prompt": [{"role": "user", "content": …}]}. It has no unknown rewards: what
stands for one must be stated; 0 says that the reply keeps to the principles as likely as not.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any],
    unknown: float | None = None,
    **more: Any,
) -> float:
    """The reward of one reply, as verl asks for it."""
    prompt = [dict(turn) for turn in extra_info["prompt"]]
    scored = post({"prompt": prompt, "replies": [solution_str]})
    reward = scored["rewards"][0]
    if reward is None and unknown is None:
        raise ValueError(f"a reward is unknown ({scored['problems'][0]}): set reward_kwargs.unknown")
    return unknown if reward is None else reward


def post(body: dict[str, Any]) -> dict[str, Any]:
    """What the server answers; an error says what it has to say."""
    headers = {"Authorization": f"Bearer {os.environ['CAI_REWARD_TOKEN']}"}
    request = Request(os.environ["CAI_REWARD_URL"], json.dumps(body).encode(), headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:  # no proxy sees the token
            return json.load(answer)
    except HTTPError as error:
        raise RuntimeError(f"the reward server answers {error.code}: {json.load(error)['problem']}") from None
