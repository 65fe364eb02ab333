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
    from cai.constitution import Constitution, Principle, list_constitutions, load_constitution
    from cai.errors import CaiError
    from cai.export import export_run
    from cai.pipeline import agenerate, generate
    from cai.records import Drop, Message, Prompt, Revision, Round, Usage
    from cai.sources import read_prompts
    from cai.store import read_calls

_HOME = {
    "CaiError": "errors",
    "Constitution": "constitution",
    "Drop": "records",
    "Message": "records",
    "Principle": "constitution",
    "Prompt": "records",
    "Revision": "records",
    "Round": "records",
    "Usage": "records",
    "agenerate": "pipeline",
    "export_run": "export",
    "generate": "pipeline",
    "list_constitutions": "constitution",
    "load_constitution": "constitution",
    "read_calls": "store",
    "read_prompts": "sources",
}
__all__ = [
    "CaiError",
    "Constitution",
    "Drop",
    "Message",
    "Principle",
    "Prompt",
    "Revision",
    "Round",
    "Usage",
    "agenerate",
    "export_run",
    "generate",
    "list_constitutions",
    "load_constitution",
    "read_calls",
    "read_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(import_module(f"cai.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
