"""The cut of a run of `cai sample --best-of`: SFT rows of the replies that won."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from cai.export.best_replies import MANY_FLIPS
from cai.export.cut import Cut, Judged, Lines, Row, line_of
from cai.export.labels import JUDGE
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, flipped
from cai.folder.rows import lines_in_order
from cai.folder.run import RunFolder
from cai.records import Record
from cai.texts.hygiene import LEARNED, faults_of
from cai.texts.wording import counted

FILES = {
    "sft": {
        "messages": "turns", "id": "text", "best_of": "count", "score": "number", "judged": "flag", **JUDGE,
        "model": "text", "sample": "count",
    }
}  # fmt: skip


class BestSummary(Record):
    """What picking came to."""

    judged: int  # prompts whose winner a judge picked
    unjudged: int  # prompts whose one usable reply won unasked
    winner_score: float | None  # mean over the judged prompts: of probabilities of beating the others, or rewards
    mean_score: float | None  # over the same prompts, of each one's mean over the different texts that have a score
    longest_won: float | None  # share of the judged prompts with one longest reply in which that won
    longest_chance: float | None  # what that share is where length does not count: the mean of 1 / replies compared

    def lines(self) -> Iterator[str]:
        """The summary in words, for people."""
        alone = f", {self.unjudged:,} had one usable reply and no verdict" if self.unjudged else ""
        yield f"winners of {counted(self.judged, 'prompt')}{alone}"
        if self.winner_score is not None:
            yield f"mean score of the winners {self.winner_score:.3f}, of all replies {self.mean_score:.3f}"
        if self.longest_won is not None:
            yield f"the longest reply won {self.longest_won:.0%}; {self.longest_chance:.0%} if length did not count"


class BestCut(Cut):
    """The cut of a best-of run: `sft` of the winners."""

    rows_file = "candidates.jsonl"
    files = FILES
    stages = ("sft",)
    kind = "best replies"
    judged: Judged

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        self.judged = Judged()
        self._prompts = self._uneven = self._longest = 0
        self._won = self._all = self._chance = 0.0

    def lines(self) -> Lines:
        """What is left out of sft.jsonl."""
        for position, line in lines_in_order(self._run.path / self.rows_file):
            try:
                row = orjson.loads(line)
                made = sft_row(row)
                self._count(row)
                side = self.side(row["prompt"])
            except (LookupError, TypeError, AttributeError) as error:
                raise self.damaged() from error
            self.read["sft"] += 1
            why = self._fault(made["messages"][-1]["content"])
            if why is None:
                self.add("sft", side, line_of(made))
                self.kept["sft"] += 1
            else:
                yield self.drop("sft", why, row["id"], position)

    def _fault(self, text: str) -> Reason | None:
        if self.options.hygiene:
            for name in faults_of(text):
                return name, f"the text {LEARNED[name].words}"
        return None

    def _count(self, row: Row) -> None:
        best, facts = row["best"], self.facts
        facts.rows += 1
        facts.count_models({"assistant": row["replies"][best["winner"]]["model"]})
        if not best["judged"]:
            return
        facts.count_models({"judge": best["judge"]})
        self._prompts += 1
        scored = _scored(row)
        self._won += best["scores"][best["winner"]]
        self._all += sum(score for score, _ in scored) / len(scored)
        self._count_lengths(row, [length for _, length in scored])
        for pair in best["comparisons"]:
            self._count_votes(pair)

    def _count_lengths(self, row: Row, lengths: list[int]) -> None:
        """Whether the longest reply won, among those of different text that were scored."""
        longest = max(lengths)
        if lengths.count(longest) == 1:
            self._uneven += 1
            self._chance += 1 / len(lengths)
            self._longest += len(row["replies"][row["best"]["winner"]]["text"].strip()) == longest

    def _count_votes(self, pair: Row) -> None:
        judged = self.judged
        judged.asked += len(pair["votes"])
        flips, votes = flipped(pair)
        judged.flips += flips
        judged.votes += votes
        for vote in pair["votes"]:
            self.facts.used[vote["principle"]] += 1
            if (bias := vote["b"]) is not None:
                judged.biases += 1
                judged.bias += bias

    def summary(self) -> BestSummary:
        """What was counted."""
        return BestSummary(
            judged=self._prompts,
            unjudged=self.facts.rows - self._prompts,
            winner_score=self._won / self._prompts if self._prompts else None,
            mean_score=self._all / self._prompts if self._prompts else None,
            longest_won=self._longest / self._uneven if self._uneven else None,
            longest_chance=self._chance / self._uneven if self._uneven else None,
        )

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        flips = self.judged.flip_rate
        if flips is not None and flips > MANY_FLIPS:
            yield f"{flips:.0%} of the votes name the same place in both orders: what decides is small beside the bias"


def _scored(row: Row) -> list[tuple[float, int]]:
    """Score and characters of a prompt's replies that have a score; of replies of one text only one."""
    found: dict[str, tuple[float, int]] = {}
    for reply, score in zip(row["replies"], row["best"]["scores"], strict=True):
        if score is not None:
            found[" ".join(reply["text"].split())] = score, len(reply["text"].strip())
    return list(found.values())


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
