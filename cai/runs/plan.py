"""What a run would ask and cost, from its items and its templates; asks no model.

It counts the words that the run would send, with stand-ins for the answers of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from cai.calls.model import Model
from cai.calls.prices import Price
from cai.folder.rows import RETRIED, digest_of, names_of
from cai.folder.run import find_info
from cai.folder.store import Store
from cai.models import provider_of, spec_of
from cai.records import BadPrompt, Item, Record, Request, Values
from cai.runs.kind import RunKind

# English text under the tokenizers of 2024–2026; others need up to four times as many tokens.
CHARACTERS_PER_TOKEN = 4.0
TOKENS_PER_MESSAGE = 4  # role markers
TYPICAL_ANSWER = 0.5  # of max_tokens
Counts = dict[str, Counter[str]]  # by player: calls, and the tokens that are read and written


class RoleEstimate(Record):
    """What one role is asked; tokens of answers that are as long as they typically are."""

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None  # None: no listed price
    price_per_million: tuple[float, float] | None = None  # USD, input and output


class Estimate(Record):
    """What a run would ask; the `most` fields take every answer to be max_tokens long, and critiques to find faults."""

    out: str
    unit: str  # what is counted: prompts, or pairs
    prompts: int
    unusable: int  # records that are no prompt, and repeated prompts and ids
    finished: int  # of the prompts, those that the folder is through with; they are not counted below
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    most_calls: int | None = (
        None  # None, as in the next three: a target decides how many, which shows as pairs are judged
    )
    most_input_tokens: int | None = None
    most_output_tokens: int | None = None
    most_cost_usd: float | None = None
    seconds: float | None
    roles: dict[str, RoleEstimate]
    notes: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The estimate for people to read."""
        counts = f"{self.prompts:,} {self.unit}"
        if self.unusable:
            counts += f", {self.unusable:,} unusable"
        if self.finished:
            counts += f", {self.finished:,} through already"
        yield f"{counts} → {self.out}"
        for role, part in self.roles.items():
            figures = _line(role, part.calls, part.input_tokens, part.output_tokens, part.cost_usd)
            yield f"{figures}  {part.model}"
        yield _line("in all", self.calls, self.input_tokens, self.output_tokens, self.cost_usd)
        if self.most_calls is None:
            yield f"  {'at most':10} unbounded: continues until --target is met (limited only by --max-cost)"
        else:
            yield _line("at most", self.most_calls, self.most_input_tokens, self.most_output_tokens, self.most_cost_usd)
        if self.seconds is not None:
            yield f"  about {_duration(self.seconds)}"
        for note in self.notes:
            yield f"  {note}"


def _line(name: str, calls: int, read: int | None, written: int | None, cost: float | None) -> str:
    price = "price unknown"
    if cost is not None:
        price = f"${cost:,.2f}"
    return f"  {name:10} {calls:>10,} calls  {read:>13,} tokens in  {written:>12,} out  {price:>13}"


def _duration(seconds: float) -> str:
    if seconds >= 90:
        return f"{seconds / 60:,.0f} minutes"
    return f"{seconds:.0f} s"


def estimate(run: RunKind[Any]) -> Estimate:
    """Count what a run would ask, streaming through its items."""
    longest = run.settings.max_tokens
    typical = round(longest * TYPICAL_ANSWER)
    likely = {player: Counter[str]() for player in run.planned()}
    most = {player: Counter[str]() for player in run.planned()}
    statuses = Counter[str]()
    for part in run.parts():
        finished = _finished(part)
        seen = set[bytes]()
        for position, item in part.items():
            status = "new"
            if _is_unusable(item, seen):
                status = "unusable"
            elif position in finished:
                status = "finished"
            if part.unit == run.unit:
                statuses[status] += 1
            if status == "new":
                _count(part, item, likely, typical)
                _count(part, item, most, longest)
    if "judge" in most:  # only votes that are split are asked again
        waves = run.most_waves or 1
        most["judge"] = Counter({name: count * waves for name, count in most["judge"].items()})
    return _estimate(run, likely, most, statuses)


def _count(run: RunKind[Any], item: Item, counts: Counts, length: int) -> None:
    """Count what is asked for an item, and the tokens, if every answer that may be as long has `length` tokens."""
    for player, request in run.imagined(item, "x" * round(length * CHARACTERS_PER_TOKEN)):
        written = 0
        if not request.score:
            written = min(length, request.max_tokens or length)
        counts[player].update(calls=1, read=count_tokens(request), written=written)


