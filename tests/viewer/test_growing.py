"""A file that is appended to, cut, replaced or edited: what was read of it is what is there, or is forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.viewer.growing import Growing

text = st.binary(max_size=12).map(lambda data: data.replace(b"\x00", b"\n"))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), text),
        st.tuples(st.just("replace"), text),
        st.tuples(st.just("write anew"), text),
        st.tuples(st.just("cut"), st.binary(max_size=9)),
        st.tuples(st.just("remove"), st.just(b"")),
        st.tuples(st.just("read"), st.just(b"")),
    ),
    max_size=14,
)


def change(path: Path, how: str, data: bytes, clock: int) -> None:
    """Change a file; clock: a time that no other change has, as two in one tick of a disk's clock may look alike."""
    if how == "append":
        with open(path, "ab") as file:
            file.write(data)
    elif how == "replace":
        path.with_name("part").write_bytes(data)
        os.replace(path.with_name("part"), path)
    elif how == "write anew":
        path.write_bytes(data)
    elif how == "remove":
        path.unlink(missing_ok=True)
    elif how == "cut" and path.exists():
        os.truncate(path, max(0, path.stat().st_size - len(data)))
    if path.exists():
        os.utime(path, ns=(clock, clock))


@given(steps=steps)
def test_what_was_read_is_what_is_there_or_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("files") / "rows.jsonl"
    growing, read = Growing(path), b""
    for clock, (how, data) in enumerate([*steps, ("read", b""), ("read", b"")], 1):
        if how != "read":
            change(path, how, data, clock * 10**9)
            continue
        while (lines := growing.read(4)) != []:
            if lines is None:
                growing.restart()
                read = b""
                continue
            assert [line.start for line in lines] == [
                len(read) + sum(x.size for x in lines[:at]) for at in range(len(lines))
            ]
            read += b"".join(line.content or b"" for line in lines)
        there = path.read_bytes() if path.exists() else b""
        assert read == there[: there.rfind(b"\n") + 1]
        assert (growing.end, growing.size, growing.lines) == (len(read), len(there), read.count(b"\n"))


@pytest.mark.parametrize("size", [9, 10, 11, 30])
def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("cai.viewer.growing.MOST_LINE", 10)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a\n" + b"x" * size + b"\nb\n" + b"y" * size)
    growing = Growing(path)
    lines = growing.read(1_000)
    assert lines is not None
    assert [line.content for line in lines] == [b"a\n", None if size + 1 > 10 else b"x" * size + b"\n", b"b\n"]
    assert [line.size for line in lines] == [2, size + 1, 2]
    assert growing.read(1_000) == []
