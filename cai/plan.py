"""What a generate run would ask and cost, from the prompts and the templates alone; asks nothing of any model.

Knows how to count; the words it counts are those the run would send, with stand-ins where a model's answer would be.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from cai.ask import Ask
from cai.errors import RunError
from cai.records import BadPrompt, Prompt, Record, Request, Role, prompt_hash
from cai.revise import draw_principles
from cai.run import RETRIED, dropped_state, names_of
from cai.settings import Setup
from cai.store import Store

CHARACTERS_PER_TOKEN = (
    4.0  # English text under the tokenizers of 2024–2026; others need up to four times as many tokens
)
TOKENS_PER_MESSAGE = 4  # role markers
TYPICAL_ANSWER = 0.5  # of max_tokens
# Output tokens per second: of one stream of a hosted model, an assumption; of the embedded model at 16 in flight on two
# laptop cores, benchmarks/README.md.
STREAM_RATE, EMBEDDED_RATE = 60.0, 250.0


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
    prompts: int
    unusable: int  # records that are no prompt, and repeated prompts and ids
    finished: int  # of the prompts, those that the folder is through with; they are not counted below
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    most_input_tokens: int
    most_output_tokens: int
    most_cost_usd: float | None
    seconds: float | None
    roles: dict[str, RoleEstimate]
    notes: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The estimate for people to read."""
        done = f", {self.finished:,} through already" if self.finished else ""
        bad = f", {self.unusable:,} unusable" if self.unusable else ""
        yield f"{self.prompts:,} prompts{bad}{done} → {self.out}"
        for role, part in self.roles.items():
            price = "price unknown" if part.cost_usd is None else f"${part.cost_usd:,.2f}"
            yield (
                f"  {role:10} {part.calls:>10,} calls  {part.input_tokens:>13,} tokens in  "
                f"{part.output_tokens:>12,} out  {price:>13}  {part.model}"
            )
        typical = (self.input_tokens, self.output_tokens, self.cost_usd)
        most = (self.most_input_tokens, self.most_output_tokens, self.most_cost_usd)
        yield f"  {'in all':10} {self._total(self.calls, *typical)}"
        yield f"  {'at most':10} {self._total(self.calls, *most)}"
        if self.seconds is not None:
            yield f"  about {self.seconds / 60:,.0f} minutes" if self.seconds >= 90 else f"  about {self.seconds:.0f} s"
        yield from (f"  {note}" for note in self.notes)

    @staticmethod
    def _total(calls: int, given: int, made: int, cost: float | None) -> str:
        price = "price unknown" if cost is None else f"${cost:,.2f}"
        return f"{calls:>10,} calls  {given:>13,} tokens in  {made:>12,} out  {price:>13}"


def estimate(setup: Setup) -> Estimate:
    """Count what `generate` would ask, streaming through the prompts."""
    settings = setup.settings
    ask = Ask(setup.templates, setup.constitution, system=settings.system, gate=setup.gate)
    principles = setup.constitution.principles_for("revise")
    typical = round(settings.max_tokens * TYPICAL_ANSWER)
    calls: dict[Role, int] = dict.fromkeys(setup.models, 0)
    given: dict[Role, dict[int, int]] = {role: {typical: 0, settings.max_tokens: 0} for role in setup.models}
    settled, seen = _settled(setup), set[bytes]()
    prompts = unusable = finished = 0
    for position, item in enumerate(setup.source()):
        if isinstance(item, BadPrompt) or not _new(item, seen):
            unusable += 1
            continue
        prompts += 1
        if position in settled:
            finished += 1
            continue
        drawn = draw_principles(principles, settings.rounds, settings.seed, item.id)
        for length in (typical, settings.max_tokens):
            answer = "x" * round(length * CHARACTERS_PER_TOKEN)
            requests = [ask.respond(item)]
            for principle in drawn:
                requests += [ask.critique(item, answer, principle), ask.revise(item, answer, answer, principle)]
            for request in requests:
                given[request.role][length] += count_tokens(request)
        for request in requests:
            calls[request.role] += 1
    return _estimate(setup, calls, given, typical, prompts, unusable, finished)


