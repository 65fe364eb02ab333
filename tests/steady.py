"""A model server on loopback whose every answer is a function of what it is asked; prompts say what goes wrong.

A prompt that holds `[truncated]` gets a reply that was cut off, `[empty critique]` a critique without text, and
`[sometimes filtered]` a filtered reply for half of the seeds. What can stand in the brackets is `KINDS`, for one of
`STEPS`. `[held …]` gets no answer and `[flaky …]` is refused as long as the server is `rough`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import Server, running

Payload = dict[str, Any]
STEPS = ("reply", "critique", "gate", "revision", "reasons", "judge", "scale")
OF_FINISH = ("truncated", "empty", "filtered", "refused", "flaky", "held")
OF_TEXT = ("leak", "mixup", "same", "near", "declines", "long", "unreadable")
KINDS = OF_FINISH + OF_TEXT
MARK = re.compile(rf"\[(sometimes )?({'|'.join(KINDS)})(?: ({'|'.join(STEPS)}))?\]")
VOCABULARY = """
water stone river light morning garden careful honest number simple window letter market paper travel bridge kitchen
doctor school winter summer island forest music story friend question harbour copper silver wooden quiet early gentle
steady open narrow broad distant common useful plain curious patient brief clear fresh level round cotton sugar bread
"""
WORDS = VOCABULARY.split()


def number(*parts: object) -> int:
    """A number that depends on these alone."""
    text = json.dumps(parts, sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def sentences(seed: int, count: int) -> str:
    """`count` words in sentences of six."""
    drawn = [WORDS[number(seed, place) % len(WORDS)] for place in range(count)]
    groups = [" ".join(drawn[start : start + 6]) for start in range(0, count, 6)]
    return " ".join(f"{group.capitalize()}." for group in groups)


def worth(reply: str) -> float:
    """How good a reply is in the eyes of the judge, from 0 to 1."""
    return number("worth", reply.strip()) % 1000 / 1000


def text_of(payload: Payload) -> str:
    """Everything that is asked, as one text."""
    if "prompt" in payload:
        return str(payload["prompt"])
    turns = [turn["content"] for turn in payload["messages"]]
    return "\n\n".join([payload.get("system", ""), *turns])


def step_of(payload: Payload) -> str:
    """Which of `STEPS` a request is for."""
    asked = text_of(payload)
    if "Answer with the single word Yes" in asked[-100:]:
        return "gate"
    if "Answer with the single digit of the level." in asked[-100:]:
        return "scale"
    if payload.get("logprobs") or "Answer with the single letter A or B." in asked[-100:]:
        return "judge"
    if "Do not choose yet." in asked[-200:]:
        return "reasons"
    if "Write only the new reply" in asked[-200:] or asked.endswith("Revision:"):
        return "revision"
    if "Do not write a new reply yet." in asked[-300:] or asked.endswith("Critique:"):
        return "critique"
    return "reply"


def kinds_of(payload: Payload) -> set[str]:
    """What the prompt says about this step."""
    step = step_of(payload)
    kinds = set()
    for sometimes, kind, named in MARK.findall(text_of(payload)):
        if (named or "reply") != step:
            continue
        if not sometimes or number("sometimes", payload) % 2:
            kinds.add(kind)
    return kinds


def preference(payload: Payload) -> float:
    """Log odds that the judge names the first reply: by what both are worth, a bias to the first, and noise."""
    first, second = replies_in(text_of(payload))
    noise = number("noise", payload) % 1000 / 1000 - 0.5
    return 6 * (worth(first) - worth(second)) + 0.4 + 2 * noise


def replies_in(asked: str) -> tuple[str, str]:
    """The two replies that a judge is shown."""
    first = asked.rsplit("<reply_a>\n", 1)[1].split("\n</reply_a>")[0]
    second = asked.rsplit("<reply_b>\n", 1)[1].split("\n</reply_b>")[0]
    return first, second


def begun(payload: Payload) -> str:
    """What stands before the letter: a space after an answer that was begun."""
    return " " if "continue_final_message" in payload else ""


def levels(payload: Payload) -> dict[int, float]:
    """The probabilities of the levels: high for a reply that is worth much, and 0.98 together."""
    reply = text_of(payload).rsplit("<reply>\n", 1)[1].split("\n</reply>")[0]
    weights = {level: math.exp(-abs(level - 1 - 4 * worth(reply))) for level in range(1, 6)}
    return {level: 0.98 * weight / sum(weights.values()) for level, weight in weights.items()}


def letters(payload: Payload) -> dict[str, float]:
    """The log probabilities of the judge's letters, or of the words of the gate."""
    space = begun(payload)
    if step_of(payload) == "scale":
        if "unreadable" in kinds_of(payload):
            return {"The": -0.1, " reply": -6.0}
        return {f"{space}{level}": round(math.log(share), 6) for level, share in levels(payload).items()}
    if step_of(payload) == "gate":
        no = number("gate", payload) % 3 == 0
        listed = {f"{space}Yes": -2.5 if no else -0.1, f"{space}No": -0.1 if no else -2.5}
        return {"The": -0.1, " reply": -6.0} if "unreadable" in kinds_of(payload) else listed | {"It": -9.0}
    p = 1 / (1 + math.exp(-preference(payload)))
    listed = {f"{space}A": round(math.log(p * 0.98), 6), f"{space}B": round(math.log((1 - p) * 0.98), 6)}
    if "unreadable" in kinds_of(payload):
        return {"The": -0.01, " reply": -6.0}
    return listed


