"""A row is found by its id or place, in whatever order the rows finished, with and without a journal."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_runs import IDENTITY, lost, revision

from cai.folder import lookup as module
from cai.folder.lookup import Lookup, last_line_at
from cai.folder.run import RunFolder
from cai.records import Drop, Prompt, Revision
from cai.sources.conversations import prompt_hash

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.from_regex(
    "[0-9a-f]{32}", fullmatch=True
)
ROOMS = itertools.count()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLOCK", "PART"):
        monkeypatch.setattr(module, name, 700)  # about a row


def finish(folder: Path, items: Iterable[Revision | Drop]) -> Path:
    """A run folder in which these inputs were played, and finished in this order."""

    async def fill() -> None:
        run = RunFolder(folder, IDENTITY)
        for item in items:
            assert item.prompt is not None and item.id is not None
            prompt = Prompt(id=item.id, messages=item.prompt)
            assert run.pending(prompt, item.position) is True
            assert run.named(prompt, item.position) == prompt
            await (run.drop(item) if isinstance(item, Drop) else run.keep(item, item.position, prompt))
        run.write_info(stopped=None)
        run.close()

    asyncio.run(fill())
    return folder


def named(item: Revision | Drop, name: str) -> Revision | Drop:
    return item.model_copy(update={"id": name})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(IDS, min_size=1, max_size=12, unique=True),
    draw=st.randoms(use_true_random=False),
    journal=st.booleans(),
)
def test_every_input_is_found_by_its_id_and_by_the_beginning_of_it(
    names: list[str], draw: object, journal: bool, tmp_path: Path
) -> None:
    items = [named(lost(at) if at % 4 == 3 else revision(at, "a", "b"), name) for at, name in enumerate(names)]
    shuffled = list(items)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    folder = finish(tmp_path / str(next(ROOMS)), shuffled)
    if not journal:
        (folder / "calls.sqlite").unlink()
    with Lookup(folder, "revisions.jsonl") as run:
        assert (run.journal is None) is not journal
        for at, item in enumerate(items):
            beginning = item.id[: 1 + at % 3]  # type: ignore[index]
            expected = {each.id: each.position for each in items if each.id.startswith(beginning)}  # type: ignore[union-attr]
            assert run.beginning_with(beginning) == expected
            entry = run.at(expected[item.id])
            assert entry is not None and entry.id == item.id
            if isinstance(item, Drop):
                assert entry.row is None and entry.drop is not None and entry.drop["reason"] == item.reason
            else:
                assert entry.row == item.model_dump_json().encode()
            if journal:
                assert run.find(item.id) == entry and run.has_begun(item.id)
        assert run.beginning_with("\ue000not there") == {}
        assert run.at(len(names)) is None


@settings(max_examples=settings.default.max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(20)), block=st.integers(1, 2_000))
def test_a_line_is_found_whatever_the_order_of_the_file_and_the_size_of_its_parts(
    order: list[int], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "revisions.jsonl"
    lines = {at: revision(at, *("text " * (at % 7) for _ in range(at % 3))).model_dump_json() for at in order}
    path.write_text("".join(f"{line}\n" for line in lines.values()) + '{"id":"torn","position":20,')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", block)
        found = {at: last_line_at(path, at, is_only=at > 0)[1] or b"" for at in order}
        assert {at: line.decode() for at, line in found.items()} == lines
        assert last_line_at(path, 20)[1] is None


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_rows_are_found_however_their_json_is_written(spaced: bool, ascii_only: bool, tmp_path: Path) -> None:
    names = ["plain", 'quo"te', "back\\slash", "é日本", "tab\there", "a b", "\x1f", "🚀"]
    separators = (", ", ": ") if spaced else (",", ":")
    rows = [
        revision(at, prompt='"id":"plain","position":3,').model_dump() | {"id": name} for at, name in enumerate(names)
    ]
    lines = (json.dumps(row, separators=separators, ensure_ascii=ascii_only) + "\n" for row in rows)
    (tmp_path / "revisions.jsonl").write_text("".join(lines))
    with Lookup(tmp_path, "revisions.jsonl") as run:
        for at, name in enumerate(names):
            assert run.beginning_with(name)[name] == at
            entry = run.at(at)
            assert entry is not None and entry.id == name


def test_the_first_row_is_that_of_the_input_and_a_drop_stands_for_it_only_if_there_is_none(tmp_path: Path) -> None:
    folder = finish(tmp_path / "run", [revision(2), lost(0), revision(1)])
    for journal in (True, False):
        if not journal:
            (folder / "calls.sqlite").unlink()
        with Lookup(folder, "revisions.jsonl") as run:
            first = run.first()
            assert first is not None and first.id == "r1"
    with Lookup(finish(tmp_path / "drops", [lost(5), lost(4)]), "revisions.jsonl") as run:
        first = run.first()
        assert first is not None and first.id == "r4" and first.row is None
    with Lookup(finish(tmp_path / "none", []), "revisions.jsonl") as run:
        assert run.first() is None


def test_ids_that_are_hashes_are_completed_without_reading_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lookup, "_named", lambda *_: pytest.fail("the rows were read"))
    rows = [revision(at) for at in range(30)]
    hashes = [prompt_hash(row.prompt) for row in rows]
    folder = finish(tmp_path, [named(row, name) for row, name in zip(rows, hashes, strict=True)])
    with Lookup(folder, "revisions.jsonl") as run:
        for name in hashes:
            assert name in run.beginning_with(name[:5])
            assert set(run.beginning_with(name[0])) == {each for each in hashes if each[0] == name[0]}
        assert run.beginning_with("xyz") == {}


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\0" * 4_000])
def test_rows_are_found_beside_a_journal_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    folder = finish(tmp_path, [revision(0), revision(1)])
    (folder / "calls.sqlite").write_bytes(content)
    with Lookup(folder, "revisions.jsonl") as run:
        assert run.beginning_with("r") == {"r0": 0, "r1": 1}
        assert not content or (run.journal is None and "calls.sqlite" in run.problem)
