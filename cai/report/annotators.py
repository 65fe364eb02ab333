"""People beside people: how often the annotators of the same pairs agree, and Cohen's kappa.

A record is one annotator's word on one pair: a column `annotator`, and a human label as `sources.labels` knows them.
Lines of one pair have the same `key` or `id`, or else all other columns alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b
from itertools import combinations
from statistics import fmean
from typing import Any

import orjson

from cai.evaluation.statistics.estimates import mean_of
from cai.judge.majority import Agreement, agreements
from cai.judge.people import PROBABILITIES
from cai.records import Object
from cai.report.html import charts
from cai.report.html.charts import SHARES
from cai.report.html.sections import (
    Cell,
    Fact,
    Table,
    columns,
    count,
    decimal,
    decimals,
    ends_of,
    name,
    percent,
    percents,
)
from cai.sources.labels import HUMAN_LABELS, WORDS, human_label

COLUMN = "annotator"
Verdicts = dict[Any, dict[str, str]]  # by pair, the label of each annotator


def read_verdicts(records: Iterable[tuple[int, Any]]) -> Verdicts:
    """What every annotator said of every pair; the last word counts if one said several."""
    verdicts: Verdicts = defaultdict(dict)
    for _, record in records:
        if not isinstance(record, dict) or record.get(COLUMN) in (None, ""):
            continue
        label = next((label for column in HUMAN_LABELS if (label := human_label(record, column))), None)
        if label is not None:
            verdicts[_pair(record)][name(record[COLUMN])] = WORDS.get(label, label)
    return verdicts


def _pair(record: Object) -> Any:
    for column in ("key", "id"):
        if record.get(column) not in (None, ""):
            return column, str(record[column])
    own = {COLUMN, *HUMAN_LABELS, *PROBABILITIES}
    others = {column: value for column, value in record.items() if column not in own}
    content = orjson.dumps(others, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)
    return blake2b(content, digest_size=16).digest()


def annotator_tables(verdicts: Verdicts) -> tuple[list[Fact], list[Table]]:
    """How often annotators agree; nothing if no pair was judged by two."""
    shared = [labels for labels in verdicts.values() if len(labels) > 1]
    if not shared:
        return [], []
    shares = [fmean(a == b for a, b in combinations(labels.values(), 2)) for labels in shared]
    mean = mean_of(shares, 0, 1)
    people = {person for labels in shared for person in labels}
    basis = f"{count(len(people))} people, {count(len(shared))} pairs"
    fact = Fact("annotators agree", percent(mean.value), percents(ends_of(mean.low, mean.high)), basis)
    heads = columns("=annotators | * | agree | 95 % interval | pairs | kappa | 95 % interval", charts.axis(SHARES))
    lines = list(map(_line, agreements(verdicts)))
    notes = [
        "Of all: the mean over pairs of the share of annotators who agree, each pair a cluster. Kappa is Cohen's: "
        "agreement beyond what chance would give. A judge cannot agree with people more than they do with each other."
    ]
    return [fact], [Table("Annotators among each other", heads, lines, notes)]


def _line(agreement: Agreement) -> list[Cell]:
    who = " · ".join(agreement.people)
    cells = charts.part_cells(who, agreement.share * agreement.n, agreement.n)
    if agreement.kappa is None:
        return [who, *cells, "–", "–"]
    return [who, *cells, decimal(agreement.kappa[0], 2), decimals(agreement.kappa[1:], 2)]