def _settled(setup: Setup) -> set[int]:
    """Places in the input that an earlier session of the same run is through with."""
    try:
        identity = orjson.loads((setup.out / "run.json").read_bytes()).get("identity")
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{setup.out / 'run.json'} cannot be read ({error}); name another --out") from error
    if identity != setup.identity or setup.settings.force or not (setup.out / "calls.sqlite").exists():
        return set()
    again = {dropped_state(reason) for reason in RETRIED}
    store = Store(setup.out, read_only=True)
    try:
        return {position for position, _, state in store.states() if state not in again}
    finally:
        store.close()


def _new(item: Prompt, seen: set[bytes]) -> bool:
    for name in names_of(bytes.fromhex(prompt_hash(item.messages)), item.id):
        if name in seen:
            return False
        seen.add(name)
    return True


def count_tokens(request: Request) -> int:
    """About how many tokens a request has."""
    texts = [request.text] if request.text is not None else [turn["content"] for turn in request.messages]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return round(size / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(texts)


def _estimate(
    setup: Setup, calls: dict[Role, int], given: dict[Role, dict[int, int]], typical: int, prompts: int, unusable: int,
    finished: int,
) -> Estimate:  # fmt: skip
    roles: dict[str, RoleEstimate] = {}
    most_cost = 0.0
    most = setup.settings.max_tokens
    for role, model in setup.models.items():
        price = setup.prices[role]
        made = calls[role] * typical
        cost = None if price is None else price.cost(given[role][typical], made)
        most_cost += 0.0 if price is None else price.cost(given[role][most], calls[role] * most)
        per_million = None if price is None else (price.input * 1e6, price.output * 1e6)
        roles[role] = RoleEstimate(
            model=f"{model.provider}:{model.name}", calls=calls[role], input_tokens=given[role][typical],
            output_tokens=made, cost_usd=cost, price_per_million=per_million,
        )  # fmt: skip
    parts = list(roles.values())
    unpriced = sorted({part.model for part in parts if part.cost_usd is None})
    costs = [part.cost_usd for part in parts if part.cost_usd is not None]
    output = sum(part.output_tokens for part in parts)
    return Estimate(
        out=str(setup.out), prompts=prompts, unusable=unusable, finished=finished, calls=sum(calls.values()),
        input_tokens=sum(part.input_tokens for part in parts), output_tokens=output,
        cost_usd=None if unpriced else sum(costs),
        most_input_tokens=sum(counts[most] for counts in given.values()),
        most_output_tokens=sum(calls.values()) * most, most_cost_usd=None if unpriced else most_cost,
        seconds=_seconds(setup, sum(calls.values()), output), roles=roles,
        notes=tuple(_notes(setup, unpriced, most_cost)),
    )  # fmt: skip


def _seconds(setup: Setup, calls: int, output: int) -> float | None:
    """A rough time; None where nothing is known of the machine."""
    settings, providers = setup.settings, {model.provider for model in setup.models.values()}
    if providers == {"recorded"}:
        return 0.0
    if "hf" in providers:
        return None
    concurrency = settings.concurrency or max(model.concurrency for model in setup.models.values())
    rate = EMBEDDED_RATE if "local" in providers else STREAM_RATE * concurrency
    by_rpm = calls / settings.rpm * 60 if settings.rpm else 0.0
    return max(output / rate, by_rpm)


def _notes(setup: Setup, unpriced: list[str], most_cost: float) -> Iterator[str]:
    yield (
        f"tokens are counted as {CHARACTERS_PER_TOKEN:g} bytes each, answers as {TYPICAL_ANSWER:.0%} of --max-tokens "
        f"{setup.settings.max_tokens}; nothing was asked of any model"
    )
    if setup.gate:
        yield "a critique that finds nothing to fix saves its revision: there may be fewer calls"
    if unpriced:
        yield f"no listed price for {', '.join(unpriced)}: state it with --price IN,OUT"
    cap = setup.settings.max_cost
    if cap is not None and most_cost > cap:
        yield f"--max-cost {cap:g} may stop the run before its end: it could come to ${most_cost:,.2f}"
