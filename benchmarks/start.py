"""How long `import cai` and the shortest commands take, and what they load.

    python benchmarks/start.py [--repeats 15] [--imports 12]

Wall time of fresh processes, less nothing; the interpreter's own start stands beside it. cai must be installed in the
environment or the script run in a checkout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from _common import HERE, Times, conditions, table

ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parent)}
HEAVY = ("torch", "transformers", "openai", "anthropic", "datasets", "pyarrow", "openvino_genai", "gguf")
CLI = "import sys; from cai.cli.main import main; sys.argv[0] = 'cai'; main()"
LOADED = "; import sys; print(' '.join(name for name in sys.modules if '.' not in name))"
IMPORT = "import cai"
COMMANDS = {
    "`import cai`": (0.15, ["-c", IMPORT]),
    "`cai --help`": (0.3, ["-c", CLI, "--help"]),
    "`cai constitution check harmless`": (0.3, ["-c", CLI, "constitution", "check", "harmless"]),
    "`cai constitution list`": (0.3, ["-c", CLI, "constitution", "list"]),
}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def slowest_imports(count: int) -> None:
    """What `cai --help` spends importing, by module with all that it pulls in."""
    command = [sys.executable, "-X", "importtime", "-c", CLI, "--help"]
    report = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stderr
    lines = [line.removeprefix("import time:").split("|") for line in report.splitlines() if "|" in line][1:]
    found = sorted(((int(total), name.rstrip()) for _, total, name in lines), reverse=True)
    print("\nslowest imports of `cai --help`, ms with what they pull in (indented: pulled in by another):\n")
    for total, name in found[:count]:
        print(f"    {total / 1000:6.1f} {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--imports", type=int, default=12, help="slowest imports to list")
    arguments = parser.parse_args()
    conditions()
    found = {what: Times() for what in (*COMMANDS, "bare", "openai")}
    for _ in range(arguments.repeats):
        for what, (_, command) in COMMANDS.items():
            found[what].values.append(seconds(command))
        found["bare"].values.append(seconds(["-c", "pass"]))
        found["openai"].values.append(seconds(["-c", "import openai"]))
    bare, openai = found["bare"], found["openai"]
    told = f"`import openai` {openai.show(2, 's')}; python alone {bare.show(2, 's')}"
    table(
        [what, f"≤ {budget} s", found[what].show(2, "s"), told, f"{openai.best / found[what].best:.1f}"]
        for what, (budget, _) in COMMANDS.items()
    )  # fmt: skip
    loaded = subprocess.run(
        [sys.executable, "-c", IMPORT + LOADED], env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = [name for name in HEAVY if name in loaded]
    print(f"\n`import cai` loads {len(loaded)} top-level modules; of the heavy ones: {', '.join(heavy) or 'none'}")
    slowest_imports(arguments.imports)


if __name__ == "__main__":
    main()
