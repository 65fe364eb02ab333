"""The best reply to each prompt (best of N) as SFT rows: by the labels of its pairs, or as version 0.1.0 picked it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter

import orjson

from cai.errors import RunError
from cai.export.cut import JUDGE, Cut, law_columns, line_of
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, Row, Standing, name_of, standings, unfit
from cai.export.parquet import Columns
from cai.export.preferences import LabelCut
from cai.export.sft import COLUMNS, conversation
from cai.folder.info import find_info
from cai.folder.lines import DROPPED, PAIR_BITS, lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.metrics import share
from cai.records import Record
from cai.texts.hygiene import said_in

UNJUDGED: Reason = "invalid_vote", "no pair of its replies was judged"
UNFINISHED: Reason = "invalid_vote", "not all pairs of its replies are judged yet"
PICKED: Columns = {
    "id": "text", "best_of": "count", "score": "number", "judged": "flag", **JUDGE,
    "model": "text", "sample": "count",
}  # fmt: skip


class BestSummary(Record):
    """What choosing the best replies came to."""

    prompts: int  # whose replies were read
    unjudged: int  # of the rows: those whose reply is the only usable one
    mean_p: float | None  # of the best replies: mean probability of being better than the others
    longest_won: float | None  # share of the prompts with one longest reply in which that one is the best
    longest_chance: float | None  # what that share would be if length did not count: the mean of 1 / replies


class BestCut(LabelCut):
    """The best reply to each prompt, by its mean probability of being better than the others: `sft`.

    Of a label run, or of a sample run whose labels are in `labels/`. A prompt whose two best replies have the same mean
    is dropped as low_confidence, one without a valid vote as invalid_vote. The only usable reply to a prompt of a
    sample run is its best one, unjudged; a label run has no pair of it, and so no row.
    """

    stages = ("sft",)
    kind = "best replies"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        self._candidates = None
        self._dropped = defaultdict[int, set[int]](set)  # pairs in dropped.jsonl, by the place of their prompt
        if run.identity["command"] == "sample":
            self._candidates = run.path / "candidates.jsonl"
            folder = run.path / "labels"
            info = find_info(folder)
            self._labelling = f"run cai label {run.path} --out {folder}"
            if info is None:
                raise RunError(
                    f"{run.path} has no labels: rerun its command if that has --best-of, else {self._labelling}"
                )
            if "binding" not in info["identity"]:
                raise RunError(f"{folder} is not a label run: move it away, and {self._labelling}")
            super().__init__(run, options, folder, info["identity"]["binding"])
            self.judging = {"binding": self.binding, "stopped": info.get("stopped")}
            self.stopped = self.stopped or info.get("stopped")
            for position, _ in lines_in_order(folder / DROPPED):
                self._dropped[position >> PAIR_BITS].add(position)
        else:
            super().__init__(run, options)
        columns = {**COLUMNS[options.sft_format], **PICKED, "from": "text", "labels": "texts"}
        self.files = {"sft": columns}
        self._sum = self._chances = 0.0
        self._judged = self._longest = self._uneven = 0

    def cut(self) -> None:
        """Cut the best reply to each prompt."""
        with self.blaming():
            for prompt, labels in self._prompts():
                self.read["sft"] += 1
                for label in labels:
                    self.count(label)
                why = self._cut(prompt, labels)
                if why is not None:
                    self.drop("sft", why, prompt["id"], prompt["position"])
        self.best = BestSummary(
            prompts=self.read["sft"],
            unjudged=self.kept["sft"] - self._judged,
            mean_p=share(self._sum, self._judged),
            longest_won=share(self._longest, self._uneven),
            longest_chance=share(self._chances, self._uneven),
        )

    def _prompts(self) -> Iterator[tuple[Row, list[Row]]]:
        """Each prompt, as a row of candidates.jsonl, with its labels; a label run names no candidates.

        Raises RunError for labels of other replies than those of the sample run.
        """
        units = self.units()
        if self._candidates is None:
            for labels in units:
                first = labels[0]
                prompt = {
                    "id": first["prompt_id"],
                    "position": first["position"],
                    "prompt": first["prompt"],
                    "replies": [],
                }
                yield prompt, labels
            return
        labels = next(units, [])
        for _, line in lines_in_order(self._candidates):
            with reading(self._candidates):
                row = orjson.loads(line)
                prompt = {name: row[name] for name in ("id", "position", "prompt", "replies")}
                self.facts.models["assistant"].update(reply["model"] for reply in row["replies"])
            if labels and _are_of(labels, prompt):
                yield prompt, labels
                labels = next(units, [])
            else:
                yield prompt, []
        if labels:
            folder = self.labels.parent
            raise RunError(f"{folder} labels other replies than those of {self._run.path}: {self._labelling} --force")

    def _cut(self, prompt: Row, labels: Sequence[Row]) -> Reason | None:
        """Write the best reply to a prompt; why there is none comes back."""
        sampled = prompt["replies"]
        usable = _usable(sampled)
        judge = None
        best: Standing | Reason
        pairs = math.comb(sum(reply["problem"] is None for reply in sampled), 2)
        settled = self._dropped[prompt["position"]].union(label["position"] for label in labels)
        if len(settled) < pairs:  # a limit, a target or an error came before the others
            return UNFINISHED
        if labels:
            replies = standings(labels, self.filters)
            best = best_of(replies)
            judge = labels[0]["models"].get("judge")
        else:
            replies = usable
            best = replies[0] if len(replies) == 1 else UNJUDGED
        if not isinstance(best, Standing):
            return best
        why = unfit(best.text, prompt["prompt"], self.filters)
        if why is not None:
            return why
        if labels:
            self._judged += 1
            self._sum += best.p or 0.0
            lengths = [len(reply.text.strip()) for reply in replies]
            if lengths.count(max(lengths)) == 1:
                self._uneven += 1
                self._chances += 1 / len(lengths)
                self._longest += len(best.text.strip()) == max(lengths)
        number, origin, model = best.name
        reply = {"text": best.text, "model": model or None, "sample": None}
        if number < len(sampled):
            reply["sample"] = sampled[number]["sample"]
        row = best_row(prompt, reply, len(sampled) or len(replies), best.p, judge, self.binding)
        row |= {"from": origin, "labels": best.labels}
        columns = conversation(prompt["prompt"], best.text, self.options.sft_format)
        self.keep("sft", self.side(prompt["prompt"]), line_of(columns | row))
        return None


def _are_of(labels: Sequence[Row], prompt: Row) -> bool:
    """Whether the labels of one prompt are of this one and of its replies; --target may have drawn more of these."""
    first = labels[0]
    if (first["position"] >> PAIR_BITS, first["prompt_id"]) != (prompt["position"], prompt["id"]):
        return False
    texts = {name_of(label, side)[0]: label[side] for label in labels for side in ("a", "b")}
    return all(texts.get(number, reply["text"]) == reply["text"] for number, reply in enumerate(prompt["replies"]))


def _usable(replies: Sequence[Row]) -> list[Standing]:
    """The usable replies of a row of candidates.jsonl; those that differ only in white space are one."""
    usable: dict[str, Standing] = {}
    for number, reply in enumerate(replies):
        words = " ".join(reply["text"].split())
        if words and reply["problem"] is None:
            name = (number, f"sample {number}", reply["model"])
            usable.setdefault(words, Standing(0, "", name, reply["text"], [], []))
    return list(usable.values())


def best_of(replies: Sequence[Standing]) -> Standing | Reason:
    """The reply with the highest mean probability of being better, or why there is none."""
    if not replies:
        return "invalid_vote", "no vote was valid"
    ranked = sorted((reply for reply in replies if reply.p is not None), key=attrgetter("p"), reverse=True)
    if not ranked:
        return "identical", "all replies have the same text"
    if len(ranked) > 1 and ranked[0].p == ranked[1].p:
        return "low_confidence", f"two replies share the highest p, {ranked[0].p:.3f}"
    return ranked[0]


class PickedCut(Cut):
    """The cut of a finished best-of run of version 0.1.0, whose judge picked while the replies were sampled: `sft`."""

    stages = ("sft",)
    kind = "best replies"

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        super().__init__(run, options)
        self.files = {"sft": {**COLUMNS[options.sft_format], **PICKED}}

    def cut(self) -> None:
        """Cut the best reply to each prompt."""
        path = self._run.path / self._run.rows_file
        for position, line in lines_in_order(path):
            with reading(path):
                row = orjson.loads(line)
                best = row["best"]
                reply = row["replies"][best["winner"]]
                score = best["scores"][best["winner"]]
                picked = best_row(row, reply, len(row["replies"]), score, best["judge"], best)
                columns = conversation(row["prompt"], reply["text"], self.options.sft_format)
                self.put(
                    "sft",
                    self.side(row["prompt"]),
                    columns | picked,
                    self.fault(reply["text"], said_in(row["prompt"])),
                    position,
                )
                self.facts.count_models({"assistant": reply["model"], "judge": best["judge"]})
                for pair in best["comparisons"]:
                    self.facts.count_votes(pair)
            self.facts.rows += 1


def best_row(prompt: Row, reply: Row, best_of: int, score: float | None, judge: str | None, binding: Row) -> Row:
    """The row of sft.jsonl, but for the conversation, that the best of `best_of` replies to a prompt becomes.

    judge: None if nothing was compared. reply: its text, model and number, as in candidates.jsonl. binding: how it was
    judged.
    """
    return {
        "id": prompt["id"],
        "best_of": best_of,
        "score": score,
        "judged": judge is not None,
        **law_columns(binding["constitution"]),
        "judge": judge,
        "protocol": binding["protocol"],
        "model": reply["model"],
        "sample": reply["sample"],
    }
