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

Facts = Mapping[str, Any]

OF_RUN = ("command", "source", "templates", "models", "rounds", "gate", "n", "pairing", "seed", "constitution")
OF_JUDGE = ("judge", "protocol", "principles", "templates", "constitution")


def provenance(data: Any) -> dict[str, Any] | None:
    """The facts of the run whose folder `load_rows` takes; None for rows that are not given as a run's folder.

    `calibration` is of the judge's labels, and None if they have not been compared with human labels; `min_confidence`
    is what the labels had to reach.
    """
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        return None
    info = read_info(Path(data), "name a run")
    identity, export = info["identity"], info.get("export") or {}
    binding = identity.get("binding") or identity.get("best_of") or {}
    facts: dict[str, Any] = {"run": identity_hash(identity)}
    for names, source in ((OF_RUN, identity), (OF_JUDGE, binding)):
        facts |= {name: source[name] for name in names if source.get(name) is not None}
    facts |= {name: info.get(name) for name in ("rows", "dropped", "stopped", "versions")}
    if identity["command"] == "label":
        calibration = _calibration(Path(data), export, info.get("calibration") or {})
        facts["calibration"] = calibration
        facts["min_confidence"] = _min_confidence(export, calibration)
        facts["agreement"] = export.get("agreement")
    return facts


def _calibration(run: Path, export: Facts, origin: Facts) -> dict[str, Any] | None:
    """The calibration that the rows were cut with, and the sha256 of its file.

    Of a file that changed or is gone since then nothing but the sha256 is known.
    """
    calibration, sha256 = export.get("calibration"), origin.get("sha256")
    if calibration is None:
        return None
    if isinstance(calibration, Mapping):
        return {"sha256": sha256, "content": dict(calibration)}
    path = Path(calibration)
    for place in (path, path / FILE, run / FILE):
        if place.is_file():
            content = place.read_bytes()
            if hashlib.sha256(content).hexdigest() == sha256:
                return {"sha256": sha256, "content": orjson.loads(content)}
    return {"sha256": sha256, "content": None}


def _min_confidence(export: Facts, calibration: Facts | None) -> float | None:
    """The confidence that a label had to reach, on the scale of the calibration; None: not known."""
    if export.get("min_confidence") is not None:
        return float(export["min_confidence"])
    if export.get("agreement") is None:
        return Filters().min_confidence
    if calibration is None or calibration["content"] is None:
        return None
    threshold = calibration["content"]["thresholds"][str(export["agreement"])]
    if threshold is None:
        return None
    return float(threshold["calibrated"])
