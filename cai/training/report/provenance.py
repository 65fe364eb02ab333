"""Where the rows of a training come from: the facts of their run, as training.json keeps them, and those in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.export.pairs import Filters
from cai.folder.files import identity_hash
from cai.folder.run import read_info
from cai.judge.calibration_report import FILE
from cai.judge.certify import Calibration
from cai.texts.wording import code, one_line, without_path

Facts = Mapping[str, Any]

KEPT = ("command", "source", "templates", "models", "rounds", "gate", "n", "pairing", "seed", "constitution")
JUDGED = ("judge", "protocol", "principles", "templates", "constitution")
WRITERS = ("model", "chosen_model", "rejected_model")  # columns that say who wrote the replies


def provenance(folder: Path) -> dict[str, Any]:
    """The facts of the run in a folder that `load_rows` takes.

    `calibration` is of the judge's labels, and None if nobody compared them with people's; `min_confidence` is what the
    labels had to reach.
    """
    info = read_info(folder, "name a run")
    identity = info["identity"]
    binding = identity.get("binding") or identity.get("best_of") or {}
    facts: dict[str, Any] = {"run": identity_hash(identity)}
    for names, source in ((KEPT, identity), (JUDGED, binding)):
        facts |= {name: source[name] for name in names if source.get(name) is not None}
    facts |= {name: info.get(name) for name in ("rows", "dropped", "stopped", "versions")}
    if identity["command"] == "label":
        export = info.get("export") or {}
        calibration = _calibration(folder, export, info.get("calibration"))
        facts["calibration"] = calibration
        facts["min_confidence"] = _least(export, calibration)
        facts["agreement"] = export.get("agreement")
    return facts


def _calibration(run: Path, export: Facts, origin: Facts | None) -> dict[str, Any] | None:
    """The calibration that the rows were cut with, and the sha256 of its file.

    Of a file that changed or is gone since then nothing but the sha256 is known.
    """
    calibration = export.get("calibration")
    if calibration is None:
        return None
    known = {"sha256": None if origin is None else origin["sha256"]}
    if isinstance(calibration, Mapping):
        return known | {"content": dict(calibration)}
    path = Path(calibration)
    if path.is_dir():
        path = path / FILE
    for place in (path, run / FILE):
        if place.is_file():
            content = place.read_bytes()
            if hashlib.sha256(content).hexdigest() == known["sha256"]:
                return known | {"content": orjson.loads(content)}
    return known | {"content": None}


def _least(export: Facts, calibration: Facts | None) -> float | None:
    """The confidence that a label had to reach, on the scale of the calibration; None: not known."""
    if export.get("min_confidence") is not None:
        return float(export["min_confidence"])
    agreement = export.get("agreement")
    if agreement is None:
        return Filters().min_confidence
    if calibration is None or calibration["content"] is None:
        return None
    threshold = Calibration.model_validate(calibration["content"]).thresholds[str(agreement)]
    return None if threshold is None else threshold.calibrated


# In words


def run_in_words(run: Facts) -> Iterator[tuple[str, ...]]:
    """What run.json says of the rows, a name and a text in Markdown each."""
    yield "run", f"cai {run['command']}, {code(run['run'])}, seed {run['seed']}"
    constitution = run.get("constitution")
    if constitution is not None:
        name, version, digest = (code(constitution[key]) for key in ("name", "version", "hash"))
        yield "constitution", f"{name} {version}, hash {digest}"
    if run.get("templates") is not None:
        yield "templates", f"hash {code(run['templates'])}"
    models = run.get("models", {})
    if not isinstance(models, Mapping):
        yield from (("assistant", code(without_path(spec))) for spec in models)
    else:
        yield from ((role, code(without_path(spec))) for role, spec in models.items())
    dropped = ", ".join(f"{code(reason)} {count:,}" for reason, count in run["dropped"].items())
    finished = f"{run['rows']:,} finished"
    yield "of the run", f"{finished}, dropped {dropped}" if dropped else f"{finished}, none dropped"
    if run["stopped"] is not None:
        yield "unfinished", code(run["stopped"])
    if "judge" in run:
        judge = f"{code(without_path(run['judge']))}, protocol {code(run['protocol'])}"
        yield "judge", judge if run["protocol"] == "reward" else f"{judge}, {run['principles']} principles a pair"
        yield "calibration", _trust(run.get("calibration"), run.get("agreement"))
    elif run["command"] == "generate":
        yield "judge", "none: nobody judged these replies; that a revision is better than the reply is assumed"
    if run.get("min_confidence") is not None:
        yield "confidence", f"{run['min_confidence']:.4g} or more"


def _trust(calibration: Facts | None, agreement: Any) -> str:
    if calibration is None:
        return "uncalibrated: nobody compared these labels with people's"
    content = calibration["content"]
    if content is None:
        return f"a file of sha256 {code(calibration['sha256'])}, which is not there any more"
    fitted = f"temperature {content['temperature']:.3g}, fitted on {content['n']:,} pairs with human labels"
    threshold = content["thresholds"].get(str(agreement))
    if threshold is None:
        return f"{fitted}; no agreement with people is promised"
    share, pairs = threshold["target"], threshold["n"]
    certified = f"agreement with people of at least {share:.0%}, certified on {pairs:,} of these pairs"
    return f"{fitted}; {certified}; {one_line(content['promise'])}"
