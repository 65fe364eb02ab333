"""The cut of a generate run: SFT rows, and pairs that nobody has judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from cai.export.cut import Cut, Lines, Row
from cai.export.tables import line_of
from cai.folder.run import RunFolder
from cai.records import DropReason
from cai.texts.hygiene import preamble_leak, role_mixup
from cai.texts.refusals import MANY_REFUSALS, READ_FOR_REFUSALS, refusal


class RevisionCut(Cut):
    """The cut of a generate run: `sft` of final texts, `dpo` of final texts against first replies."""

    rows_file = "revisions.jsonl"
    files = stages = ("sft", "dpo")

    def __init__(self, run: RunFolder, options: Row, columns: Mapping[str, Any]) -> None:
        super().__init__(run, options["split"], columns)
        self._rounds_kept, self._hygiene = options["rounds_kept"], options["hygiene"]
        self._refused = 0  # of the first replies that were read for refusals

    def lines(self) -> Lines:
        """What is left out of sft.jsonl or dpo.jsonl."""
        for position, line in self.stored():
            try:
                row = orjson.loads(line)
                left = [*self._texts(row, self.side(row["prompt"])), *self._pair(row, self.side(row["prompt"]))]
                self._count(row)
            except (LookupError, TypeError, AttributeError) as error:
                raise self.damaged() from error
            for stage, reason, told in left:
                yield self.drop(stage, reason, row["id"], position, told)

    def _texts(self, row: Row, side: str) -> Iterator[tuple[str, DropReason, str]]:
        for text in sft_rows(row, self._rounds_kept):
            self.read["sft"] += 1
            why = self._fault(text["messages"][-1]["content"])
            if why is None:
                self.add("sft", side, line_of(text))
                self.kept["sft"] += 1
            else:
                yield "sft", why, f"round {text['round']}: {FAULTS[why]}"

    def _pair(self, row: Row, side: str) -> Iterator[tuple[str, DropReason, str]]:
        self.read["dpo"] += 1
        chosen = pair(row)
        why = "identical" if chosen is None else self._fault(row["final"])
        if chosen is not None and why is None:
            self.add("dpo", side, line_of(chosen))
            self.kept["dpo"] += 1
        elif why is not None:
            yield "dpo", why, FAULTS[why]

    def _fault(self, text: str) -> DropReason | None:
        if not self._hygiene:
            return None
        return "preamble_leak" if preamble_leak(text) else "role_mixup" if role_mixup(text) else None

    def _count(self, row: Row) -> None:
        facts = self.facts
        if facts.rows < READ_FOR_REFUSALS:
            self._refused += refusal(row["initial"], row["prompt"][-1]["content"]) == "full"
        facts.rows += 1
        for done in row["rounds"]:
            facts.used[done["principle"]] += 1
            facts.changed[done["principle"]] += done["changed"]
        facts.count_models(row["models"])

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        rows = self.facts.rows
        if rows and self.facts.dropped["dpo", "identical"] == rows:
            yield "no final text differs from its first reply: dpo.jsonl is empty"
        read = min(rows, READ_FOR_REFUSALS)
        if self._refused > MANY_REFUSALS * read:
            share = f"{self._refused:,} of {'the first ' if read < rows else ''}{read:,} first replies refuse already"
            yield f"{share}: there is little to revise, and the run teaches little"


FAULTS: dict[DropReason, str] = {
    "identical": "the final text is the first reply",
    "preamble_leak": "the text announces itself",
    "role_mixup": "the text goes on with turns that are not its own",
}


def sft_rows(row: Row, rounds_kept: str) -> list[Row]:
    """The SFT rows of a revision, at least one; `round` is the one that wrote the text, 0 for the first reply.

    `principles` are those it was criticised or revised under; with "all" a text that came twice stays where it came
    last, so that the last row is the one that "last" gives.
    """
    initial = row["initial"].strip()
    written = _written(row)
    return [
        {
            "messages": [*row["prompt"], {"role": "assistant", "content": text}],
            **_provenance(row, number, principles),
            "changed": text.strip() != initial,
        }
        for text, (number, principles) in (written if rounds_kept == "all" else written[-1:])
    ]


def pair(row: Row) -> Row | None:
    """Final text against first reply, judged by nobody; None where they are the same but for space around them."""
    if row["final"].strip() == row["initial"].strip():
        return None
    [(_, (number, principles))] = _written(row)[-1:]
    return {
        "prompt": row["prompt"],
        "chosen": [{"role": "assistant", "content": row["final"]}],
        "rejected": [{"role": "assistant", "content": row["initial"]}],
        "p_chosen": None,
        "judged": False,
        **_provenance(row, number, principles),
    }


def _written(row: Row) -> list[tuple[str, tuple[int, list[str]]]]:
    """Texts that the rounds wrote, oldest first, with round and principles; the first reply where none wrote any."""
    principles = [done["principle"] for done in row["rounds"]]
    made = [(number, done["revision"]) for number, done in enumerate(row["rounds"], 1) if done["revision"] is not None]
    made = made or [(0, row["initial"])]
    ends = [number - 1 for number, _ in made[1:]] + [len(principles)]  # a round that wrote nothing let the text stand
    last: dict[str, tuple[int, list[str]]] = {}
    for (number, text), end in zip(made, ends, strict=True):
        last.pop(text, None)
        last[text] = (number, principles[:end])
    return list(last.items())


def _provenance(row: Row, number: int, principles: list[str]) -> Row:
    law = row["constitution"]
    return {
        "id": row["id"],
        "round": number,
        "principles": principles,
        "constitution": f"{law['name']}@{law['version']}",
        "constitution_hash": law["hash"],
        "model": row["models"]["reviser" if number else "assistant"],
    }
