"""A calls.sqlite whose bytes have changed: what is read is as it was written, or the error says what to do."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from goldens.make import JUDGE, WRITER, write_inputs
from kept import rows, run
from steady import steady

from cai.errors import RunError
from cai.folder.info import read_info
from cai.folder.journal.store import Store, StoredCall, read_calls
from cai.folder.run import RunFolder

WAYS = ("bit", "byte", "zeros", "cut", "page")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    write_inputs(work)
    with steady() as server:
        at = {"folder": work, "server": f"{server.url}/v1"}
        run("generate", "inputs/prompts.jsonl", "-c", "inputs/law.yaml", *WRITER, "--out", "generate", **at)
        run("label", "inputs/pairs.jsonl", *JUDGE, "-k", "1", "--out", "label", **at)
    for name in ("generate", "label"):
        with sqlite3.connect(work / name / "calls.sqlite") as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return work


def damage(path: Path, way: str, chance: random.Random) -> None:
    """Change some bytes of a file, as a bad disk does."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 3, 20])):
        at = chance.randrange(len(data))
        if way == "bit":
            data[at] ^= 1 << chance.randrange(8)
        elif way == "byte":
            data[at] = chance.randrange(256)
        elif way == "zeros":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        elif way == "page":
            start, other = (chance.randrange(len(data) // 4096) * 4096 for _ in range(2))
            data[start : start + 4096] = data[other : other + 4096]
    if way == "cut":
        del data[chance.randrange(len(data)) :]
    path.write_bytes(data)


def answers(calls: list[StoredCall]) -> dict[str, StoredCall]:
    return {call.key: call for call in calls}


@pytest.mark.parametrize("kind", ["generate", "label"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(6))
def test_changed_bytes_are_noticed_or_change_nothing(
    folders: Path, tmp_path: Path, kind: str, way: str, seed: int
) -> None:
    whole = answers(list(read_calls(folders / kind)))
    folder = shutil.copytree(folders / kind, tmp_path / kind)
    damage(folder / "calls.sqlite", way, random.Random(f"{kind} {way} {seed}"))
    try:
        for call in read_calls(folder):
            same = whole.get(call.key)
            assert same is None or (same.request, same.completion) == (call.request, call.completion)
        store = Store(folder, read_only=True)
        try:
            for key, call in whole.items():
                completion = store.get(bytes.fromhex(key))
                assert completion is None or completion == call.completion
        finally:
            store.close()
        RunFolder(folder, read_info(folder, "…")["identity"]).close()
    except RunError as error:
        assert len(str(error).splitlines()) == 1
        assert "damaged" in str(error) or "cannot be used" in str(error) or "has format" in str(error)
    rows_file = folder / ("revisions.jsonl" if kind == "generate" else "labels.jsonl")
    positions = [row["position"] for row in rows(rows_file)]
    assert len(positions) == len(set(positions))


@pytest.mark.parametrize("column", ["reply", "finish", "model", "input_tokens", "logprobs", "cost", "varying", "key"])
def test_a_column_of_a_call_that_has_changed_is_noticed(folders: Path, tmp_path: Path, column: str) -> None:
    folder = shutil.copytree(folders / "label", tmp_path / "label")
    other = {"reply": 1, "model": 2, "finish": "'length'", "input_tokens": 7, "cost": 0.125, "varying": "'[1]'"}
    value = other.get(column, "x'00112233445566778899aabbccddeeff'")
    with sqlite3.connect(folder / "calls.sqlite") as db:
        db.execute(f"UPDATE calls SET {column} = {value} WHERE id = 3")
    with pytest.raises(RunError, match=r"calls\.sqlite is damaged: .*; move it away"):
        list(read_calls(folder))
