"""The server of `cai reward-server`: rates replies that trainers elsewhere post to /score.

The token is asked for before a body is read. A page in a browser has no way to send it: a header of another site's
page needs a permission that this server never gives.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import orjson
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cai.calls.prices import Price, Tally
from cai.errors import BudgetReached, CaiError, ModelStopped
from cai.listening import listener, unheard, until_interrupted
from cai.records import Message, Values
from cai.rewards.completions import plain
from cai.rewards.reward import Rated
from cai.sources.conversations import to_prompt
from cai.sources.values import BadRecord
from cai.sources.yamlfile import first_fault
from cai.texts.wording import counted, one_line

log = logging.getLogger("cai")
requests = unheard("cai.rewards.requests")
MOST_BODY = 8 * 2**20  # bytes
MOST_REPLIES = 1_024  # to one prompt
MOST_AT_ONCE = 512  # requests; each holds its texts in memory while its judge is asked
# Characters of the prompt, once for each reply, and of the replies: of one request, and of all that are answered. Each
# question has its own copy until it is asked, so the memory is a few times as much, by principles and orders.
MOST_TEXT = 2**24
MOST_TEXT_AT_ONCE = 2**25
GRACE = 5.0  # seconds that answers get to end when the server does
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Rates(Protocol):
    """A reward that says what its numbers follow from."""

    async def rate(self, prompts: list[tuple[Message, ...]], replies: list[str]) -> list[Rated]:
        """The rewards with the votes that they follow from."""

    async def close(self) -> None:
        """Release what the calls took."""

    @property
    def tally(self) -> Tally:
        """What happened to its calls."""

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None if that is not known."""


class Body(BaseModel):
    """What is posted: the replies to one prompt, which is a text or a conversation that ends with the user."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | list[Any]
    replies: list[str] = Field(min_length=1, max_length=MOST_REPLIES)


class Scorer:
    """Answers requests. rated, unknown: how many replies it has rated, and those of them that got no number."""

    def __init__(self, reward: Rates) -> None:
        self._reward = reward
        self._present = 0  # requests that are being answered
        self._text = 0  # characters of these
        self.rated = self.unknown = 0

    def lines(self) -> Iterator[str]:
        """What was answered, for people to read."""
        tally = self._reward.tally
        yield f"{counted(self.rated, 'reply')} rated, {self.unknown} unknown"
        cost = "price unknown" if tally.sent and self._reward.price is None else f"{tally.cost:.4f} USD"
        yield f"{counted(tally.sent, 'call')}, {tally.replayed:,} answered from the folder, {cost}"

    async def score(self, request: web.Request) -> web.Response:
        """The rewards of the replies in a request, or the problem with it, as JSON."""
        if self._present >= MOST_AT_ONCE:
            return self._busy()
        self._present += 1
        try:
            return await self._within_bounds(*asked(await request.read()))
        except BadRequest as bad:
            return answer({"problem": str(bad)}, 400)
        except (web.RequestPayloadError, ContentEncodingError) as error:
            return answer({"problem": f"the body cannot be read: {one_line(error)}"}, 400)
        finally:
            self._present -= 1

    def _busy(self) -> web.Response:
        problem = f"{counted(self._present, 'request')} are being answered: send this one again later"
        return answer({"problem": problem}, 429, {"Retry-After": "1"})

    async def _within_bounds(self, prompt: tuple[Message, ...], replies: list[str]) -> web.Response:
        text = len(replies) * sum(len(turn["content"]) for turn in prompt) + sum(map(len, replies))
        if text > MOST_TEXT:
            problem = f"{len(replies):,} replies and the prompt for each have {text:,} characters: post fewer at once"
            return answer({"problem": problem}, 413)
        if self._text + text > MOST_TEXT_AT_ONCE:
            return self._busy()
        self._text += text
        try:
            return await self._rated(prompt, replies)
        finally:
            self._text -= text

    async def _rated(self, prompt: tuple[Message, ...], replies: list[str]) -> web.Response:
        try:
            rated = await self._reward.rate([prompt] * len(replies), replies)
        except BudgetReached as error:
            return answer({"problem": str(error)}, 402)
        except ModelStopped as error:
            log.warning("%s", error)
            return answer({"problem": str(error)}, 503)
        except CaiError as error:
            log.warning("%s", error)
            return answer({"problem": str(error)}, 500)
        self.rated += len(rated)
        self.unknown += sum(each.reward is None for each in rated)
        return answer(
            {
                "rewards": [each.reward for each in rated],
                "votes": [each.votes for each in rated],
                "problems": [each.problem for each in rated],
            }
        )


class BadRequest(Exception):
    """What is wrong with a body."""


def asked(raw: bytes) -> tuple[tuple[Message, ...], list[str]]:
    """The prompt and the replies in a body; BadRequest if it is not such a one."""
    try:
        body = Body.model_validate(orjson.loads(raw))
        if isinstance(body.prompt, str):
            return to_prompt([{"role": "user", "content": body.prompt}]).messages, body.replies
        messages = to_prompt(body.prompt, "messages").messages
        if len(messages) != len(body.prompt):
            raise BadRequest("prompt: it must end with the user; what the assistant has begun belongs into the replies")
        return messages, body.replies
    except orjson.JSONDecodeError as error:
        raise BadRequest(f'the body is not JSON ({error}): post {{"prompt": …, "replies": […]}}') from None
    except ValidationError as error:
        raise BadRequest(f'{first_fault(error)}: post {{"prompt": …, "replies": […]}}') from None
    except BadRecord as bad:
        raise BadRequest(f"prompt: {bad.problem}") from None


def only_with(token: str) -> Middleware:
    """Refuses whoever lacks the token, and words all refusals as JSON."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(expected, given):
            return answer({"problem": "the token is missing or wrong: Authorization: Bearer TOKEN"}, 401, CHALLENGE)
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return answer({"problem": f"the body has more than {MOST_BODY // 2**20} MiB: post fewer at once"}, 413)
        except web.HTTPException as error:
            return answer({"problem": f"{error.reason}: only POST /score is answered"}, error.status)
        except ConnectionError:  # the client has gone
            raise
        except Exception as error:
            log.exception("a request was not answered")
            return answer({"problem": f"{type(error).__name__}: {error}; this is a bug in cai"}, 500)

    return check


def answer(values: Values, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A response with JSON."""
    body = orjson.dumps(values, default=plain)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


@asynccontextmanager
async def serving(scorer: Scorer, host: str, port: int, token: str) -> AsyncIterator[str]:
    """A server, which is started and closed; gives its address."""
    socket = listener(host, port)
    app = web.Application(middlewares=[only_with(token)], client_max_size=MOST_BODY)
    app.router.add_post("/score", scorer.score)
    runner = web.AppRunner(app, access_log=None, logger=requests, shutdown_timeout=GRACE)
    try:
        await runner.setup()
        await web.SockSite(runner, socket).start()
        yield f"http://{host}:{socket.getsockname()[1]}/score"
    finally:
        await runner.cleanup()
        socket.close()


def serve(reward: Rates, host: str, port: int, token: str, announce: Callable[[str], object]) -> Scorer:
    """Serve until Ctrl-C; announce: is told the address. Returns what was answered."""
    scorer = Scorer(reward)

    async def through() -> None:
        ended = until_interrupted()
        try:
            async with serving(scorer, host, port, token) as address:
                announce(address)
                await ended.wait()
        finally:
            await reward.close()

    asyncio.run(through())
    return scorer
