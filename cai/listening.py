"""A server in this process: the socket that it listens on, and what ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from contextlib import suppress

from cai.errors import UsageError


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError if the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        number = error.errno or 0
        if number < 0 or number == errno.EADDRNOTAVAIL:  # names that are not found have numbers of their own
            raise UsageError(f"--host {host}: not an address of this machine; name 127.0.0.1, for example") from None
        reason = os.strerror(number)  # its own text names the address again, as Python code
        raise UsageError(f"--port {port}: {reason}; name another port, or leave it out for a free one") from None


def unheard(name: str) -> logging.Logger:
    """A logger for what aiohttp says of requests that are not HTTP, or break off: no fault of this program."""
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger


def until_interrupted() -> asyncio.Event:
    """An event of the running loop that Ctrl-C and SIGTERM set."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows, Ctrl-C is a KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended
