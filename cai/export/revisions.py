"""The cut of a generate run: SFT rows, and pairs that nobody has judged."""

from __future__ import annotations

from collections import Counter

import orjson

from cai.export.cut import LAW, PAIR, Cut, law_columns
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, Row
from cai.export.sft import COLUMNS, SftFormat, conversation
from cai.folder.lines import lines_in_order, reading
from cai.folder.run import RunFolder
from cai.records import Values
from cai.texts.hygiene import READ_FOR_REFUSALS
from cai.texts.off_task import copies
from cai.texts.refusals import refusal

FEWEST_READ = 30  # rows: of fewer, the standard error of the share of refusals is above 7 points at a share of 0.2
ORIGIN = {"id": "text", "round": "count", "principles": "texts", **LAW, "model": "text"}


class RevisionCut(Cut):
    """The cut of a generate run: `sft` of final texts, `dpo` of final texts against first replies."""

    stages = ("sft", "dpo")
    kind = "revisions"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        sft = {**COLUMNS[options.sft_format], **ORIGIN, "changed": "flag"}
        self.files = {"sft": sft, "dpo": {**PAIR, **ORIGIN}}
        # First replies in which refusals are still to be looked for.
        self._refusals_left = READ_FOR_REFUSALS if run.counts()["rows"] >= FEWEST_READ else 0
        self.refused = 0  # of the first replies in which they were looked for
        self.verdicts = Counter[str | None]()  # of the gate; None: its answer could not be read

    def cut(self) -> None:
        """Cut both kinds of rows from each revision."""
        path = self._run.path / self._run.rows_file
        for position, line in lines_in_order(path):
            with reading(path):
                row = orjson.loads(line)
                side = self.side(row["prompt"])
                for text, sft_row in sft_rows(row, self.options.rounds_kept, self.options.sft_format):
                    why = self._fault_of(text, row)
                    if why is not None:
                        name, words = why
                        why = name, f"round {sft_row['round']}: {words}"
                    self.put("sft", side, sft_row, why, position)
                if row["final"].strip() == row["initial"].strip():
                    why = "identical", "the final text is the first reply"
                else:
                    why = self._fault_of(row["final"], row)
                self.put("dpo", side, pair(row), why, position)
                self._count(row)

    def _fault_of(self, text: str, row: Row) -> Reason | None:
        """The first fault of a text of a row; one is to be a critique that it should answer."""
        found = self.fault(text, row["prompt"][-1]["content"])
        if found is not None or not self.options.hygiene:
            return found
        if any(copies(text, turn["critique"], row["initial"]) for turn in row["rounds"]):
            return "off_task", "the text is a critique that it should answer"
        return None

    def _count(self, row: Row) -> None:
        facts = self.facts
        facts.rows += 1
        if self._run.identity["gate"] is not False:
            self.verdicts.update(turn["verdict"] for turn in row["rounds"])
        for turn in row["rounds"]:
            facts.used[turn["principle"]] += 1
            facts.changed[turn["principle"]] += turn["changed"]
        facts.count_models(row["models"])
        if self._refusals_left:
            self._refusals_left -= 1
            self.refused += refusal(row["initial"], row["prompt"][-1]["content"]) == "full"


def sft_rows(row: Row, rounds_kept: str, sft_format: SftFormat) -> list[tuple[str, Row]]:
    """The SFT rows of a revision, at least one, each with its text.

    `round` is the one that wrote the text, 0 for the first reply, `principles` are those it was criticised or revised
    under; with "all" a text that occurs twice stays where it occurred last, so that the last row is the one that "last"
    gives.
    """
    texts = written(row)
    if rounds_kept != "all":
        texts = texts[-1:]
    initial = row["initial"].strip()
    return [
        (
            text,
            {
                **conversation(row["prompt"], text, sft_format),
                **_provenance(row, number, principles),
                "changed": text.strip() != initial,
            },
        )
        for text, number, principles in texts
    ]


def pair(row: Row) -> Row:
    """Final text against first reply, judged by nobody."""
    _, number, principles = written(row)[-1]
    return {
        "prompt": row["prompt"],
        "chosen": [{"role": "assistant", "content": row["final"]}],
        "rejected": [{"role": "assistant", "content": row["initial"]}],
        "p_chosen": None,
        "judged": False,
        **_provenance(row, number, principles),
    }


def written(row: Row) -> list[tuple[str, int, list[str]]]:
    """Texts that the rounds wrote, oldest first, with round and principles; the first reply if no round wrote any."""
    text, number = row["initial"], 0
    principles: list[str] = []
    texts: dict[str, tuple[int, list[str]]] = {}
    for count, turn in enumerate(row["rounds"], 1):
        if turn["revision"] is not None:
            text, number = turn["revision"], count
            texts.pop(text, None)
        principles = [*principles, turn["principle"]]  # a round that wrote nothing let the text stand
        if number:
            texts[text] = number, principles
    if not texts:
        return [(text, number, principles)]
    return [(text, number, principles) for text, (number, principles) in texts.items()]


def _provenance(row: Row, number: int, principles: list[str]) -> Values:
    role = "reviser" if number else "assistant"
    return {
        "id": row["id"],
        "round": number,
        "principles": principles,
        **law_columns(row["constitution"]),
        "model": row["models"][role],
    }
