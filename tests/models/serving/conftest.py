"""For the tests of servers that are started: the fake in place of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_fakes import Fake, fake_server

from cai.models.serving import process


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(process, "GRACE", 1.0)
    with fake_server(tmp_path, monkeypatch) as server:
        yield server
