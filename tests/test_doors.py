"""The functions of Python show every setting: as a keyword with its type and default, and with its meaning."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest
from doors import DOORS, pages, settings_of

import cai

NAMES = [(name, settings) for doors in DOORS.values() for name, settings in doors.items()]


def test_the_keywords_are_those_of_the_settings_of_today() -> None:
    for path, text in pages():
        assert path.read_text(encoding="utf-8") == text, "refresh it: python tests/doors.py --write"


@pytest.mark.parametrize(("name", "settings"), NAMES)
@pytest.mark.parametrize("prefix", ["", "a"])
def test_every_setting_is_a_keyword_with_its_default(name: str, settings: str, prefix: str) -> None:
    parameters = inspect.signature(getattr(cai, prefix + name)).parameters
    for key, field in settings_of(settings).model_fields.items():
        default = parameters[key].default
        assert default in (field.get_default(call_default_factory=True), inspect.Parameter.empty), key


@pytest.mark.parametrize(("name", "settings"), NAMES)
@pytest.mark.parametrize("prefix", ["", "a"])
def test_help_says_what_every_setting_means(name: str, settings: str, prefix: str) -> None:
    page = " ".join(pydoc.plain(pydoc.render_doc(getattr(cai, prefix + name))).split())
    for key, field in settings_of(settings).model_fields.items():
        if key not in ("constitution", "model"):
            assert f"{key}: {' '.join(str(field.description).split())}" in page


def test_a_type_checker_sees_what_is_wrong_with_a_keyword(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        "import cai\n"
        "law = cai.load_constitution('harmless')\n"
        "cai.generate(None, law, rounds=2, out='runs/a')\n"
        "cai.generate(None, law, rounds='two')\n"
        "cai.label('runs/a', law, jugde='local')\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir", str(tmp_path / "cache"), str(script)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = [line.split(":")[1] for line in run.stdout.splitlines() if ": error:" in line and "script.py" in line]
    assert lines == ["4", "5"], run.stdout
