"""What holds for all tests, and what many of them start from."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsers
import hypothesis
import pytest
from steady import Steady, steady
from trial_judges import Judge

import cai.models
from cai.models import Provider

# Models in tests are so small that threads would mostly wait for each other; beside other work, ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiled code is kept, whatever the shell says: else every command that a test starts compiles all of cai.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: beside other work, or in the first example's imports, any may take a second. The default suite tries
# the same examples every time, so that what fails is the change at hand; `make test-seeds` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.register_profile("new", deadline=None, max_examples=1_000, print_blob=True)
hypothesis.settings.load_profile("same")


def pytest_collection_finish() -> None:
    """No garbage collection looks at what was imported and collected, which stays; a look at it takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model to train on or to ask; it is every test's, so none may write to it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import tiny

    return tiny.model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def server() -> Iterator[Steady]:
    """A server for runs in processes of their own, which answers a question alike however often it comes."""
    with steady() as running:
        yield running


@pytest.fixture(scope="module")
def quiet_datasets() -> Iterator[None]:
    """No bars of `datasets` among the output of a test that calls TRL by itself."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Judge]:
    """Makes `fake:` a judge with this mind, and gives it back."""

    def make(mind: Callable[[str, str, str], float | None], **can: Any) -> Judge:
        judge = Judge(mind, **can)
        monkeypatch.setitem(cai.models.PROVIDERS, "fake", Provider(lambda name, connection: judge, "fake:"))
        return judge

    return make


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browsers.chromium() as running:
        yield running
