"""Where the command of a server is: never in this process, whose packages it could not stand beside."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cai.disk.hashes import cache_folder
from cai.errors import UsageError
from cai.models.serving.kinds import KINDS, Kind

OWN = "envs"  # in the cache folder: environments of servers, each under the name of its command


def find_command(provider: str, stated: str | None) -> list[str]:
    """The words that start a server.

    Those of --server-command, else of the variable, else the command beside this Python, in an environment of its own
    in the cache folder, or on PATH. Raises UsageError if there is none.
    """
    kind = KINDS[provider]
    for text, source in ((stated, "--server-command"), (os.environ.get(kind.variable), kind.variable)):
        if text:
            return _stated(kind, text, source)
    for path in _places(kind):
        found = shutil.which(path)
        if found is not None:
            return [os.path.abspath(found), kind.verb]
    own = cache_folder() / OWN / kind.command
    raise UsageError(
        f"{provider}: there is no command {kind.command}: install it in an environment of its own (python -m venv "
        f"{own}; {own}/bin/pip install {kind.command}), or name it with --server-command or {kind.variable}; a server "
        f"that runs already is asked with {provider}:NAME@http://HOST:PORT/v1"
    )


def _places(kind: Kind) -> Iterator[str]:
    for prefix in (Path(sys.prefix), cache_folder() / OWN / kind.command):
        yield str(prefix / "bin" / kind.command)
    yield kind.command


def _stated(kind: Kind, text: str, source: str) -> list[str]:
    """A path or a command line; the subcommand is added, unless it is there or the command is a module of Python."""
    path = Path(text).expanduser()
    words = [str(path)] if path.exists() else shlex.split(text)
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise UsageError(f"{source}: {text!r} is not a command that can be run: give the path of {kind.command}")
    words[0] = os.path.abspath(found)
    if kind.verb in words or "-m" in words:
        return words
    return [*words, kind.verb]
