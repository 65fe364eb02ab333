"""Who is answered: a page of this machine that has the token; what such a page may load and send.

Any program of this machine can reach a port of 127.0.0.1, and so can any page in its browser: by a name that suddenly
means 127.0.0.1 (Host tells), by a request from elsewhere (Origin tells), or by guessing (the token is 192 bits).
"""

from __future__ import annotations

import hmac
import secrets

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HOST = "127.0.0.1"
TOKEN_BYTES = 24
MOST_BODY = 64 * 1024
HEADER = "X-Cai-Token"  # a header of our own: another site's page may not send it without asking first
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def new_token() -> str:
    """A token that nobody guesses, in the letters of a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Set what a browser is told about any answer, refusals included."""
    response.headers.update(HEADERS)


def only_from(port: int, token: str, public: frozenset[str]) -> Middleware:
    """Refuses whoever does not ask this server by its own name, and for all but `public` paths whoever lacks the token.

    public: files of the page, which hold no data.
    """
    names = [f"{HOST}:{port}", f"localhost:{port}"]
    origins = [f"http://{name}" for name in names]

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        is_ours = request.raw_path.startswith("/")  # else it names a server before the path, as proxies are asked
        if len(hosts) != 1 or hosts[0] not in names or not is_ours:
            return _refused("this server answers to the address that cai view printed, and to no other name")
        if any(origin not in origins for origin in request.headers.getall("Origin", [])):
            return _refused("this request comes from the page of another site")
        if request.path not in public and not _is(token, request.headers.get(HEADER, "")):
            return _refused("the token is missing or wrong: open the whole address that cai view printed")
        return await handler(request)

    return check


def _is(token: str, other: str) -> bool:
    """Compares in a time that does not depend on how much of it is right."""
    return hmac.compare_digest(token.encode(), other.encode("utf-8", "surrogateescape"))


def _refused(problem: str) -> web.Response:
    return web.json_response({"problem": problem}, status=403)
