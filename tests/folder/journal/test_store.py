"""The journal: what was committed is there after any end, in the same words, and takes little room."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import ROOT

from cai.errors import RunError
from cai.folder.journal.batches import Batch, BatchJournal
from cai.folder.journal.payloads import VARYING, call_key, canonical_call
from cai.folder.journal.store import Store, read_calls
from cai.records import Completion

DONE = Completion("fine", "stop", "m-1", 10, 2)
KEYS = st.sampled_from([*sorted(VARYING), "role", "messages", "model", "max_tokens", "is"]) | st.text(max_size=5)
TEXTS = st.text(max_size=30) | st.text("ab\n", max_size=40) | st.just("paragraph\n\n" * 150) | st.text(max_size=2000)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)
PAYLOADS = st.dictionaries(KEYS, JSON, max_size=5)
COMPLETIONS = st.builds(
    Completion,
    text=TEXTS,
    finish=st.sampled_from(["stop", "length", "content_filter"]),
    model=st.text(max_size=10),
    input_tokens=st.none() | st.integers(0, 10**9),
    output_tokens=st.none() | st.integers(0, 10**9),
    cached_tokens=st.none() | st.integers(0, 10**9),
    cache_write_tokens=st.none() | st.integers(0, 10**9),
    reasoning=st.none() | TEXTS,
    logprobs=st.none()
    | st.lists(st.dictionaries(st.text(max_size=4), st.floats(-50, 0), max_size=3), max_size=3).map(tuple),
    scores=st.none() | st.lists(st.floats(-50, 0), max_size=3).map(tuple),
)


def put(
    store: Store, payload: dict[str, Any], done: Completion = DONE, name: str = "m", cost: float | None = 0.0
) -> bytes:
    key = call_key(canonical_call("openai", name, payload, 0))
    store.put(key, "openai", name, payload, done, cost)
    return key


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "seed": len(text)}


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    try:
        yield store
    finally:
        store.close()


def filled(folder: Path, *texts: str) -> None:
    async def main() -> None:
        with opened(folder) as store:
            for text in texts:
                put(store, chat(text))
            await store.committed()

    asyncio.run(main())


# Keys


@given(PAYLOADS)
def test_a_key_names_the_exact_call_whatever_the_order_of_its_keys(payload: dict[str, Any]) -> None:
    key = call_key(canonical_call("openai", "m", payload, 0))
    assert len(key) == 16
    assert key == call_key(canonical_call("openai", "m", dict(reversed(payload.items())), 0))
    others = [("anthropic", "m", payload, 0), ("openai", "n", payload, 0), ("openai", "m", payload, 1)]
    others += [("openai", "m", {**payload, "more": 1}, 0)]
    assert key not in {call_key(canonical_call(*other)) for other in others}


@pytest.mark.parametrize("value", ["\ud800", 2**64, object()])
def test_what_is_no_json_has_no_key(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_call("openai", "m", {"content": value}, 0)


# Round trips


@settings(max_examples=60)
@given(st.lists(st.tuples(PAYLOADS, COMPLETIONS), min_size=1, max_size=4))
def test_calls_come_back_as_they_were_put(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[dict[str, Any], Completion]]
) -> None:
    folder = tmp_path_factory.mktemp("store")

    async def main() -> dict[str, tuple[dict[str, Any], Completion]]:
        kept: dict[str, tuple[dict[str, Any], Completion]] = {}
        with opened(folder) as store:
            for payload, done in calls:
                key = put(store, payload, done)
                kept.setdefault(key.hex(), (payload, done))
                assert store.get(key) == kept[key.hex()][1]
        return kept

    kept = asyncio.run(main())
    stored = list(read_calls(folder))
    assert [call.key for call in stored] == list(kept)
    for call in stored:
        payload, done = kept[call.key]
        assert call.request == {"provider": "openai", "name": "m", "payload": payload}
        assert call_key(canonical_call("openai", "m", call.request["payload"], 0)).hex() == call.key
        assert call.completion == done


def test_a_number_that_json_lacks_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            put(store, {"content": float("inf"), "text": "after", "temperature": float("nan")})

    asyncio.run(main())
    [call] = read_calls(tmp_path)
    assert call.request["payload"] == {"content": None, "text": "after", "temperature": None}


@pytest.mark.parametrize("cost", [None, 0.0, 0.25])
def test_a_call_is_found_by_its_key_with_its_cost_and_looking_leaves_no_file(
    cost: float | None, tmp_path: Path
) -> None:
    async def write() -> list[str]:
        with opened(tmp_path) as store:
            return [put(store, chat(f"question {n}"), cost=cost).hex() for n in range(5)]

    keys = asyncio.run(write())
    before = sorted(tmp_path.iterdir())
    with closing(Store(tmp_path, briefly=True)) as store:
        calls = [store.call(key) for key in keys]
        assert store.call("00" * 16) is None
    assert calls == list(read_calls(tmp_path))
    assert {call.cost_usd for call in calls if call} == {cost}
    for path in set(tmp_path.iterdir()) - set(before):  # which `read_calls` leaves
        path.unlink()
    with closing(Store(tmp_path, briefly=True)):
        assert sorted(tmp_path.iterdir()) == before


def test_a_call_is_found_while_its_run_is_being_written(tmp_path: Path) -> None:
    async def write() -> None:
        with opened(tmp_path) as store:
            key = put(store, chat("question")).hex()
            store.flush()
            with closing(Store(tmp_path, briefly=True)) as other:
                found = other.call(key)
            assert found is not None and found.completion == DONE

    asyncio.run(write())


def test_a_row_may_have_more_calls_than_a_statement_of_sqlite_has_parameters(tmp_path: Path) -> None:
    numbers = range(33_000)  # SQLite takes 32,766 parameters

    async def fill() -> None:
        store = Store(tmp_path)
        for number in numbers:
            store.put(number.to_bytes(16, "big"), "openai", "m", {}, DONE, None)
        keys = [number.to_bytes(16, "big").hex() for number in numbers]
        assert store.has_all(keys)
        assert store.has_all(keys[:1] * 3)
        assert not store.has_all([*keys, "ff" * 16])
        store.close()

    asyncio.run(fill())


def test_a_loss_of_power_leaves_no_line_without_its_calls(tmp_path: Path) -> None:
    # In this mode SQLite returns from a commit when the disk has it; lines are written after that.
    store = Store(tmp_path)
    try:
        settings = [store._db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")]
    finally:
        store.close()
    assert settings == [("wal",), (2,)]


VIEWS: dict[str, Callable[[Store, bytes], object]] = {  # by which a journal shows whether a call is there
    "get": lambda store, key: store.get(key) == DONE,
    "call": lambda store, key: store.call(key.hex()) is not None,
    "calls": lambda store, key: [call.key for call in store.calls()] == [key.hex()],
    "has_all": lambda store, key: store.has_all([key.hex()]),
    "is_empty": lambda store, key: not store.is_empty(),
    "limits": lambda store, key: store.limits() == [7],
    "spent": lambda store, key: store.spent().calls == 1,
    "batches": lambda store, key: not BatchJournal(store.rows.db, store.rows.guard).unsettled(BATCH),
}
BATCH = Batch(1, "n", "m", "e", 1, 0, 0.0)


@pytest.mark.parametrize("view", VIEWS)
def test_a_call_is_there_before_its_commit_whoever_looks(tmp_path: Path, view: str) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            payload = {**chat("Hi?"), "max_tokens": 7}
            key = call_key(canonical_call("openai", "m", payload, 0))
            BatchJournal(store.rows.db, store.rows.guard).intend("n", "m", "e", [key], 0)
            store.flush()
            assert not VIEWS[view](store, key)
            put(store, payload)
            assert VIEWS[view](store, key)

    asyncio.run(main())


def test_a_text_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            with pytest.raises(UnicodeEncodeError):
                put(store, chat("Hi?"), dataclasses.replace(DONE, text="\ud800"))
            put(store, chat("Ho?"))
            await store.committed()
            assert store.spent().calls == 1

    asyncio.run(main())


def test_an_unknown_call_is_none(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.get(b"x" * 16) is None


def test_a_key_keeps_its_first_answer(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            key = put(store, chat("q"), DONE)
            assert put(store, chat("q"), dataclasses.replace(DONE, text="another")) == key
            await store.committed()
            assert store.get(key) == DONE
            assert len(list(store.calls())) == 1

    asyncio.run(main())


def test_what_was_spent_is_summed_and_unknown_where_one_call_has_no_price(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            for number in range(5):
                put(store, chat(f"q{number}"), dataclasses.replace(DONE, cached_tokens=4), cost=0.25)
            store.charge(0.5)
            assert store.spent() == (5, 0, 50, 10, 20, 0, 1.75, 0)
            put(store, chat("q"), dataclasses.replace(DONE, input_tokens=None), cost=None)
            assert store.spent() == (6, 0, 50, 12, 20, 0, None, 0)

    asyncio.run(main())


def test_calls_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            put(store, chat("one"))
            await store.committed()
            put(store, chat("two"))
            seen = [call.request["payload"]["messages"][0]["content"] for call in read_calls(tmp_path)]
            assert seen == ["one"]

    asyncio.run(main())


# Groups and kills


def test_what_is_put_in_one_turn_is_one_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            commits = list[str]()
            store._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

            async def one(number: int) -> None:
                put(store, chat(f"q{number}"))
                store.rows.append("rows.jsonl", b"{}\n", 0, b"h", "done")
                await store.committed()

            await asyncio.gather(*map(one, range(20)))
            assert len(commits) == 1
        assert (tmp_path / "rows.jsonl").read_bytes() == b"{}\n" * 20

    asyncio.run(main())


CHILD = """
import asyncio, os, sys
from pathlib import Path
from test_store import chat, put
from cai.folder.journal.store import Store

