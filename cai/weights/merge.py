"""Merges a LoRA adapter into its base model; the result can also be a GGUF file, for `local:`.

Weights keep the type that the base is stored in: in 16 bits a merge rounds, and the summary says by how much the
answers differ.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import orjson

from cai.disk.hashes import cache_folder, sha256_of
from cai.disk.locks import LOCK, take_lock
from cai.disk.reading import read_object
from cai.disk.writing import share_mode, unwritable, unwritten
from cai.errors import CaiError, RunError, UsageError
from cai.packages import need
from cai.records import Record, Values
from cai.sources.files import path_of
from cai.texts.wording import report_lines
from cai.weights.bases import Base, find_base, gguf_of
from cai.weights.download import alone
from cai.weights.gguf_read import gguf_metadata, misread
from cai.weights.gguf_write import check_gguf, write_gguf
from cai.weights.loading import check_unquantized, load_config, load_model, load_tokenizer, open_reward, reasons
from cai.weights.unpacked import unpacked_name
from cai.weights.vendors import quiet

log = logging.getLogger("cai")
# The text on which the merged model is compared with the adapter on its base.
PROBE = "The quiet river runs past 3 old mills; who would have thought?"
# Nats that log-probabilities may differ by. Measured on the embedded model, sound merges do by 4e-5 in float32, 0.08 in
# float16 and 0.5 to 1.1 in bfloat16, whose 8 bits blur every layer's output.
MOST = {"bfloat16": 3.0, "float16": 0.3}
MOST_EXACT = 1e-3  # of wider types


class MergeSummary(Record):
    """What a merge made."""

    folder: Path
    adapter: str  # or the whole model
    base: str | None  # None: a whole model was written as GGUF
    dtype: str
    difference: float | None  # largest of all log-probabilities after a probe, in nats; None: no language model's merge
    gguf: Path | None
    misread: str | None = None  # what in the GGUF file `local:` would read otherwise; None: nothing is known

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        return report_lines(__file__, summary=self)


def merge(
    adapter: str | Path, out: str | Path, *, gguf: bool = False, tell: Callable[[str], None] = log.info
) -> MergeSummary:
    """Write the adapter of a folder and its base as one model into `out`, with its tokenizer and where it comes from.

    gguf: also `out`.gguf, and a whole model is taken, too. The file is beside the folder: inside, transformers would
    take the folder's tokenizer for the file's. Raises UsageError for what cannot be merged or written as GGUF, RunError
    if `out` is in use or cannot be written.
    """
    need("cai merge", "hf", "torch", "peft")
    out = Path(out)
    if out.name in ("", ".."):
        out = out.resolve()
    file = out.with_name(f"{out.name}.gguf") if gguf else None
    if not gguf and str(adapter) != "local" and not path_of(str(adapter).removeprefix("hf:")).exists():
        raise UsageError(f"there is no folder {adapter}: cai merge takes the folder of an adapter")
    base = find_base(str(adapter))
    _check(base, out, file)
    if base.adapter is not None:
        check_unquantized(
            base, "a merge would round the adapter away; merge it into the weights that they were made of"
        )
    facts = _facts(base)
    if file is not None:
        check_gguf(load_config(base), load_tokenizer(base), _source(facts))
    with _scratch(out) as scratch:
        tell(f"merging {adapter} into {base.place}" if base.adapter else f"reading {base.place}")
        tokenizer, model, difference = _opened(base)
        facts |= {"schema": 1, "difference": difference}
        _save(scratch / "model", tokenizer, model, facts)
        if file is not None:
            tell("writing the GGUF file")
            write_gguf(model, tokenizer, scratch / file.name, _source(facts))
        _put(scratch, out, file)
    below = facts["base"]["spec"] if base.adapter else None
    return MergeSummary(
        folder=out,
        adapter=str(adapter),
        base=below,
        dtype=_dtype(model),
        difference=difference,
        gguf=file,
        misread=None if file is None else misread(gguf_metadata(file), by_openvino=True),
    )


def merged_file(base: Base) -> Path:
    """The GGUF file of an adapter and its base as one model; made in the cache once, and checked each time.

    Raises as `merge` does.
    """
    assert base.adapter is not None
    mark = hashlib.sha256(base.mark.encode()).hexdigest()[:12]
    target = cache_folder() / f"{base.adapter.name}-merged-{mark}.gguf"
    record = target.with_suffix(".sha256")
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target, Event()):
        if target.exists() and record.exists() and record.read_text() == sha256_of(target):
            return target
        with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch:
            merge(base.adapter, Path(scratch) / "model", gguf=True)
            made = Path(scratch) / "model.gguf"
            record.write_text(sha256_of(made))
            made.replace(target)
    return target


def _check(base: Base, out: Path, file: Path | None) -> None:
    if base.adapter is None and file is None:
        raise UsageError(f"{base.spec} is a whole model: there is no adapter to merge (--gguf writes it as GGUF)")
    if base.task == "SEQ_CLS" and file is not None:
        raise UsageError(f"{base.spec} is a reward model, which no GGUF file can hold: leave --gguf out, use reward:")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: choose another --out")
    if out.resolve() == Path.cwd():  # the renamed folder would take its place, and the shell stay in the old one
        raise UsageError(f"{out} is the folder you are in: choose another --out")
    for folder in (base.adapter, Path(base.place)):
        if folder is not None and folder.exists() and out.resolve().is_relative_to(folder):
            raise UsageError(f"{out} is inside the folder of the model itself: choose another --out")
    if file is not None and file.exists():
        raise RunError(f"{file} is there already: choose another --out")


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`; a killed merge leaves it, and the next one into `out` empties it.

    Raises RunError if another merge is using it, or if it cannot be written.
    """
    scratch = out.with_name(f".{out.name}.merging")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = take_lock(scratch / LOCK)
        try:
            for path in scratch.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
            yield scratch
        finally:
            lock.close()
            shutil.rmtree(scratch)
    except Exception as error:
        reason = unwritten(error) or (str(error) if isinstance(error, OSError) else None)
        if reason is None:
            raise
        raise unwritable(out, reason, "free some space, or choose another --out") from error


