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
from cai.judge.calibration_report import FILE
from cai.judge.certify import Calibration
from cai.texts.markdown import code, without_path
from cai.texts.wording import one_line
from cai.training.data.dataset import SPLIT

Facts = Mapping[str, Any]

KEPT = ("command", "source", "templates", "models", "rounds", "gate", "n", "pairing", "seed")
JUDGED = ("judge", "protocol", "principles", "templates", "constitution")
WRITERS = ("model", "chosen_model", "rejected_model")  # columns that say who wrote the replies
HELD = {
    "file": "rows of a file of their own, none of whose prompts trains",
    "nothing": "none: nothing was evaluated",
}


def provenance(data: Any) -> dict[str, Any] | None:
    """The facts of the run that `data` is the folder of; None: rows of a file, of the hub, or made in Python.

    `calibration` is of the judge's labels, and None where nobody compared them with people's; `min_confidence` is what
    the labels had to reach. Of a folder that `load_rows` takes.
    """
    if not isinstance(data, str | Path) or not (Path(data) / "run.json").is_file():
        return None
    info = orjson.loads((Path(data) / "run.json").read_bytes())
    identity, export = info["identity"], info.get("export") or {}
    binding = identity.get("binding") or identity.get("best_of") or {}
    found: dict[str, Any] = {"run": identity_hash(identity)}
    found |= {name: identity[name] for name in (*KEPT, "constitution") if identity.get(name) is not None}
    found |= {name: binding[name] for name in JUDGED if binding.get(name) is not None}
    found |= {name: info.get(name) for name in ("rows", "dropped", "stopped", "versions")}
    if identity["command"] == "label":
        made = _calibration(Path(data), export.get("calibration"), info.get("calibration"))
        found |= {"calibration": made, "min_confidence": _least(export, made), "agreement": export.get("agreement")}
    return found


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
        if place.is_file() and hashlib.sha256(content := place.read_bytes()).hexdigest() == known["sha256"]:
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


def data_in_words(record: Facts) -> Iterator[tuple[str, ...]]:
    """What a training.json says of its data, a name and a text in Markdown each."""
    data, run = record["data"], record.get("run")
    for file in data["files"]:
        yield "file", f"{code(without_path(file['source']))}, content {code(file['content'])}"
    dropped = ", ".join(f"{code(reason)} {count:,}" for reason, count in data["dropped"].items())
    left = f"{sum(data['dropped'].values()):,} dropped{f' ({dropped})' if dropped else ''}"
    yield "rows", f"{data['read']:,} read: {data['train']:,} train, {data['eval']:,} held out, {left}"
    share = record["identity"]["config"]["split"]
    chance = f"{1 - (SPLIT if share is None else share):.0%}"
    split = f"each prompt with a chance of {chance}, by its hash: none is on both sides"
    yield "held out", HELD.get(data["held_back"], split)
    if run is not None:
        yield from _of_run(run)
    for column, values in data["origins"].items():
        if run is None or column in WRITERS:
            yield column.replace("_", " "), ", ".join(code(without_path(value)) for value in values)
    if run is None and record["identity"]["method"] != "sft":
        who = "the rows name a judge" if "judge" in data["origins"] else "the rows name no judge"
        yield "calibration", f"not known: {who}, and they come without the run that made them"
    place = Path(data["files"][0]["source"])
    for note in data["notes"]:
        yield "note", code(note.replace(str(place.parent), "RUN") if place.is_absolute() else note)


def _of_run(run: Facts) -> Iterator[tuple[str, ...]]:
    """What run.json says of the rows."""
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
