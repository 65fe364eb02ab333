"""The cut of a generate run: SFT rows, and pairs; of a run with --accept those that its judge has compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import orjson

from cai.export.cut import LAW, PAIR, Cut, law_columns
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, Row
from cai.export.sft import COLUMNS, conversation, with_reasoning
from cai.folder.lines import lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.accept import ACCEPT, is_unread, prefers_reply
from cai.records import Acceptance, Values
from cai.texts.hygiene import LEARNED, READ_FOR_REFUSALS, said_in
from cai.texts.off_task import copies
from cai.texts.refusals import refusal

FEWEST_READ = 30  # rows: of fewer, the standard error of the share of refusals is above 7 points at a share of 0.2
ORIGIN = {"id": "text", "round": "count", "principles": "texts", **LAW, "model": "text"}
JUDGED = {
    "margin": "number", "confidence": "number", "judge": "text", "protocol": "text",
    "chosen_from": "text", "rejected_from": "text",
}  # fmt: skip


class RevisionCut(Cut):
    """The cut of a generate run: `sft` of final texts, `dpo` of final texts against first replies.

    Of a run with a judge who accepts revisions, `dpo` has each revision and the reply before it, as the judge prefers.
    Rejected revisions count, too: pairs of accepted ones alone would teach that whatever a reviser writes is better.
    """

    stages = ("sft", "dpo")
    kind = "revisions"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        sft = {**COLUMNS[options.sft_format], **ORIGIN, "changed": "flag"}
        pairs = {**PAIR, **ORIGIN}
        self._at: float | None = None  # the probability above which a judge accepts a revision; None: nobody judges
        if "accept" in run.identity:
            pairs |= JUDGED
            self._at = run.identity["accept"]["at"]
        self.files = {"sft": sft, "dpo": pairs}
        # First replies in which refusals are still to be looked for.
        self._refusals_left = READ_FOR_REFUSALS if run.counts()["rows"] >= FEWEST_READ else 0
        self.refused = 0  # of the first replies in which they were looked for
        self.verdicts = Counter[str | None]()  # of the gate; None: its answer could not be read
        self.screens = Counter[bool]()  # of the screens, whether they found a principle that the reply goes against
        self.accepted = Counter[bool]()  # of the revisions that a judge compared with the reply
        self.unreasoned = 0  # SFT rows that want their model's reasoning and have none

    def cut(self) -> None:
        """Cut both kinds of rows from each revision."""
        path = self._run.path / self._run.rows_file
        for position, line in lines_in_order(path):
            with reading(path):
                row = orjson.loads(line)
                side = self.side(row["prompt"])
                for text, sft_row in sft_rows(row, self.options):
                    why = self._fault_of(text, row)
                    if why is not None:
                        name, words = why
                        why = name, f"round {sft_row['round']}: {words}"
                    elif self.options.sft_reasoning:
                        self.unreasoned += _reasoning(row, sft_row["round"]) is None
                    self.put("sft", side, sft_row, why, position)
                for pair, why in self._pairs(row):
                    self.put("dpo", side, pair, why, position)
                self._count(row)

    def _pairs(self, row: Row) -> Iterator[tuple[Row, Reason | None]]:
        """The pairs of a row, at least one, each with the reason for which it is left out."""
        judged = []
        if self._at is not None:
            judged = list(judged_pairs(row))
        for each, acceptance in judged:
            yield each, self._doubt(acceptance) or self._fault_of(each["chosen"][0]["content"], row)
        if judged:
            return
        why = self._fault_of(row["final"], row)
        if row["final"].strip() == row["initial"].strip():
            why = "identical", "the final text is the first reply"
        problem = row.get("problem")
        if problem is not None:
            why = problem, "the first reply, which would be the rejected one"
        yield pair(row), why

    def _doubt(self, acceptance: Acceptance) -> Reason | None:
        """Why a comparison does not say which text is better; None: it does."""
        if acceptance.fault is not None:
            return acceptance.fault, f"nobody judged the revision, which {LEARNED[acceptance.fault].words}"
        if is_unread(acceptance):
            problems = (reading.problem for vote in acceptance.votes for reading in (vote.ab, vote.ba))
            return "invalid_vote", next(filter(None, problems), "no vote was valid")
        if acceptance.accepted or prefers_reply(acceptance, self._at or ACCEPT):
            return None
        p = f"p {acceptance.p:.3f} that the revision is better"
        return (
            "low_confidence",
            f"{p}: the principles do not agree on either text with more than {self._at or ACCEPT:g}",
        )

    def _fault_of(self, text: str, row: Row) -> Reason | None:
        """The first fault of a text of a row; one is to be a critique that it should answer."""
        found = self.fault(text, said_in(row["prompt"]))
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
        self.screens.update(screen["principle"] is not None for screen in row.get("screens", ()))
        for turn in row["rounds"]:
            acceptance = turn.get("acceptance")
            if acceptance is not None and acceptance["fault"] is None:
                self.accepted[acceptance["accepted"]] += 1
                facts.count_orders(acceptance)
            facts.used[turn["principle"]] += 1
            facts.changed[turn["principle"]] += turn["changed"]
        facts.count_models(row["models"])
        if self._refusals_left:
            self._refusals_left -= 1
            self.refused += refusal(row["initial"], row["prompt"][-1]["content"]) == "full"


def sft_rows(row: Row, options: ExportOptions) -> list[tuple[str, Row]]:
    """The SFT rows of a revision, at least one, each with its text.

    `round` is the one that wrote the text, 0 for the first reply, `principles` are those it was criticised or revised
    under; with "all" a text that occurs twice stays where it occurred last, so that the last row is the one that "last"
    gives.
    """
    texts = written(row)
    if options.rounds_kept != "all":
        texts = texts[-1:]
    return [(text, _sft_row(row, text, number, principles, options)) for text, number, principles in texts]


def _sft_row(row: Row, text: str, number: int, principles: list[str], options: ExportOptions) -> Row:
    learned = text
    if options.sft_reasoning:
        learned = with_reasoning(text, _reasoning(row, number))
    return {
        **conversation(row["prompt"], learned, options.sft_format),
        **_provenance(row, number, principles),
        "changed": text.strip() != row["initial"].strip(),
    }


def _reasoning(row: Row, number: int) -> str | None:
    """What its model thought before it wrote the text of a round, 0 for the first reply; None: nothing is known."""
    author = row["rounds"][number - 1] if number else row
    reasoning: str | None = author.get("reasoning")
    return reasoning


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


def judged_pairs(row: Row) -> Iterator[tuple[Row, Acceptance]]:
    """Every revision that a judge compared with the reply before it; the one that stayed is chosen."""
    before, origin, role = row["initial"], "initial", "assistant"
    for number, turn in enumerate(row["rounds"], 1):
        own = f"round {number}"
        if turn["acceptance"] is not None:
            acceptance = Acceptance.model_validate(turn["acceptance"])
            sides = [(turn["revision"] or acceptance.rejected, own, "reviser"), (before, origin, role)]
            p = margin = None
            if acceptance.p is not None and acceptance.z is not None:
                p, margin = max(acceptance.p, 1.0 - acceptance.p), abs(acceptance.z)
            if not acceptance.accepted:
                sides.reverse()
            (chosen, chosen_from, author), (rejected, rejected_from, _) = sides
            yield (
                {
                    "prompt": row["prompt"],
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "p_chosen": p,
                    "judged": True,
                    **_provenance(row, number, list(dict.fromkeys(vote.principle for vote in acceptance.votes))),
                    "model": row["models"][author],
                    "margin": margin,
                    "confidence": p,
                    "judge": row["models"].get("judge"),
                    "protocol": acceptance.protocol,
                    "chosen_from": chosen_from,
                    "rejected_from": rejected_from,
                },
                acceptance,
            )
        if turn["revision"] is not None:
            before, origin, role = turn["revision"], own, "reviser"


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
