"""The reward server: who is answered, with what, and what is said of anything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_judges import Rater, judge, law

import cai.rewards.server as server
from cai.errors import AuthenticationFailed, ModelFault
from cai.records import Completion
from cai.rewards.server import MOST_REPLIES, BadRequest, Scorer, asked, serving

TOKEN = "secret-of-a-test"
Post = Callable[..., Awaitable[tuple[int, Any]]]
BODY = {"prompt": "How?", "replies": ["+1 a", "-1 b"]}


def served(reward: Any, talk: Callable[[Post], Awaitable[Any]]) -> Any:
    """What a client gets from a server of this reward."""
    return served_at(reward, lambda post, address: talk(post))


def served_at(reward: Any, talk: Callable[[Post, str], Awaitable[Any]]) -> Any:
    """The same, for a client that is told the address."""

    async def run() -> Any:
        async with serving(Scorer(reward), "127.0.0.1", 0, TOKEN) as address, aiohttp.ClientSession() as session:

            async def post(body: Any = None, token: str | None = TOKEN, **how: Any) -> tuple[int, Any]:
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                data = body if isinstance(body, bytes) else json.dumps(body or BODY)
                url = address.removesuffix("/score") + how.get("path", "/score")
                async with session.request(how.get("method", "POST"), url, data=data, headers=headers) as answer:
                    return answer.status, json.loads(await answer.read())

            try:
                return await talk(post, address)
            finally:
                await reward.close()

    return asyncio.run(run())


@pytest.mark.parametrize("scoring", ["point", "group"])
def test_replies_are_rated_with_the_votes_that_the_rewards_follow_from(tmp_path: Path, scoring: str) -> None:
    status, values = served(judge(tmp_path, Rater(), law(1, 1), scoring=scoring), lambda post: post())
    assert status == 200
    assert values["rewards"] == pytest.approx([1, -1] if scoring == "point" else [2, -2])
    assert values["problems"] == [None, None]
    numbers = [[vote["odds" if scoring == "point" else "d"] for vote in votes] for votes in values["votes"]]
    assert [sum(each) / len(each) for each in numbers] == pytest.approx(values["rewards"])


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    shown: list[str] = []

    class Listening(Rater):
        def _answer(self, payload: dict[str, Any]) -> Completion:
            shown.append(payload["messages"][-1]["content"])
            return super()._answer(payload)

    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Why?"},
    ]
    status, _ = served(judge(tmp_path, Listening()), lambda post: post({**BODY, "prompt": turns}))
    assert status == 200 and "System: Be brief." in shown[0] and "Assistant: So." in shown[0]


@pytest.mark.parametrize("token", [None, "", "wrong", "secret-of-a-tes", "sécret"])
def test_who_lacks_the_token_is_refused_before_anything_is_asked(tmp_path: Path, token: str | None) -> None:
    rater = Rater()
    status, values = served(judge(tmp_path, rater), lambda post: post(token=token))
    assert status == 401 and "token" in values["problem"]
    assert rater.calls == 0


DEEP: Any = {}
for _ in range(900):
    DEEP = {"a": DEEP}
BAD = [
    (b"", "the body is not JSON"),
    (b"\xff\xfe", "the body is not JSON"),
    (b'{"prompt": "How?", "replies": ["\\ud800"]}', "the body is not JSON"),
    (b"[" * 100_000, "the body is not JSON"),
    (b"[]", "Input should be"),
    (b'{"prompt": "How?"}', "replies: Field required"),
    (b'{"prompt": "How?", "replies": []}', "replies: List should have at least 1 item"),
    (b'{"prompt": "How?", "replies": "a"}', "replies: Input should be a valid"),
    (b'{"prompt": "How?", "replies": [1]}', "replies.0: Input should be a valid string"),
    (b'{"prompt": "How?", "replies": ["a"], "n": 1}', "n: Extra inputs are not permitted"),
    (b'{"prompt": 1, "replies": ["a"]}', "prompt.str: Input should be a valid string"),
    (b'{"prompt": " ", "replies": ["a"]}', "prompt: "),
    (b'{"prompt": [], "replies": ["a"]}', "prompt: "),
    (b'{"prompt": [{"role": "king", "content": "x"}], "replies": ["a"]}', "prompt: "),
    (b'{"prompt": [{"role": "user"}], "replies": ["a"]}', "prompt: "),
    (
        b'{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure"}], "replies": ["a"]}',
        "prompt: it must end with the user",
    ),
    (
        json.dumps({"prompt": [{"role": DEEP, "content": "x"}], "replies": ["a"]}).encode(),
        "prompt: turn 1 has a role of type dict, not text",
    ),
    (json.dumps({"prompt": [{"role": "user", "content": DEEP}], "replies": ["a"]}).encode(), "prompt: "),
    (json.dumps({"prompt": [DEEP], "replies": ["a"]}).encode(), "prompt: "),
    (json.dumps({"prompt": "How?", "replies": [DEEP]}).encode(), "replies.0: Input should be a valid string"),
    (json.dumps({"prompt": "How?", "replies": ["a"] * (MOST_REPLIES + 1)}).encode(), "List should have at most"),
]


@pytest.mark.parametrize(("body", "problem"), BAD)
def test_a_body_that_cannot_be_is_refused_with_what_is_wrong(body: bytes, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem.replace(".", r"\.")) as refused:
        asked(body)
    assert "\n" not in str(refused.value)


@settings(max_examples=200)
@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["prompt", "replies", "role", "content"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        prompt, replies = asked(body)
    except BadRequest:
        return
    assert prompt[-1]["role"] == "user" and replies


def test_refusals_have_their_own_status_and_leave_the_server_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_BODY", 1_024)

    async def talk(post: Post) -> None:
        assert (await post(b"{"))[0] == 400
        status, values = await post(b" " * 1_025)
        assert status == 413 and "the body has more than" in values["problem"]
        assert (await post(path="/"))[0] == 404
        assert (await post(method="PUT"))[0] == 405
        assert (await post())[0] == 200

    served(judge(tmp_path, Rater()), talk)


def test_over_the_cap_it_answers_402_and_what_is_known_still(tmp_path: Path) -> None:
    rater = Rater()
    rater.provider = "rater"

    async def talk(post: Post) -> None:
        assert (await post())[0] == 200
        status, values = await post({**BODY, "replies": [f"+1 {number}" for number in range(50)]})
        assert status == 402 and values["problem"].startswith("--max-cost 0.003 USD:")
        assert (await post())[0] == 200

    served(judge(tmp_path, rater, max_cost=0.003), talk)


def test_a_question_that_the_cap_does_not_allow_stops_no_smaller_one(tmp_path: Path) -> None:
    rater = Rater()
    rater.provider = "rater"

    async def talk(post: Post) -> None:
        assert (await post({"prompt": "How? " * 10_000, "replies": ["+1 a"]}))[0] == 402
        assert (await post())[0] == 200

    served(judge(tmp_path, rater, max_cost=0.01), talk)


def test_a_key_that_is_refused_once_is_tried_again(tmp_path: Path) -> None:
    class Locked(Rater):
        locked = True

        def _answer(self, payload: dict[str, Any]) -> Completion:
            if self.locked:
                raise AuthenticationFailed("wrong key")
            return super()._answer(payload)

    rater = Locked()

    async def talk(post: Post) -> None:
        assert (await post())[0] == 503
        rater.locked = False
        assert (await post())[0] == 200

    served(judge(tmp_path, rater), talk)


def test_a_judge_that_is_down_is_503_until_it_is_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.calls.flow.backoff", lambda attempt, fault: 0.0)

    class Failing(Rater):
        down = True

        def _answer(self, payload: dict[str, Any]) -> Completion:
            if self.down:
                raise ModelFault("connection refused")
            return super()._answer(payload)

    rater = Failing()

    async def talk(post: Post) -> None:
        status, values = await post()
        assert status == 503 and "connection refused" in values["problem"]
        rater.down = False
        assert (await post())[0] == 200

    served(judge(tmp_path, rater), talk)


def test_too_many_requests_at_once_are_asked_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_AT_ONCE", 2)
    gate = asyncio.Event()

    class Slow(Rater):
        async def send(self, payload: dict[str, Any]) -> Completion:
            await gate.wait()
            return await super().send(payload)

    async def talk(post: Post) -> None:
        held = [asyncio.ensure_future(post({"prompt": "How?", "replies": [f"+1 {n}"]})) for n in range(3)]
        done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        [(status, values)] = [task.result() for task in done]
        assert status == 429 and "later" in values["problem"]
        gate.set()
        assert sorted([(await task)[0] for task in held]) == [200, 200, 429]

    served(judge(tmp_path, Slow()), talk)


def test_texts_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_TEXT", 1_000)

    async def talk(post: Post) -> None:
        status, values = await post({"prompt": "How? " * 60, "replies": ["+1 a", "+2 b", "+3 c", "+4 d"]})
        assert status == 413 and "post fewer at once" in values["problem"]
        assert (await post({"prompt": "How? " * 60, "replies": ["+1 a"]}))[0] == 200

    served(judge(tmp_path, Rater()), talk)


BROKEN = {
    "a length below 0": b"Content-Length: -1\r\n\r\n",
    "a header that never ends": b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "a chunk that is none": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a body that is cut off": b"Content-Length: 100\r\nAuthorization: Bearer secret-of-a-test\r\n\r\n{",
    "a damaged archive": (
        b"Content-Length: 3\r\nContent-Encoding: gzip\r\nAuthorization: Bearer secret-of-a-test\r\n\r\nabc"
    ),
}


@pytest.mark.parametrize("rest", BROKEN.values(), ids=BROKEN)
def test_what_is_no_request_leaves_no_trace_and_the_server_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: bytes
) -> None:
    async def talk(post: Post, address: str) -> None:
        host, port = address.removeprefix("http://").partition("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /score HTTP/1.1\r\nHost: x\r\n" + rest)
        await writer.drain()
        if b"100" not in rest:
            head = await reader.readline()
            assert head == b"" or head.split()[1] in (b"400", b"401")
        writer.close()
        assert (await post())[0] == 200

    served_at(judge(tmp_path, Rater()), talk)
    assert {record.name for record in caplog.records if record.levelname in ("ERROR", "WARNING")} <= {
        server.requests.name
    }
    assert not server.requests.propagate


def test_a_price_that_is_not_known_is_not_shown_as_nothing(tmp_path: Path) -> None:
    rater = Rater()
    rater.provider = "rater"
    scorer = Scorer(judge(tmp_path, rater, price=None))

    async def run() -> None:
        async with serving(scorer, "127.0.0.1", 0, TOKEN) as address, aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with session.post(address, data=json.dumps(BODY), headers=headers) as answered:
                assert answered.status == 200
        await scorer._reward.close()

    asyncio.run(run())
    assert [*scorer.lines()][1].endswith("price unknown")


def test_an_error_that_nobody_expects_is_told_on_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Rater):
        def _answer(self, payload: dict[str, Any]) -> Completion:
            raise ZeroDivisionError("division by zero")

    async def talk(post: Post) -> None:
        status, values = await post()
        assert status == 500 and "ZeroDivisionError: division by zero; this is a bug in cai" in values["problem"]

    served(judge(tmp_path, Broken()), talk)
    assert "ZeroDivisionError" in caplog.text
