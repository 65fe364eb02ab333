"""Finds the pairs to judge in a generate run, a sample run, a file of pairs or replies, or Python rows.

Every pair gets a place and an id that stay the same, whatever else is judged.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson

from cai.errors import RunError, UsageError
from cai.folder.identity import identity_hash
from cai.folder.info import read_info
from cai.folder.journal.rows import kind_of
from cai.folder.lines import PAIR_BITS, damage, lines_in_order, reading
from cai.judge.votes import with_people
from cai.records import (
    DROP_REASONS,
    BadPrompt,
    Candidates,
    Contest,
    DropReason,
    Label,
    Object,
    Place,
    Revision,
    Turns,
    Values,
)
from cai.sources.conversations import conversation_before, pair_hash, to_answer, to_prompt
from cai.sources.files import Source, examine, read_records
from cai.sources.labels import by_rank
from cai.sources.replies import Reply, column_of_many, many_of, pair_of, with_clear_numbers
from cai.sources.threads import woven
from cai.sources.turns import whole
from cai.sources.values import BadRecord, as_text, id_of, listed, object_of

MOST_REPLIES = 362  # to a prompt: the numbers of their pairs fill the bits below that of the prompt
UNPAIRED = (1 << PAIR_BITS) - 1  # takes the place of the pairs of a prompt that has none
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
    info = read_info(Path(source), "name a run, or a file of pairs")
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


def pairs_of_row(row: Object, pairing: str = "all", each: int | None = None) -> Iterator[Contest]:
    """The pairs of a row of a generate or a sample run; each: how many replies in succession are of one model."""
    if "rounds" in row:
        return _of_revision(row, pairing)
    return _of_replies(row, "replies", pairing, each)


def _of_records(records: Iterable[tuple[int, Any]], pairing: str) -> Iterator[Place]:
    for unit, (line, record) in enumerate(records):
        try:
            yield from placed(pairs_of_record(record, pairing), unit)
        except BadRecord as bad:
            yield unit << PAIR_BITS, BadPrompt(line=line, problem=bad.problem, reason=bad.reason)


def placed(pairs: Iterable[Contest], unit: int) -> Iterator[Place]:
    """The pairs of the prompt or record at a place, with their positions."""
    for contest in pairs:
        position = unit << PAIR_BITS | contest.position
        yield position, replace(contest, position=position)


def pairs_of_record(record: Any, pairing: str) -> list[Contest]:
    """The pairs of one record, whatever its shape; their positions count within it."""
    if isinstance(record, Contest):
        return [record]
    if isinstance(record, Label | Revision | Candidates):
        record = record.model_dump()
    record = woven(object_of(record, "a prompt and replies"))
    if "rounds" in record and "initial" in record:
        try:
            return list(_of_revision(record, pairing))
        except (LookupError, TypeError, AttributeError) as error:
            problem = f"it has rounds, but is not a row of a generate run: {type(error).__name__} {error}"
            raise BadRecord(problem) from None
    column = column_of_many(record)
    return list(_of_replies(record, column, pairing)) if column is not None else [pair_of(record)]


def _of_revision(row: Object, pairing: str) -> Iterator[Contest]:
    """Every text that a round wrote against the first reply; a repeated text counts as that of the last such round.

    If no round wrote one, the pair is the first reply twice, so that the row is counted, and dropped as identical.
    """
    rounds = enumerate(row["rounds"], 1)
    texts = {round["revision"]: number for number, round in rounds if round["revision"] is not None}
    if pairing == "final" or not texts:
        texts = {row["final"]: max(texts.values(), default=0)}
    name = as_text(row["id"], "the id")
    initial = as_text(row["initial"], "the first reply")
    messages = to_answer(whole(row["prompt"], "prompt"))
    models = row["models"]
    for text, number in texts.items():
        revision = as_text(text, "a revision")
        origin, role = (f"round {number}", "reviser") if number else ("initial", "assistant")
        yield Contest(
            id=f"{name}:round-{number}",
            position=number,
            key=pair_hash(messages, revision, initial),
            prompt_id=name,
            messages=messages,
            a=revision,
            b=initial,
            a_from=origin,
            b_from="initial",
            a_model=models.get(role),
            b_model=models.get("assistant"),
        )


def _of_replies(row: Object, column: str, pairing: str, each: int | None = None) -> Iterator[Contest]:
    """Every two usable replies to a prompt, or with "models" those of two models that have the same number.

    each: how many replies in succession are of one model; None: a reply says whose it is.
    """
    turns = conversation_before(row, (), column)
    if not turns:
        raise BadRecord(f"no prompt beside the replies; it has {listed(row)}")
    prompt = to_prompt({"id": row.get("id"), "prompt": turns})
    replies = many_of(row, column)
    if len(replies) > MOST_REPLIES:
        raise BadRecord(f"{len(replies)} replies: pairs of at most {MOST_REPLIES} can be numbered")
    problems = [_problem(reply) for reply in replies]
    usable = [number for number, problem in enumerate(problems) if problem is None]
    if len(usable) < 2:
        raise _too_few(len(usable), problems)
    pairs = list(itertools.combinations(usable, 2))
    if pairing == "models":
        owners = _owners(replies, each)
        pairs = [(x, y) for x, y in pairs if owners[x][0] != owners[y][0] and owners[x][1] == owners[y][1]]
    if not pairs:
        raise BadRecord("no two models have a usable reply of the same number")
    for x, y in pairs:
        first, second = replies[x], replies[y]
        models = (first.model, second.model)
        pair = pair_of_replies(prompt.id, prompt.messages, (x, first.text), (y, second.text), models)
        pair = replace(pair, human=by_rank(first.rank, second.rank))
        if not id_of(row):  # the prompt may come again with other replies
            pair = replace(pair, id=pair.key)
        yield pair


def _owners(replies: Sequence[Reply], each: int | None) -> dict[int, tuple[Any, int]]:
    """By a reply's number: its model, and its number among that model's replies."""
    if each is not None:
        return {number: divmod(number, each) for number in range(len(replies))}
    counts = Counter[str | None]()
    owners: dict[int, tuple[Any, int]] = {}
    for number, reply in enumerate(replies):
        if reply.model is None:
            raise BadRecord(f"reply {number + 1} does not say which model wrote it, and --pairing models needs that")
        owners[number] = (reply.model, counts[reply.model])
        counts[reply.model] += 1
    return owners


def _problem(reply: Reply) -> DropReason | None:
    """Why a reply cannot be used; a reason that is not ours counts as bad input."""
    if reply.problem in DROP_REASONS:
        return cast(DropReason, reply.problem)
    if reply.problem is not None:
        return "bad_input"
    return "empty" if not reply.text.strip() else None


def _too_few(usable: int, problems: Sequence[DropReason | None]) -> BadRecord:
    """The error about replies of which fewer than two can be used."""
    count = f"{usable} of {len(problems)} replies"
    for reason in problems:
        if reason is not None:
            why = f"can be used (the first of the others is {reason})"
            return BadRecord(f"{count} {why}: two are needed for a pair", reason)
    return BadRecord(f"{count}: two are needed for a pair")


def pair_of_replies(
    prompt_id: str,
    messages: Turns,
    first: tuple[int, str | None],
    second: tuple[int, str | None],
    models: tuple[str | None, str | None] = (None, None),
) -> Contest:
    """The pair of two numbered replies, the lower number as a; a text of None has yet to be sampled."""
    x, a = first
    y, b = second
    a_from = f"sample {x}"
    b_from = f"sample {y}"
    return Contest(
        id=f"{prompt_id}:{x}-{y}",
        position=y * (y - 1) // 2 + x,  # does not change when there are more replies; see `later_reply`
        key=pair_hash(messages, _text_or(a, a_from), _text_or(b, b_from)),
        prompt_id=prompt_id,
        messages=messages,
        a=a,
        b=b,
        a_from=a_from,
        b_from=b_from,
        a_model=models[0],
        b_model=models[1],
    )


def _text_or(text: str | None, origin: str) -> str:
    """A reply in the name of its pair; one that is not sampled yet counts by its origin."""
    return f"\0{origin}" if text is None else text


def later_reply(position: int) -> int:
    """The number of the later reply of the pair of samples at a position."""
    return (1 + math.isqrt(8 * (position & UNPAIRED) + 1)) // 2


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
