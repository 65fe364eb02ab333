"""Where the rows of a training come from: the facts of their run, as training.json keeps them, and those in words.

Knows run.json, calibration files and what training.json says of data; nothing of rows, models or trainers.
"""

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
from cai.texts.markdown import code, without_path
from cai.texts.wording import one_line

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
        calibration = _calibration(folder, export.get("calibration"), info.get("calibration"))
        facts["calibration"] = calibration
        facts["min_confidence"] = _least(export, calibration)
        facts["agreement"] = export.get("agreement")
    return facts


def _calibration(run: Path, given: Any, origin: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The calibration that the rows were cut with, and the sha256 of its file.

    Of a file that changed or is gone since then nothing but the sha256 is known.
    """
    if given is None:
        return None
    known = {"sha256": None if origin is None else origin["sha256"]}
    if isinstance(given, Mapping):
        return known | {"content": dict(given)}
    path = Path(given) / FILE if Path(given).is_dir() else Path(given)
    for place in (path, run / FILE):
        if place.is_file():
            content = place.read_bytes()
            if hashlib.sha256(content).hexdigest() == known["sha256"]:
                return known | {"content": orjson.loads(content)}
    return known | {"content": None}


def _least(export: Mapping[str, Any], made: Mapping[str, Any] | None) -> float | None:
    """The confidence that a label had to reach, on the scale of the calibration; None: not known."""
    if export.get("min_confidence") is not None:
        return float(export["min_confidence"])
    if export.get("agreement") is None:
        return Filters().min_confidence
    if made is None or made["content"] is None:
        return None
    at = Calibration.model_validate(made["content"]).thresholds[str(export["agreement"])]
    return None if at is None else at.calibrated


# In words


def run_in_words(run: Facts) -> Iterator[tuple[str, ...]]:
    """What run.json says of the rows, a name and a text in Markdown each."""
    yield "run", f"cai {run['command']}, {code(run['run'])}, seed {run['seed']}"
    if (law := run.get("constitution")) is not None:
        yield "constitution", f"{code(law['name'])} {code(law['version'])}, hash {code(law['hash'])}"
    if run.get("templates") is not None:
        yield "templates", f"hash {code(run['templates'])}"
    models = run.get("models", {})
    named = models.items() if isinstance(models, Mapping) else (("assistant", spec) for spec in models)
    for role, spec in named:
        yield role, code(without_path(spec))
    counts = ", ".join(f"{code(reason)} {count:,}" for reason, count in run["dropped"].items())
    yield "of the run", f"{run['rows']:,} finished, {f'dropped {counts}' if counts else 'none dropped'}"
    if run["stopped"] is not None:
        yield "unfinished", code(run["stopped"])
    if "judge" in run:
        asked = f", {run['principles']} principles a pair" if run["protocol"] != "reward" else ""
        yield "judge", f"{code(without_path(run['judge']))}, protocol {code(run['protocol'])}{asked}"
        yield "calibration", _trust(run)
    elif run["command"] == "generate":
        yield "judge", "none: nobody judged these replies; that a revision is better than the reply is assumed"
    if run.get("min_confidence") is not None:
        yield "confidence", f"{run['min_confidence']:.4g} or more"


def _trust(run: Facts) -> str:
    made = run.get("calibration")
    if made is None:
        return "uncalibrated: nobody compared these labels with people's"
    content = made["content"]
    if content is None:
        return f"a file of sha256 {code(made['sha256'])}, which is not there any more"
    told = f"temperature {content['temperature']:.3g}, fitted on {content['n']:,} pairs with human labels"
    at = content["thresholds"].get(str(run["agreement"]))
    if at is None:
        return f"{told}; no agreement with people is promised"
    certified = f"agreement with people of at least {at['target']:.0%}, certified on {at['n']:,} of these pairs"
    return f"{told}; {certified}; {one_line(content['promise'])}"
