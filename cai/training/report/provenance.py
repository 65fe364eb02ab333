"""Where the rows of a training come from: the facts of their run, as training.json keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.export.pairs import Filters
from cai.folder.files import identity_hash
from cai.folder.run import read_info
from cai.judge.calibration_report import FILE
from cai.judge.certify import Calibration

Facts = Mapping[str, Any]

KEPT = ("command", "source", "templates", "models", "rounds", "gate", "n", "pairing", "seed", "constitution")
JUDGED = ("judge", "protocol", "principles", "templates", "constitution")


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
