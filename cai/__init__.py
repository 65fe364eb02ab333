"""Constitutional AI and RLAIF: critique and revise replies under a constitution, and train on what comes out.

    import cai
    law = cai.load_constitution("harmless")
    for row in cai.generate(["How do I pick a lock?"], law, model="local"):
        print(row.final)

Everything is loaded when it is first used: `import cai` itself takes a few milliseconds.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _modules() -> dict[str, str]:
    """The module of every public name, from the stub that type checkers read."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {name.name: str(line.module) for line in imports for name in line.names}


_MODULES = _modules()
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
