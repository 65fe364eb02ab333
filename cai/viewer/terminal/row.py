"""One row whole: as it is in its folder, what files lack it and why, what made it, and the calls that it took."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.disk.reading import exists, read_object
from cai.errors import RunError, UsageError
from cai.folder.info import find_info
from cai.folder.kinds import kind_of
from cai.folder.lookup import MOST_IDS, Entry, Lookup
from cai.folder.shards.layout import SHARDS
from cai.records import Drop, Label, Object, Record, Values
from cai.sources.yamlfile import first_fault
from cai.texts.wording import close_to, counted, nearest, one_line, shortened
from cai.training.setup.folder import ANEW, read_lines
from cai.training.setup.folder import RECORD as TRAINING
from cai.viewer.terminal.calls import Call, calls_of

NAMED = 5  # ids and folders that a message names
COMPARED = 2_000  # ids among which one like an unknown one is looked for
FROM_ROW = ("constitution", "templates", "models", "model", "seed")
FROM_RUN = (  # of its identity
    "source", "system", "sampling", "n", "rounds", "gate", "screen", "accept", "binding", "pairing",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row, a drop, or a sample of a training, with what its folder has about it.

    kind: what made it, such as "cai label". made_by: what decided it, by name. people: what each said of a pair. notes:
    what is not known, and why. another: how to name another row; None if this one was named.
    """

    folder: Path
    kind: str
    record: Record
    made_by: Values
    left_out: Sequence[str] = ()
    people: Sequence[str] = ()
    calls: Sequence[Call] = ()
    notes: Sequence[str] = ()
    another: str | None = None

    def summary(self, *, requests: bool) -> Values:
        """For programs. requests: also what exactly was asked and answered."""
        calls: list[Values] = []
        for call in self.calls:
            facts: Values = {"key": call.key}
            if call.stored is not None:
                completion = asdict(call.stored.completion)
                facts |= {name: completion[name] for name in ("model", "finish", "input_tokens", "output_tokens")}
                facts |= {"cost_usd": call.stored.cost_usd, "at": call.stored.at}
            if call.stored is not None and requests:
                facts |= {"request": call.stored.request, "completion": completion}
            calls.append(facts)
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "what": type(self.record).__name__,
            "row": self.record.model_dump(mode="json"),
            "left_out": list(self.left_out),
            "people": list(self.people),
            "made_by": self.made_by,
            "calls": calls,
            "notes": list(self.notes),
        }


def find_row(source: str | Path, row_id: str | None = None) -> Row:
    """The row of a run, or the sample of a training, that has this id or the only one that begins so; None: the first.

    A run that is being written is read as far as it is. Raises UsageError for an id that no row has or several could
    have, and for a folder without rows; RunError for a row that is damaged.
    """
    folder = Path(source)
    if not folder.is_dir():
        from cai.report.places import path_of  # half of the time that it takes to find a row

        folder = path_of(source)
    if exists(folder / TRAINING):
        return _sample(folder, row_id)
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file: name the folder of a run or a training")
    if exists(folder / SHARDS):
        from cai.folder.shards.join import join

        join(folder)
    info = find_info(folder)
    if info is None:
        raise UsageError(_why_none(folder))
    kind = kind_of(info["identity"]["command"])
    with Lookup(folder, kind.rows_file) as run:
        entry = _entry(run, folder, row_id)
        try:
            record = _record(entry, kind.row)
        except ValidationError as error:
            raise RunError(f"{folder}: the line of {entry.id!r} is damaged: {first_fault(error)}") from None
        calls, notes = calls_of(run, record)
    return Row(
        folder=folder,
        kind=f"cai {info['identity']['command']}",
        record=record,
        made_by=_made_by(record, info),
        left_out=tuple(f"not in {line['stage']}: {line['reason']}: {line['detail']}" for line in entry.left_out),
        people=tuple(_people(folder / "gold.jsonl", record)),
        calls=calls,
        notes=notes,
        another=_another(folder, "another row", row_id),
    )


def _record(entry: Entry, kind: type[Record]) -> Record:
    """The row, or why there is none."""
    if entry.row is None:
        return Drop.model_validate(entry.drop)
    try:
        return kind.model_validate_json(entry.row)
    except ValidationError:
        from cai.report.folders import parsed

        return parsed(entry.row, kind)  # a line may name its annotator, too


# Which row


def _entry(run: Lookup, folder: Path, row_id: str | None) -> Entry:
    """The row or drop that is meant."""
    if row_id is None:
        entry = run.first()
        if entry is None:
            raise UsageError(f"{folder} has no row yet{_while_running(folder)}")
        return entry
    entry = run.find(row_id)
    if entry is not None:
        return entry
    ids = run.beginning_with(row_id)
    if row_id in ids:
        ids = {row_id: ids[row_id]}
    if len(ids) > 1:
        raise UsageError(_ambiguous(row_id, sorted(ids, key=ids.__getitem__)))
    for position in ids.values():
        entry = run.at(position)
    if entry is None:
        raise UsageError(_unknown(run, folder, row_id))
    return entry


