"""Plays flows: sends what a flow asks to the model of each role, keeps every answer, and gives the answers back.

A flow is a generator that yields lists of requests and is sent their completions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from cai.calls.earlier import Earlier, OtherRun
from cai.calls.limits import BUSY_PATIENCE, Limiter, backoff
from cai.calls.live import Live, foremost
from cai.calls.model import Batching, Call, call_seed, check_answer, lost_row, send_in_turn, spec_of
from cai.calls.payments import Payments
from cai.calls.prices import Budget, Tally, total_usage
from cai.calls.roles import Roles
from cai.calls.seats import Flow, Played, Seat, T
from cai.errors import (
    BudgetReached,
    CallRejected,
    FieldRefused,
    ModelBusy,
    ModelError,
    ModelFault,
    ModelStopped,
    RowDropped,
    ServerDown,
)
from cai.folder.journal.payloads import call_key, canonical_call
from cai.folder.journal.store import Store
from cai.records import Completion, DropReason, Request, Role, Values

log = logging.getLogger("cai")
PAUSES = 5  # that the server asks of one call, until others go first: it may never let this one in
LATER = 1 << 40  # what such a call adds to its flow's age


class Driver:
    """Plays flows against the models of their roles, any number of them at once on one event loop.

    store: None keeps nothing, so the same question asked again is answered anew. others: journals of other runs, whose
    answers are used, too. budget: None for no cap. roles: None for a driver that plays alone.
    """

    def __init__(
        self,
        seats: Mapping[Role, Seat],
        store: Store | None,
        *,
        seed: int,
        budget: Budget | None,
        tally: Tally,
        roles: Roles | None = None,
        others: Sequence[OtherRun] = (),
        live: Live | None = None,
    ) -> None:
        self.seats = seats
        self.store = store
        self.earlier = None if store is None else Earlier(store, others)
        self.seed = seed
        self._payments = Payments(budget, store, tally)
        self.tally = tally
        self.roles = roles or Roles()
        self.live = live or Live()
        self._asking: dict[bytes, asyncio.Future[None]] = {}  # calls on their way: an equal one waits for the answer
        self._halt: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # done: send nothing more
        self._refused: dict[bytes, CallRejected] = {}  # calls of flows that may be played again after a wait
        self._parks = any(seat.batches is not None for seat in seats.values())

    async def play(self, row: str, order: int, flow: Flow[T]) -> Played[T]:
        """Play one flow to its end; `order` is its age, older flows go first.

        Raises RowDropped if only this row is lost, Parked if it is to be played again, else that the run is over.
        """
        asked: dict[Role, int] = {}
        history: list[tuple[Role, bytes, Completion]] = []
        try:
            requests = next(flow)
            while True:
                # No new question before the last answers are safe; the last answer is committed with its row.
                if history and self.store is not None:
                    await self.store.committed()
                numbered = []
                for request in requests:
                    count = asked.get(request.role, 0)
                    numbered.append((request, count if request.index is None else request.index))
                    asked[request.role] = count + 1
                try:
                    answers = await self.ask_all(numbered, row, order)
                except RowDropped as error:
                    requests = flow.throw(error)  # some flows can do without an answer
                    continue
                history += [(request.role, key, done) for request, (key, done) in zip(requests, answers, strict=True)]
                requests = flow.send([done for _, done in answers])
        except StopIteration as stop:
            calls = tuple(key.hex() for _, key, _ in history)
            usage = total_usage([done for _, _, done in history])
            return Played(stop.value, calls, {role: done.model for role, _, done in history}, usage)
        except RowDropped as error:
            error.calls = (*(key.hex() for _, key, _ in history), *error.calls)
            raise
        finally:
            flow.close()

    async def ask_all(
        self, numbered: list[tuple[Request, int]], row: str, order: int
    ) -> list[tuple[bytes, Completion]]:
        """The keys and completions of requests that wait for nothing; each comes with its number in its role."""
        if len(numbered) == 1:
            return [await self._ask(*numbered[0], row, order)]
        tasks = [asyncio.ensure_future(self._ask(request, index, row, order)) for request, index in numbered]
        try:
            with self.live.apart(tasks):
                await asyncio.wait(tasks)  # also if one has failed: what is on its way is paid for
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if errors := list(filter(None, (task.exception() for task in tasks))):
            error = foremost(errors)
            if isinstance(error, RowDropped):
                error.calls = tuple(task.result()[0].hex() for task in tasks if task.exception() is None)
            raise error
        return [task.result() for task in tasks]

    def question(self, request: Request, index: int, row: str) -> tuple[Call, Values, bytes]:
        """A request as it is put to the model of its role, and the text that its key is the hash of."""
        seat = self.seats[request.role]
        seed = call_seed(self.seed, seat.drawn_as(row), request.role, index)
        call = Call(request, row, index, seed, seat.sampling, request.sample)
        payload = seat.model.payload(call)
        return call, payload, canonical_call(seat.model.provider, seat.model.name, payload, call.sample)

    async def _ask(self, request: Request, index: int, row: str, order: int) -> tuple[bytes, Completion]:
        """The completion of one request: from the store, or from the model and then stored."""
        seat = self.seats[request.role]
        model = seat.model
        key = b""
        try:
            call, payload, text = self.question(request, index, row)
            key, size = call_key(text), len(text)
            if key in self._refused:
                raise self._refused[key]
            while (asking := self._asking.get(key)) is not None:
                with self.live.waiting():
                    await asyncio.wait((asking,))
            earlier = None if self.earlier is None else self.earlier.find(model, call, payload, key)
            if earlier is not None:
                check_answer(request, earlier[1])
                self.tally.replayed += 1
                return earlier
            self._asking[key] = asyncio.get_running_loop().create_future()
            try:
                done, cost = await self._paid(seat, call, key, payload, size, order)
                if self.earlier is not None:
                    self.earlier.keep(key, model, payload, done, cost)
            finally:
                self._asking.pop(key).set_result(None)
        except CallRejected as error:
            if self._parks:
                self._refused[key] = CallRejected(error.reason, str(error))
            raise RowDropped(error.reason, request.role, str(error)) from error
        return key, done

    async def _paid(
        self, seat: Seat, call: Call, key: bytes, payload: Values, size: int, order: int
    ) -> tuple[Completion, float | None]:
        """The answer to a call, from a batch or by itself, and what it cost; None if the price is not known.

        `size` is the payload's bytes, which bound its input tokens from above.
        """
        try:
            batches = seat.batches
            if batches is not None:
                price = None if seat.price is None else seat.price.share(batches.share)
                in_batch = partial(self._in_batch, seat, batches, call.request, key, payload, order)
                done, cost = await self._payments.pay(call, price, size, in_batch, owed=batches.owes(key))
                if done is not None:
                    return done, cost
            by_itself = partial(self._persist, seat, call.request, payload, size // 4 + call.max_tokens, order)
            done, cost = await self._payments.pay(call, seat.price, size, by_itself)
        except BudgetReached as error:
            raise self._stop(error) from None
        assert done is not None
        return done, cost

    async def _in_batch(
        self, seat: Seat, batches: Batching, request: Request, key: bytes, payload: Values, order: int
    ) -> Completion | None:
        """The answer that a batch has; None: the call is to be sent by itself."""
        try:
            done = batches.ask(key, payload)
            return done and self._heard(seat, request, done, order)
        except (CallRejected, ModelStopped) as error:
            self._judge(seat, request, order, error)
            raise
        except ModelFault as fault:
            self._lose(seat, request, order, fault)
            raise lost_row(seat.model, fault, "in batches") from fault

    async def _persist(self, seat: Seat, request: Request, payload: Values, tokens: int, order: int) -> Completion:
        """Send until there is an answer, a refusal of this call, or no hope of one."""
        limiter = seat.limiter
        attempt = 0
        pauses: list[tuple[float, int]] = []  # when the server asked for one, and how many calls it had answered then
        while True:
            sent_at = await limiter.acquire(order if len(pauses) < PAUSES else order + LATER, tokens)
            try:
                done = await send_in_turn(seat.model, payload, order)
                return self._heard(seat, request, done, order)
            except (CallRejected, ModelStopped) as error:
                self._judge(seat, request, order, error)
                raise
            except ModelBusy as error:
                pauses.append((sent_at, limiter.answers))
                self._check_patience(seat, error, pauses)
                continue
            except ModelFault as error:
                fault = error
            finally:
                self._release(limiter)
            attempt += 1
            if attempt >= limiter.attempts:
                self._lose(seat, request, order, fault)
                down = limiter.give_up(order, attempt, fault)
                if down is not None:
                    raise self._stop(ServerDown(f"{spec_of(seat.model)}: {down}")) from fault
                raise lost_row(seat.model, fault, f"{attempt} tries") from fault
            self.tally.retries += 1
            await asyncio.wait((self._halt,), timeout=backoff(attempt, fault))

    def _judge(self, seat: Seat, request: Request, order: int, error: CallRejected | ModelStopped) -> None:
        """See what an answer that is an error means for the run; raises another error if it means something else."""
        if isinstance(error, CallRejected):
            seat.limiter.answered()
            self._lose(seat, request, order, error)
            return
        # A field that was taken in other rows is not meant: the error quotes a prompt.
        if isinstance(error, FieldRefused) and (request.optional or self.roles.is_answered(request.role, seat.model)):
            seat.limiter.answered()
            raise lost_row(seat.model, error, "the run goes on without") from error
        self._stop(error)

    def _heard(self, seat: Seat, request: Request, done: Completion, order: int) -> Completion:
        """An answer, once it is seen to be what was asked for."""
        check_answer(request, done)
        seat.limiter.answered()
        if done.text.strip() or done.scores or done.logprobs:
            self.roles.answered(request.role, seat.model)
        else:
            reason: DropReason = "content_filter" if done.finish == "content_filter" else "empty"
            empty = CallRejected(reason, f"a reply without text, which ended with {done.finish}", billed=True)
            self._lose(seat, request, order, empty)
        return done

    def _release(self, limiter: Limiter) -> None:
        """Give a slot back once the answer is on disk: a kill costs no more calls than there are slots."""
        if self.store is None:
            limiter.release()
        else:
            self.store.after_commit(limiter.release)

    def _check_patience(self, seat: Seat, error: ModelBusy, pauses: list[tuple[float, int]]) -> None:
        """Raise what ends a call that is asked to wait too long: the run, or its row alone if others are answered."""
        (began, answers), (now, _) = pauses[0], pauses[-1]
        if error.loading and not seat.limiter.loading:
            log.warning(
                "%s: %s; waiting until it is loaded, for %d s at most", spec_of(seat.model), error, BUSY_PATIENCE
            )
        down = seat.limiter.busy(error, now)
        if down is not None:
            raise self._stop(ServerDown(f"{spec_of(seat.model)}: {down}")) from error
        if now - began > BUSY_PATIENCE and seat.limiter.answers > answers:
            raise lost_row(seat.model, error, f"nothing else for {now - began:.0f} s, while other calls were answered")

    def _lose(self, seat: Seat, request: Request, row: int, error: ModelError) -> None:
        """Count a lost row; ends the run if a role has lost all of its first rows, whatever others have answered."""
        if request.optional or seat.limiter.lenient:
            return
        stop = self.roles.lose(request.role, seat.model, row, error)
        if stop is not None:
            raise self._stop(stop) from error

    def _stop(self, error: ModelStopped) -> ModelStopped:
        """Let calls in flight come back and send nothing more: whoever waits is given the first such error."""
        if not self._halt.done():
            self._halt.set_result(None)
            for seat in self.seats.values():
                seat.limiter.stop(error)
                if seat.batches is not None:
                    seat.batches.stop(error)
        return error
