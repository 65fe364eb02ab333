"""Constitutional AI and RLAIF: critique and revise replies under a constitution, and train on what comes out.

    import cai
    law = cai.load_constitution("harmless")
    for row in cai.generate(["How do I pick a lock?"], law, model="local"):
        print(row.final)

Everything is loaded when it is first used: `import cai` itself takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.constitution.principles import Constitution, Principle, list_constitutions, load_constitution
    from cai.errors import CaiError
    from cai.evaluation.ablation import ablate
    from cai.evaluation.audit import audit
    from cai.evaluation.bench import judge_bench
    from cai.evaluation.trial import constitution_test
    from cai.export.export import export_run
    from cai.folder.store import read_calls
    from cai.judge.calibration import calibrate_judge
    from cai.records import Candidate, Candidates, Drop, Label, Message, Prompt, Revision, Round, Usage, Vote
    from cai.runs.play import agenerate, alabel, asample, generate, label, sample
    from cai.sources.files import read_prompts
    from cai.training.train import train
    from cai.weights.merge import merge

_HOME = {
    "CaiError": "errors",
    "Candidate": "records",
    "Candidates": "records",
    "Constitution": "constitution.principles",
    "Drop": "records",
    "Label": "records",
    "Message": "records",
    "Principle": "constitution.principles",
    "Prompt": "records",
    "Revision": "records",
    "Round": "records",
    "Usage": "records",
    "Vote": "records",
    "ablate": "evaluation.ablation",
    "agenerate": "runs.play",
    "alabel": "runs.play",
    "asample": "runs.play",
    "audit": "evaluation.audit",
    "calibrate_judge": "judge.calibration",
    "constitution_test": "evaluation.trial",
    "export_run": "export.export",
    "generate": "runs.play",
    "judge_bench": "evaluation.bench",
    "label": "runs.play",
    "list_constitutions": "constitution.principles",
    "load_constitution": "constitution.principles",
    "read_calls": "folder.store",
    "read_prompts": "sources.files",
    "merge": "weights.merge",
    "sample": "runs.play",
    "train": "training.train",
}
__all__ = [
    "CaiError",
    "Candidate",
    "Candidates",
    "Constitution",
    "Drop",
    "Label",
    "Message",
    "Principle",
    "Prompt",
    "Revision",
    "Round",
    "Usage",
    "Vote",
    "ablate",
    "agenerate",
    "alabel",
    "asample",
    "audit",
    "calibrate_judge",
    "constitution_test",
    "export_run",
    "generate",
    "judge_bench",
    "label",
    "list_constitutions",
    "load_constitution",
    "merge",
    "read_calls",
    "read_prompts",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(import_module(f"cai.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
