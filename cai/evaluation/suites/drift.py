"""How far contestants have moved away from BASE: how probable BASE finds their replies, and how probable they do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cai.evaluation.arena.figures import Contestant, Line, line_of
from cai.evaluation.arena.probe import probe
from cai.evaluation.statistics.estimates import Estimate, mean_of
from cai.evaluation.statistics.likelihood import bits, k1, k3, ratio, ratio_difference
from cai.folder.lines import PAIR_BITS
from cai.records import Candidate, Candidates, Probe, Probed, Request

READABLE = (None, "truncated")  # problems of a reply that has a text
Columns = Mapping[int, int]  # contestants that give probabilities, by number, with their places in the run of probes
Tokens = tuple[dict[str, float], ...]


class Scored(NamedTuple):
    """A reply, and how probable BASE and its author find it, in nats."""

    prompt: int
    size: int  # bytes
    base: float
    tokens: int  # of BASE
    own: float | None  # None: it is BASE's, or its author gives no probabilities
    gap: float | None  # k3 of its tokens, added up; None: its author has other tokens


def reply_probes(
    row: Candidates, sides: Sequence[Sequence[Candidate]], columns: Columns, asked: Request
) -> Iterator[tuple[int, Probe]]:
    """The replies to a prompt with their positions, each to be scored by BASE and by its author; asked: for them."""
    each = len(row.replies) // len(sides)
    for number, replies in enumerate(sides):
        models = tuple(sorted({columns[0], columns.get(number, columns[0])}))
        for index, reply in enumerate(replies):
            if reply.problem not in READABLE or not reply.text.strip():
                continue
            name = f"{row.id}:{number}:{index}"
            place = row.position << PAIR_BITS | number * each + index
            if asked.text is None:
                yield place, probe(name, asked.messages, reply.text, by_token=True, models=models)
            else:  # as a base model continues: the layout ends with a label
                yield place, probe(name, asked.text, f" {reply.text}", by_token=True, models=models)


def scored(rows: Iterable[Probed], columns: Columns, each: int) -> dict[int, list[Scored]]:
    """What was scored, by the number of the contestant; each: replies of one contestant to a prompt."""
    replies: dict[int, list[Scored]] = defaultdict(list)
    for row in rows:
        prompt, place = divmod(row.position, 1 << PAIR_BITS)
        author = place // each
        base, tokens = _answer(row, columns[0])
        own = gap = None
        if author and author in columns:
            own, own_tokens = _answer(row, columns[author])
            if _texts(own_tokens) == _texts(tokens):
                pairs = zip(own_tokens, tokens, strict=True)
                gap = math.fsum(k3(*mine.values(), *theirs.values()) for mine, theirs in pairs)
        replies[author].append(Scored(prompt, row.sizes[0], base, len(tokens), own, gap))
    return replies


def _answer(row: Probed, column: int) -> tuple[float, Tokens]:
    """What one model said of a reply: its log-probability, and that of its tokens."""
    logprobs, tokens = row.logprobs[column], (row.tokens or ())[column]
    assert logprobs is not None and tokens is not None
    return logprobs[0], tokens


def _texts(tokens: Tokens) -> list[str]:
    """The texts of tokens; those that are a part of a letter, which each engine shows in another way, without it."""
    return [name.replace("\ufffd", "") for token in tokens for name in token]


def drift_lines(contestants: Sequence[Contestant], replies: Mapping[int, list[Scored]]) -> Iterator[Line]:
    """How surprising the replies are to BASE, and the KL divergence from it, each with an interval over prompts."""
    base = replies.get(0, [])
    for number, contestant in enumerate(contestants):
        own = replies.get(number, [])
        surprise = _ratio(own, lambda reply: bits(reply.base), lambda reply: reply.size, 0)
        change = None if contestant.base else _surprise(own, base)
        yield line_of(contestant.name, "bits per byte under BASE", "bits", surprise, change, _perplexity(own))
    for number, contestant in enumerate(contestants):
        if not contestant.base:
            own = [reply for reply in replies.get(number, []) if reply.own is not None]
            yield from _divergence(contestant, own)


def _divergence(contestant: Contestant, replies: Sequence[Scored]) -> Iterator[Line]:
    def line(measure: str, estimate: Estimate, note: str = "") -> Line:
        note = note if replies else f"{contestant.spec} gives no probabilities of texts"
        return line_of(contestant.name, f"KL to BASE {measure}", "number", estimate, None, note)

    means = _by_prompt(replies, _k1)
    counts = _by_prompt(replies, lambda reply: 1)
    yield line("per reply", mean_of([means[prompt] / counts[prompt] for prompt in means]), "nats, k1")
    if replies and any(reply.gap is None for reply in replies):
        per_byte = _ratio(replies, _k1, lambda reply: reply.size)
        yield line("per byte", per_byte, "nats, k1; BASE has another tokenizer, so there is no figure per token")
        return
    yield line("per token", _ratio(replies, _k1, lambda reply: reply.tokens), "nats, k1")
    yield line("per token, k3", _ratio(replies, lambda reply: reply.gap or 0.0, lambda reply: reply.tokens, 0), "nats")


def _k1(reply: Scored) -> float:
    return k1(reply.own or 0.0, reply.base)


def _by_prompt(replies: Iterable[Scored], value: Callable[[Scored], float]) -> dict[int, float]:
    """Sums over the replies to each prompt."""
    sums: dict[int, float] = defaultdict(float)
    for reply in replies:
        sums[reply.prompt] += value(reply)
    return sums


def _ratio(
    replies: Sequence[Scored],
    value: Callable[[Scored], float],
    size: Callable[[Scored], float],
    low: float = -math.inf,
) -> Estimate:
    return ratio(list(_by_prompt(replies, value).values()), list(_by_prompt(replies, size).values()), low)


def _surprise(replies: Sequence[Scored], base: Sequence[Scored]) -> Estimate:
    """The difference in bits per byte, over the prompts that both have replied to."""
    shared = {reply.prompt for reply in replies} & {reply.prompt for reply in base}
    columns = []
    for side in (replies, base):
        own = [reply for reply in side if reply.prompt in shared]
        columns += [_by_prompt(own, lambda reply: bits(reply.base)), _by_prompt(own, lambda reply: reply.size)]
    return ratio_difference(*([column[prompt] for prompt in sorted(shared)] for column in columns))


def _perplexity(replies: Sequence[Scored]) -> str:
    tokens = sum(reply.tokens for reply in replies)
    if not tokens:
        return ""
    return f"perplexity {math.exp(-math.fsum(reply.base for reply in replies) / tokens):.3g} per token of BASE"
