"""What a run would ask and cost, from its items and the templates alone; asks nothing of any model.

Knows how to count; the words it counts are those the run would send, with stand-ins where a model's answer would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from cai.folder.rows import RETRIED, digest_of, names_of
from cai.folder.run import find_info
from cai.folder.store import Store
from cai.models import provider_of, spec_of
from cai.records import BadPrompt, Contest, Item, Prompt, Record, Request
from cai.runs.planned import Planned

CHARACTERS_PER_TOKEN = (
    4.0  # English text under the tokenizers of 2024–2026; others need up to four times as many tokens
)
TOKENS_PER_MESSAGE = 4  # role markers
TYPICAL_ANSWER = 0.5  # of max_tokens


class RoleEstimate(Record):
    """What one role is asked; tokens of answers that are as long as they typically are."""

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None  # None: no listed price
    price_per_million: tuple[float, float] | None  # USD, input and output


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
    cost_usd: float | None
    most_calls: int | None  # None, as in the next three: how many a target takes shows only as it goes on
    most_input_tokens: int | None
    most_output_tokens: int | None
    most_cost_usd: float | None
    seconds: float | None
    roles: dict[str, RoleEstimate]
    notes: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The estimate for people to read."""
        done = f", {self.finished:,} through already" if self.finished else ""
        bad = f", {self.unusable:,} unusable" if self.unusable else ""
        yield f"{self.prompts:,} {self.unit}{bad}{done} → {self.out}"
        for role, part in self.roles.items():
            price = "price unknown" if part.cost_usd is None else f"${part.cost_usd:,.2f}"
            yield (
                f"  {role:10} {part.calls:>10,} calls  {part.input_tokens:>13,} tokens in  "
                f"{part.output_tokens:>12,} out  {price:>13}  {part.model}"
            )
        yield f"  {'in all':10} {self._total(self.calls, self.input_tokens, self.output_tokens, self.cost_usd)}"
        if self.most_calls is None or self.most_input_tokens is None or self.most_output_tokens is None:
            yield f"  {'at most':10} unbounded: continues until --target is met (limited only by --max-cost)"
        else:
            most = (self.most_calls, self.most_input_tokens, self.most_output_tokens, self.most_cost_usd)
            yield f"  {'at most':10} {self._total(*most)}"
        if self.seconds is not None:
            yield f"  about {self.seconds / 60:,.0f} minutes" if self.seconds >= 90 else f"  about {self.seconds:.0f} s"
        yield from (f"  {note}" for note in self.notes)

    @staticmethod
    def _total(calls: int, given: int, made: int, cost: float | None) -> str:
        price = "price unknown" if cost is None else f"${cost:,.2f}"
        return f"{calls:>10,} calls  {given:>13,} tokens in  {made:>12,} out  {price:>13}"


def estimate(run: Planned) -> Estimate:
    """Count what a run would ask, streaming through its items."""
    most = run.settings.max_tokens
    typical = round(most * TYPICAL_ANSWER)
    counts = {player: Counter[str]() for player in run.planned()}
    again_at_most = run.most_times or 1
    figures = Counter[str]()
    for part in run.parts():
        settled, seen = _settled(part), set[bytes]()
        for position, item in part.items():
            status = _status(position, item, settled, seen)
            if part.unit == run.unit:
                figures[status] += 1
            if status != "new":
                continue
            for length in dict.fromkeys((typical, most)):
                for player, request in part.imagined(item, "x" * round(length * CHARACTERS_PER_TOKEN)):
                    again = again_at_most if player == "judge" else 1  # only split votes are asked again
                    times = again * (length == most)
                    counts[player].update(_counted(request, length, likely=length == typical, times=times))
    return _estimate(run, counts, figures)


def _status(position: int, item: Item, settled: set[int], seen: set[bytes]) -> str:
    """Whether an item is unusable, finished in an earlier session, or new."""
    if isinstance(item, BadPrompt) or not _new(item, seen):
        return "unusable"
    return "finished" if position in settled else "new"


