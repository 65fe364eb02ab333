"""Loads a language model or a reward model of transformers, with its adapter on it, and refuses what is not whole.

transformers makes up weights that a file lacks, and peft drops those that have no place: both go on with a word in a
log at most, and the answers are another model's. Knows files, transformers and peft; nothing of prompts or engines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cai.errors import CaiError, UnknownModel, UsageError
from cai.weights.bases import Base, check_kind
from cai.weights.vendors import need, quiet


@contextmanager
def reasons(spec: str, doing: str = "load") -> Iterator[None]:
    """transformers and peft raise a dozen kinds of errors; each becomes an UnknownModel of one line."""
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        raise UnknownModel(f"cannot {doing} {spec}: {type(error).__name__}: {reason}") from error


def words_of(base: Base) -> str:
    """Where the tokenizer is: an adapter may have its own."""
    own = base.adapter is not None and (base.adapter / "tokenizer_config.json").exists()
    return str(base.adapter) if own else base.place


def load_tokenizer(base: Base) -> Any:
    """The tokenizer, an adapter's own where it has one; UnknownModel with the reason where there is none."""
    from transformers import AutoTokenizer

    place, options = _where(base, words_of(base))
    with reasons(base.spec), quiet():
        return AutoTokenizer.from_pretrained(place, **options)


def load_config(base: Base, **more: Any) -> Any:
    """The config of the weights, told `more` besides; UnknownModel with the reason where there is none."""
    from transformers import AutoConfig

    place, options = _where(base, base.place)
    with reasons(base.spec), quiet():
        return AutoConfig.from_pretrained(place, **options, **more)


def load_model(
    base: Base, dtype: Any, *, rewards: bool = False, new_head: bool = False, trains: bool = False, **more: Any
) -> Any:
    """The model, of a `base.place` that may be a GGUF file too; with an adapter, peft's model of both.

    new_head: a reward model may begin as a language model; trains: the adapter does; more: what the config is told.
    Raises UsageError for a model of the other kind, UnknownModel for one that lacks weights, has others than its config
    says, or cannot be loaded at all.
    """
    if not new_head or base.adapter is not None:
        check_kind(base, rewards=rewards)
    if base.adapter is not None:
        need(f"{base.spec}, a LoRA adapter,", "hf", "peft")
    place, options = _where(base, base.place)
    if "gguf_file" in options:
        need(base.spec, "local", "gguf")
    with reasons(base.spec), quiet():
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        # A GGUF file holds no reward model, and takes 4 s more to give its config alone.
        config = None if "gguf_file" in options else load_config(base, **more)
        own = base.adapter is None and not new_head
        if own and config is not None:
            check_kind(base, rewards=rewards, architectures=config.architectures or ())
        if rewards and config is not None:
            config.num_labels = 1 if not own else _one(base, config.num_labels)
        kind = AutoModelForSequenceClassification if rewards else AutoModelForCausalLM
        model, told = kind.from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        body = f"{model.base_model_prefix}."
        lacking, over = told["missing_keys"], told["unexpected_keys"]
        if rewards:  # one head in another's place is what makes a reward model of a language model
            lacking = {name for name in lacking if own or name.startswith(body)}
            over = {name for name in over if name.startswith(body)}
        _whole(base, "the model", lacking, over)
        return model if base.adapter is None else _with_adapter(model, base, base.adapter, trains)


def _where(base: Base, place: str) -> tuple[str, dict[str, Any]]:
    """What transformers is told to find a place by: for a GGUF file its folder and name, on the hub its commit."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if place == base.place and base.commit is not None:
        options["revision"] = base.commit
    path = Path(place)
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), options | {"gguf_file": path.name}
    return place, options


def _one(base: Base, labels: int) -> int:
    if labels != 1:
        raise UsageError(f"{base.spec} is no reward model: it has {labels} labels, and a reward model has one")
    return labels


def _with_adapter(model: Any, base: Base, folder: Path, trains: bool) -> Any:
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trains)
    told = tuned.load_adapter(str(folder), "default", is_trainable=trains)  # again, for what it tells
    _whole(base, f"the adapter, for {base.place},", told.missing_keys, told.unexpected_keys)
    return tuned


def _whole(base: Base, what: str, lacking: Collection[str], over: Collection[str]) -> None:
    """UnknownModel where weights are missing, or have no place."""
    said = [f"lacks {_some(lacking)}"] if lacking else []
    said += [f"has no place for {_some(over)}"] if over else []
    if said:
        raise UnknownModel(
            f"cannot load {base.spec}: {what} {' and '.join(said)}: its files are damaged, or belong to another model"
        )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more weight{'s' if len(names) > 4 else ''}"


def open_reward(base: Base, dtype: Any) -> tuple[Any, Any]:
    """The tokenizer and the model; with an adapter, peft's model of both. UsageError without a chat template."""
    tokenizer = load_tokenizer(base)
    if not tokenizer.chat_template:
        raise UsageError(f"{base.spec} has no chat template: save the tokenizer it was trained with, template included")
    model = load_model(base, dtype, rewards=True)
    if base.adapter is not None and model.config.pad_token_id is None:  # as TRL sets it; the folder does not tell it
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model