def _finished(run: RunKind[Any]) -> set[int]:
    """Places in the input that an earlier session of the same run has finished."""
    info = find_info(run.out)
    if info is None or info["identity"] != run.identity:
        return set()
    if run.settings.force or not (run.out / "calls.sqlite").exists():
        return set()
    with closing(Store(run.out, read_only=True)) as store:
        return {position for position, _, state in store.rows.states() if state not in RETRIED}


def _is_unusable(item: Item, seen: set[bytes]) -> bool:
    """Whether an item is a bad record, or repeats the content or the id of one in `seen`; adds it there."""
    if isinstance(item, BadPrompt):
        return True
    for name in names_of(digest_of(item.key, item.messages), item.id):
        if name in seen:
            return True
        seen.add(name)
    return False


def count_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    texts = [turn["content"] for turn in request.messages]
    if request.text is not None:
        texts = [request.text]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return round(size / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(texts)


def _estimate(run: RunKind[Any], likely: Counts, most: Counts, statuses: Counter[str]) -> Estimate:
    total = sum(likely.values(), Counter[str]())
    ceiling = sum(most.values(), Counter[str]())
    most_cost = _cost(run, most)
    bounds: Values = {}
    if run.most_waves is not None:
        bounds = {
            "most_calls": ceiling["calls"],
            "most_input_tokens": ceiling["read"],
            "most_output_tokens": ceiling["written"],
            "most_cost_usd": most_cost,
        }
    return Estimate(
        out=str(run.out),
        unit=f"{run.unit}s",
        prompts=statuses["new"] + statuses["finished"],
        unusable=statuses["unusable"],
        finished=statuses["finished"],
        calls=total["calls"],
        input_tokens=total["read"],
        output_tokens=total["written"],
        cost_usd=_cost(run, likely),
        seconds=_seconds(run, total),
        roles={player: _role(model, price, likely[player]) for player, (model, price) in run.planned().items()},
        notes=tuple(_notes(run, most_cost)),
        **bounds,
    )


def _role(model: Model, price: Price | None, count: Counter[str]) -> RoleEstimate:
    role = RoleEstimate(
        model=spec_of(model), calls=count["calls"], input_tokens=count["read"], output_tokens=count["written"]
    )
    if price is None:
        return role
    cost = price.cost(count["read"], count["written"])
    return role.model_copy(update={"cost_usd": cost, "price_per_million": (price.input * 1e6, price.output * 1e6)})


def _cost(run: RunKind[Any], counts: Counts) -> float | None:
    """USD of all calls; None if a price is not known."""
    total = 0.0
    for player, (_, price) in run.planned().items():
        if price is None:
            return None
        total += price.cost(counts[player]["read"], counts[player]["written"])
    return total


def _seconds(run: RunKind[Any], total: Counter[str]) -> float | None:
    """A rough time, as if the slowest model answered every call; None if the speed of one is not known."""
    settings = run.settings
    seconds = 0.0
    if settings.rpm:
        seconds = total["calls"] / settings.rpm * 60
    for model, _ in run.planned().values():
        speed = provider_of(model).speed
        if speed is None:
            return None
        concurrency = settings.concurrency or model.concurrency
        seconds = max(seconds, speed.seconds(total["calls"], total["read"], total["written"], concurrency))
    return seconds


def _notes(run: RunKind[Any], most_cost: float | None) -> Iterator[str]:
    settings = run.settings
    yield (
        f"tokens are counted as {CHARACTERS_PER_TOKEN:g} bytes each, answers as {TYPICAL_ANSWER:.0%} of --max-tokens "
        f"{settings.max_tokens}; nothing was asked of any model"
    )
    yield from run.plan_notes()
    unpriced = sorted({spec_of(model) for model, price in run.planned().values() if price is None})
    if unpriced:
        yield f"no listed price for {', '.join(unpriced)}: state it with --price IN,OUT"
    elif most_cost is not None and settings.max_cost is not None and most_cost > settings.max_cost:
        yield f"--max-cost {settings.max_cost:g} may stop the run before its end: it could come to ${most_cost:,.2f}"
