"""Addresses: where a model is asked and whose key goes there, the proxy on the way, and where a redirect leads."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

from multidict import CIMultiDict
from yarl import URL

from cai.calls.model import Connection
from cai.errors import UsageError
from cai.models.remote.failures import shown
from cai.models.remote.presets import Preset

OWN = "the address after @"
KEY_OF_HOST = "CAI_KEY_"  # the beginning of the variable with the key of such an address
# What an address copied from a page may have behind that of the server: the path of a call, and the version of an API
# that had another for each.
CALL = re.compile(r"/openai/deployments/.*|(?<=/v1)/(chat/completions|completions|responses)$")
DATED = re.compile(r"(^|&)api-version=\d{4}-[^&]*")
LISTENS = re.compile(r"(?<=//)(0\.0\.0\.0|\[::\])(?=[:/]|$)")  # a server's own word for everywhere
REACHED = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """The way to a server, and what every request to it carries; it holds secrets."""

    base: URL
    headers: CIMultiDict[str]
    tls: ssl.SSLContext | bool
    proxy: str | None


def base_of(preset: Preset, connection: Connection, version: str) -> URL:
    """The base URL of a model: that of its spec, of the connection, of the environment, or the preset's own.

    version: what the posts' own paths begin with, which a base URL need not have.
    """
    for text, source in _stated(preset, connection):
        place, mark, query = text.strip().partition("?")
        if preset.tail:
            place = _completed(place, preset)
            query = DATED.sub("", query).lstrip("&")
            mark = "?" if query else ""
        return parse_base_url(place.removesuffix("/").removesuffix(version) + mark + query, source)
    raise UsageError(
        f"{preset.name}: has no address of its own: set {preset.url_variables[-1]}, such as "
        f"https://NAME{preset.hosts[0]}, or write {preset.name}:NAME@URL"
    )


def is_stated(preset: Preset, connection: Connection) -> bool:
    """Whether an address is said for the models of a preset, by which its usual one does not count."""
    return len(_stated(preset, connection)) > bool(preset.url)


def _stated(preset: Preset, connection: Connection) -> list[tuple[str, str]]:
    """The addresses that a model could have, with where each is said; the first counts."""
    variables = [(os.environ.get(name, ""), name) for name in preset.url_variables]
    said = [(connection.own_url or "", OWN), (connection.base_url or "", "--base-url"), *variables]
    return [(text, source) for text, source in (*said, (preset.url, preset.name)) if text]


def _completed(place: str, preset: Preset) -> str:
    """An address with the scheme, the port and the path that people leave out, as OLLAMA_HOST and Azure's pages do."""
    if "://" not in place:
        place = _with_scheme(place, URL(preset.url or "https://NAME"))
    place = LISTENS.sub(lambda host: REACHED[host[0]], place).rstrip("/")
    place = CALL.sub("", place)
    if re.search(r"/v\d\w*$", place):
        return place
    return place + preset.tail


def _with_scheme(place: str, usual: URL) -> str:
    """A host, or a port alone, as a URL; what it lacks is that of the usual one."""
    host, slash, path = place.partition("/")
    if not host or host.startswith(":"):
        host = f"{usual.host}{host}"
    if not re.search(r":\d+$", host) and usual.explicit_port is not None:
        host += f":{usual.port}"
    return f"{usual.scheme}://{host}{slash}{path}"


def key_variables(preset: Preset, connection: Connection, base: URL) -> Sequence[str]:
    """The variables that may hold the key of a model: its preset's, or that of its host if its spec has an address."""
    if connection.own_url is None:
        return preset.key_variables
    host = f"{(base.raw_host or '').rstrip('.')}_{base.port}"
    return (f"{KEY_OF_HOST}{re.sub('[^A-Z0-9]', '_', host.upper())}",)


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
    if url.scheme not in ("http", "https") or not url.host or re.search(r"\s", url.host):
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
