"""Constitutional AI and RLAIF: critique and revise replies under a constitution, and train on what comes out.

    import cai
    law = cai.load_constitution("harmless")
    for row in cai.generate(["How do I pick a lock?"], law, model="local"):
        print(row.final)

Everything is loaded when it is first used: `import cai` itself takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {  # of each module; type checkers read them in __init__.pyi, which `python tests/doors.py --write` writes
    "cai.cli.recipe": "run_recipe",
    "cai.constitution.files": "list_constitutions load_constitution",
    "cai.constitution.principles": "Constitution Principle",
    "cai.errors": "CaiError",
    "cai.evaluation.ablation": "ablate",
    "cai.evaluation.audit": "audit",
    "cai.evaluation.bench": "judge_bench",
    "cai.evaluation.evaluate": "evaluate",
    "cai.evaluation.trial": "constitution_test",
    "cai.export.export": "export_run",
    "cai.folder.journal.store": "read_calls",
    "cai.judge.calibration": "calibrate_judge",
    "cai.records": "Candidate Candidates Drop Label Message Prompt Revision Round Usage Vote",
    "cai.report.report": "make_report",
    "cai.runs.kinds.doors": "agenerate alabel asample generate label sample",
    "cai.sources.files": "read_prompts",
    "cai.training.train": "train",
    "cai.weights.merge": "merge",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
