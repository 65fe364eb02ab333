"""Writes the rows of a run as a log that the viewer and the readers of Inspect (inspect-ai) open.

Only what they need is written: `EvalLog`, one `EvalSample` a row, and scores of rows that have any. Written and read
with inspect-ai 0.3.285.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from cai.disk.reading import read_object
from cai.disk.writing import unwritable
from cai.errors import RunError, UsageError
from cai.folder.identity import identity_hash
from cai.folder.kinds import kind_of
from cai.folder.lines import read_rows
from cai.folder.shards.join import read_run
from cai.packages import package_version
from cai.records import Candidate, Candidates, Label, Object, Rating, Record, Revision, Values, Vote
from cai.texts.wording import counted

VERSION = 2  # of the log format
EVALUATION = "evaluation.json"
LISTED = re.compile(r"\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d")  # how the names of logs begin that its viewer lists
STOPS = {None: "stop", "truncated": "max_tokens", "content_filter": "content_filter"}  # by the problem of a reply
AGAIN = "(the same, with the constitution in the system text)"  # in place of a critique, in a distillation


class InspectSummary(Record):
    """What was written."""

    folder: Path
    log: Path
    samples: int

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        lines = [f"{self.log}: {counted(self.samples, 'sample')} of {self.folder}"]
        if LISTED.match(self.log.name):
            lines.append(f"look at it with: inspect view --log-dir {shlex.quote(str(self.log.parent))}")
        else:
            lines.append(
                "inspect view lists files whose names begin with a time: name a folder, and the log gets such a name"
            )
        return lines


def export_inspect(folder: str | Path, log: str | Path) -> InspectSummary:
    """Write the rows of a run, or the pairs and figures of an evaluation, into a log for Inspect's viewer.

    log: a .json file, which is replaced, or a folder, in which the log gets a name that the viewer lists. Raises
    RunError for a folder without rows, UsageError for another name.
    """
    path, target = Path(folder), Path(log)
    is_file = target.suffix == ".json" and not target.is_dir()
    if target.suffix and not is_file and not target.is_dir():
        raise UsageError(f"--inspect {log}: name a folder, or a file that ends in .json")
    results: Values | None = None
    if (path / EVALUATION).exists():
        results = _results(read_object(path / EVALUATION, loads=orjson.loads))
        path /= "labels" if (path / "labels" / "run.json").exists() else "replies"
    info = read_run(path, "name a run, or an evaluation")
    kind = kind_of(info["identity"]["command"])
    rows = path / kind.rows_file
    if not rows.exists() or not rows.stat().st_size:
        raise RunError(f"{path} has no finished row yet: nothing can be shown")
    head = _head(info, path, results)
    if not is_file:
        began = head["eval"]["created"][:19].replace(":", "-")
        target /= f"{began}_cai-{info['identity']['command']}_{head['eval']['run_id']}.json"
    part = target.with_name(f"{target.name}.part")
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(orjson.dumps(head)[:-1] + b',"samples":[')
            for sample in _samples(rows, kind.row):
                file.write(b",\n" if count else b"\n")
                file.write(orjson.dumps(sample))
                count += 1
            file.write(b"\n]}\n")
        part.replace(target)
    except OSError as error:
        raise unwritable(target, error, "name another file") from error
    finally:
        part.unlink(missing_ok=True)
    return InspectSummary(folder=Path(folder), log=target, samples=count)


# The log


def _head(info: Object, folder: Path, results: Values | None) -> Values:
    """All of a log but its samples."""
    identity, stopped = info["identity"], info.get("stopped")
    command, run = identity["command"], identity_hash(identity)
    created = datetime.fromtimestamp(info.get("started", 0), UTC).isoformat()
    source = identity.get("source")
    spec: Values = {
        "created": created,
        "task": f"cai {command}",
        "task_id": run,
        "eval_id": run,
        "run_id": run,
        "dataset": {"name": source if isinstance(source, str) else folder.name, "samples": info.get("rows", 0)},
        "model": _model_of(identity),
        "config": {},
        "packages": {"cai-toolkit": package_version("cai-toolkit") or "unknown"},
        "metadata": {"identity": dict(identity), "command": info.get("command"), "cost_usd": info.get("cost_usd")},
    }
    head: Values = {"version": VERSION, "status": "success", "eval": spec, "plan": {"name": "cai", "steps": []}}
    if stopped is not None:
        head["status"] = "cancelled"
        spec["metadata"]["stopped"] = stopped
    if results is not None:
        head["results"] = results
    ended = datetime.fromtimestamp(info.get("started", 0) + info.get("seconds", 0), UTC).isoformat()
    head["stats"] = {"started_at": created, "completed_at": ended, "model_usage": {}}
    return head


def _model_of(identity: Object) -> str:
    """The model that a log is about: the one that replies, else the judge."""
    models = identity.get("models")
    if isinstance(models, dict):
        return str(models.get("assistant", "unknown"))
    if models:
        return ", ".join(models)
    return str((identity.get("binding") or {}).get("judge", "unknown"))


def _results(evaluation: Object) -> Values:
    """The figures of an evaluation as scores: one for each measure of a model, with the ends of its interval."""
    scores = []
    for result in evaluation["results"]:
        for line in result["lines"]:
            figures = {name: value for name, value in line["figure"].items() if value is not None}
            metrics = {name: {"name": name, "value": value} for name, value in figures.items()}
            scores.append(
                {"name": f"{line['measure']}, {line['model']}", "scorer": result["suite"], "metrics": metrics}
            )
    return {"scores": scores}


# Its samples


def _samples(path: Path, kind: type[Record]) -> Iterator[Values]:
    """The samples of all rows, in input order."""
    write = SAMPLES[kind]
    for row in read_rows(path, kind):
        yield from write(row)


def _sample(row: Any, text: str, *, name: str | None = None, model: str, epoch: int = 1, **more: Any) -> Values:
    """One sample: its input is the conversation, its output one text."""
    stop = more.pop("stop", "stop")
    message = {"role": "assistant", "content": text, "source": "generate", "model": model}
    prompt = [dict(turn) for turn in row.prompt]
    return {
        "id": name or row.id,
        "epoch": epoch,
        "input": [{**turn, "source": "input"} for turn in prompt],
        "target": "",
        "messages": [*({**turn, "source": "input"} for turn in prompt), message],
        "output": {"model": model, "choices": [{"message": message, "stop_reason": stop}], "completion": text},
        **more,
    }


def _of_revision(row: Revision) -> Iterator[Values]:
    """The chain of a prompt as a conversation: the reply, each critique and each revision."""
    turns: list[Values] = [{"role": "assistant", "content": row.initial}]
    for each in row.rounds:
        asked = each.critique or AGAIN
        turns.append({"role": "user", "content": asked, "metadata": {"principle": each.principle}})
        if each.revision is not None:
            turns.append({"role": "assistant", "content": each.revision})
    sample = _sample(row, row.final, model=row.models.get("assistant", "unknown"), metadata=_facts(row))
    sample["messages"][-1:] = turns
    sample["metadata"]["rounds"] = [
        each.model_dump(mode="json", exclude={"critique", "revision"}) for each in row.rounds
    ]
    changed = sum(each.changed for each in row.rounds)
    sample["scores"] = {"rounds that changed the reply": {"value": changed}}
    yield sample


def _of_candidates(row: Candidates) -> Iterator[Values]:
    """A sample for each reply to a prompt, which are its epochs."""
    for number, reply in enumerate(row.replies, 1):
        yield _of_reply(row, reply, number)


def _of_reply(row: Candidates, reply: Candidate, number: int) -> Values:
    metadata = {**_facts(row), "sample": reply.sample, "problem": reply.problem}
    stop = STOPS.get(reply.problem, "unknown")
    return _sample(row, reply.text, model=reply.model, epoch=number, stop=stop, metadata=metadata)


def _of_label(row: Label) -> Iterator[Values]:
    """A pair: its replies are the choices, the target is what people prefer, the answer what the judge does."""
    letter = ""
    if row.p_a is not None and row.p_a != 0.5:
        letter = "A" if row.p_a > 0.5 else "B"
    metadata = {**_facts(row), "a_from": row.a_from, "b_from": row.b_from, "z": row.z, "confidence": row.confidence}
    metadata |= {"a_model": row.a_model, "b_model": row.b_model, "protocol": row.protocol, "human": row.human}
    metadata["votes"] = [vote.model_dump(mode="json") for vote in row.votes]
    scores: Values = {}
    if row.p_a is not None:  # without a valid vote there is no number
        scores["p that A is better"] = {"value": row.p_a, "answer": letter, "explanation": _votes_in_words(row.votes)}
    if row.human in ("a", "b") and letter:
        scores["agrees with people"] = {"value": "C" if letter == row.human.upper() else "I", "answer": letter}
    target = row.human.upper() if row.human in ("a", "b") else ""
    judge = row.models.get("judge", "unknown")
    yield _sample(row, letter, model=judge, target=target, choices=[row.a, row.b], scores=scores, metadata=metadata)


def _of_rating(row: Rating) -> Iterator[Values]:
    """A rated reply; a rating that is not valid has no score."""
    metadata = {**_facts(row), "contestant": row.contestant, "asked": row.asked, "mass": row.mass, "p": row.p}
    metadata |= {"problem": row.problem, "protocol": row.protocol, "sample": row.sample}
    scores = {} if row.value is None else {row.asked: {"value": row.value}}
    yield _sample(row, row.reply, model=row.model, scores=scores, metadata=metadata)


SAMPLES: dict[type[Record], Callable[[Any], Iterator[Values]]] = {
    Revision: _of_revision,
    Candidates: _of_candidates,
    Label: _of_label,
    Rating: _of_rating,
}


def _facts(row: Any) -> Values:
    """Where a row comes from."""
    names = ("position", "prompt_id", "constitution", "templates", "models", "seed", "usage", "calls")
    return {name: value for name, value in row.model_dump(mode="json", include={*names}).items() if value is not None}


def _votes_in_words(votes: tuple[Vote, ...]) -> str:
    """What the judge said under each principle, in both orders."""
    lines = []
    for vote in votes:
        if vote.d is not None:
            lines.append(f"{vote.principle}: {vote.d:+.2f} for A, bias {vote.b:+.2f} to the first")
        else:
            said = [reading.problem or f"the {reading.choice} one" for reading in (vote.ab, vote.ba)]
            lines.append(f"{vote.principle}: A first, {said[0]}; B first, {said[1]}")
    return "\n".join(lines)
