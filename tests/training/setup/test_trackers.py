"""Trackers: names and packages are checked before the training begins, and what goes wrong in one is told in a line.

Small packages that only write down what they are told stand in for trackio and mlflow.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
from trainings import chats, losses, train

from cai.errors import CaiError, UsageError
from cai.training.setup.trackers import NOWHERE, TRACKERS, check_trackers, errors_of_trackers

FAKES = {
    "trackio": """
from types import SimpleNamespace

__version__ = "0.30.0"
told = []
context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))

class Config(dict):
    def update(self, values, allow_val_change):
        super().update(values)

config = Config()

def init(**settings):
    pass

def log(metrics):
    told.append((metrics["train/global_step"], metrics.get("train/loss")))

def finish():
    pass
""",
    "mlflow": """
from types import SimpleNamespace

__version__ = "3.5.0"
told, runs = [], []
utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=250, MAX_PARAMS_TAGS_PER_BATCH=100))

def is_tracking_uri_set():
    return True

def get_tracking_uri():
    return "file"

def active_run():
    return runs[-1] if runs else None

def start_run(run_name, nested):
    runs.append(SimpleNamespace(info=SimpleNamespace(run_id="r")))

def end_run():
    runs.clear()

def log_params(params, synchronous):
    pass

def log_metrics(metrics, step, synchronous):
    told.append((step, metrics.get("loss")))
""",
}


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that can be imported: those of FAKES, which a test may change before the first import."""
    for name, source in FAKES.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield tmp_path / "packages"
    for name in FAKES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", FAKES)
def test_a_tracker_gets_the_loss_of_every_step(base: Path, tmp_path: Path, trackers: Path, name: str) -> None:
    out = tmp_path / "out"
    flags = {"batch_size": 8, "samples": 0, "trl.report_to": [name]}
    train("sft", chats(16), model=str(base), out=out, flags=flags)
    told = dict(each for each in importlib.import_module(name).told if each[1] is not None)
    assert told == losses(out)


@pytest.mark.parametrize("name", FAKES)
def test_what_goes_wrong_in_a_tracker_is_told_in_a_line(base: Path, tmp_path: Path, trackers: Path, name: str) -> None:
    failing = 'def log{}(*values, **more):\n    raise ConnectionError("no server\\nat that address")\n'
    with open(trackers / name / "__init__.py", "a") as file:
        file.write(failing.format("_metrics" if name == "mlflow" else ""))
    flags: dict[str, Any] = {"batch_size": 8, "samples": 0, "trl.report_to": name}
    with pytest.raises(CaiError, match=f"^{name}: no server at that address$"):
        train("sft", chats(16), model=str(base), out=tmp_path / "out", flags=flags)
    del flags["trl.report_to"]  # which decides no weight, so the same folder goes on without it
    assert train("sft", chats(16), model=str(base), out=tmp_path / "out", flags=flags).steps


def test_errors_of_others_pass_as_they_are() -> None:
    for error in (ValueError("ours"), KeyboardInterrupt(), UsageError("said already")):
        with pytest.raises(type(error)) as caught, errors_of_trackers():
            raise error
        assert caught.value is error


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_told_before_the_training_begins(
    monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path, name: str
) -> None:
    found, hidden = find_spec, set(TRACKERS[name].packages)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package in hidden else found(package))
    with pytest.raises(UsageError, match=f"report_to {name}: .* pip install {name}"):
        train("sft", chats(), model=str(base), out=tmp_path / "out", flags={"trl.report_to": name})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["tensorboardX", "tensorboard"])
def test_one_of_the_packages_of_a_tracker_is_enough(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True if name == package else None)
    check_trackers(["tensorboard", NOWHERE])


def test_a_tracker_that_the_environment_switches_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, trackers: Path
) -> None:
    check_trackers("mlflow")
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    with pytest.raises(UsageError, match="DISABLE_MLFLOW_INTEGRATION switches it off"):
        check_trackers("mlflow")


@pytest.mark.parametrize("wrong", ["mlfow", ["wandb", "x"], "all"])
def test_a_name_that_is_no_tracker_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: True)
    with pytest.raises(UsageError, match="no tracker is called"):
        check_trackers(wrong)


@pytest.mark.parametrize("names", [True, 5, [["wandb"]], {"wandb": 1}])
def test_what_names_no_tracker_is_refused(names: Any) -> None:
    with pytest.raises(UsageError, match=r"report_to is .*: it must be the name of a tracker, or a list of names"):
        check_trackers(names)
