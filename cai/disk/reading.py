"""Reads a file of ours as the JSON object that it holds, and sees whether it is there and a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.errors import RunError

if TYPE_CHECKING:
    from cai.records import Values


def check_files(folder: Path, names: Iterable[str]) -> None:
    """RunError for a name that something else than a file has, such as a pipe, which would be waited for."""
    for path in map(folder.joinpath, names):
        if exists(path) and not path.is_file():
            raise RunError(f"{path} is not a file: move it away, and run the same command again")


def read_object(
    path: Path, advice: str = "put the file back as it was", loads: Callable[[bytes], Any] = json.loads
) -> Values:
    """The object in a JSON file; RunError with `advice` if it cannot be read or holds anything else.

    loads: reads the bytes; those of files of others may hold NaN, which those of ours may not.
    """
    from cai.sources.yamlfile import read_regular  # with PyYAML and pydantic, which cai --version needs not

    try:
        content = loads(read_regular(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}; {advice}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object; {advice}")
    return content


def exists(path: Path) -> bool:
    """Whether there is such a file; RunError if that cannot be seen, as in a folder that may not be entered."""
    try:
        return path.exists()
    except OSError as error:
        advice = "change the permissions of its folder, or name another one"
        raise RunError(f"{path} cannot be read: {error.strerror}; {advice}") from error


def read_if_there(path: Path) -> Values:
    """The object in a JSON file, an empty one if there is no such file."""
    return read_object(path) if exists(path) else {}