def _ambiguous(beginning: str, ids: Sequence[str]) -> str:
    number = f"{len(ids):,} ids"
    if len(ids) == MOST_IDS:
        number = f"more than {number}"
    return f"{number} begin with {beginning!r}: {_some(ids)}; name more of it"


def _unknown(run: Lookup, folder: Path, row_id: str) -> str:
    if run.has_begun(row_id):
        return (
            f"{row_id!r} is not finished: {folder} has begun with it, and has no row of it yet{_while_running(folder)}"
        )
    known = list(islice(run.ids(), COMPARED))
    if not known:
        return f"{folder} has no row yet{_while_running(folder)}"
    close = close_to(row_id, known)
    if close is not None:
        return f"{folder} has no row {row_id!r}; did you mean {close!r}?"
    return f"{folder} has no row {row_id!r}; its ids are like {_some(known)}, all of them are in {run.rows.name}"


def _while_running(folder: Path) -> str:
    from cai.disk.locks import is_in_use

    return "; it is being written" * is_in_use(folder)


def _some(names: Sequence[str]) -> str:
    rest = ["…"] * (len(names) > NAMED)
    return ", ".join([*(repr(shortened(name, 80)) for name in names[:NAMED]), *rest])


def _another(folder: Path, what: str, row_id: str | None) -> str | None:
    """How to name another row, if none was named."""
    if row_id is not None:
        return None
    return f"{what}: cai show {shlex.quote(str(folder))} ID"


def _why_none(folder: Path) -> str:
    """What to name instead of a folder that has no rows of its own."""
    from cai.evaluation.arena.figures import FILE as EVALUATION

    what = "not a run or a training"
    if exists(folder / EVALUATION):
        what = "an evaluation"
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    if not inside:
        return f"{folder} is {what}; see which there are: cai runs {folder}"
    names = ", ".join(map(str, inside[:NAMED]))
    return f"{folder} is {what}; its rows are in the runs inside it: cai show RUN, such as {names}"


# What belongs to it


def _people(path: Path, record: Record) -> Iterator[str]:
    """What people said of a pair, each the last that they said."""
    if not isinstance(record, Label) or not path.exists():
        return
    from cai.judge.gold import GoldVote

    votes = {}
    for line in path.read_bytes().splitlines():
        if record.key.encode() in line:
            with suppress(ValidationError):  # torn; `cai judge calibrate` names a line that is damaged
                vote = GoldVote.model_validate_json(line)
                votes[vote.annotator] = vote
    for annotator, vote in votes.items():
        sides = {"tie": "a tie", None: "skipped, or taken back", "a": "a", "b": "b"}
        if vote.a != record.a:  # a pair is the same whichever reply comes first
            sides |= {"a": "b", "b": "a"}
        yield f"{annotator}: {sides[vote.human]} ({vote.queue} queue{', blind' * bool(vote.blind)})"


def _made_by(record: Record, info: Values) -> Values:
    """What decided a row, from its own columns, its run's identity, and what was typed."""
    row, identity = record.model_dump(mode="json"), info["identity"]
    facts = {name: row[name] for name in FROM_ROW if row.get(name)}
    facts |= {name: identity[name] for name in FROM_ROW if name not in facts and identity.get(name) is not None}
    facts |= {name: identity[name] for name in FROM_RUN if identity.get(name) not in (None, {})}
    if isinstance(facts.get("source"), dict):
        facts["source"] = facts["source"].get("what", facts["source"])
    return {**facts, "command": info.get("command"), "versions": info.get("versions")}


# Trainings


def _sample(folder: Path, row_id: str | None) -> Row:
    """What a model said to a held-out prompt before and after its training."""
    from cai.training.report.samples import FILE as SAMPLES  # with what makes them, 0.06 s that no run needs
    from cai.training.report.samples import Sample

    record = read_object(folder / TRAINING, ANEW, orjson.loads)
    try:
        samples = [Sample.model_validate(line) for line in read_lines(folder / SAMPLES)]
    except ValidationError as error:
        raise RunError(f"{folder / SAMPLES} is damaged: {first_fault(error)}") from None
    if not samples:
        raise UsageError(f"{folder} is a training without samples{_while_running(folder)}")
    names = [sample.id for sample in samples]
    chosen = names[:1]
    if row_id is not None:
        chosen = [name for name in names if name == row_id] or [name for name in names if name.startswith(row_id)]
    if not chosen:
        raise UsageError(f"{folder} has no sample {row_id!r}; {nearest(row_id, names)}")
    if len(chosen) > 1:
        raise UsageError(_ambiguous(row_id or "", chosen))
    identity: Object = record.get("identity") or {}
    facts: Values = {name: identity.get(name) for name in ("method", "config")}
    facts |= {name: record.get(name) for name in ("model", "data", "run", "versions")}
    return Row(
        folder=folder,
        kind=f"cai train {one_line(facts['method'])}",
        record=samples[names.index(chosen[0])],
        made_by={name: value for name, value in facts.items() if value is not None},
        another=_another(folder, f"{counted(len(names), 'sample')}; another one", row_id),
    )