async def main():
    store = Store(Path(sys.argv[1]))
    number = 0
    while True:
        put(store, chat(f"q{number}"))
        store.rows.append("rows.jsonl", b'{"n": %d}\\n' % number, number, b"h" * 16, "done")
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        await store.committed()
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def child(program: str, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, **options)


def reopened(folder: Path, name: str = "rows.jsonl") -> tuple[int, int, int]:
    """Calls, marks and whole lines of a folder after its run was killed, unseen lines counted in."""
    with opened(folder) as store:
        for _, line in store.rows.unseen(name):
            store.rows.mark(orjson.loads(line)["n"], b"h" * 16, "done")
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        assert [orjson.loads(line)["n"] for line in lines] == list(range(len(lines)))
        return len(list(store.calls())), store.rows.count().get("done", 0), len(lines)


def test_a_kill_before_the_commit_leaves_nothing_of_the_call(tmp_path: Path) -> None:
    with child(CHILD, tmp_path, 3) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert reopened(tmp_path) == (3, 3, 3)


def test_whatever_was_reported_as_committed_is_there_after_a_kill(tmp_path: Path) -> None:
    with child(CHILD, tmp_path, -1) as process:
        assert process.stdout is not None
        for _ in range(random.randint(50, 150)):
            reported = int(process.stdout.readline())
        process.kill()
        reported = int([str(reported).encode(), *process.stdout.read().split()][-1])
    calls, marks, lines = reopened(tmp_path)
    assert calls >= reported + 1
    assert marks == lines and calls in (lines, lines + 1)  # the call is committed first


