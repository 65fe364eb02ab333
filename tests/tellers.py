"""A server whose answers have a length, so that a limit of tokens cuts some of them, always in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from habits import Answer, Asked, Habits, Mode, answer, chat, listed, serving
from players import digits

WORDS = (
    "bread", "butter", "cheese", "apple", "honey", "lemon", "olive", "pepper", "garlic", "onion", "carrot", "potato",
    "tomato", "basil", "thyme", "sage",
)  # fmt: skip
MODE = "teller"
Odd = Callable[[str, int], "Answer | None"]  # of the last turn, and how often it was asked about


def words_for(payload: Mapping[str, Any], longest: int) -> list[str]:
    """What the server has to say: 2 to `longest` words, which depend on the question, and not on the limit."""
    question = payload["model"], payload["messages"], payload.get("seed")
    number = digits(question)
    return [WORDS[digits(question, place) % len(WORDS)] for place in range(2 + number % (longest - 1))]


@dataclass
class Teller:
    """A server that counts: `asked` are the payloads that it was sent, in order."""

    url: str
    habits: Habits
    before: int = 0

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What was asked since the last `forget`."""
        return [asked.payload for asked in self.habits.asked(MODE)[self.before :] if asked.raw]

    def forget(self) -> None:
        self.before = len(self.habits.asked(MODE))


@contextmanager
def telling(longest: int = 12, odd: Odd | None = None) -> Iterator[Teller]:
    """Serve answers of up to so many words, each a token; odd: another answer to some questions."""
    counts: dict[str, int] = {}

    def reply(asked: Asked) -> Answer:
        if not asked.raw:  # which models there are, or what else the server can do
            return answer({"error": {"message": "not found"}}, 404)
        payload = asked.payload
        last = payload["messages"][-1]["content"]
        question = orjson.dumps([payload["messages"], payload.get("seed")]).decode()
        counts[question] = counts.get(question, 0) + 1
        special = None if odd is None else odd(last, counts[question])
        if special is not None:
            return special
        if payload.get("top_logprobs"):
            share = digits(payload["messages"]) % 9 - 4
            letters = listed(("A", -0.5), ("B", -0.5 - share / 4), ("Yes", -0.7), ("No", -0.8))
            return answer(chat("A", choice={"logprobs": letters}))
        words = words_for(payload, longest)
        most = payload.get("max_tokens", payload.get("max_completion_tokens"))
        kept = words if most is None else words[:most]
        finish = "stop" if len(kept) == len(words) else "length"
        usage = {"prompt_tokens": 10, "completion_tokens": len(kept), "total_tokens": 10 + len(kept)}
        return answer(chat(" ".join(kept), finish, usage=usage, model="teller-1"))

    with serving({MODE: Mode(reply)}) as habits:
        yield Teller(habits.url(MODE), habits)
