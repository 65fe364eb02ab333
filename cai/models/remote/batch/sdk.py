"""The client of a provider's SDK, made to reach a server as the session of its model does.

The SDK is never given key, headers or query: they are added on the way out, so that nothing it logs or raises can hold
them. What it reads from variables of its own (OPENAI_ORG_ID, ANTHROPIC_CUSTOM_HEADERS) is not sent.
"""

from __future__ import annotations

import importlib
from typing import Any

from cai.models.remote.addresses import Access
from cai.models.remote.transport import CONNECT

CLIENTS = {"openai": "AsyncOpenAI", "anthropic": "AsyncAnthropic"}  # by the name of the package
KEPT = ("host", "accept", "content-", "transfer-encoding", "x-stainless-")  # beginnings of the SDK's own headers


class Gate:
    """The way out of a client, which adds what only the server may see; it is a transport as httpx has them."""

    def __init__(self, way: Any, access: Access) -> None:
        self._way, self._access = way, access
        self._headers = [(name, value) for name, value in access.headers.items() if name.lower() != "content-type"]
        self.aclose = way.aclose

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request as the model's session would."""
        ours = {name.lower() for name, _ in self._headers}
        kept = [(name, value) for name, value in request.headers.multi_items() if name.startswith(KEPT)]
        headers = [*((name, value) for name, value in kept if name not in ours), *self._headers]
        query = b"&".join(filter(None, (self._access.base.raw_query_string.encode(), request.url.query)))
        url = request.url.copy_with(query=query or None)
        sent = type(request)(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
        return await self._way.handle_async_request(sent)


def open_client(package: str, access: Access, timeout: float) -> tuple[Any, Any]:
    """The client of an SDK, and the package of httpx that it stands on. timeout: seconds of silence."""
    sdk: Any = importlib.import_module(package)
    base = next(kind for kind in sdk.DefaultAsyncHttpxClient.__mro__ if kind.__name__ == "AsyncClient")
    http: Any = importlib.import_module(base.__module__.partition(".")[0])
    patience = http.Timeout(timeout, connect=min(CONNECT, timeout), pool=None)
    tls = access.tls if access.base.scheme == "https" else False  # a context that nobody needs takes 30 ms
    way = http.AsyncHTTPTransport(verify=tls, trust_env=False, proxy=access.proxy)
    own = http.AsyncClient(transport=Gate(way, access), trust_env=False, follow_redirects=False, timeout=patience)
    address = str(access.base.with_query(None))
    # Retries are ours alone: the SDK would create a batch twice whose first answer was lost.
    more = {"base_url": address, "max_retries": 0, "timeout": patience, "http_client": own}
    return getattr(sdk, CLIENTS[package])(api_key="added on the way out", **more), http
