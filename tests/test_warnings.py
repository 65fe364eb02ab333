"""Which warnings fail a test: those that are ours. Another package's are shown."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
VENDOR = """
import warnings
def old_name(category, level):
    warnings.warn("an old name", category, stacklevel=level)
"""
TESTS = """
import gc, threading, warnings
import pytest, vendor

KINDS = DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning
async def nothing(): pass

@pytest.mark.parametrize("category", [*KINDS, RuntimeWarning])
def test_passes_in_a_vendors_line(category): vendor.old_name(category, 1)
@pytest.mark.parametrize("category", KINDS)
def test_passes_in_our_line(category): vendor.old_name(category, 2)

def test_fails_for_our_arithmetic(): warnings.warn("overflow", RuntimeWarning)
def test_fails_for_a_file_left_open():
    open(__file__)
    gc.collect()
def test_fails_for_a_coroutine_that_nobody_awaits():
    nothing()
    gc.collect()
def test_fails_for_an_error_in_a_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
def test_fails_for_an_error_in_del():
    class Bad:
        def __del__(self): raise ValueError
    Bad()
"""
MARKED = """
import pytest

@pytest.mark.unknown
def test_is_not_collected(): pass
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Whether each of `TESTS` passes under this project's settings."""
    folder = tmp_path_factory.mktemp("warned")
    (folder / "vendor.py").write_text(VENDOR)
    (folder / "test_ours.py").write_text(TESTS)
    (folder / "test_marked.py").write_text(MARKED)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", "--junitxml", "out.xml"]
    subprocess.run([*command, *options, "test_ours.py", "test_marked.py"], cwd=folder, capture_output=True, check=False)
    cases = ElementTree.parse(folder / "out.xml").iter("testcase")
    return {
        f"{case.get('classname')}.{case.get('name')}".removeprefix("test_ours.test_"): not len(case) for case in cases
    }


def test_warnings_of_other_packages_pass_and_ours_fail(outcomes: dict[str, bool]) -> None:
    assert len(outcomes) == 15
    assert {name: passed for name, passed in outcomes.items() if passed != name.startswith("passes_")} == {}


def test_every_module_of_the_tests_is_ours() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]
    [ours] = [re.compile(line.removeprefix("error:::")) for line in lines if line.startswith("error:::")]
    paths = [path.relative_to(ROOT / "tests").with_suffix("") for path in (ROOT / "tests").rglob("*.py")]
    helpers = [".".join(path.parts) for path in paths if not path.name.startswith(("test_", "conftest"))]
    tests = [".".join(("tests", *path.parts)) for path in paths if path.name.startswith("test_")]
    names = [*helpers, *tests, "conftest", "tests.models.conftest"]
    assert [name for name in [*names, "cai", "cai.models.inprocess.hf"] if not ours.match(name)] == []
    assert not ours.match("cairo") and not ours.match("peft.cai")
