"""The kinds of run: which file has their rows, and which training files are cut from them."""

from __future__ import annotations

from dataclasses import dataclass

from cai.records.base import Record
from cai.records.rows import Candidates, Label, Probed, Rating, Revision


@dataclass(frozen=True, slots=True)
class Kind:
    """What is in the folders of one kind of run."""

    rows_file: str
    row: type[Record]
    training: tuple[str, ...] = ()  # names of the files that an export cuts, and of its stages
    pairs: bool = False  # whether several positions belong to a prompt: see PAIR_BITS in cai.folder.lines


KINDS = {  # by command
    "generate": Kind("revisions.jsonl", Revision, training=("sft", "dpo")),
    "sample": Kind("candidates.jsonl", Candidates, training=("sft",)),
    "label": Kind("labels.jsonl", Label, training=("sft", "dpo", "kto"), pairs=True),
    "test": Kind("labels.jsonl", Label, pairs=True),
    "rate": Kind("ratings.jsonl", Rating, pairs=True),
    "probe": Kind("probes.jsonl", Probed, pairs=True),
}
