from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cai
from cai.errors import CaiError

ROOT = Path(__file__).resolve().parent.parent
HEAVY = "torch transformers openai anthropic datasets pyarrow openvino openvino_genai gguf numpy pandas huggingface_hub"
LATE = f"{HEAVY} pydantic jinja2 aiohttp typer rich yaml"  # what `import cai` itself can do without


def loaded_by(code: str, names: str) -> list[str]:
    """Which of `names` are in sys.modules after `code`, in a fresh interpreter."""
    report = f"import sys; print([name for name in {names.split()!r} if name in sys.modules], file=sys.stderr)"
    program = f"import atexit\natexit.register(lambda: exec({report!r}, {{}}))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = eval(done.stderr.splitlines()[-1])
    return found


def test_importing_the_package_loads_nothing_it_may_not_need() -> None:
    assert loaded_by("import cai", LATE) == []


def test_the_version_is_printed_without_what_only_commands_need() -> None:
    code = "import sys; sys.argv[1:] = ['--version']\nfrom cai.cli.main import main\nmain()"
    assert loaded_by(code, f"{HEAVY} pydantic jinja2 aiohttp orjson") == []


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["generate", "--help"],
        ["constitution", "check", "harmless"],
        ["constitution", "list", "--json"],
        ["constitution", "show", "harmless", "--template", "critique"],
        ["plan", "generate", "--model", "openai:gpt-4.1-mini"],
        ["plan", "generate", "--model", "anthropic:claude-sonnet-4-5"],
    ],
    ids=" ".join,
)
def test_a_command_loads_no_heavy_package_that_it_does_not_use(command: list[str]) -> None:
    assert loaded_by(f"import sys\nsys.argv[1:] = {command!r}\nfrom cai.cli.main import main\nmain()", HEAVY) == []


def test_the_list_of_commands_waits_for_no_settings() -> None:
    code = "import sys\nsys.argv[1:] = ['--help']\nfrom cai.cli.main import main\nmain()"
    assert loaded_by(code, f"{HEAVY} pydantic jinja2 aiohttp") == []


def test_all_that_is_listed_is_there_and_of_the_package() -> None:
    assert sorted(cai.__all__) == cai.__all__ == dir(cai)
    for name in cai.__all__:
        assert getattr(cai, name).__module__.startswith("cai."), name
    assert issubclass(CaiError, cai.CaiError)


def test_type_checkers_see_the_same_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(f"from cai import {', '.join(cai.__all__)}\nreveal_type(generate)\n")
    report = subprocess.run(  # cai/__init__.pyi is a stub, and so not skipped
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "skip", "--config-file=", str(program)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ": error:" not in report.stdout and re.search(r"rounds: (builtins\.)?int", report.stdout), report.stdout


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cai' has no attribute 'generat'"):
        cai.generat  # noqa: B018


def test_a_star_import_brings_what_is_listed() -> None:
    assert loaded_by("from cai import *\nassert callable(generate) and Revision", HEAVY) == []
