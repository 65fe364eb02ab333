"""Rows of runs and trainings as the viewer shows them: texts, each kept once, and blocks that say how to show them.

A row is `{id, group, badges, turns, texts, blocks}`. turns: role and text of each. blocks: `["text", title, text]`,
`["diff", title, before, after]`, `["pair", title, text, title, text]`, `["table", columns, lines]`, `["note", words]`.
A text in them is its number among `texts`; one that is cut is `[start, characters in all]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cai.records import Candidates, Drop, Label, Rating, Reading, Revision, Values, Vote
from cai.report.html.sections import minus, name, paragraph, percent
from cai.training.report.samples import Sample as Answers

MOST_TEXT = 6_000  # characters of a text: two screens
MOST_TURNS = 12  # of a conversation: its last ones
MOST_TEXTS = 24  # of a row
MOST_VOTES = 60  # of a row


class Texts:
    """The texts of a row, each of them once."""

    def __init__(self) -> None:
        self.texts: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(cut(text))
        return self._numbers[text]


def cut(text: str) -> str | list[str | int]:
    """A text, or the start of a long one with its length."""
    return text if len(text) <= MOST_TEXT else [text[:MOST_TEXT], len(text)]


def turns(messages: Sequence[Any] | None) -> list[list[Any]]:
    """The last turns of a conversation."""
    if messages is None:
        return []
    shown = [[turn["role"], cut(turn["content"])] for turn in messages[-MOST_TURNS:]]
    left = len(messages) - len(shown)
    return [["note", f"{left:,} earlier turns are not shown"], *shown] if left else shown


def _row(id: object, prompt: Sequence[Any] | None, badges: Iterable[str], texts: Texts, blocks: list[Any]) -> Values:
    shown = blocks[:MOST_TEXTS]
    if len(blocks) > MOST_TEXTS:
        shown.append(["note", f"{len(blocks) - MOST_TEXTS:,} more texts are not shown"])
    return {
        "id": name(id), "badges": list(badges), "turns": turns(prompt), "texts": texts.texts, "blocks": shown,
    }  # fmt: skip


def of_revision(row: Revision) -> Values:
    """The first reply, and each critique with what the revision changed."""
    texts = Texts()
    blocks: list[Any] = [["text", "First reply", texts.number(row.initial)]]
    before = row.initial
    for number, each in enumerate(row.rounds[: MOST_TEXTS // 2], 1):
        gate = "" if each.p_revise is None else f", p(needs a change) {each.p_revise:.2f}"
        blocks.append(["text", f"Critique {number} under {name(each.principle)}{gate}", texts.number(each.critique)])
        if each.revision is None:
            blocks.append(["note", "nothing to fix, says the gate: no revision"])
            continue
        title = f"Revision {number}" if each.changed else f"Revision {number}, unchanged"
        blocks.append(["diff", title, texts.number(before), texts.number(each.revision)])
        before = each.revision
    if len(row.rounds) > 1 and row.final != row.initial:
        blocks.append(["diff", "First reply to final text", texts.number(row.initial), texts.number(row.final)])
    changed = sum(each.changed for each in row.rounds)
    return _row(row.id, row.prompt, [f"{changed} of {len(row.rounds)} rounds changed it"], texts, blocks)


def of_candidates(row: Candidates) -> Values:
    """All replies to a prompt."""
    texts = Texts()
    blocks: list[Any] = []
    for reply in row.replies:
        problem = "" if reply.problem is None else f" ({reply.problem})"
        blocks.append(["text", f"{name(reply.model)}, sample {reply.sample}{problem}", len(blocks)])
    for reply in row.replies[:MOST_TEXTS]:
        texts.texts.append(cut(reply.text))
    return _row(row.id, row.prompt, [f"{len(row.replies)} replies"], texts, blocks)


def of_label(row: Label) -> Values:
    """Two replies side by side, and every vote on them."""
    texts = Texts()
    titles = [f"{side}: {name(origin)}{_by(model)}" for side, origin, model in _sides(row)]
    a, b = (texts.number(text) for text in (row.a, row.b))
    blocks: list[Any] = [["pair", titles[0], a, titles[1], b]]
    if row.rewards is not None:
        blocks.append(["table", ["reward of a", "reward of b"], [[f"{reward:.3f}" for reward in row.rewards]]])
    if row.votes:
        head = ["principle", "weight", "a shown first", "b shown first", "for a (d)", "for the first (b)", "problem"]
        lines = [_vote(vote) for vote in row.votes[:MOST_VOTES]]
        if not any(line[-1] for line in lines):
            head, lines = head[:-1], [line[:-1] for line in lines]
        blocks.append(["table", head, lines])
    if len(row.votes) > MOST_VOTES:
        blocks.append(["note", f"{len(row.votes) - MOST_VOTES:,} more votes are not shown"])
    badges = [_verdict(row)]
    if row.human is not None:
        badges.append(f"people: {row.human}")
    return _row(row.id, row.prompt, badges, texts, blocks)


def _verdict(row: Label) -> str:
    if row.z is None or row.p_a is None:
        return "no valid vote"
    chosen = "tie"
    if row.z:
        chosen = "a" if row.z > 0 else "b"
    return f"judge: {chosen}, p(a) {row.p_a:.3f}"


def _sides(row: Label) -> list[tuple[str, str, str | None]]:
    return [("a", row.a_from, row.a_model), ("b", row.b_from, row.b_model)]


def _by(model: str | None) -> str:
    return "" if model is None else f" by {name(model)}"


def _vote(vote: Vote) -> list[str]:
    problems = [reading.problem for reading in (vote.ab, vote.ba) if reading.problem is not None]
    return [
        name(vote.principle),
        f"{vote.weight:g}",
        _reading(vote.ab, "a", "b"),
        _reading(vote.ba, "b", "a"),
        "–" if vote.d is None else minus(f"{vote.d:+.2f}"),
        "–" if vote.b is None else minus(f"{vote.b:+.2f}"),
        name("; ".join(problems)),
    ]


def _reading(reading: Reading, first: str, second: str) -> str:
    """Which reply the judge chose, and how much probability its letters had."""
    chosen = {"first": first, "second": second, None: "neither"}[reading.choice]
    return chosen if reading.mass is None else f"{chosen}, mass {percent(reading.mass)}"


def of_drop(drop: Drop) -> Values:
    """A prompt that did not become a row, and why."""
    line = "" if drop.line is None else f", line {drop.line:,}"
    detail = ["note", paragraph(f"{drop.stage}: {drop.detail}{line}")]
    return _row(drop.id or "no readable prompt", drop.prompt, [drop.reason], Texts(), [detail])


def of_rating(row: Rating) -> Values:
    """A reply, and how likely each level is."""
    texts = Texts()
    blocks: list[Any] = [["text", f"Reply of {name(row.contestant)}", texts.number(row.reply)]]
    if row.p:
        levels = [[name(level), f"{chance:.4f}"] for level, chance in list(row.p.items())[:MOST_TEXTS]]
        blocks.append(["table", ["level", "probability"], levels])
    if row.problem is not None:
        blocks.append(["note", paragraph(row.problem)])
    value = "invalid" if row.value is None else f"{row.value:.3f}"
    return _row(row.id, row.prompt, [name(row.contestant), f"{name(row.asked)}: {value}"], texts, blocks)


def of_answers(row: Answers) -> Values:
    """What a model says to a held-out prompt before and after its training."""
    texts = Texts()
    before = texts.number(row.before)
    prompt = [{"role": "text", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
    blocks: list[Any] = [["text", "Before training", before]]
    if row.after is not None:
        blocks = [["pair", "Before training", before, "After training", texts.number(row.after)]]
    same = ["the same before and after"] if row.before == row.after else []
    return _row(row.id, prompt, same, texts, blocks)
