"""The cut of a finished best-of run of version 0.1.0, whose judge picked while the replies were drawn: SFT rows."""

from __future__ import annotations

import orjson

from cai.export.cut import Cut, Lines, Row, line_of
from cai.export.pairs import Reason
from cai.export.preferences import JUDGE
from cai.folder.rows import lines_in_order
from cai.texts.hygiene import LEARNED, faults_of

FILES = {
    "sft": {
        "messages": "turns", "id": "text", "best_of": "count", "score": "number", "judged": "flag", **JUDGE,
        "model": "text", "sample": "count",
    }
}  # fmt: skip


class PickedCut(Cut):
    """The cut of a best-of run of version 0.1.0: `sft` of the winners."""

    files = FILES
    stages = ("sft",)
    kind = "best replies"

    def lines(self) -> Lines:
        """What is left out of sft.jsonl."""
        for position, line in lines_in_order(self._run.path / self._run.rows_file):
            try:
                row = orjson.loads(line)
                reply = sft_row(row)
                side = self.side(row["prompt"])
            except (LookupError, TypeError, AttributeError) as error:
                raise self.damaged() from error
            self.facts.rows += 1
            self.read["sft"] += 1
            why = self._fault(reply["messages"][-1]["content"])
            if why is None:
                self.add("sft", side, line_of(reply))
                self.kept["sft"] += 1
            else:
                yield self.drop("sft", why, row["id"], position)

    def _fault(self, text: str) -> Reason | None:
        if self.options.hygiene:
            for name in faults_of(text):
                return name, f"the text {LEARNED[name].words}"
        return None


def sft_row(row: Row) -> Row:
    """The training row of a prompt: its winner, and where that comes from; `best_of` counts the replies drawn."""
    best = row["best"]
    won, law = row["replies"][best["winner"]], best["constitution"]
    return {
        "messages": [*row["prompt"], {"role": "assistant", "content": won["text"]}],
        "id": row["id"],
        "best_of": len(row["replies"]),
        "score": best["scores"][best["winner"]],
        "judged": best["judged"],
        "constitution": None if law is None else f"{law['name']}@{law['version']}",
        "constitution_hash": None if law is None else law["hash"],
        "judge": best["judge"],
        "protocol": best["protocol"],
        "model": won["model"],
        "sample": won["sample"],
    }
