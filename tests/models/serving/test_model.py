"""How a model is asked whose server was started for it: as any other, but for the order that its server is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from kept import TINY
from serving_fakes import Fake
from stub import stub

from cai.calls.flow import Driver, Flow, Seat
from cai.calls.limits import Limiter
from cai.calls.model import Call, Connection, Model, Serving
from cai.calls.prices import Tally
from cai.folder.journal.store import Store
from cai.models import open_model
from cai.models.serving.model import CONCURRENCY
from cai.records import Request, Sampling

ROWS = 6


def turns(row: int) -> Flow[str]:
    """A flow of three turns."""
    said = ""
    for turn in range(3):
        content = f"{row} {turn} {said}"
        [done] = yield [Request("assistant", ({"role": "user", "content": content},))]
        said = done.text
    return said


async def play(model: Model, store: Store | None) -> list[tuple[str, ...]]:
    """Play some flows at once; the keys of their calls."""
    await model.start()
    try:
        tally = Tally()
        seats = {"assistant": Seat(model, Limiter(ROWS, tally=tally), Sampling(1.0, 64, {}), None)}
        driver = Driver(seats, store, seed=0, budget=None, tally=tally)  # type: ignore[arg-type]
        played = await asyncio.gather(*(driver.play(f"row-{row}", row, turns(row)) for row in range(ROWS)))
        return [each.calls for each in played]
    finally:
        await model.close()


@pytest.mark.parametrize("provider", ["vllm", "sglang"])
def test_every_turn_of_a_flow_is_sent_with_the_age_of_the_flow(fake: Fake, provider: str) -> None:
    """So that the server takes a later turn of an older flow before the first one of a younger flow."""
    asyncio.run(play(open_model(f"{provider}:tiny"), None))
    sent = {(asked["priority"], int(asked["messages"][0]["content"].split()[0])) for asked in fake.asked()}
    assert sent == {(row, row) for row in range(ROWS)} and len(fake.asked()) == 3 * ROWS


def test_the_order_is_no_part_of_the_key_of_a_call(fake: Fake) -> None:
    started = asyncio.run(play(open_model("vllm:tiny"), None))
    with stub() as server:
        running = asyncio.run(play(open_model(f"vllm:tiny@{server.url}/v1"), None))
    assert [calls[0] for calls in started] == [calls[0] for calls in running]


def test_a_priority_of_ones_own_counts(fake: Fake) -> None:
    model = open_model("vllm:tiny")

    async def ask() -> None:
        await model.start()
        call = Call(Request("assistant", ()), "row", 0, 0, Sampling(1.0, 64, {"priority": 7}))
        assert model.with_priority(model.payload(call), 3)["priority"] == 7  # type: ignore[attr-defined]
        await model.close()

    asyncio.run(ask())


def test_what_is_known_of_the_server_is_asked_of_it(fake: Fake) -> None:
    model = open_model("vllm:tiny", Connection(serving=Serving(arguments=("--data-parallel-size 2",))))
    asyncio.run(play(model, None))
    assert model.context == 4096 and model.concurrency == 2 * CONCURRENCY


def test_no_proxy_stands_before_a_server_of_this_machine(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    asyncio.run(play(open_model("vllm:tiny"), None))
    assert fake.asked()


@pytest.mark.parametrize(("provider", "field"), [("vllm", None), ("sglang", "lora_path")])
def test_an_adapter_is_asked_by_its_name(fake: Fake, provider: str, field: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": str(TINY), "r": 8, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    model = open_model(f"{provider}:{folder}")
    asyncio.run(play(model, None))
    assert {asked["model"] for asked in fake.asked()} == {model.name}
    assert {asked.get(field or "lora_path") for asked in fake.asked()} == {field and model.name}


# A server that somebody else has started


def test_a_server_at_the_usual_address_that_serves_the_model_is_asked(
    fake: Fake,
) -> None:
    """It may have no priorities, so it is told none; with options of one's own another is started."""
    first = open_model("vllm:tiny")
    sent: list[dict[str, Any]] = []

    async def both() -> tuple[str, str]:
        await first.start()
        second = open_model("vllm:tiny")
        second.endpoint = first.endpoint
        second._base = first._base  # type: ignore[attr-defined]
        await second.start()
        payload = second.payload(Call(Request("assistant", ()), "row", 0, 0, Sampling(1.0, 64, {})))
        sent.append(second.with_priority(payload, 3))  # type: ignore[attr-defined]
        await second.close()
        third = open_model("vllm:tiny", Connection(serving=Serving(arguments=("--dtype half",))))
        third.endpoint = first.endpoint
        await third.start()
        asked = third.endpoint
        await third.close()
        await first.close()
        return asked, first.endpoint

    third_place, first_place = asyncio.run(both())
    assert "priority" not in sent[0]
    assert third_place != first_place and len(fake.starts()) == 2
