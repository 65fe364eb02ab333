"""The functions of Python show every setting: as a keyword with its type and default, and with its meaning."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest
from doors import STUB, stub
from pydantic import BaseModel

import cai
from cai.evaluation.trial import NOT_ASKED
from cai.export.options import ExportOptions
from cai.runs.kinds.settings import GenerateSettings, LabelSettings, SampleSettings

DOORS: list[tuple[str, type[BaseModel], set[str]]] = [  # with the fields that a function does not take
    ("generate", GenerateSettings, set()),
    ("agenerate", GenerateSettings, set()),
    ("sample", SampleSettings, set()),
    ("asample", SampleSettings, set()),
    ("label", LabelSettings, set()),
    ("alabel", LabelSettings, set()),
    ("export_run", ExportOptions, set()),
    ("judge_bench", LabelSettings, {*NOT_ASKED, "judge", "protocol"} - {"gold"}),
    ("constitution_test", LabelSettings, {*NOT_ASKED, "principles", "limit"}),
]


def test_the_stub_is_that_of_the_functions_of_today() -> None:
    assert STUB.read_text(encoding="utf-8") == stub(), "refresh it: python tests/doors.py --write"


def test_no_public_function_hides_its_settings() -> None:
    for name in cai.__all__:
        value = getattr(cai, name)
        if inspect.isfunction(value):
            kinds = {parameter.kind for parameter in inspect.signature(value).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds, name


@pytest.mark.parametrize(("name", "settings", "left_out"), DOORS)
def test_every_setting_is_a_keyword_with_its_type_and_default(
    name: str, settings: type[BaseModel], left_out: set[str]
) -> None:
    parameters = inspect.signature(getattr(cai, name)).parameters
    assert settings.model_fields.keys() - parameters.keys() == left_out
    for key, field in settings.model_fields.items():
        if key not in left_out and not isinstance(parameters[key].annotation, str):  # not a parameter of its own
            assert parameters[key].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[key].default == field.get_default(call_default_factory=True), key
            assert "Ge(" not in str(parameters[key].annotation)


def test_an_asynchronous_twin_says_that_it_gives_an_asynchronous_generator() -> None:
    given = [str(inspect.signature(door).return_annotation) for door in (cai.agenerate, cai.asample, cai.alabel)]
    assert given == ["AsyncGenerator[Revision]", "AsyncGenerator[Candidates]", "AsyncGenerator[Label]"]


@pytest.mark.parametrize(("name", "settings", "left_out"), DOORS)
def test_help_says_what_every_setting_means(name: str, settings: type[BaseModel], left_out: set[str]) -> None:
    door = getattr(cai, name)
    page = " ".join(pydoc.plain(pydoc.render_doc(door)).split())
    for key, parameter in inspect.signature(door).parameters.items():
        if not isinstance(parameter.annotation, str):
            assert f"{key}: {' '.join(str(settings.model_fields[key].description).split())}" in page


def test_a_type_checker_sees_what_is_wrong_with_a_keyword(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    right = [
        "cai.generate(None, law, rounds=2, out='runs/a')",
        "cai.export_run('runs/a', split=0.9)",
        "cai.judge_bench('gold.jsonl', 'local', principles=2)",
        "cai.constitution_test(law, protocol='logprob')",
    ]
    wrong = [
        "cai.generate(None, law, rounds='two')",
        "cai.label('runs/a', law, jugde='local')",
        "cai.asample(None, n='4')",
        "cai.export_run('runs/a', splitt=0.9)",
        "cai.export_run('runs/a', pairing='best')",
        "cai.judge_bench('gold.jsonl', 'local', protocol='logprob')",
        "cai.constitution_test(law, protocol='logprobs')",
    ]
    script = tmp_path / "script.py"
    script.write_text("\n".join(["import cai", "law = cai.load_constitution('harmless')", *right, *wrong, ""]))
    # Types of cai/__init__.pyi, which is a stub and so not skipped, are all that a caller's line is checked against.
    quick = ["--no-incremental", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "skip"]
    command = [sys.executable, "-m", "mypy", *quick, str(script)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = [int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error:" in line and "script.py" in line]
    assert lines == [3 + len(right) + number for number in range(len(wrong))], run.stdout