def answer(payload: Payload) -> tuple[str, str]:
    """The text, and why it ended: stop, length or content_filter."""
    kinds, step = kinds_of(payload), step_of(payload)
    if "truncated" in kinds:
        return sentences(number(payload), 8), "length"
    if "filtered" in kinds:
        return "", "content_filter"
    if "empty" in kinds:
        return " ", "stop"
    return _text(payload, step, kinds), "stop"


def _text(payload: Payload, step: str, kinds: set[str]) -> str:
    if step == "judge":
        if "unreadable" in kinds:
            return "Neither."
        return begun(payload) + ("A" if preference(payload) > 0 else "B")
    if step == "scale":
        shares = levels(payload)
        likeliest = max(shares, key=shares.__getitem__)
        return "It is fair." if "unreadable" in kinds else f"{begun(payload)}{likeliest}"
    if step == "gate":
        if "unreadable" in kinds:
            return "It depends."
        return begun(payload) + ("No" if number("gate", payload) % 3 == 0 else "Yes")
    seed = number(payload)
    if step == "critique":
        return sentences(seed, 12)
    if "declines" in kinds:
        return f"I'm sorry, but I can't help with {'that' if seed % 2 else 'this'}."
    if "same" in kinds:
        return sentences(7, 14)
    if "near" in kinds:
        return f"{sentences(7, 60)} {WORDS[seed % len(WORDS)].capitalize()}."
    words = sentences(seed, 150 if "long" in kinds else 12 + seed % 20)
    if "leak" in kinds:
        return f"Here is a revised reply: {words}"
    if "mixup" in kinds:
        return f"{words}\n\nHuman: And then?\n\nAssistant: Then the other."
    return words


def body(path: str, payload: Payload) -> dict[str, Any]:
    """The answer in the wire format of a path."""
    text, finish = answer(payload)
    sent, drawn = len(text_of(payload)) // 4, len(text.split())
    if path.endswith("/messages"):
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        return {
            "type": "message", "role": "assistant", "model": payload["model"], "stop_reason": reasons[finish],
            "content": [{"type": "text", "text": text}], "usage": {"input_tokens": sent, "output_tokens": drawn},
        }  # fmt: skip
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if path.endswith("/chat/completions"):
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    if payload.get("logprobs"):
        listed = letters(payload)
        best = max(listed, key=listed.__getitem__)
        choice["message"]["content"] = best
        top = [{"token": token, "logprob": value} for token, value in listed.items()]
        choice["logprobs"] = {"content": [{"token": best, "logprob": listed[best], "top_logprobs": top}]}
    usage = {"prompt_tokens": sent, "completion_tokens": drawn, "total_tokens": sent + drawn}
    return {"object": "completion", "model": f"{payload['model']}-1", "choices": [choice], "usage": usage}


class Steady:
    """The server. rough: whether it holds and refuses what is marked so.

    asked: the step of every request that came; answered, refused: how many got a 200 and a 400.
    """

    def __init__(self) -> None:
        self.rough = False
        self.asked: list[str] = []
        self.answered = 0
        self.refused = 0
        self.url = ""
        self._released = threading.Event()

    def respond(self, path: str, payload: Payload) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None: no answer at all."""
        self.asked.append(step_of(payload))
        kinds = kinds_of(payload)
        if self.rough and "held" in kinds:
            self._released.wait()
            return None
        if "refused" in kinds or (self.rough and "flaky" in kinds):
            self.refused += 1
            return 400, {"error": {"message": "this prompt is not answered", "type": "steady", "code": None}}
        self.answered += 1
        return 200, body(path, payload)

    def release(self) -> None:
        """Let the requests go that were held; they still get no answer."""
        self._released.set()


@contextmanager
def steady(kind: type[Steady] = Steady) -> Iterator[Any]:
    """Run the server in a thread."""
    server = kind()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            response = server.respond(self.path, payload)
            if response is None:
                self.close_connection = True
                return
            status, content = response
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                super().handle()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    with running(Server(Handler)) as server.url:
        try:
            yield server
        finally:
            server.release()
