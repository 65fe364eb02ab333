"""Tasks of lm-evaluation-harness (`--tasks`), each contestant in a process of its own.

A process of its own: lm-eval and its packages stay out of this one, and its memory is free for the next model.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from cai.calls.model import Model, spec_of
from cai.disk.reading import exists, read_object
from cai.errors import MissingExtra, UsageError
from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Contestant
from cai.records import Values
from cai.sources.yamlfile import read_regular
from cai.texts.wording import one_line, reason_of
from cai.weights.bases import TRAINABLE

log = logging.getLogger("cai")
PROCESS = "cai.evaluation.suites.harness_process"
TEMPLATES = "tasks are asked without chat templates, as lm-eval does by default, of every model alike"
NAME_IN_FILE = re.compile(r"^task:\s*[\"']?([\w.-]+)", re.MULTILINE)  # lm-eval's YAML has tags of its own
AGAIN = "remove it to have the tasks measured again"


class Tasks:
    """The tasks of an evaluation, and what has been measured of them.

    names: of the tasks; a `.yaml` file is a task of one's own. Raises MissingExtra without lm-eval, UsageError for a
    file that is no task and for a name that lm-eval does not know.
    """

    def __init__(self, arena: Arena, models: Sequence[Model]) -> None:
        self.arena = arena
        self._marks = dict(zip((each.name for each in arena.contestants), map(spec_of, models), strict=True))
        self._own: dict[str, str] = {}  # hashes of the files of one's own tasks, by name
        self._folders: list[str] = []
        self._ended: dict[str, str] = {}  # why the process of a contestant ended early
        self.names: list[str] = []
        for name in filter(None, (each.strip() for each in (arena.settings.tasks or "").split(","))):
            if name.endswith((".yaml", ".yml")):
                path = Path(name)
                self._folders.append(str(path.resolve().parent))
                name = self._read(path)
            self.names.append(name)
        if self.names and find_spec("lm_eval") is None:
            raise MissingExtra("--tasks", "eval")
        if any(self._missing(contestant) for contestant in self._measurable()):
            self._check()

    def _read(self, path: Path) -> str:
        """The name of the task in a file."""
        try:
            content = read_regular(path)
        except OSError as error:
            raise UsageError(f"--tasks {path} cannot be read: {reason_of(error)}") from None
        found = NAME_IN_FILE.search(content.decode(errors="replace"))
        if found is None:
            raise UsageError(f"--tasks {path} names no task: a task file of lm-eval has a line such as task: my_task")
        self._own[found[1]] = sha256(content).hexdigest()[:16]
        return found[1]

    def _measurable(self) -> list[Contestant]:
        """The contestants whose weights can be loaded here."""
        return [each for each in self.arena.contestants if each.spec.partition(":")[0] in TRAINABLE]

    def _check(self) -> None:
        """Raise UsageError for a task that lm-eval does not know; it takes a process of its own to ask, and 10 s."""
        with TemporaryDirectory(prefix="cai-") as scratch:
            out = Path(scratch) / "names.json"
            problem = self._ask(out, {"spec": None, "tasks": self.names, "measured": {}, "identity": {}})
            if problem is None:
                problem = read_object(out, AGAIN).get("error")
        if problem is not None:
            raise UsageError(problem)

    # Measuring

    def measure(self) -> None:
        """Have every task measured that has not been, of each contestant that can be loaded here."""
        for contestant in self._measurable():
            missing = self._missing(contestant)
            if missing:
                log.info("measuring %s of %s", ", ".join(missing), contestant.name)
                stored, identity = self._stored(contestant).get("tasks", {}), self._identity(contestant)
                request = {"spec": contestant.spec, "tasks": missing, "measured": stored, "identity": identity}
                problem = self._ask(self._file(contestant), request)
                if problem is not None:
                    self._ended[contestant.name] = problem

    def _ask(self, out: Path, request: Values) -> str | None:
        """Have the process write its answer; what it prints is in a log beside that. Returns why it ended early."""
        out.parent.mkdir(parents=True, exist_ok=True)
        asked = {**request, "out": str(out), "folders": self._folders, "limit": self.arena.settings.limit}
        paths = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        printed = out.with_suffix(".log")
        with printed.open("wb") as file:
            command = [sys.executable, "-m", PROCESS]
            ended = subprocess.run(
                command, input=orjson.dumps(asked), stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        if not ended.returncode:
            return None
        lines = printed.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        return f"lm-eval ended with {ended.returncode}: {one_line(lines[-1])}; see {printed}"

    def _file(self, contestant: Contestant) -> Path:
        name = re.sub(r"[^\w.-]+", "-", contestant.name)
        return self.arena.out / "tasks" / f"{name}.json"

    def _identity(self, contestant: Contestant) -> Values:
        """What decides the values of items."""
        return {"model": self._marks[contestant.name], "limit": self.arena.settings.limit, "files": self._own}

    def _stored(self, contestant: Contestant) -> Values:
        """What is known of a contestant; nothing if it was another model, or were other tasks."""
        path = self._file(contestant)
        content = read_object(path, AGAIN) if exists(path) else {}
        return content if content.get("identity") == self._identity(contestant) else {}

    def _missing(self, contestant: Contestant) -> list[str]:
        measured = self._stored(contestant).get("tasks", {})
        return [name for name in self.names if name not in measured]

    # What came out

    def outcomes(self) -> dict[str, dict[str, dict[str, float]]]:
        """By task and contestant, the value of each item."""
        outcomes: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self.names}
        for contestant in self._measurable():
            for name, measured in self._stored(contestant).get("tasks", {}).items():
                if name in outcomes:
                    outcomes[name][contestant.name] = measured["items"]
        return outcomes

    def facts(self) -> Iterator[str]:
        """What is to be known of the figures of the tasks."""
        if self.names:
            yield TEMPLATES
        if self.names and self.arena.settings.limit is not None:
            yield f"--limit {self.arena.settings.limit}: no more than that many items of each task"

    def problems(self) -> Iterator[str]:
        """Why tasks were not measured."""
        for contestant in self.arena.contestants if self.names else ():
            if contestant not in self._measurable():
                yield f"--tasks: {contestant.spec} has no weights here, so it is not measured"
                continue
            stored = self._stored(contestant)
            ended = self._ended.get(contestant.name) or stored.get("error")
            if ended is not None:
                yield f"{contestant.name}: {ended}"
            for name, problem in stored.get("problems", {}).items():
                yield f"{contestant.name}: task {name} was not measured: {problem}"
