"""Where the rows of a training come from: the facts of their run that its record and card have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.disk.hashes import sha256_of
from cai.export.options import Filters
from cai.folder.identity import identity_hash
from cai.folder.shards.join import read_run
from cai.judge.certify import FILE
from cai.records import Object, Values

OF_RUN = (
    "command", "source", "templates", "models", "rounds", "gate", "gate_question", "screen", "accept", "distill", "n",
    "pairing", "seed", "constitution",
)  # fmt: skip
OF_JUDGE = ("judge", "protocol", "principles", "templates", "constitution")
ASKED_UNDER = 2  # principles, by who accepts revisions: that of the round, and one of helpfulness


def provenance(data: Any) -> Values | None:
    """The facts of the run whose folder `load_rows` takes; None for rows that are not given as a run's folder.

    `calibration` is of the judge's labels, and None if they have not been compared with human labels; `min_confidence`
    is what the labels had to reach.
    """
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        return None
    info = read_run(Path(data), "name a run")
    identity, export = info["identity"], info.get("export") or {}
    labels = info.get("labels") or {}  # those that the rows of a sample run were cut by
    binding = labels.get("binding") or identity.get("binding") or identity.get("best_of") or {}
    if "accept" in identity:  # who accepted revisions judged the pairs
        protocol = identity["accept"]["protocol"]
        binding = {"judge": identity["models"]["accept"], "protocol": protocol, "principles": ASKED_UNDER}
    facts: Values = {"run": identity_hash(identity)}
    for names, source in ((OF_RUN, identity), (OF_JUDGE, binding)):
        facts |= {name: source[name] for name in names if source.get(name) is not None}
    facts |= {name: info.get(name) for name in ("rows", "dropped", "stopped", "versions")}
    facts["stopped"] = facts["stopped"] or labels.get("stopped")
    if labels or identity["command"] == "label":
        calibration = _calibration(Path(data), export, info.get("calibration") or {})
        facts["calibration"] = calibration
        facts["min_confidence"] = _min_confidence(export, calibration)
        facts["agreement"] = export.get("agreement")
    return facts


def _calibration(run: Path, export: Object, origin: Object) -> Values | None:
    """The calibration that the rows were cut with, and the sha256 of its file.

    Of a file that changed or is gone since then nothing but the sha256 is known.
    """
    calibration, sha256 = export.get("calibration"), origin.get("sha256")
    if calibration is None:
        return None
    if isinstance(calibration, Mapping):
        return {"sha256": sha256, "content": calibration}
    path = Path(calibration)
    for place in (path, path / FILE, run / FILE):
        if place.is_file() and sha256_of(place) == sha256:
            return {"sha256": sha256, "content": orjson.loads(place.read_bytes())}
    return {"sha256": sha256, "content": None}


def _min_confidence(export: Object, calibration: Object | None) -> float | None:
    """The confidence that a label had to reach, on the scale of the calibration; None: not known."""
    if export.get("best"):  # which asks for no confidence
        return None
    if export.get("min_confidence") is not None:
        return float(export["min_confidence"])
    if export.get("agreement") is None:
        return Filters().min_confidence
    if calibration is None or calibration["content"] is None:
        return None
    threshold = calibration["content"]["thresholds"][str(export["agreement"])]
    return None if threshold is None else float(threshold["calibrated"])