def _put(scratch: Path, out: Path, file: Path | None) -> None:
    """Move the results into place: the file first, since a merge is complete once its folder is there."""
    if file is not None:
        (scratch / file.name).rename(file)
    try:
        (scratch / "model").rename(out.resolve())
    except OSError:
        if file is not None:
            file.unlink()
        raise


def _facts(base: Base) -> Values:
    """Where a merged model comes from: its base, and what `training.json` of its adapter says."""
    folder = base.adapter or Path(base.place)
    record = folder / "training.json"
    training = read_object(record, loads=orjson.loads) if record.exists() else None
    model = base.facts()
    if training is not None and base.adapter is None:
        model = training.get("model", model)
    below = {name: model[name] for name in ("spec", "place", "mark")}
    return {"base": below, "merged_from": {"folder": str(folder), "mark": base.mark, "training": training}}


def _source(facts: Values) -> Path | None:
    """The GGUF file that the base comes from, if it is still there."""
    base = facts["base"]
    file = gguf_of(base["spec"])
    if file is None or not file.is_file() or Path(base["place"]).name != unpacked_name(file):
        return None
    return file


def _opened(base: Base) -> tuple[Any, Any, float | None]:
    """Tokenizer, one model, and the difference of its log-probabilities to those of the adapter on its base."""
    if base.task == "SEQ_CLS":
        tokenizer, model = open_reward(base, "auto")
        return tokenizer, _merged(base, model.eval()), None
    tokenizer = load_tokenizer(base)
    model = load_model(base, "auto").eval()
    if base.adapter is None:
        return tokenizer, model, None
    with reasons(base.spec, "ask"):
        before = _answers(model, tokenizer)
    merged = _merged(base, model)
    difference = float((_answers(merged, tokenizer) - before).abs().max())
    if not difference <= MOST.get(_dtype(merged), MOST_EXACT):  # NaN compares false
        raise CaiError(
            f"{base.spec} cannot be merged: the log-probabilities of the merged model would differ by {difference:.2g} "
            "from those of the adapter on its base; use the adapter as it is"
        )
    return tokenizer, merged, difference


def _merged(base: Base, tuned: Any) -> Any:
    """One model; CaiError if the adapter changes weights for one of two layers that share them: both would change."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = tuned.get_base_model()
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, layer in model.named_modules():
        own = layer.get_base_layer().parameters() if isinstance(layer, BaseTunerLayer) else ()
        if any(uses[id(weight)] > 1 for weight in own):
            raise CaiError(
                f"{base.spec} cannot be merged: it adapts {name}, whose weights two layers share; use the adapter as "
                "it is"
            )
    with reasons(base.spec, "merge"):
        return tuned.merge_and_unload(safe_merge=True)


def _answers(model: Any, tokenizer: Any) -> Any:
    import torch

    ids = torch.tensor([tokenizer.encode(PROBE)])
    with torch.inference_mode():
        return model(input_ids=ids).logits[0].float().log_softmax(-1)


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _save(folder: Path, tokenizer: Any, model: Any, facts: Values) -> None:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    share_mode(folder)
    (folder / "merged.json").write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
