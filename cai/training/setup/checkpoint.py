"""Checkpoints of a training: whether one is whole, training on from it to the end, and saving what was trained."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cai.disk.reading import check_files
from cai.disk.writing import share_mode
from cai.errors import CaiError, LossNotFinite, RunError
from cai.sources.yamlfile import first_fault
from cai.texts.wording import reason_of

STATE = "trainer_state.json"
RESUMING = (STATE, "scheduler", "optimizer", "rng_state")  # how the files of a checkpoint begin
ARCHIVES = (".pt", ".pth")  # zip files with a checksum of each part, which torch does not look at
ANOTHER = (
    "delete that folder, and run the same command again: it resumes from the checkpoint before, or begins anew if "
    "there is none"
)
VENDORS_OWN = ("training_args.bin", "README.md")  # a pickle, and an unfilled model card
Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class EndedBefore(Exception):
    """The session before had come to the end of the training, before its last step."""


class State(TypedDict, total=False):
    """Of a trainer_state.json, what is not read before it is needed."""

    global_step: Count
    max_steps: Count
    num_input_tokens_seen: Count
    total_flos: Annotated[float, Field(ge=0)]
    log_history: list[dict[str, float | None]]  # None: a mean of unknown numbers


def is_whole(checkpoint: Path) -> bool:
    """Whether all that resuming needs is there and has its end: transformers resumes without what is missing."""
    paths = list(checkpoint.iterdir())
    if not any(path.suffix == ".safetensors" or path.name.startswith("pytorch_model") for path in paths):
        return False
    if not all(any(path.name.startswith(part) for path in paths) for part in RESUMING):
        return False
    return all(_ends(path) for path in paths if path.is_file())


def _ends(path: Path) -> bool:
    """Whether a file of a checkpoint was written to its end, by what stands at the end of its kind of file."""
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes())  # which may hold NaN
        except ValueError:
            return False
        return path.name != STATE or (isinstance(content, dict) and "global_step" in content)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy"):
                return True
        except SafetensorError:
            return False
    return path.suffix not in ARCHIVES or zipfile.is_zipfile(path)


def train_from(checkpoint: Path | None, trainer: Any) -> None:
    """Train on from a checkpoint to the end, or from the start; RunError if it cannot be resumed from."""
    if checkpoint is None:
        trainer.train()
        return
    step = _checked(checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    except EndedBefore:
        trainer.is_in_train = False
    except Exception as error:
        if trainer.state.global_step > step or isinstance(error, CaiError | OSError) or is_out_of_memory(error):
            raise
        problem = f"{type(error).__name__}: {reason_of(error)}"
        advice = f"install the packages that it was made with, or {ANOTHER}"
        raise RunError(f"{checkpoint} cannot be resumed from ({problem}): {advice}") from error


def save_weights(trainer: Any, folder: Path, processes: Any) -> None:
    """Save what was trained, without what its library adds; LossNotFinite for weights that are not all finite."""
    if not trainer.is_fsdp_enabled:  # which keeps each process's share of the weights apart
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad and not weight.isfinite().all():
                raise LossNotFinite(f"after step {trainer.state.global_step} the weights {name} are not all finite")
    trainer.save_model(str(folder))
    processes.wait_for_everyone()
    if processes.is_main_process:
        share_mode(folder)
        for name in VENDORS_OWN:
            (folder / name).unlink(missing_ok=True)


def _checked(checkpoint: Path) -> int:
    """The step of a checkpoint; RunError for a state that is not as it was written."""
    path = checkpoint / STATE
    archives = sorted(path for path in checkpoint.iterdir() if path.suffix in ARCHIVES)
    check_files(checkpoint, [STATE, *(path.name for path in archives)])
    try:
        state = TypeAdapter(State).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise _damaged(checkpoint, f"{STATE}: {first_fault(error)}") from None
    step = state["global_step"]
    if checkpoint.name != f"checkpoint-{step}":
        raise _damaged(checkpoint, f"{STATE} is of step {step}")
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                fault = archive.testzip()
        except Exception as error:  # of a dozen types, as any byte of the archive may have changed
            raise _damaged(checkpoint, f"{path.name} cannot be read: {reason_of(error)}") from error
        if fault is not None:
            raise _damaged(checkpoint, f"{path.name} has changed since it was written")
    return step


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was no room in memory, of the device or of the machine."""
    from accelerate.utils.memory import should_reduce_batch_size
    from torch import OutOfMemoryError

    return isinstance(error, OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)


def _damaged(checkpoint: Path, problem: str) -> RunError:
    return RunError(f"{checkpoint} is damaged ({problem}): {ANOTHER}")
