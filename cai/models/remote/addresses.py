"""Addresses: a base URL that can be used, the proxy on the way to it, and where a redirect leads."""

from __future__ import annotations

import re
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from cai.errors import UsageError
from cai.models.remote.failures import shown


def redirect_target(base: URL, location: str) -> str:
    """Where a redirect leads, without its query."""
    try:
        return shown(str(base.join(URL(location)).with_query(None)))
    except ValueError:
        return f"{shown(location.partition('?')[0])!r}, which cannot be read"


def parse_base_url(base_url: str, source: str) -> URL:
    """The base URL that an option or a variable, `source`, holds; errors name the source, and never quote the URL."""
    try:
        url = URL(base_url)
        (url.host or "").encode("idna")  # what the resolver will do: an empty or overlong label fails here, not later
    except ValueError:
        raise UsageError(f"the base URL in {source} cannot be read; write one like http://localhost:8000/v1") from None
    if url.user or url.password:
        raise UsageError(f"the base URL in {source} holds a user name or password: send it as a header instead")
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(
            f"the base URL in {source} needs http:// or https:// and a host, like http://localhost:8000/v1"
        )
    return url


def path_advice(base: URL, version: str) -> str:
    """What to change in a base URL whose server does not know the path; version: what the posts' paths begin with."""
    path = base.path.rstrip("/")
    if path.endswith(("/completions", "/messages")):
        return "end the base URL before the path of the call, as in http://localhost:8000/v1"
    if not version and re.search(r"/v\d", path) is None:
        return "add /v1 to the base URL"
    return "check the base URL"


def proxy_for(url: URL) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for this URL."""
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = getproxies().get(url.scheme)
    if proxy is not None and not proxy.startswith(("http://", "https://")):
        raise UsageError(f"{url.scheme.upper()}_PROXY must start with http:// or https://; unset it or correct it")
    return proxy
