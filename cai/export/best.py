"""The cut of a best-of run: SFT rows of the replies that won, how they compare with all others, and their card.

A cut asks no model; what every cut shares is in `cai.export.cut`, of cards in `cai.export.card`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from cai.export.card import (
    NAMES,
    Facts,
    Judged,
    constitution_of,
    dropped_rows,
    front_matter,
    list_files,
    loading,
    spec_of,
    versions_and_cost,
)
from cai.export.cut import Cut, Lines, Row
from cai.export.pairs import flipped
from cai.export.revisions import FAULTS
from cai.export.tables import line_of
from cai.folder.run import RunFolder
from cai.records import DropReason, Record
from cai.sources.files import describe
from cai.texts.hygiene import preamble_leak, role_mixup
from cai.texts.markdown import block, code, section, table, without_path

MANY_FLIPS = 0.5  # of the valid votes: then the place decides more often than the reply
INTRODUCTION = """
Of several replies that language models wrote to a prompt the one that a judge, another model, believes to be the best:
best-of-N sampling, which trains nothing, made with `cai-toolkit`. Tuning on such rows is expert iteration.

**Language models wrote and picked these replies, and nobody has read them.** Prompts may ask for harmful things, and
the best of several replies may still give them.

The licence of these rows follows from those of the prompts and of the models that wrote and judged the replies.
"""


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
        yield f"{'the winner of 1 prompt' if self.judged == 1 else f'winners of {self.judged:,} prompts'}{alone}"
        if self.winner_score is not None:
            yield f"mean score of the winners {self.winner_score:.3f}, of all replies {self.mean_score:.3f}"
        if self.longest_won is not None:
            yield f"the longest reply won {self.longest_won:.0%}; {self.longest_chance:.0%} if length did not count"


class BestCut(Cut):
    """The cut of a best-of run: `sft` of the winners."""

    rows_file = "candidates.jsonl"
    files = stages = ("sft",)

    def __init__(self, run: RunFolder, options: Row, columns: Mapping[str, Any]) -> None:
        super().__init__(run, options["split"], columns)
        self._hygiene = options["hygiene"]
        self.judged = self.facts.judged = Judged()
        self._prompts = self._uneven = self._longest = 0
        self._won = self._all = self._chance = 0.0

    def lines(self) -> Lines:
        """What is left out of sft.jsonl."""
        for position, line in self.stored():
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
                yield self.drop("sft", why, row["id"], position, FAULTS[why])

    def _fault(self, text: str) -> DropReason | None:
        if not self._hygiene:
            return None
        return "preamble_leak" if preamble_leak(text) else "role_mixup" if role_mixup(text) else None

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


def best_card(info: Mapping[str, Any], facts: Facts, load_from: str = ".") -> str:
    """The text of README.md of a best-of run; the arguments are those of `run_cards.dataset_card`."""
    identity = info["identity"]
    law = identity["best_of"]["constitution"]
    under = "a reward model" if law is None else law["name"]
    parts = [
        f"---\n{front_matter(under, facts, 'Best replies', ['best-of-n'])}---\n",
        f"# The best of {identity['n'] * len(identity['models'])} replies under {code(under)}\n{INTRODUCTION}",
        section("Files", table(("file", "split", "rows"), list_files(facts))),
        section("How it was made", table(("setting", "value"), _settings(info, facts))),
        section("How far to trust it", _trust(facts)),
        section("What was left out", dropped_rows(facts)),
        section("Load it", loading(facts, load_from)),
        section("Make it again", _commands(identity, info.get("settings", {}), facts)),
    ]
    return "\n".join(part for part in parts if part)


def _settings(info: Mapping[str, Any], facts: Facts) -> list[tuple[str, ...]]:
    identity = info["identity"]
    best, sampling, system = identity["best_of"], identity["sampling"], identity["system"]
    law = best["constitution"]
    served = [code(without_path(name)) for name in sorted(facts.models.get("judge", ()))]
    rows = [("asked", "one number a reply")]
    if law is not None:
        asked = f"every two replies in both orders, {best['principles']} principles a pair, {code(best['protocol'])}"
        named = f"{code(law['name'])} {code(law['version'])}, hash {code(law['hash'])}"
        rows = [("asked", asked), ("constitution", named)]
    return [
        ("prompts", code(identity["source"]["what"])),
        ("models", ", ".join(code(without_path(name)) for name in identity["models"])),
        ("replies", f"{identity['n']} from each model"),
        ("system text", "none" if system is None else f"{code(system)}, not in the rows"),
        ("sampling", ", ".join(f"{name} {code(orjson.dumps(value).decode())}" for name, value in sampling.items())),
        ("judge", f"{code(without_path(best['judge']))}, answered as {', '.join(served) or 'nothing'}"),
        *rows,
        ("seed", str(identity["seed"])),
        *versions_and_cost(info),
    ]  # fmt: skip


def _trust(facts: Facts) -> str:
    judged = facts.judged
    assert judged is not None  # of every best-of run
    rows = [("calibration", "uncalibrated: nobody compared these picks with people's")]
    if judged.flip_rate is not None:
        rows.append(("order", f"{judged.flip_rate:.1%} of {judged.votes:,} votes flip with it"))
    if judged.mean_bias is not None:
        rows.append(("position", f"mean bias {judged.mean_bias:+.2f} nats towards the first reply"))
    return table(("measure", "value"), rows)


def _commands(identity: Mapping[str, Any], settings: Mapping[str, Any], facts: Facts) -> str:
    best, sampling, prompts = identity["best_of"], identity["sampling"], identity["source"]["what"]
    words = ["cai", "sample"]
    if prompts != describe(None):
        words.append(prompts if prompts.startswith("hf:") else "PROMPTS")
    for model in identity["models"]:
        words += ["--model", spec_of(model)]
    words += ["--best-of", str(identity["n"]), "--judge", spec_of(best["judge"])]
    if best["constitution"] is not None:
        words += ["--constitution", constitution_of(best["constitution"]["hash"]), "--protocol", best["protocol"]]
        words += ["--principles", str(best["principles"])]
    options: list[tuple[str, Any, Any]] = [  # option, value, the value that needs no option
        ("--system", identity["system"], None),
        ("--temperature", sampling["temperature"], 1.0),
        ("--max-tokens", sampling["max_tokens"], 512),
        ("--extra-body", sampling["extra_body"] and orjson.dumps(sampling["extra_body"]).decode(), {}),
        ("--format", identity["source"]["format"], None),
        ("--prompt-field", identity["source"]["field"], None),
        ("--limit", settings.get("limit"), None),
        ("--seed", identity["seed"], 0),
    ]
    for name, value, default in options:
        if value is not None and value != default:
            words += [name, str(value)]
    export = shlex.join(["cai", "export", "RUN", *facts.options])
    return block("bash", f"{shlex.join([*words, '--out', 'RUN'])}\n{export}") + NAMES
