"""What a run would ask and cost, from its items and the templates alone; asks nothing of any model.

Knows how to count; the words it counts are those the run would send, with stand-ins where a model's answer would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from cai.errors import RunError
from cai.folder.inputs import digest_of, names_of
from cai.folder.rows import RETRIED
from cai.folder.store import Store
from cai.models import provider_of, spec_of
from cai.records import BadPrompt, Contest, Prompt, Record, Request
from cai.runs.run import Setup

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
            yield f"  {'at most':10} nobody knows: it goes on until --target is reached; --max-cost holds"
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


def estimate(setup: Setup[Any]) -> Estimate:
    """Count what a run would ask, streaming through its items."""
    most = setup.settings.max_tokens
    typical = round(most * TYPICAL_ANSWER)
    counts = {player: _Count() for player in setup.players}
    times = setup.most_times or 1
    items = unusable = finished = 0
    for part in setup.parts():
        settled, seen = _settled(part), set[bytes]()
        for position, item in part.task().places():
            if isinstance(item, BadPrompt) or not _new(item, seen):
                unusable += 1
                continue
            items += 1
            if position in settled:
                finished += 1
                continue
            for length in dict.fromkeys((typical, most)):
                for player, request in part.imagined(item, "x" * round(length * CHARACTERS_PER_TOKEN)):
                    again = times if player == "judge" else 1  # split votes alone are asked again
                    counts[player].add(request, length, likely=length == typical, times=again * (length == most))
    return _estimate(setup, counts, items, unusable, finished)


class _Count:
    """What one player is asked, as it is likely and at most."""

    def __init__(self) -> None:
        self.calls = self.given = self.made = self.most_calls = self.most_given = self.most_made = 0

    def add(self, request: Request, length: int, *, likely: bool, times: int) -> None:
        """Count a request whose answer has `length` tokens, if it may; times: how often it may be asked, 0: not now."""
        made = 0 if request.score else min(length, request.max_tokens or length)
        given = count_tokens(request)
        if likely:
            self.calls += 1
            self.given += given
            self.made += made
        self.most_calls += times
        self.most_given += given * times
        self.most_made += made * times


def _settled(setup: Setup[Any]) -> set[int]:
    """Places in the input that an earlier session of the same run is through with."""
    try:
        identity = orjson.loads((setup.out / "run.json").read_bytes()).get("identity")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{setup.out / 'run.json'} cannot be read ({error}); name another --out") from error
    if identity != setup.identity or setup.settings.force or not (setup.out / "calls.sqlite").exists():
        return set()
    store = Store(setup.out, read_only=True)
    try:
        return {position for position, _, state in store.inputs.states() if state not in RETRIED}
    finally:
        store.close()


def _new(item: Prompt | Contest, seen: set[bytes]) -> bool:
    for name in names_of(digest_of(item), item.id):
        if name in seen:
            return False
        seen.add(name)
    return True


def count_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    texts = [request.text] if request.text is not None else [turn["content"] for turn in request.messages]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return round(size / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(texts)


def _estimate(setup: Setup[Any], counts: Mapping[str, _Count], items: int, unusable: int, finished: int) -> Estimate:
    roles: dict[str, RoleEstimate] = {}
    most_cost = 0.0
    for player, model in setup.players.items():
        price, count = setup.prices[player], counts[player]
        most_cost += 0.0 if price is None else price.cost(count.most_given, count.most_made)
        roles[player] = RoleEstimate(
            model=spec_of(model), calls=count.calls, input_tokens=count.given, output_tokens=count.made,
            cost_usd=None if price is None else price.cost(count.given, count.made),
            price_per_million=None if price is None else (price.input * 1e6, price.output * 1e6),
        )  # fmt: skip
    bounded = setup.most_times is not None
    parts, all_counts = list(roles.values()), list(counts.values())
    unpriced = sorted({part.model for part in parts if part.cost_usd is None})
    calls, output = sum(part.calls for part in parts), sum(part.output_tokens for part in parts)
    given = sum(part.input_tokens for part in parts)
    unit = f"{setup.task().unit}s"
    return Estimate(
        out=str(setup.out), unit=unit, prompts=items, unusable=unusable, finished=finished, calls=calls,
        input_tokens=given, output_tokens=output,
        cost_usd=None if unpriced else sum(part.cost_usd or 0.0 for part in parts),
        most_calls=sum(count.most_calls for count in all_counts) if bounded else None,
        most_input_tokens=sum(count.most_given for count in all_counts) if bounded else None,
        most_output_tokens=sum(count.most_made for count in all_counts) if bounded else None,
        most_cost_usd=most_cost if bounded and not unpriced else None,
        seconds=_seconds(setup, calls, given, output), roles=roles,
        notes=tuple(_notes(setup, unpriced, most_cost)),
    )  # fmt: skip


def _seconds(setup: Setup[Any], calls: int, given: int, output: int) -> float | None:
    """A rough time, as if the slowest model answered every call; None if the speed of one is not known."""
    settings = setup.settings
    seconds = [calls / settings.rpm * 60 if settings.rpm else 0.0]
    for model in setup.models:
        speed = provider_of(model).speed
        if speed is None:
            return None
        seconds.append(speed.seconds(calls, given, output, settings.concurrency or model.concurrency))
    return max(seconds)


def _notes(setup: Setup[Any], unpriced: list[str], most_cost: float) -> Iterator[str]:
    yield (
        f"tokens are counted as {CHARACTERS_PER_TOKEN:g} bytes each, answers as {TYPICAL_ANSWER:.0%} of --max-tokens "
        f"{setup.settings.max_tokens}; nothing was asked of any model"
    )
    yield from setup.plan_notes()
    if unpriced:
        yield f"no listed price for {', '.join(unpriced)}: state it with --price IN,OUT"
    cap = setup.settings.max_cost
    if cap is not None and most_cost > cap:
        yield f"--max-cost {cap:g} may stop the run before its end: it could come to ${most_cost:,.2f}"