def _counted(request: Request, length: int, *, likely: bool, times: int) -> Counter[str]:
    """A request whose answer has `length` tokens, if it may; times: how often it may be asked, 0: not now."""
    made = 0 if request.score else min(length, request.max_tokens or length)
    given = count_tokens(request)
    count = Counter(most_calls=times, most_given=given * times, most_made=made * times)
    if likely:
        count.update(calls=1, given=given, made=made)
    return count


def _settled(run: Planned) -> set[int]:
    """Places in the input that an earlier session of the same run has finished."""
    info = find_info(run.out)
    if info is None or info["identity"] != run.identity:
        return set()
    if run.settings.force or not (run.out / "calls.sqlite").exists():
        return set()
    store = Store(run.out, read_only=True)
    try:
        return {position for position, _, state in store.rows.states() if state not in RETRIED}
    finally:
        store.close()


def _new(item: Prompt | Contest, seen: set[bytes]) -> bool:
    for name in names_of(digest_of(item.key, item.messages), item.id):
        if name in seen:
            return False
        seen.add(name)
    return True


def count_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    texts = [request.text] if request.text is not None else [turn["content"] for turn in request.messages]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return round(size / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(texts)


def _estimate(run: Planned, counts: Mapping[str, Counter[str]], figures: Mapping[str, int]) -> Estimate:
    roles: dict[str, RoleEstimate] = {}
    most_cost = 0.0
    for player, (model, price) in run.planned().items():
        count = counts[player]
        cost = rate = None
        if price is not None:
            most_cost += price.cost(count["most_given"], count["most_made"])
            cost = price.cost(count["given"], count["made"])
            rate = price.input * 1e6, price.output * 1e6
        roles[player] = RoleEstimate(
            model=spec_of(model),
            calls=count["calls"],
            input_tokens=count["given"],
            output_tokens=count["made"],
            cost_usd=cost,
            price_per_million=rate,
        )
    unpriced = sorted({part.model for part in roles.values() if part.cost_usd is None})
    total, bounded = sum(counts.values(), Counter[str]()), run.most_times is not None
    return Estimate(
        out=str(run.out),
        unit=f"{run.unit}s",
        prompts=figures["new"] + figures["finished"],
        unusable=figures["unusable"],
        finished=figures["finished"],
        calls=total["calls"],
        input_tokens=total["given"],
        output_tokens=total["made"],
        cost_usd=None if unpriced else sum(part.cost_usd or 0.0 for part in roles.values()),
        most_calls=total["most_calls"] if bounded else None,
        most_input_tokens=total["most_given"] if bounded else None,
        most_output_tokens=total["most_made"] if bounded else None,
        most_cost_usd=most_cost if bounded and not unpriced else None,
        seconds=_seconds(run, total),
        roles=roles,
        notes=tuple(_notes(run, unpriced, most_cost)),
    )


def _seconds(run: Planned, total: Mapping[str, int]) -> float | None:
    """A rough time, as if the slowest model answered every call; None if the speed of one is not known."""
    settings = run.settings
    seconds = [total["calls"] / settings.rpm * 60 if settings.rpm else 0.0]
    for model, _ in run.planned().values():
        speed = provider_of(model).speed
        if speed is None:
            return None
        concurrency = settings.concurrency or model.concurrency
        seconds.append(speed.seconds(total["calls"], total["given"], total["made"], concurrency))
    return max(seconds)


def _notes(run: Planned, unpriced: list[str], most_cost: float) -> Iterator[str]:
    yield (
        f"tokens are counted as {CHARACTERS_PER_TOKEN:g} bytes each, answers as {TYPICAL_ANSWER:.0%} of --max-tokens "
        f"{run.settings.max_tokens}; nothing was asked of any model"
    )
    yield from run.plan_notes()
    if unpriced:
        yield f"no listed price for {', '.join(unpriced)}: state it with --price IN,OUT"
    cap = run.settings.max_cost
    if cap is not None and most_cost > cap:
        yield f"--max-cost {cap:g} may stop the run before its end: it could come to ${most_cost:,.2f}"
