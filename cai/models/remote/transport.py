"""Why a server could not be reached or heard, in a few words."""

from __future__ import annotations

import os

import aiohttp

from cai.models.remote.failures import shown

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


def transport_words(error: Exception, timeout: float, connect: float) -> str:
    """What went wrong; timeout: seconds for a whole call. connect: for its connection."""
    for kind, words in REASONS.items():
        if isinstance(error, kind):
            return shown(words.format(error=error, timeout=timeout, connect=min(connect, timeout)))
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return shown(str(error)) or type(error).__name__
