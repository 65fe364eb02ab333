"""Puts a LoRA adapter into its base model, so that the product is one model; as a GGUF file, too, for `local:`.

Weights keep the type that the base is stored in: in 16 bits a merge rounds, and the summary says by how much the
answers differ. Knows transformers, peft and files; nothing of training.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from cai.errors import CaiError, RunError, UnknownModel, UsageError
from cai.gguf_file import write_gguf
from cai.models.bases import Base, find_base, gguf_of, need, quiet, unpacked_name
from cai.models.reward import open_reward
from cai.records import Record

log = logging.getLogger("cai")
PROBE = "The quiet river runs past 3 old mills; who would have thought?"  # on which the two are compared
MOST = 0.5  # nats that log-probabilities may differ by: bfloat16 makes some hundredths, a wrong merge several


class MergeSummary(Record):
    """What a merge made."""

    folder: Path
    adapter: str
    base: str
    dtype: str
    difference: float | None  # largest of all log-probabilities after a probe, in nats; None: a reward model
    gguf: Path | None

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        told = [f"{self.folder}: {self.adapter} in {self.base}, {self.dtype}"]
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
    need("torch", "cai merge", "hf")
    need("peft", "cai merge", "hf")
    out = Path(out)
    file = out.with_name(f"{out.name}.gguf") if gguf else None
    base = find_base(str(adapter))
    folder = base.adapter or Path(base.place)
    rewards = base.adapter is not None and _json(folder / "adapter_config.json").get("task_type") == "SEQ_CLS"
    _check(base, out, file, rewards)
    facts = _facts(base, folder)
    tell(f"merging {adapter} into {base.place}" if base.adapter else f"reading {base.place}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".merging-", dir=out.parent) as scratch, quiet():
            made = Path(scratch) / "model"
            tokenizer, model, difference = _rewards(folder) if rewards else _merged(base)
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            facts |= {"schema": 1, "difference": difference}
            (made / "merged.json").write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
            if file is not None:
                tell("writing the GGUF file")
                write_gguf(model, tokenizer, Path(scratch) / file.name, _source(facts))
                (Path(scratch) / file.name).replace(file)
            made.replace(out)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error}; free some space, or choose another --out") from error
    dtype = str(model.dtype).removeprefix("torch.")
    return MergeSummary(
        folder=out, adapter=str(adapter), base=facts["base"]["spec"], dtype=dtype, difference=difference, gguf=file,
    )  # fmt: skip


def _check(base: Base, out: Path, file: Path | None, rewards: bool) -> None:
    if base.adapter is None and file is None:
        raise UsageError(f"{base.spec} is a whole model: there is no adapter to merge (--gguf writes it as GGUF)")
    if rewards and file is not None:
        raise UsageError(f"{base.spec} is a reward model, which no GGUF file can hold: leave --gguf out, use reward:")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: choose another --out")
    if file is not None and file.exists():
        raise RunError(f"{file} is there already: choose another --out")


def _facts(base: Base, folder: Path) -> dict[str, Any]:
    """Where a merged model comes from: its base, and what `training.json` of its adapter says."""
    record = folder / "training.json"
    training = _json(record) if record.exists() else None
    known = base.facts() if base.adapter else (training or {}).get("model", base.facts())
    below = {name: known[name] for name in ("spec", "place", "mark")}
    return {"base": below, "merged_from": {"folder": str(folder), "mark": base.mark, "training": training}}


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CaiError(f"{path} cannot be read: {error}") from None
    return found


def _source(facts: dict[str, Any]) -> Path | None:
    """The GGUF file that the base is, where it is still there."""
    base = facts["base"]
    file = gguf_of(base["spec"])
    return file if file is not None and file.is_file() and Path(base["place"]).name == unpacked_name(file) else None


def _rewards(folder: Path) -> tuple[Any, Any, None]:
    tokenizer, model = open_reward(str(folder), folder, "auto")
    return tokenizer, model, None


def _merged(base: Base) -> tuple[Any, Any, float]:
    """Tokenizer, model, and the difference of its log-probabilities to those of the adapter on its base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    own = base.adapter is not None and (base.adapter / "tokenizer_config.json").exists()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.adapter if own else base.place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            base.place, dtype="auto", use_safetensors=True, trust_remote_code=False
        ).eval()
        if base.adapter is None:
            return tokenizer, model, 0.0
        tuned = PeftModel.from_pretrained(model, str(base.adapter)).eval()
        before = _answers(tuned, tokenizer)
        merged = tuned.merge_and_unload(safe_merge=True)
    except Exception as error:  # transformers and peft raise a dozen kinds; each means that this cannot be merged
        reason = " ".join(str(error).split())[:500]
        raise UnknownModel(f"cannot merge {base.spec}: {type(error).__name__}: {reason}") from error
    difference = float((_answers(merged, tokenizer) - before).abs().max())
    if not difference <= MOST:  # NaN compares false
        raise CaiError(
            f"{base.spec} cannot be merged: the log-probabilities of the merged model would differ by {difference:.2g} "
            "from those of the adapter on its base, as with weights that two layers share; use the adapter as it is"
        )
    return tokenizer, merged, difference


def _answers(model: Any, tokenizer: Any) -> Any:
    import torch

    ids = torch.tensor([tokenizer.encode(PROBE)])
    with torch.inference_mode():
        return model(input_ids=ids).logits[0].float().log_softmax(-1)
