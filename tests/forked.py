"""Commands that are forked from one process, which imports cai once: python tests/forked.py.

That process reads a JSON object a line: a run, its folder and environment, the files for what it prints, and how it
ends. It answers with the status of the run. A run is the words of a command, or a function of Python with its arguments
and keywords, which prints the id of every row as it gets it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
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
    process = _process()
    assert process.stdin and process.stdout
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "stdout", Path(name) / "stderr"]
        asked = {"run": run, "folder": str(folder), "environment": dict(environment), "files": list(map(str, files))}
        process.stdin.write(json.dumps(asked | end) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        return Ended(status, *(file.read_text(encoding="utf-8") for file in files))


@cache
def _process() -> subprocess.Popen[str]:
    from kept import CODE, environment

    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(CODE)])}
    process = subprocess.Popen(
        [sys.executable, __file__], env=environment() | paths, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    atexit.register(process.communicate)
    return process


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
    for line in sys.stdin:
        runner = os.fork()
        if not runner:
            asked = json.loads(line)
            signal.alarm(SECONDS)
            os.chdir(asked.pop("folder"))
            os.environ.clear()
            os.environ.update(asked.pop("environment"))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, file in enumerate(asked.pop("files"), start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            _exit(partial(play, **asked))
        print(os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
