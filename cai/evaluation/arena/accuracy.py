"""How accurate the evaluator of an evaluation is: its agreement with people, from a bench or a calibration."""

from __future__ import annotations

from pathlib import Path

from cai.disk.reading import exists
from cai.errors import InputError, UsageError
from cai.evaluation.arena.figures import Figure
from cai.folder.identity import differences
from cai.judge.calibration import calibrate_judge
from cai.judge.certify import FILE, Binding, load_calibration
from cai.judge.metrics import Metrics
from cai.records import Object


def read_accuracy(path: str | Path, binding: Object) -> Figure:
    """The agreement with people of the judge that a `binding` names.

    path: a folder of `cai judge bench`, a label run of pairs that people labelled, or a calibration.json. Raises
    InputError if it holds no such labels, UsageError if they are another judge's.
    """
    if not exists(Path(path)):
        raise UsageError(
            f"--bench {path}: there is no such file or folder; name a folder of cai judge bench, or a {FILE}"
        )
    problems: list[str] = []
    for place in _places(Path(path)):
        metrics, whose = _read(place)
        changes = _differences(whose, binding)
        if not changes:
            low, high = metrics.interval
            return Figure(value=metrics.accuracy, low=low, high=high, n=metrics.n)
        problems = problems or changes
    raise UsageError(f"--bench {path} is of a different judge: {'; '.join(problems)}")


def _places(path: Path) -> list[Path]:
    """The files and folders to look at: a folder's own labels, or those of the runs inside."""
    if not path.is_dir():
        return [path]
    inside = [place for place in sorted(path.iterdir()) if (place / "labels.jsonl").exists()]
    if (path / "gold" / "labels.jsonl").exists():  # of a label run, whose other pairs nobody labelled
        return [path / "gold"]
    if (path / "labels.jsonl").exists():
        return [path]
    if inside:
        return inside
    if (path / FILE).exists():
        return [path / FILE]
    raise InputError(f"holds no labels of a judge: name a folder of cai judge bench, or a {FILE}", path)


def _read(place: Path) -> tuple[Metrics, Binding | None]:
    if place.suffix != ".json":
        report = calibrate_judge(place)
        return report.metrics, report.calibration.binding
    calibration = load_calibration(place)
    if calibration.before is None:
        raise InputError(f"was made of {calibration.n} pairs, too few to say how accurate the judge is", place)
    return calibration.before, calibration.binding


def _differences(whose: Binding | None, binding: Object) -> list[str]:
    """How labels differ from those of the judge of an evaluation; a reward model reads no principles."""
    if whose is None:
        return ["its rows do not name their judge"]
    names = list(Binding.model_fields)
    if whose.protocol == binding["protocol"] == "reward":
        names = ["judge", "protocol"]
    there = whose.model_dump()
    return differences({name: there[name] for name in names}, {name: binding[name] for name in names})
