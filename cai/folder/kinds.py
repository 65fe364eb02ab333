"""What is in the folder of a kind of run: its rows, its training files, and the stages of the cut that makes them."""

from __future__ import annotations

from cai.errors import CaiError
from cai.records import KINDS, Kind

TRAINING = {name for kind in KINDS.values() for name in kind.training}
# Stages of an export: the row itself is finished, it is only not in a file. Those of labels are left out as pairs.
EXPORT_STAGES = TRAINING | {"pairs"}
TRAINING_FILES = {
    f"{name}{side}.{form}"
    for name in TRAINING | {"reward"}  # which version 0.1.0 wrote
    for side in ("", ".eval")
    for form in ("jsonl", "parquet")
}


def kind_of(command: str) -> Kind:
    """What is in the folders of a command."""
    if command not in KINDS:
        raise CaiError(f"a run of cai {command} is of no kind that this version knows (KINDS in cai/records/kinds.py)")
    return KINDS[command]
