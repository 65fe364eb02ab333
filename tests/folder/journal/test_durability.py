"""A journal on a file system of several machines: as safe as on a local disk, and for one process alone."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sharded import exports, generate
from steady import Steady

from cai.disk import mounts
from cai.errors import RunError
from cai.folder.journal.durability import is_settled
from cai.folder.journal.store import Store, read_calls
from cai.records import Completion

DONE = Completion("fine", "stop", "m-1", 10, 2)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that is mounted from a server, as it seems."""
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 0:40 / / rw - ext4 /dev/vda rw\n37 35 0:41 / {tmp_path / 'net'} rw - nfs4 host:/x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    (tmp_path / "net").mkdir()
    return tmp_path / "net"


def put(store: Store, key: bytes) -> None:
    store.put(key, "openai", "m", {"messages": [{"role": "user", "content": "hi"}]}, DONE, 0.0)


def filled(folder: Path, *keys: bytes) -> None:
    async def main() -> None:
        with closing(Store(folder)) as store:
            for key in keys:
                put(store, key)

    asyncio.run(main())


def mode(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db:
        return str(db.execute("PRAGMA journal_mode").fetchone()[0])


def test_no_memory_is_shared_there(net: Path) -> None:
    async def main() -> None:
        with closing(Store(net)) as store:
            put(store, b"1")
            store.flush()
            assert not {"calls.sqlite-wal", "calls.sqlite-shm"} & {path.name for path in net.iterdir()}

    asyncio.run(main())
    assert [path.name for path in net.iterdir()] == ["calls.sqlite"]
    assert [call.completion for call in read_calls(net)] == [DONE]


def test_a_kill_leaves_what_was_committed(net: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Store(net)) as store:
            put(store, b"1")
            store.flush()
            put(store, b"2")
            shutil.copytree(net, tmp_path / "net" / "killed")

    asyncio.run(main())
    with closing(Store(net / "killed")) as store:
        assert store.get(b"1") == DONE and store.get(b"2") is None


def test_a_reader_is_told_of_a_kill_in_the_middle_of_a_write(net: Path) -> None:
    async def main() -> None:
        with closing(Store(net)) as store:
            put(store, b"1")
            store.flush()
            store.rows.db.execute("PRAGMA cache_size = 5")  # pages, so that what is not committed is written, too
            store.rows.db.executemany("INSERT INTO charges VALUES (1, ?)", ((number,) for number in range(3_000)))
            shutil.copytree(net, net / "killed")

    asyncio.run(main())
    for briefly in (True, False):
        with pytest.raises(RunError, match="was left in the middle of a write: run the same command again"):
            Store(net / "killed", read_only=True, briefly=briefly).close()
    Store(net / "killed").close()
    assert [call.completion for call in read_calls(net / "killed")] == [DONE]


@pytest.mark.parametrize("briefly", [True, False])
def test_a_reader_is_told_that_a_run_keeps_it_for_itself(
    net: Path, monkeypatch: pytest.MonkeyPatch, briefly: bool
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *of, **more: connect(*of, **more, timeout=0.01))

    async def main() -> None:
        with closing(Store(net)) as store:
            put(store, b"1")
            store.flush()
            assert not is_settled(net)
            with pytest.raises(RunError, match="is in use: on a network file system a run keeps it for itself"):
                Store(net, read_only=True, briefly=briefly)

    asyncio.run(main())
    assert is_settled(net)
    Store(net, read_only=True, briefly=briefly).close()


def test_a_journal_may_move_between_disks(net: Path, tmp_path: Path) -> None:
    filled(net, b"1")
    assert mode(net) == "delete"
    local = tmp_path / "local"
    shutil.copytree(net, local)
    filled(local, b"2")
    assert mode(local) == "wal"
    shutil.copytree(local, net / "back")
    filled(net / "back", b"3")
    assert mode(net / "back") == "delete"
    assert len(list(read_calls(net / "back"))) == 3


def test_a_run_there_makes_the_same_rows(net: Path, tmp_path: Path, server: Steady) -> None:
    prompts = ["One?", "Two?", "One?"]
    generate(prompts, net / "run", server)
    generate(prompts, tmp_path / "run", server)
    assert exports(net / "run") == exports(tmp_path / "run")
