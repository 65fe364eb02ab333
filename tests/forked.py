"""Commands that are forked from one process, which imports cai once: python tests/forked.py.

That process prints the path of a socket. A connection sends a run, a JSON object in a line, with the files for its
three streams; it is answered with the number of the process that was forked for it and, once that has ended, with its
status. Whoever hangs up before kills the run. A run is the words of a command, or a function of Python with its
arguments and keywords, which prints the id of every row as it gets it; and its folder, its environment and how it ends.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache, partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NamedTuple

SECONDS = 300  # of a run, which is then killed


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def fork(run: Any, folder: Path, environment: Mapping[str, str], **end: Any) -> Ended:
    """Run a command, or a function of Python, in a folder; end: the arguments of `play` by name."""
    asked = {"run": run, "folder": str(folder), "environment": dict(environment)}
    with ExitStack() as stack:
        none, *files = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(_address())
        line = json.dumps(asked | end).encode() + b"\n"
        sent = socket.send_fds(connection, [line], [file.fileno() for file in (none, *files)])
        connection.sendall(line[sent:])
        answers = stack.enter_context(connection.makefile())
        status = [int(answers.readline()) for _ in ("pid", "status")][1]
        for file in files:
            file.seek(0)
        return Ended(status, *(file.read().decode() for file in files))


def command(*words: str | Path) -> list[str]:
    """The command line of a process that stands for a forked `cai …`: its streams, its signals and its status."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("warm.py")), _address(), *map(str, words)]


TOO_EARLY = -signal.SIGUSR1  # the status of a command that was not there yet when `kill` came, nor its run


def kill(process: subprocess.Popen[Any]) -> None:
    """End what a `command` stands for as by `kill -9`; whoever waits for the process finds it gone."""
    process.send_signal(signal.SIGUSR1)


@cache
def _address() -> str:
    from kept import CODE, environment

    ours = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(CODE)]), "TMPDIR": ""}
    process = subprocess.Popen(
        [sys.executable, __file__], env=environment() | ours, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    atexit.register(process.communicate)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def play(run: Any, *, place: str | None = None, nth: int = 1, bytes: int | None = None) -> None:
    """One run; it dies when it comes to a place for the nth time, and writes at most so many bytes to a file."""
    if bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))
    if place is not None:
        from kills import Reaper

        Reaper(place, nth).watch()
    if isinstance(run, list):
        from cai.cli.main import main as cai_main

        sys.argv = ["cai", *run]
        cai_main()
    else:
        import cai

        for row in getattr(cai, run["function"])(*run["arguments"], **run["keywords"]):
            print(row.id, flush=True)


def _exit(run: Callable[[], None]) -> None:
    """End as Python ends after a run, except that what was imported is not taken apart: two thirds of a short run."""
    status = 0
    try:
        run()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def warm() -> None:
    """Make what a process makes once: templates, patterns and the table of prices, half of a short run."""
    from yarl import URL

    from cai.calls.prices import known_price
    from cai.constitution.files import load_constitution
    from cai.engine.ask_judge import AskJudge
    from cai.engine.asked import shipped_ngrams
    from cai.engine.revise import Ask
    from cai.engine.templates.sets import load_templates
    from cai.models import open_model
    from cai.models.remote.secrets import secrets_of

    law = load_constitution("harmless")
    for name in ("chat", "fewshot", "quoted"):
        Ask(load_templates(name), law)
        AskJudge(load_templates(name), law, prefill=True)
    shipped_ngrams()
    known_price(open_model("openai:gpt-4.1-mini"))
    secrets_of("none", {}, URL("http://127.0.0.1:1/v1"), None)


def main() -> None:
    import aiohttp  # noqa: F401
    import genai_prices  # noqa: F401
    import jinja2.sandbox  # noqa: F401
    import rich.live  # noqa: F401

    import cai.cli.main
    from cai.texts.wording import compiled

    for module in walk_packages(cai.__path__, "cai."):
        if module.name != "cai.__main__":
            import_module(module.name)
    cai.cli.main.command()  # imports what every command needs
    for template in chain(*map(Path(cai.__path__[0]).rglob, ("*.md.jinja", "*.txt.jinja"))):
        compiled(template)
    warm()
    gc.freeze()  # a run neither looks at what was imported nor copies its pages
    folder = tempfile.mkdtemp(prefix="cai-forked-")  # which no run removes as it ends
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/socket")
            listener.listen()
            print(listener.getsockname(), flush=True)
            serve(listener)
    finally:
        shutil.rmtree(folder)


def serve(listener: socket.socket) -> None:
    """Fork what is asked for, until nobody can ask any more."""
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    runs: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([sys.stdin, listener, wakes, *runs.values()], [], [])
        if sys.stdin in ready:
            return
        if wakes in ready:
            os.read(wakes, 4096)
        for pid, connection in runs.items():
            if connection in ready:
                os.kill(pid, signal.SIGKILL)
        if listener in ready:
            connection, _ = listener.accept()
            runs[_start(connection)] = connection
        _tell(runs)


def _tell(runs: dict[int, socket.socket]) -> None:
    """The status of those that have ended."""
    while runs:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with runs.pop(pid) as connection, suppress(OSError):
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _start(connection: socket.socket) -> int:
    """The number of the process that is forked for a connection."""
    line, files, _, _ = socket.recv_fds(connection, 65536, 3)
    while not line.endswith(b"\n"):
        line += connection.recv(65536)
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.alarm(SECONDS)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        _exit(partial(_played, **json.loads(line)))
    for file in files:
        os.close(file)
    with suppress(OSError):
        connection.sendall(b"%d\n" % pid)
    return pid


def _played(folder: str, environment: dict[str, str], **asked: Any) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if action := environment.get("PYTHONWARNINGS"):
        warnings.simplefilter(action)  # type: ignore[arg-type]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    play(**asked)


if __name__ == "__main__":
    main()
