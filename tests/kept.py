"""What earlier versions of cai made and left in the repository, and how it is compared with what is made now."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import yaml
from forked import fork

import cai

HERE = Path(__file__).resolve().parent
GOLDENS = HERE / "goldens"
INPUTS = GOLDENS / "inputs"
OLD_FOLDERS = HERE / "folders-0.1.0"
TINY = INPUTS / "tiny"  # a model of random weights

CODE = Path(cai.__file__).resolve().parent.parent
IN_ANY_ORDER = ("revisions.jsonl", "candidates.jsonl", "labels.jsonl", "dropped.jsonl")
OF_RUN = ("identity", "rows", "dropped", "stopped", "usage", "cost_usd", "export")  # not times and versions
WORDING = ("detail", "notes", "promise", "message")  # words for people, which may be put better
TIMES = ("seconds",)
ONLY = ("best", "p_revise")  # columns that only 0.1.0, or only later versions write
DIGITS = 12  # of a float: the last ones differ between mathematical libraries


def command(*words: str | Path, server: str | None = None) -> list[str]:
    """The command line `cai …`; `server` answers for all models."""
    at = [] if server is None else ["--base-url", server]
    return [sys.executable, "-m", "cai", *map(str, words), *at]


def environment() -> dict[str, str]:
    """That of a command: no proxy and no key of whoever runs the tests, and the code that runs here."""
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith(("_proxy", "_base_url"))}
    return {**ours, "PYTHONPATH": str(CODE), "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}


def run(*words: str | Path, folder: Path, server: str | None = None, status: int = 0) -> str:
    """Run `cai …` in a folder and return its standard output."""
    typed = command(*words, server=server)[3:]
    ended = fork(typed, folder, environment())
    assert ended.status == status, f"cai {' '.join(typed)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def in_order(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of a run in the order of the input."""
    return sorted(rows(path), key=lambda row: (row["position"], row.get("stage", "")))


def lasting(value: Any) -> Any:
    """The value without times and words for people, and with floats of `DIGITS` digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        later = ("calls",) if "stage" in value else ()  # of a drop, whose calls 0.1.0 did not write
        return {key: lasting(item) for key, item in value.items() if key not in WORDING + TIMES + ONLY + later}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return value


def lines(values: list[Any]) -> bytes:
    """JSON, one value a line, keys in their order; what does not last is left out."""
    return b"".join(orjson.dumps(lasting(value)) + b"\n" for value in values)


def call_keys(folder: Path) -> list[str]:
    """The keys of all finished calls of a run."""
    return sorted(call.key for call in cai.read_calls(folder))


def card_configs(path: Path) -> Any:
    """Which file a card names for which configuration and split; not those of reward.jsonl, which is dpo.jsonl."""
    front = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    return [config for config in front["configs"] if config["config_name"] != "reward"]


def training_files(folder: Path) -> dict[str, bytes]:
    """The training rows in a folder by file; not reward.jsonl, which is dpo.jsonl."""
    names = [f"{name}{side}.jsonl" for name in ("sft", "dpo", "kto") for side in ("", ".eval")]
    return {name: lines(rows(folder / name)) for name in names if (folder / name).exists()}


def contents(folder: Path) -> dict[str, bytes]:
    """What must stay of a run folder, by file."""
    kept = training_files(folder)
    for name in IN_ANY_ORDER:
        if (folder / name).exists():
            kept[name] = lines(in_order(folder / name))
    info = orjson.loads((folder / "run.json").read_bytes())
    kept["run.json"] = lines([{name: info[name]} for name in OF_RUN if name in info])
    if (folder / "README.md").exists():
        kept["configs.json"] = lines(card_configs(folder / "README.md"))
    if (folder / "calibration.json").exists():
        kept["calibration.json"] = lines([orjson.loads((folder / "calibration.json").read_bytes())])
    kept["calls.txt"] = "".join(f"{key}\n" for key in call_keys(folder)).encode()
    return kept
