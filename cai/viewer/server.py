"""The server of `cai view`: the files of its page, and answers to what the page asks; on 127.0.0.1 alone."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from cai.errors import CaiError
from cai.listening import listener, unheard, until_interrupted
from cai.records import Values
from cai.sources.yamlfile import first_fault
from cai.viewer.index import Index
from cai.viewer.questions import QUESTIONS, Answers, Wishes
from cai.viewer.safety import HOST, MOST_BODY, add_headers, new_token, only_from
from cai.viewer.sources import find_sources

log = logging.getLogger("cai")
requests = unheard("cai.viewer.requests")

PAGE = {  # by path: the package and name of a file, and what it is; none of them holds data
    "/": ("cai.viewer", "page/index.html", "text/html"),
    "/viewer.js": ("cai.viewer", "page/viewer.js", "text/javascript"),
    "/viewer.css": ("cai.viewer", "page/viewer.css", "text/css"),
    "/view.js": ("cai.report.html", "view.js", "text/javascript"),
    "/view.css": ("cai.report.html", "view.css", "text/css"),
}
GRACE = 1.0  # seconds that answers get to end when the server does
ANSWERS = web.AppKey("ANSWERS", Answers)


def view(paths: list[str], wishes: Wishes, port: int, announce: Callable[[str], object]) -> None:
    """Serve a page of these folders until Ctrl-C; announce: is told its address, which holds the token.

    Raises UsageError, InputError or RunError.
    """
    asyncio.run(_view(paths, wishes, port, announce))


async def _view(paths: list[str], wishes: Wishes, port: int, announce: Callable[[str], object]) -> None:
    ended = until_interrupted()
    asyncio.get_running_loop().set_exception_handler(partial(_note, ended))
    index = Index(find_sources(paths), partial(find_sources, paths))
    answers = Answers(index, wishes)
    answers.check()
    async with serving(index, answers, port) as address:
        announce(address)
        await ended.wait()


def _note(ended: asyncio.Event, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep the terminal quiet while too many connections are open: asyncio tries again after a second by itself.

    It does so although the socket was closed meanwhile, which is a ValueError.
    """
    error = context.get("exception")
    starved = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    late = isinstance(error, ValueError) and ended.is_set()
    if starved or late:
        requests.debug("%s", context["message"])
        return
    loop.default_exception_handler(context)


@asynccontextmanager
async def serving(index: Index, answers: Answers, port: int = 0) -> AsyncIterator[str]:
    """A server for an index, which it starts and closes; gives the address of the page."""
    socket = listener(HOST, port)
    port = socket.getsockname()[1]
    token = new_token()
    app = web.Application(middlewares=[only_from(port, token, frozenset(PAGE))], client_max_size=MOST_BODY)
    app.on_response_prepare.append(add_headers)
    app[ANSWERS] = answers
    for path in PAGE:
        app.router.add_get(path, _file)
    app.router.add_post("/api/{question}", _answer)
    runner = web.AppRunner(app, access_log=None, logger=requests, shutdown_timeout=GRACE)
    try:
        index.start()
        await runner.setup()
        await web.SockSite(runner, socket).start()
        yield f"http://{HOST}:{port}/#{token}"
    finally:
        await runner.cleanup()
        socket.close()
        index.close()


async def _file(request: web.Request) -> web.Response:
    """A file of the page."""
    package, name, kind = PAGE[request.path]
    content = files(package).joinpath(name).read_bytes()
    return web.Response(body=content, content_type=kind, charset="utf-8")


async def _answer(request: web.Request) -> web.Response:
    """The answer to a question of the page, or the problem with it, as JSON."""
    question = QUESTIONS.get(request.match_info["question"])
    if question is None:
        return _json({"problem": "the page asks for what this server does not know"}, 404)
    try:
        ask = question.kind.model_validate_json(await request.read())
        values = await asyncio.to_thread(question.answer, request.app[ANSWERS], ask)
    except ValidationError as error:
        return _json({"problem": f"the page asks for what cannot be: {first_fault(error)}"}, 400)
    except web.HTTPException as error:  # the body is too large
        return _json({"problem": error.reason}, error.status)
    except CaiError as error:
        return _json({"problem": str(error)}, 409)
    except OSError as error:
        return _json({"problem": str(error)}, 409)
    except Exception as error:
        log.debug("%s", request.path, exc_info=True)
        return _json({"problem": f"{type(error).__name__}: {error}; this is a bug in cai, --debug shows more"}, 500)
    return _json(values)


def _json(values: Values, status: int = 200) -> web.Response:
    try:
        body = orjson.dumps(values)
    except TypeError:  # a text that is not UTF-8
        body = json.dumps(values).encode()
    return web.Response(body=body, status=status, content_type="application/json")
