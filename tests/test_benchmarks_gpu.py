"""The GPU benchmark from end to end, with a server that serves no model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving_fakes import Fake, fake_server

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_benchmark_is_resumed_where_it_was_and_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_server(tmp_path, monkeypatch) as fake:
        assert len(_run(fake, "--only", "135M").splitlines()) == 4
        text = _run(fake)
        assert fake.gone()
    cells = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert [row[1] for row in cells] == ["cai", "plain"] * 2
    assert all(row[2] == "6" and 0 < float(row[6].removesuffix("%")) < 100 for row in cells)


def _run(fake: Fake, *words: str) -> str:
    """The table that the benchmark prints."""
    out = fake.folder / "out"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(out), "--tiny", "--rows", "6", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (out / "table.md").read_text() == done.stdout
    return done.stdout
