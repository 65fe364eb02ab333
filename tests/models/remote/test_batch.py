"""Batches as the providers' wire formats have them; the stub speaks them as OpenAI's own client reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from batched import SDKS, Server, batch_server

from cai.calls.batches.service import Standing
from cai.calls.batches.spool import Spool
from cai.calls.model import Connection
from cai.folder.journal.batches import Batch
from cai.models import open_model, provider_of

NONCE = "0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with batch_server() as running:
        yield running


def service(spec: str, connection: Connection | None = None) -> Any:
    model = open_model(spec, connection)
    offer = provider_of(model).batches
    assert offer is not None
    return offer.open(model, 10.0, "run")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC", "AZURE_OPENAI"):
        monkeypatch.setenv(f"{name}_API_KEY", "none")


# Files


@pytest.mark.parametrize(
    ("spec", "endpoint"),
    [
        ("openai:m", "/v1/chat/completions"),
        ("azure:m@https://x.openai.azure.com", "/chat/completions"),
        ("anthropic:m", "/v1/messages"),
    ],
)
def test_the_lines_of_a_file_name_their_place_and_never_a_row(tmp_path: Path, spec: str, endpoint: str) -> None:
    batches = service(spec)
    payloads = [{"model": "m", "messages": [{"role": "user", "content": f"Question {n}"}]} for n in range(3)]
    assert batches.endpoint(payloads[0]) == endpoint
    spool = Spool(tmp_path, batches, endpoint)
    for number, payload in enumerate(payloads):
        spool.add(bytes([number]), spool.line(payload))
    spool.finish()
    [path] = (tmp_path / "batches").iterdir()
    raw = path.read_bytes()
    if spec.startswith("anthropic"):
        lines = orjson.loads(raw)["requests"]
        assert [line["params"] for line in lines] == payloads
    else:
        lines = list(map(orjson.loads, raw.splitlines()))
        assert [line["body"] for line in lines] == payloads
        assert {(line["method"], line["url"]) for line in lines} == {("POST", endpoint)}
    names = [line["custom_id"] for line in lines]
    assert [batches.place(spool.nonce, name) for name in names] == [0, 1, 2]
    assert all(len(name) <= 64 for name in names)


def test_typed_questions_have_no_batches() -> None:
    assert service("openai:m").endpoint({"questions": []}) is None


def test_a_file_is_full_before_its_last_byte_would_be_too_many(tmp_path: Path) -> None:
    batches = service("anthropic:m")
    batches.most_bytes = 400
    spool = Spool(tmp_path, batches, "/v1/messages")
    payload = {"messages": [{"role": "user", "content": "x" * 50}]}
    while spool.takes(line := spool.line(payload)):
        spool.add(b"", line)
    spool.finish()
    [path] = (tmp_path / "batches").iterdir()
    assert 400 - len(line) < path.stat().st_size <= 400


@pytest.mark.parametrize("spec", ["openai:m", "anthropic:m"])
@pytest.mark.parametrize("name", ["", "x", "-1", "1.5", "²", "none", "01234567-", "99999999-1"])
def test_a_name_that_no_line_has_is_no_place(spec: str, name: str) -> None:
    assert service(spec).place(NONCE, name) is None


# Asking


@pytest.mark.parametrize("provider", SDKS)
def test_a_batch_that_is_gone_is_over_and_has_no_results(server: Server, provider: str) -> None:
    async def look() -> Standing:
        batches = service(f"{provider}:m", Connection(server.base(provider)))
        await batches.model.start()
        try:
            standing: Standing = await batches.look("batch-none")
            found = [item async for item in batches.items("batch-none", Standing(True, files=("file-none",)))]
            assert found == []
            await batches.cancel("batch-none")
            return standing
        finally:
            await batches.close()
            await batches.model.close()

    assert asyncio.run(look()) == Standing(is_over=True)


def test_openais_own_client_reads_the_stubs_batches(server: Server, tmp_path: Path) -> None:
    import openai

    server.behave(page=1)
    client = openai.OpenAI(api_key="none", base_url=server.base("openai"), max_retries=0)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    call = {"custom_id": "0", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(call) + "\n")
    file = client.files.create(file=path, purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"cai": NONCE}
    )
    assert made.status == "in_progress" and made.metadata == {"cai": NONCE}
    over = client.batches.retrieve(made.id)
    assert over.status == "completed" and over.output_file_id and over.request_counts
    assert (over.request_counts.total, over.request_counts.completed) == (1, 1)
    [line] = client.files.content(over.output_file_id).text.splitlines()
    assert json.loads(line)["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert [batch.id for batch in client.batches.list(limit=1)] == [made.id]
    assert client.files.delete(file.id).deleted
    client.close()


def test_metadata_names_the_run_and_the_batch(server: Server, tmp_path: Path) -> None:
    server.behave()

    async def create() -> str | None:
        batches = service("openai:m", Connection(server.base("openai")))
        await batches.model.start()
        batch = Batch(1, NONCE, "openai:m", "/v1/chat/completions", 1, 1, 0.0)
        path = tmp_path / "calls.jsonl"
        path.write_bytes(batches.line(NONCE, 0, batch.endpoint, {"model": "m", "messages": []}) + b"\n")
        batch.file = await batches.upload(path, batch, again=False)
        assert await batches.upload(path, batch, again=True) == batch.file  # and is not uploaded twice
        name = await batches.create(path, batch)
        assert await batches.find(batch) == name
        batch.nonce = "another"
        found: str | None = await batches.find(batch)
        await batches.close()
        await batches.model.close()
        return found

    assert asyncio.run(create()) is None
    assert len(server.did("upload")) == 1
