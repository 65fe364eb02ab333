"""Files of training rows: a run folder's own one, its eval twin, and each record of a file as a row or a drop.

Knows run folders, files and what their columns tell of where rows come from. Knows nothing of what a dataset must be as
a whole, of tokenizers, models or trainers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import orjson

from cai.errors import InputError, RunError, UsageError
from cai.records import DropReason
from cai.sources.conversations import BadRecord
from cai.sources.files import describe, existing, path_of, read_records
from cai.texts.refusals import READ_FOR_REFUSALS, refusal
from cai.training.data.rows import FITS, Method, TrainingRow, Turns, advice, kind_of, row_of

OF_RUN = {
    "generate": ("sft", "dpo"),
    "label": ("sft", "dpo", "kto", "reward"),
    "sample": (),
}  # what a run's rows can train
FILE_OF = {"reward": "dpo"}  # by method, if it is not the method's own name
BEST_OF = ("sft",)  # of a sample run whose judge picked the best replies
KEPT_COLUMNS = ("constitution", "constitution_hash", "judge", "protocol", "model", "chosen_model", "rejected_model")
MOST_ORIGINS = 20  # values of a column that are remembered


@dataclass(frozen=True, slots=True)
class Drop:
    """A record that does not train."""

    file: str
    line: int
    reason: DropReason
    detail: str


@dataclass(slots=True)
class RowFile:
    """What one file held; `read` = rows + drops."""

    source: str
    content: str  # equal for equal content: size and hash of a file
    rows: list[TrainingRow] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    read: int = 0
    origins: dict[str, list[str]] = field(default_factory=dict)  # distinct values of KEPT_COLUMNS
    initial: int = 0  # replies read that are known to be the model's first ones
    refused: int = 0  # of these, the full refusals


def of_folder(folder: Path, method: Method) -> tuple[Path, str, list[str]]:
    """The file of a run folder, the run's command, and what is to know of it."""
    try:
        info = orjson.loads((folder / "run.json").read_bytes())
        command = info["identity"]["command"]
    except FileNotFoundError:
        raise RunError(f"{folder} is not a run folder: it has no run.json; name a run, or one file of rows") from None
    except (OSError, ValueError, LookupError, TypeError):
        raise RunError(f"{folder / 'run.json'} is damaged: run the run's command again to have it written") from None
    picked = command == "sample" and info["identity"].get("best_of") is not None
    if method not in (BEST_OF if picked else OF_RUN.get(command, ())):
        _refuse_run(folder, command, method)
    path, notes = folder / f"{FILE_OF.get(method, method)}.jsonl", list[str]()
    if not path.exists():
        best = " --best" if command == "label" and method == "sft" else ""
        raise RunError(f"{folder} has no {path.name} yet: cai export {folder}{best} cuts it from the finished rows")
    if info.get("stopped") is not None:
        notes.append(f"the run is unfinished ({info['stopped']}): these are the rows so far")
    if command == "generate" and method == "dpo":
        notes.append(f"nobody judged these pairs, that the revision is better is assumed: cai label {folder} asks")
    return path, command, notes


def _refuse_run(folder: Path, command: str, method: Method) -> NoReturn:
    what = f"{folder} is a run of cai {command}"
    if command == "generate":
        raise UsageError(f"{what}: nobody has judged its replies; label them first: cai label {folder}")
    raise UsageError(f"{what}: it has replies without labels; label them first: cai label {folder}")


def twin_of(source: Any) -> Path | None:
    """The file beside a file that holds its eval rows, if it is there."""
    if not isinstance(source, str | Path) or str(source).startswith("hf:") or str(source) == "-":
        return None
    path = Path(source)
    packed = ".gz" if path.name.endswith(".gz") else ""
    plain = Path(path.name.removesuffix(packed) if packed else path.name)
    twin = path.with_name(f"{plain.stem}.eval{plain.suffix}{packed}")
    return twin if twin.exists() and not plain.stem.endswith(".eval") else None


def check_there(source: Any) -> None:
    """Raises SourceError for a path where no run folder and no file of records is."""
    name = str(source) if isinstance(source, str | Path) else "-"
    if name != "-" and not name.startswith("hf:") and not path_of(name).is_dir():
        existing(path_of(name))


def read_rows(source: str | Path | Iterable[Any], method: Method, command: str | None = None) -> RowFile:
    """Every record of one file as a row or a drop, in order; raises InputError where its records are of another kind.

    command: of the run that cut it, None: unknown.
    """
    where = str(source) if isinstance(source, str | Path) else "ROWS"
    of_file = isinstance(source, str | Path) and where != "-" and not where.startswith("hf:")
    found = RowFile(where, describe(str(source)) if of_file else "")
    if isinstance(source, Path) or where.endswith((".jsonl", ".parquet")):
        path = Path(where)
        if path.exists() and path.stat().st_size == 0:
            raise InputError(
                "is empty" if command is None else f"is empty: no row came this far{_why_empty(path)}", path
            )
    for line, record in read_records(source):
        found.read += 1
        try:
            found.rows.append(row_of(record, line, method))
        except BadRecord as bad:
            if isinstance(record, Mapping) and not found.rows and (kind := kind_of(record)) != FITS[method]:
                raise InputError(advice(kind, where, method, record), where, line) from None
            found.drops.append(Drop(where, line, bad.reason, bad.problem))
            continue
        _remember(found, record, command)
    if not of_file:
        found.content = hashlib.sha256(orjson.dumps(found.rows)).hexdigest()[:16]
    return found


def _why_empty(path: Path) -> str:
    dropped = path.parent / "dropped.jsonl"
    return f"; {dropped} says why" if dropped.exists() else ""


def _remember(found: RowFile, record: Mapping[str, Any], command: str | None) -> None:
    for column in KEPT_COLUMNS:
        value = record.get(column)
        if not isinstance(value, str):
            continue
        values, told = found.origins.setdefault(column, []), value.encode("utf-8", "replace").decode()
        if told not in values and len(values) < MOST_ORIGINS:
            values.append(told)
    row = found.rows[-1]
    first = (
        row.rejected if record.get("rejected_from", "initial" if command == "generate" else "") == "initial" else None
    )
    first = row.reply if record.get("chosen_from") == "initial" else first
    if first is not None and found.initial < READ_FOR_REFUSALS:
        found.initial += 1
        found.refused += refusal(first, _last_words(row.prompt)) == "full"


def _last_words(prompt: Turns | str) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""


def count_first_replies(found: RowFile, path: Path) -> None:
    """Of a generate run: how many of the first replies refuse."""
    if path.exists():
        with path.open("rb") as lines:
            for line in islice(lines, READ_FOR_REFUSALS):
                row = orjson.loads(line)
                found.initial += 1
                found.refused += refusal(row["initial"], row["prompt"][-1]["content"]) == "full"
