"""The pairs of one row or record: which of its replies are compared, and what each pair is called."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from cai.folder.lines import PAIR_BITS
from cai.records import DROP_REASONS, Candidates, Contest, DropReason, Label, Object, Place, Revision, Turns
from cai.sources.conversations import conversation_before, pair_hash, to_answer, to_prompt
from cai.sources.labels import by_rank
from cai.sources.replies import Reply, column_of_many, many_of, pair_of
from cai.sources.threads import woven
from cai.sources.turns import whole
from cai.sources.values import BadRecord, as_text, id_of, listed, object_of

MOST_REPLIES = 362  # to a prompt: the numbers of their pairs fill the bits below that of the prompt
UNPAIRED = (1 << PAIR_BITS) - 1  # takes the place of the pairs of a prompt that has none


def pairs_of_row(row: Object, pairing: str = "all", each: int | None = None) -> Iterator[Contest]:
    """The pairs of a row of a generate or a sample run; each: how many replies in succession are of one model."""
    if "rounds" in row:
        return _of_revision(row, pairing)
    return _of_replies(row, "replies", pairing, each)


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
    problem = row.get("problem")
    if problem is not None:
        raise BadRecord(f"the first reply cannot be compared: {problem}", problem)
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


def lasting_names(origin: str | Object, models: int) -> Callable[[str], str]:
    """What gives a pair the name from which chance follows, by its id; origin: what an identity says of the source."""
    if models < 2 or isinstance(origin, str):
        return str
    return partial(lasting_name, models=models, each=origin["n"] // models)


def lasting_name(pair: str, models: int, each: int) -> str:
    """The id that a pair of several models' replies would have if these were counted in turn.

    It stays when there are more replies of each model, whose numbers then change; each: how many there are now.
    """
    found = re.fullmatch(r"(.*):(\d+)-(\d+)", pair, re.DOTALL)
    if found is None:  # a hash, since another pair has its id
        return pair
    in_turn = []
    for number in map(int, found.groups()[1:]):
        model, place = divmod(number, each)
        in_turn.append(place * models + model if model < models else number)  # later ones are drawn for a target
    return f"{found[1]}:{in_turn[0]}-{in_turn[1]}"


def later_reply(position: int) -> int:
    """The number of the later reply of the pair of samples at a position."""
    return (1 + math.isqrt(8 * (position & UNPAIRED) + 1)) // 2
