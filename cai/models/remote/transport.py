"""The session in which a server is asked; and why it could not be reached or heard, in a few words.

Those are errors of aiohttp, and those below providers' SDKs.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping

import aiohttp
from multidict import CIMultiDict

from cai.models.remote.failures import shown

# Replies are a few kilobytes: not worth compressing. To say so costs less than to have aiohttp leave a header out.
ACCEPTED = {"Accept": "*/*", "Accept-Encoding": "identity"}
CONNECT = 30.0  # seconds until a server that does not even accept counts as gone
# A transport failure in a few words; the first class that fits counts.
REASONS: dict[type[Exception], str] = {
    aiohttp.ConnectionTimeoutError: "no connection within {connect:g} s",
    TimeoutError: "timed out after {timeout:g} s",
    aiohttp.ClientConnectorDNSError: "the host name {error.host!r} is unknown",
    aiohttp.ClientConnectorCertificateError: "its certificate is not trusted: {error.certificate_error}; "
    "put a private CA into SSL_CERT_FILE",
    aiohttp.ClientConnectorSSLError: "TLS failed: {error.os_error}",
    aiohttp.ClientHttpProxyError: "the proxy answered {error.status}; check HTTPS_PROXY",
    aiohttp.ClientProxyConnectionError: "the proxy cannot be reached; check HTTP_PROXY and HTTPS_PROXY",
    aiohttp.ServerDisconnectedError: "the server closed the connection",
    aiohttp.ClientPayloadError: "the body broke off half-way",
    aiohttp.ClientResponseError: "the answer is not HTTP that can be read: {error.message}",
}
# Failures that say nothing of the request: no server has read it.
UNREACHED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ClientResponseError,
)
# The same of httpx, whichever of its packages an SDK uses, by the names of their classes.
OF_SDKS = {
    "ConnectTimeout": "no connection within {connect:g} s",
    "TimeoutException": "timed out after {timeout:g} s",
    "ProxyError": "the proxy answered {error}; check HTTPS_PROXY",
    "RemoteProtocolError": "the server closed the connection",
}
UNREACHED_BY_SDKS = ("ConnectTimeout", "ConnectError", "ProxyError", "PoolTimeout")


def open_session(
    headers: Mapping[str, str], tls: ssl.SSLContext | bool, proxy: str | None, timeout: float
) -> aiohttp.ClientSession:
    """A session of as many connections as are asked for; timeout: seconds for a whole call."""
    sent = CIMultiDict(ACCEPTED)
    sent.update(headers)
    return aiohttp.ClientSession(
        # Concurrency is bounded by `limits`; a pool limit here would hide waiting from it.
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        headers=sent,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT),
        # aiohttp's `trust_env` looks the proxy up for each request, in a thread, and lets ~/.netrc replace the key.
        proxy=proxy,
    )


def transport_words(error: Exception, timeout: float, connect: float) -> str:
    """What went wrong; timeout: seconds for a whole call. connect: for its connection."""
    for kind, words in REASONS.items():
        if isinstance(error, kind):
            return shown(words.format(error=error, timeout=timeout, connect=min(connect, timeout)))
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return shown(str(error)) or type(error).__name__


def sdk_words(error: BaseException, timeout: float, connect: float) -> str:
    """What went wrong below the SDK of a provider."""
    names = _names(error)
    for name, words in OF_SDKS.items():
        if name in names:
            return shown(words.format(error=error, timeout=timeout, connect=min(connect, timeout)))
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {shown(str(cause))}; put a private CA into SSL_CERT_FILE"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {shown(str(cause))}"
        if isinstance(cause, socket.gaierror):
            return "the host name is unknown"
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno).lower()
    return shown(str(error)) or type(error).__name__


def is_unreached(error: BaseException) -> bool:
    """Whether an error below an SDK says that no server has read the request."""
    return not _names(error).isdisjoint(UNREACHED_BY_SDKS)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        else:
            error = error.__cause__ or error.__context__