def test_lines_without_their_commit_are_found_and_a_torn_one_is_cut(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            store.rows.append("rows.jsonl", b'{"n": 0}\n', 0, b"h", "done")
            await store.committed()

    asyncio.run(main())
    with open(tmp_path / "rows.jsonl", "ab") as file:
        file.write(b'{"n": 1}\n{"n": 2}\n{"n"')
    with opened(tmp_path) as store:
        assert list(store.rows.unseen("rows.jsonl")) == [(9, b'{"n": 1}\n'), (18, b'{"n": 2}\n')]
        assert list(store.rows.unseen("rows.jsonl")) == []
    assert (tmp_path / "rows.jsonl").read_bytes() == b'{"n": 0}\n{"n": 1}\n{"n": 2}\n'


def test_a_file_that_lost_committed_lines_is_read_from_its_start(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            for number in range(3):
                store.rows.append("rows.jsonl", b'{"n": %d}\n' % number, number, b"h", "done")
            await store.committed()

    asyncio.run(main())
    with opened(tmp_path) as store:
        assert not store.rows.is_unknown("rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes(b'{"n": 0}\n')
    with opened(tmp_path) as store:
        assert store.rows.is_unknown("rows.jsonl")
        store.rows.forget()
        assert list(store.rows.unseen("rows.jsonl")) == [(0, b'{"n": 0}\n')]
        assert not store.rows.is_unknown("rows.jsonl")


def test_lines_added_after_a_rewrite_go_to_the_new_file(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            store.rows.append("rows.jsonl", b"old\n", 0, b"h", "done")
            await store.committed()
            with open(tmp_path / "rows.jsonl", "rb") as old:
                store.rows.rewrite("rows.jsonl", (line.upper() for line in old))
            store.rows.append("rows.jsonl", b"new\n", 1, b"i", "done")
            await store.committed()
            assert list(store.rows.unseen("rows.jsonl")) == []

    asyncio.run(main())
    assert (tmp_path / "rows.jsonl").read_bytes() == b"OLD\nnew\n"


def test_a_store_can_be_closed_twice_and_keeps_what_was_not_committed_yet(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        put(store, chat("q"))
        store.close()
        store.close()

    asyncio.run(main())
    assert len(list(read_calls(tmp_path))) == 1


# Inputs


def test_the_first_position_of_a_digest_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        with opened(tmp_path) as store:
            assert [store.rows.first_position(b"d", at) for at in (4, 9, 4)] == [4, 4, 4]
            store.rows.mark(4, b"d", "done")
            store.rows.mark(5, b"e", "empty")
            store.rows.mark(5, b"e", "done")
            assert list(store.rows.states()) == [(4, b"d", "done"), (5, b"e", "done")]
            assert (store.rows.state(5), store.rows.state(6), store.rows.count()) == (
                (b"e", "done"),
                None,
                {"done": 2},
            )
            store.rows.forget()
            assert (store.rows.count(), store.rows.first_position(b"d", 9)) == ({}, 9)

    asyncio.run(main())


# Bad luck


def test_a_file_that_is_no_database_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "calls.sqlite").write_bytes(b"this is no database, and never was" * 100)
    with pytest.raises(RunError, match=r"calls\.sqlite is damaged: .*; move it away and run the same command again"):
        Store(tmp_path)


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    filled(tmp_path, *(random.Random(n).randbytes(3000).hex() for n in range(40)))
    file = tmp_path / "calls.sqlite"
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(RunError, match=r"calls\.sqlite is damaged"):
        list(read_calls(tmp_path))


def test_a_damaged_text_is_one_line(tmp_path: Path) -> None:
    filled(tmp_path, "a question that is long enough to be compressed " * 20)
    db = sqlite3.connect(tmp_path / "calls.sqlite")
    db.execute("UPDATE parts SET body = x'00ff' WHERE typeof(body) = 'blob'")
    db.commit()
    db.close()
    with pytest.raises(RunError, match=r"calls\.sqlite is damaged"):
        list(read_calls(tmp_path))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, "q")
    db = sqlite3.connect(tmp_path / "calls.sqlite")
    db.execute("PRAGMA user_version=99")
    db.close()
    for open_it in (lambda: Store(tmp_path), lambda: list(read_calls(tmp_path))):
        with pytest.raises(RunError, match="has format 99, this cai reads 1 to 2"):
            open_it()


def test_a_folder_without_calls_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"calls\.sqlite cannot be used: "):
        list(read_calls(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_after_a_failure_nothing_is_reported_as_committed(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        kept = put(store, chat("kept"))
        await store.committed()
        store.rows.append("rows.jsonl", b"{}\n", 0, b"h", "done")
        (tmp_path / "rows.jsonl").mkdir()
        waiting = [asyncio.ensure_future(store.committed()) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, RunError) for outcome in outcomes)
        with pytest.raises(RunError, match="cannot write to"):
            put(store, chat("lost"))
        with pytest.raises(RunError):
            store.get(kept)
        store.close()

    asyncio.run(main())
    (tmp_path / "rows.jsonl").rmdir()
    with opened(tmp_path) as store:
        assert len(list(store.calls())) == 1


FULL = """
import asyncio, random, resource, signal, sys
from pathlib import Path
from test_store import chat, put
from cai.errors import RunError
from cai.folder.journal.store import Store

if len(sys.argv) > 2:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

async def main():
    store = Store(Path(sys.argv[1]))
    try:
        for number in range(10_000):
            put(store, chat(random.Random(number).randbytes(1000).hex()))
            store.rows.append("rows.jsonl", b'{"n": %d}\\n' % number, number, b"h" * 16, "done")
            await store.committed()
            print(number, flush=True)
    except RunError as error:
        print(error, flush=True)
    finally:
        store.close()

asyncio.run(main())
"""


def until_full(folder: Path, *arguments: str) -> tuple[int, str]:
    """The last number reported as kept, and the error that came after it."""
    with child(FULL, folder, *arguments) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    *numbers, error = said.decode().splitlines()
    return int(numbers[-1]), error


def test_a_file_that_may_not_grow_ends_the_run_and_what_was_kept_is_there(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    reported, error = until_full(tmp_path, "limited")
    assert "run the same command again" in error or "try again" in error
    calls, marks, lines = reopened(tmp_path)
    assert calls == reported + 1 and marks == lines and lines in (calls, calls + 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_says_so_and_the_run_goes_on_when_there_is_room(small_disk: Path) -> None:
    reported, error = until_full(small_disk)
    assert "free some space there" in error
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    calls, marks, lines = reopened(small_disk)
    assert calls == reported + 1 and marks == lines and lines in (calls, calls + 1)


# Size

VOCABULARY = [  # of lengths and variety like English
    "".join(random.Random(n).choices("etaoinshrdlucmfwypvbgkjqxz", weights=range(26, 0, -1), k=2 + n % 9))
    for n in range(4000)
]
SHARES = list(itertools.accumulate(1 / (n + 3) for n in range(len(VOCABULARY))))


def prose(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(VOCABULARY, cum_weights=SHARES, k=words)).capitalize() + "."


QUESTIONS = [prose(random.Random(n), 60) for n in range(32)]  # a constitution's, shared by all chains
SHOTS = "\n\n".join(prose(random.Random(n), 80) for n in range(20))


def chain(chance: random.Random, make: Callable[[list[str]], dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """The calls of a two-round chain: each repeats the conversation so far, as `Ask` words them."""
    turns = [prose(chance, 40)]
    reply = prose(chance, 120)
    yield make(turns), reply
    for _ in range(2):
        critique, revision = prose(chance, 90), prose(chance, 120)
        asked = [*turns, reply, chance.choice(QUESTIONS)]
        yield make(asked), critique
        yield make([*asked, critique, chance.choice(QUESTIONS)]), revision
        reply = revision


def as_chat(turns: list[str]) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return {
        "model": "m",
        "messages": messages,
        "max_tokens": 512,
        "temperature": 1.0,
        "seed": zlib.crc32(turns[-1].encode()) >> 1,
    }


def as_text(turns: list[str]) -> dict[str, Any]:
    return {"model": "m", "prompt": "\n\n".join([SHOTS, *turns]), "max_tokens": 512, "stop": ["\n\nHuman:"], "seed": 1}


@pytest.mark.parametrize("make", [as_chat, as_text])
def test_the_journal_is_at_most_half_as_large_again_as_the_texts_of_its_chains(
    tmp_path: Path, make: Callable[[list[str]], dict[str, Any]]
) -> None:
    unique: set[str] = set()

    async def main() -> None:
        chance = random.Random(0)
        with opened(tmp_path) as store:
            for _ in range(100):
                for payload, reply in chain(chance, make):
                    put(store, payload, dataclasses.replace(DONE, text=reply))
                    unique.add(reply)
                    unique.update(turn["content"] for turn in payload.get("messages", ()))
                    unique.update(payload.get("prompt", "").split("\n\n"))
                await store.committed()

    asyncio.run(main())
    size = (tmp_path / "calls.sqlite").stat().st_size
    assert size <= 1.5 * sum(len(text.encode()) for text in unique)
