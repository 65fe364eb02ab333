"""Finds the pairs to judge in a generate run, a sample run, a file of pairs or replies, or Python rows.

Every pair gets a place and an id that stay the same, whatever else is judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from cai.errors import RunError, UsageError
from cai.folder.identity import identity_hash
from cai.folder.kinds import kind_of
from cai.folder.lines import PAIR_BITS, damage, lines_in_order, reading
from cai.folder.shards.join import read_run
from cai.judge.votes import with_people
from cai.records import BadPrompt, Candidates, Place, Values
from cai.runs.kinds.pairs_of_row import UNPAIRED, pairs_of_record, pairs_of_row, placed
from cai.sources.files import Source, examine, read_records
from cai.sources.replies import with_clear_numbers
from cai.sources.values import BadRecord

OF_REPLIES = ("generate", "sample")  # kinds of run whose rows are replies


def read_pairs(source: Source, pairing: str = "all") -> Iterator[Place]:
    """The pairs of a source with their positions, in order; a record that holds none is a `BadPrompt`.

    pairing: for a generate run, "all" sets each round's revision against the first reply and "final" only the last; for
    several replies, "all" and "best-worst" are every two of them, and "models" two models' replies of one number.
    Raises UsageError, RunError or SourceError if the source cannot be read at all.
    """
    info = run_info(source)
    if info is None:
        where = source if isinstance(source, str | Path) else None
        return _of_records(with_clear_numbers(with_people(read_records(source), where), where), pairing)
    identity = info["identity"]
    return _of_run(_rows_of(source, identity["command"]), pairing, identity.get("n"))


def run_info(source: Source) -> Values | None:
    """The run.json of the run whose folder a source is; None for other sources."""
    if not isinstance(source, str | Path) or source == "-" or not Path(source).is_dir():
        return None
    info = read_run(Path(source), "name a run, or a file of pairs")
    command = info["identity"]["command"]
    if command not in OF_REPLIES:
        labelled = "its rows are labelled already: cai export cuts them"
        hint = labelled if command == "label" else "it holds no replies"
        raise RunError(f"{source} is a run of cai {command}: {hint}")
    return info


def describe_source(source: Source, pairing: str = "all") -> str | Values:
    """What a label run's identity says of its source: a run by what made it, so that it may have grown since.

    Raises UsageError if the source has no pairs of this kind; of Python rows that shows when they are read.
    """
    info = run_info(source)
    identity: Values = {"command": ""} if info is None else info["identity"]
    command = identity["command"]
    if pairing == "final" and command != "generate" and isinstance(source, str | Path):
        raise UsageError("--pairing final is for generate runs: this source has no rounds; leave it out")
    if pairing in ("best-worst", "models") and command == "generate":
        raise UsageError(f"--pairing {pairing} is for several replies: of a generate run name final, or leave it out")
    if pairing == "models" and command == "sample" and len(identity["models"]) < 2:
        raise UsageError(
            f"--pairing models is for several models: {source} has replies of {identity['models'][0]} only"
        )
    if info is None:
        return examine(source)[0]
    description = {"command": command, "run": identity_hash(identity)}
    if command == "sample":
        description["n"] = identity["n"] * len(identity["models"])  # replies to a prompt, before any for a target
    return description


def models_of(source: Source) -> int:
    """How many models wrote the replies of a sample run; of any other source 1."""
    info = run_info(source)
    return (
        len(info["identity"].get("models", [])) if info is not None and info["identity"]["command"] == "sample" else 1
    )


def _rows_of(source: Source, command: str) -> Path:
    return Path(str(source)) / kind_of(command).rows_file


def _of_run(path: Path, pairing: str, each: int | None) -> Iterator[Place]:
    """The pairs of a run's rows; each: how many replies in succession are of one model."""
    if not path.exists():
        raise RunError(f"{path.parent} has no {path.name}: the run has not begun")
    for position, line in lines_in_order(path):
        try:
            record = orjson.loads(line)
            places = list(placed(pairs_of_row(record, pairing, each), position))
        except BadRecord as bad:  # further replies, of `replies_of_run`, may pair later
            problem = f"prompt {record.get('id')}: {bad.problem}"
            unpaired = BadPrompt(line=position + 1, problem=problem, reason=bad.reason)
            places = [(position << PAIR_BITS | UNPAIRED, unpaired)]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise damage(path) from error
        yield from places


def _of_records(records: Iterable[tuple[int, Any]], pairing: str) -> Iterator[Place]:
    for unit, (line, record) in enumerate(records):
        try:
            yield from placed(pairs_of_record(record, pairing), unit)
        except BadRecord as bad:
            yield unit << PAIR_BITS, BadPrompt(line=line, problem=bad.problem, reason=bad.reason)


def replies_of_run(source: Source, limit: int | None) -> Iterator[Candidates]:
    """The rows of a sample run, in input order.

    limit: of pairs, as `read_pairs` counts them; prompts that have none below it are left out.
    """
    path = _rows_of(source, "sample")
    pairs = 0
    for _, line in lines_in_order(path):
        with reading(path):
            row = Candidates.model_validate_json(line)
        if limit is not None and pairs >= limit:
            return
        usable = sum(reply.problem is None for reply in row.replies)
        pairs += max(math.comb(usable, 2), 1)  # a prompt without a pair takes a place, too
        yield row
