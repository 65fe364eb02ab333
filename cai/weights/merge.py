"""Puts a LoRA adapter into its base model, so that the product is one model; as a GGUF file, too, for `local:`.

Weights keep the type that the base is stored in: in 16 bits a merge rounds, and the summary says by how much the
answers differ. Knows transformers, peft and files; nothing of training.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from cai.errors import CaiError, RunError, UsageError
from cai.folder.files import read_object, share_mode, take_lock, unwritten, write_atomically
from cai.records import Record
from cai.sources.built_in import path_of
from cai.weights.bases import Base, find_base, gguf_of, unpacked_name
from cai.weights.gguf_write import check_gguf, write_gguf
from cai.weights.loading import load_config, load_model, load_tokenizer, open_reward, reasons
from cai.weights.vendors import need, quiet

log = logging.getLogger("cai")
PROBE = "The quiet river runs past 3 old mills; who would have thought?"  # on which the two are compared
# Nats that log-probabilities may differ by. Measured on the embedded model, sound merges do by 4e-5 in float32, 0.08 in
# float16 and 0.5 to 1.1 in bfloat16, whose 8 bits blur every layer's output.
MOST = {"bfloat16": 3.0, "float16": 0.3}
MOST_EXACT = 1e-3  # of wider types
SCRATCH = ".merging"  # in the folder to make
MOVING = "moving"  # in the scratch: names of what goes into place, so that a killed merge can be taken over


class MergeSummary(Record):
    """What a merge made."""

    folder: Path
    adapter: str  # or the whole model
    base: str | None  # None: a whole model was written as GGUF
    dtype: str
    difference: float | None  # largest of all log-probabilities after a probe, in nats; None: no language model's merge
    gguf: Path | None

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        inside = "" if self.base is None else f" in {self.base}"
        told = [f"{self.folder}: {self.adapter}{inside}, {self.dtype}"]
        if self.difference is not None:
            told.append(f"log-probabilities differ by at most {self.difference:.2g} from the adapter on its base")
        if self.gguf is not None:
            told.append(f"{self.gguf}: the same as GGUF (F16): cai chat {self.gguf}")
        return told


def merge(
    adapter: str | Path, out: str | Path, *, gguf: bool = False, tell: Callable[[str], None] = log.info
) -> MergeSummary:
    """Write the adapter of a folder and its base as one model into `out`, with its tokenizer and where it comes from.

    gguf: also `out`.gguf, and a whole model is taken, too. The file lies beside the folder: inside, transformers would
    take the folder's tokenizer for the file's. Raises UsageError for what cannot be merged or written as GGUF, RunError
    where `out` is in use or cannot be written.
    """
    need("cai merge", "hf", "torch", "peft")
    out = Path(out) if Path(out).name not in ("", "..") else Path(out).resolve()
    file = out.with_name(f"{out.name}.gguf") if gguf else None
    if not gguf and str(adapter) != "local" and not path_of(str(adapter).removeprefix("hf:")).exists():
        raise UsageError(f"there is no folder {adapter}: cai merge takes the folder of an adapter")
    base = find_base(str(adapter))
    rewards = (
        base.adapter is not None and read_object(base.adapter / "adapter_config.json").get("task_type") == "SEQ_CLS"
    )
    _check(base, out, file, rewards)
    facts = _facts(base)
    if file is not None:
        check_gguf(load_config(base), load_tokenizer(base), _source(facts))
    try:
        with _scratch(out) as scratch:
            tell(f"merging {adapter} into {base.place}" if base.adapter else f"reading {base.place}")
            tokenizer, model, difference = _opened(base, rewards)
            facts |= {"schema": 1, "difference": difference}
            _save(scratch, tokenizer, model, facts)
            if file is not None:
                tell("writing the GGUF file")
                write_gguf(model, tokenizer, scratch / file.name, _source(facts))
            _put(scratch, out, file)
    except Exception as error:
        why = unwritten(error) or (str(error) if isinstance(error, OSError) else None)
        if isinstance(error, CaiError) or why is None:
            raise
        raise RunError(f"cannot write to {out}: {why}; free some space, or choose another --out") from error
    return MergeSummary(
        folder=out, adapter=str(adapter), base=facts["base"]["spec"] if base.adapter else None,
        dtype=_dtype(model), difference=difference, gguf=file,
    )  # fmt: skip


def _check(base: Base, out: Path, file: Path | None, rewards: bool) -> None:
    whole = Path(base.place)
    if base.adapter is None and file is None:
        raise UsageError(f"{base.spec} is a whole model: there is no adapter to merge (--gguf writes it as GGUF)")
    if rewards and file is not None:
        raise UsageError(f"{base.spec} is a reward model, which no GGUF file can hold: leave --gguf out, use reward:")
    left = {path.name for path in _left(out)} | {SCRATCH}
    if out.exists() and (not out.is_dir() or any(part.name not in left for part in out.iterdir())):
        raise RunError(f"{out} is not empty: choose another --out")
    if any(out.resolve().is_relative_to(folder) for folder in (base.adapter, whole) if folder and folder.exists()):
        raise UsageError(f"{out} lies in the folder of the model itself: choose another --out")
    if file is not None and file.exists() and file.name not in left:
        raise RunError(f"{file} is there already: choose another --out")


def _left(out: Path) -> list[Path]:
    """What a killed merge had begun to move into its place."""
    moving = out / SCRATCH / MOVING
    names = [Path(line).name for line in moving.read_text().splitlines()] if moving.exists() else []
    return [out.with_name(name) if name == f"{out.name}.gguf" else out / name for name in names]


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """An empty folder within `out`, which goes, and so does an `out` that was not there and has nothing in it.

    A killed merge leaves it, and the next one into `out` takes it over. RunError where another one is at it.
    """
    new, scratch = not out.exists(), out / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    lock = take_lock(scratch / ".lock")
    try:
        for path in _left(out):
            path.unlink(missing_ok=True)
        for left in scratch.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != ".lock":
                left.unlink()
        yield scratch
    finally:
        for path in _left(out):  # of a merge that failed: `_put` forgets the names when all are in place
            path.unlink(missing_ok=True)
        lock.close()
        shutil.rmtree(scratch)
        if new and not any(out.iterdir()):
            out.rmdir()


def _facts(base: Base) -> dict[str, Any]:
    """Where a merged model comes from: its base, and what `training.json` of its adapter says."""
    folder = base.adapter or Path(base.place)
    record = folder / "training.json"
    training = read_object(record) if record.exists() else None
    known = base.facts() if base.adapter else (training or {}).get("model", base.facts())
    below = {name: known[name] for name in ("spec", "place", "mark")}
    return {"base": below, "merged_from": {"folder": str(folder), "mark": base.mark, "training": training}}


def _source(facts: dict[str, Any]) -> Path | None:
    """The GGUF file that the base is, where it is still there."""
    base = facts["base"]
    file = gguf_of(base["spec"])
    return file if file is not None and file.is_file() and Path(base["place"]).name == unpacked_name(file) else None


def _opened(base: Base, rewards: bool) -> tuple[Any, Any, float | None]:
    """Tokenizer, one model, and the difference of its log-probabilities to those of the adapter on its base."""
    if rewards:
        tokenizer, model = open_reward(base, "auto")
    else:
        tokenizer, model = load_tokenizer(base), load_model(base, "auto")
    model = model.eval()
    if base.adapter is None:
        return tokenizer, model, None
    _check_ties(base, model)
    before = None if rewards else _answers(model, tokenizer)
    with reasons(base.spec, "merge"):
        merged = model.merge_and_unload(safe_merge=True)
    if before is None:
        return tokenizer, merged, None
    difference = float((_answers(merged, tokenizer) - before).abs().max())
    if not difference <= MOST.get(_dtype(merged), MOST_EXACT):  # NaN compares false
        raise CaiError(
            f"{base.spec} cannot be merged: the log-probabilities of the merged model would differ by {difference:.2g} "
            "from those of the adapter on its base; use the adapter as it is"
        )
    return tokenizer, merged, difference


def _check_ties(base: Base, tuned: Any) -> None:
    """CaiError where the adapter changes weights for one of two layers that share them: merged, both would change."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = tuned.get_base_model()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and any(
            uses[id(each)] > 1 for each in layer.get_base_layer().parameters()
        ):
            raise CaiError(
                f"{base.spec} cannot be merged: it adapts {name}, whose weights two layers share; use the adapter as "
                "it is"
            )


def _answers(model: Any, tokenizer: Any) -> Any:
    import torch

    ids = torch.tensor([tokenizer.encode(PROBE)])
    with torch.inference_mode():
        return model(input_ids=ids).logits[0].float().log_softmax(-1)


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _save(scratch: Path, tokenizer: Any, model: Any, facts: dict[str, Any]) -> None:
    made = scratch / "model"
    with quiet():
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
    share_mode(made)
    (made / "merged.json").write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))


def _put(scratch: Path, out: Path, file: Path | None) -> None:
    """Move what was made to its place: config.json last, without which a folder is taken for no model."""
    parts = sorted((scratch / "model").iterdir(), key=lambda part: part.name == "config.json")
    names = [part.name for part in parts] + ([] if file is None else [file.name])
    write_atomically(scratch / MOVING, "\n".join(names).encode())
    if file is not None:
        shutil.move(scratch / file.name, file)
    for part in parts:
        part.replace(out / part.name)
    (scratch / MOVING).unlink()
