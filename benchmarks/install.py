"""Size of a core install: a wheel of this checkout in a fresh environment, without extras.

    python benchmarks/install.py

Builds the wheel with pip, which asks the package index for the build backend and the dependencies. Counts packages and
bytes without pip and setuptools.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

from _common import HERE, conditions, table

NOT_OURS = {"pip", "setuptools", "wheel"}
SDKS = ["openai>=3", "anthropic>=2"]


def megabytes(folder: Path) -> float:
    """Everything that an install has put there, compiled files included, in MB of 10^6 bytes."""
    top = [item for item in folder.iterdir() if item.name.split("-")[0] not in NOT_OURS]
    files = [file for item in top for file in ([item] if item.is_file() else item.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def packages(python: Path) -> list[str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    return [item["name"] for item in json.loads(listed.stdout) if item["name"] not in NOT_OURS]


def install(place: Path, what: list[str]) -> tuple[int, float]:
    """Packages and MB of a fresh environment with `what` in it."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *what], check=True)
    [site] = place.glob("lib/python*/site-packages")
    return len(packages(python)), megabytes(site)


def main() -> None:
    assert find_spec("pip") is not None, "the environment of this script needs pip, to build the wheel"
    conditions()
    with tempfile.TemporaryDirectory(prefix="cai-benchmark-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, HERE.parent], check=True)
        [wheel] = folder.glob("cai_toolkit-*.whl")
        core = install(folder / "core", [str(wheel)])
        plain = install(folder / "plain", SDKS[:1])
        both = install(folder / "both", [str(wheel), *SDKS])
    rows = [
        ["core install: packages", "≤ 45", f"{core[0]}", f"{plain[0]} (`openai` alone)", f"{plain[0] / core[0]:.2f}"],
        ["core install: MB", "–", f"{core[1]:.0f} MB", f"{plain[1]:.0f} MB (`openai`)", f"{plain[1] / core[1]:.2f}"],
        ["with `openai` and `anthropic`: packages", "≤ 45", f"{both[0]}", "–", "–"],
        ["with `openai` and `anthropic`: MB", "≤ 120", f"{both[1]:.0f} MB", "–", "–"],
    ]  # fmt: skip
    table(rows)


if __name__ == "__main__":
    main()
