"""Rows of a reward model that is told a principle: each is a pair under one principle, in front of its conversation.

Labels of a run give a row for every principle that a judge voted under, with that principle's own p. Other pairs name
theirs in a column `principle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
from pydantic import ValidationError

from cai.constitution.condition import FORM, in_line, told, wording
from cai.constitution.files import list_constitutions, load_constitution
from cai.constitution.principles import Constitution
from cai.errors import UsageError
from cai.judge.flows import belief, odds_by_principle
from cai.records import Condition, ConstitutionRef, Label, Object
from cai.sources.conversations import prompt_hash
from cai.sources.values import BadRecord, missing, object_of
from cai.sources.yamlfile import first_fault
from cai.training.data.rows import TrainingRow, rows_of
from cai.training.setup.keys import TrainConfig

CONDITION = Condition(FORM, ())
LABEL = {"votes", "a", "b"}  # columns of labels.jsonl

Made = TrainingRow | BadRecord  # a row, or why one of the principles of a record gives none


class UnderPrinciples:
    """Makes rows under principles from records; `principles` are those of all rows so far, in words.

    law: names principles by their ids; None: the built-in constitution whose hash a label has.
    """

    def __init__(self, law: Constitution | None = None) -> None:
        self._law = law
        self._wordings: dict[str, dict[str, str]] = {}  # by the hash of a constitution, by id
        self._seen: dict[str, None] = {}

    @property
    def principles(self) -> tuple[str, ...]:
        """The principles, in the order in which rows name them first."""
        return tuple(self._seen)

    def rows_of(self, record: Any, line: int, method: str) -> list[Made]:
        """The rows of a record, in the place of `rows.rows_of`; raises BadRecord for one that gives none at all."""
        record = object_of(record, "columns")
        if record.keys() >= LABEL:
            return list(self._of_label(_label(record)))
        principle = self._named(record)
        return [self._under(principle, row) for row in rows_of(record, line, method)]

    def _of_label(self, label: Label) -> Iterator[Made]:
        wordings = self._wordings_of(label.constitution)
        odds = odds_by_principle(label.votes)
        if not odds:
            raise BadRecord("a reward model gave this label without votes: label the pairs with another judge")
        for name, z in odds.items():
            p = belief(z, label.protocol, label.temperature)
            if p is None:
                yield BadRecord(f"no vote under {name!r} is valid", "invalid_vote")
            elif p == 0.5:
                yield BadRecord(f"under {name!r} the judge is at exactly one half", "low_confidence")
            elif name not in wordings:
                yield BadRecord(f"its constitution has no principle {name!r} for a judge")
            else:
                chosen, rejected = (label.a, label.b) if p > 0.5 else (label.b, label.a)
                key = prompt_hash(label.prompt)
                row = TrainingRow(f"{label.id}:{name}", label.prompt, chosen, key, rejected, p_chosen=max(p, 1 - p))
                yield self._under(wordings[name], row)

    def _named(self, record: Object) -> str:
        """The principle of a record, in words."""
        value = record.get("principle")
        if missing(value):
            raise BadRecord("it has no 'principle', which condition principle reads")
        if not isinstance(value, str) or not value.strip():
            raise BadRecord(f"'principle' is {value!r:.60}, not a text")
        wordings = {} if self._law is None else _wordings(self._law)
        if value in wordings:
            return wordings[value]
        if len(value.split()) == 1:
            raise BadRecord(f"'principle' is {value!r}, which is a name and says nothing: name its constitution")
        return in_line(value)

    def _under(self, principle: str, row: TrainingRow) -> Made:
        if isinstance(row.prompt, str):
            return BadRecord("its prompt is plain text, which has no system turn for a principle: write it as messages")
        self._seen[principle] = None
        return replace(row, prompt=told(CONDITION, row.prompt, principle))

    def _wordings_of(self, ref: ConstitutionRef) -> dict[str, str]:
        """The principles of the constitution that a label was made under; UsageError if it is not known."""
        if ref.hash not in self._wordings:
            laws = list_constitutions() if self._law is None else [self._law]
            law = next((law for law in laws if law.hash == ref.hash), None)
            if law is None:
                where = "is not built in" if self._law is None else f"is not {self._law.title}"
                raise UsageError(
                    f"the labels are under {ref.name} {ref.version} (hash {ref.hash}), which {where}: name its file "
                    "with --constitution"
                )
            self._wordings[ref.hash] = _wordings(law)
        return self._wordings[ref.hash]


def under_principles(config: TrainConfig) -> UnderPrinciples | None:
    """What makes the rows that a config asks for; None: rows are read as they are."""
    law = None
    if config.constitution is not None:
        if config.condition is None:
            raise UsageError("constitution names the principles of --condition principle: add that, or leave it out")
        law = load_constitution(config.constitution)
    return None if config.condition is None else UnderPrinciples(law)


def _wordings(law: Constitution) -> dict[str, str]:
    return {principle.id: wording(principle) for principle in law.principles if principle.can("judge")}


def _label(record: Object) -> Label:
    try:
        return Label.model_validate_json(orjson.dumps(record))
    except (TypeError, ValidationError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else "it is not JSON"
        raise BadRecord(f"is not a row of labels.jsonl ({why})") from None
