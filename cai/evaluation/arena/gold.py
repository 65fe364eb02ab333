"""Human labels for the pairs of an evaluation, and whether these pairs were drawn at random."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from cai.errors import UsageError
from cai.judge.gold import MOST_SKIPPED, RANDOM, late_in, random_order
from cai.judge.majority import People
from cai.judge.people import TRUTHS
from cai.judge.votes import without_votes
from cai.records import Contest
from cai.runs.kinds.pairs import read_pairs
from cai.sources.files import read_records
from cai.texts.wording import counted

log = logging.getLogger("cai")
FILE = "to-label.jsonl"


def read_gold(path: str | Path, replies: Mapping[str, str], seed: int) -> dict[str, float]:
    """What people say of pairs: by key, 1 if the reply in `replies` is the better one of its pair, 0 or 0.5.

    Of several votes on a pair what most people say; of several records of others their mean. Raises UsageError if the
    file holds none of these pairs, or a choice of them: their labels are compared with those of all pairs, and must be
    of a random draw.
    """
    people = People()
    others = [record for _, record in without_votes(read_records(path), path, people)]
    queues = {record.get("queue") for record in others if isinstance(record, Mapping)}
    truths = defaultdict[str, list[float]](list)
    unknown = 0
    for _, item in read_pairs(path):
        if not isinstance(item, Contest) or item.human is None:
            continue
        if replies.get(item.key) not in (item.a, item.b):
            unknown += 1
            continue
        truth = TRUTHS[item.human]
        truths[item.key].append(truth if item.a == replies[item.key] else 1 - truth)
    if not truths:
        problem = f"--gold {path} labels no pair of this evaluation ({counted(unknown, 'pair')} of others)"
        advice = f"label the first pairs of {FILE} in its folder"
        raise UsageError(": ".join(["; ".join([problem, *people.notes()]), advice]))
    if unknown:
        log.warning("--gold %s: %s of other replies left out", path, counted(unknown, "pair"))
    if people.lines:
        queues.add(RANDOM)
        _check_skipped(path, len(truths), sum(map(people.is_lost, replies)))
    _check_draw(path, set(truths), random_order(replies, seed), queues)
    return {key: fmean(values) for key, values in truths.items()}


def _check_skipped(path: str | Path, labelled: int, lost: int) -> None:
    """Raise UsageError if people skipped so many of the pairs they were asked about that the others are a choice."""
    drawn = labelled + lost
    if lost > MOST_SKIPPED * drawn:
        skipped = f"people skipped {lost} of {counted(drawn, 'pair')} they were asked about, or took their labels back"
        raise UsageError(
            f"--gold {path}: {skipped}; with more than {MOST_SKIPPED:.0%} the rest is a choice: label them, too, if "
            "only as ties"
        )


def _check_draw(path: str | Path, labelled: set[str], order: list[str], queues: set[object]) -> None:
    """Raise UsageError unless the labelled pairs are the first in the random order, but for a few that were skipped."""
    others = {str(queue) for queue in queues} - {"random", "None"}
    if others:
        raise UsageError(
            f"--gold {path} has pairs of the queue {', '.join(sorted(others))}: only pairs drawn at random can take a "
            f"bias out; label the first pairs of {FILE}"
        )
    late = late_in(order, labelled)
    if not late:
        return
    if queues == {"random"}:
        log.warning("--gold %s: its rows say that they were drawn at random, which is not checked", path)
        return
    first = math.ceil(len(labelled) / (1 - MOST_SKIPPED))
    raise UsageError(
        f"--gold {path} is not a random draw: {late} of {counted(len(labelled), 'pair')} are not among the first "
        f"{first} of {FILE}; label them in that order, or say so in each row if they were drawn at random in another "
        'way: "queue": "random"'
    )
