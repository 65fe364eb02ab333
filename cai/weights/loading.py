"""Loads a language model or a reward model of transformers, with its adapter on it, and refuses what is not whole.

transformers makes up weights that a file lacks, and peft drops those that have no place: both only log it, if at all,
and the answers are another model's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cai.errors import CaiError, UnknownModel, UsageError
from cai.packages import need
from cai.records import Values
from cai.texts.wording import listed, reason_of
from cai.weights.bases import Base, check_kind, hub_reason
from cai.weights.unpacked import warn_of_gguf
from cai.weights.vendors import quiet


@contextmanager
def reasons(spec: str, doing: str = "load") -> Iterator[None]:
    """transformers and peft raise a dozen kinds of errors; each becomes an UnknownModel of one line."""
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        reason = hub_reason(error, spec.rpartition(":")[2].partition("@")[0])
        reason = reason or f"{type(error).__name__}: {reason_of(error)}"
        raise UnknownModel(f"cannot {doing} {spec}: {reason}") from error


def words_of(base: Base) -> str:
    """Where the tokenizer is: an adapter may have its own."""
    if base.adapter is not None and (base.adapter / "tokenizer_config.json").exists():
        return str(base.adapter)
    return base.place


def load_tokenizer(base: Base) -> Any:
    """The tokenizer, an adapter's own if it has one; UnknownModel with the reason if there is none."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, base, words_of(base))


def load_config(base: Base, **more: Any) -> Any:
    """The config of the weights with `more` set in it; UnknownModel with the reason if there is none."""
    from transformers import AutoConfig

    return _load(AutoConfig, base, base.place, **more)


def _load(kind: Any, base: Base, place: str, **more: Any) -> Any:
    place, options = _where(base, place)
    with reasons(base.spec), quiet():
        return kind.from_pretrained(place, **options, **more)


def load_model(
    base: Base,
    dtype: Any,
    *,
    rewards: bool = False,
    new_head: bool = False,
    trains: bool = False,
    quantization: Any = None,
    **more: Any,
) -> Any:
    """The model, of a `base.place` that may be a GGUF file too; with an adapter, peft's model of both.

    new_head: a reward model may begin as a language model; trains: the adapter does; quantization: how transformers is
    to pack the weights, None: not at all; more: set in the config.
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
        warn_of_gguf(Path(base.place))
    if quantization is not None:
        options["quantization_config"] = quantization
    own_head = base.adapter is None and not new_head
    import transformers

    kind = transformers.AutoModelForSequenceClassification if rewards else transformers.AutoModelForCausalLM
    with reasons(base.spec), quiet():
        config = None
        if "gguf_file" not in options:  # which cannot hold a reward model, and takes 4 s more to give its config alone
            config = load_config(base, **more)
            if own_head:
                check_kind(base, rewards=rewards, architectures=config.architectures or ())
            if rewards:
                _set_one_label(base, config, own_head)
        model, report = kind.from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        lacking, over = report["missing_keys"], report["unexpected_keys"]
        if rewards:  # one head in another's place is what makes a reward model of a language model
            body = f"{model.base_model_prefix}."
            lacking = {name for name in lacking if own_head or name.startswith(body)}
            over = {name for name in over if name.startswith(body)}
        _whole(base, "the model", lacking, over)
        if base.adapter is None:
            return model
        return _with_adapter(model, base, base.adapter, trains)


def check_unquantized(base: Base, advice: str) -> None:
    """UsageError, with the advice, for a base whose files hold weights that are quantised, as GPTQ's or 4-bit ones."""
    found = getattr(load_config(base), "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
        raise UsageError(f"the weights of {base.place} are quantised ({getattr(method, 'value', method)}): {advice}")


def _where(base: Base, place: str) -> tuple[str, Values]:
    """A place and its options as transformers takes them: of a GGUF file its folder and name, on the hub its commit."""
    options: Values = {"trust_remote_code": False}
    if place == base.place and base.commit is not None:
        options["revision"] = base.commit
    path = Path(place)
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), options | {"gguf_file": path.name}
    return place, options


def _set_one_label(base: Base, config: Any, own_head: bool) -> None:
    """Make `config` that of a reward model; UsageError if the model's own head gives several numbers."""
    if own_head and config.num_labels != 1:
        raise UsageError(
            f"{base.spec} is not a reward model: it has {config.num_labels} labels, and a reward model has one"
        )
    config.num_labels = 1


def _with_adapter(model: Any, base: Base, folder: Path, trains: bool) -> Any:
    from peft import PeftModel

    shapes = _shapes(folder)
    held = tuple(f"{name}.weight" for name in embeddings_of(model))
    rows = [shape[0] for name, shape in shapes.items() if name.endswith(held)]
    if rows and max(rows) != model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(rows), mean_resizing=False)  # the adapter's are read into them
    tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trains)
    report = tuned.load_adapter(str(folder), "default", is_trainable=trains)  # again, for what it reports
    # Of embeddings that were resized peft writes a second copy, which it does not read.
    copies = {name.removesuffix(".weight") + ".modules_to_save.weight" for name in shapes}
    over = set(report.unexpected_keys) - copies
    _whole(base, f"the adapter, for {base.place},", report.missing_keys, over)
    return tuned


def embeddings_of(model: Any) -> list[str]:
    """The names of the layers that hold embeddings: of tokens that are read, and if they differ, that are written."""
    layers = [model.get_input_embeddings()]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not layers[0].weight:
        layers.append(output)
    return [name.rpartition(".")[2] for name, layer in model.named_modules() if any(layer is one for one in layers)]


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The weights that an adapter holds, by name."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in folder.glob("adapter_model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return shapes


def _whole(base: Base, what: str, lacking: Collection[str], over: Collection[str]) -> None:
    """UnknownModel if weights are missing, or have no place."""
    sides = (("lacks", lacking), ("has no place for", over))
    problems = [f"{verb} {listed(sorted(names), 3)}" for verb, names in sides if names]
    if problems:
        raise UnknownModel(
            f"cannot load {base.spec}: {what} {' and '.join(problems)}: its files are damaged, or belong to another "
            "model"
        )


def open_reward(base: Base, dtype: Any) -> tuple[Any, Any]:
    """The tokenizer and the model; with an adapter, peft's model of both. UsageError without a chat template."""
    tokenizer = load_tokenizer(base)
    if not tokenizer.chat_template:
        raise UsageError(f"{base.spec} has no chat template: save the tokenizer it was trained with, template included")
    model = load_model(base, dtype, rewards=True)
    if base.adapter is not None and model.config.pad_token_id is None:  # as TRL sets it; it is not in the folder
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


def end_tokens(config: Any, tokenizer: Any) -> list[int]:
    """The token ids that end a reply, by the config that a model generates with, if it has one, and the tokenizer."""
    ends = getattr(config, "eos_token_id", None)
    if not isinstance(ends, list):
        ends = [ends]
    return list(dict.fromkeys(token for token in [*ends, tokenizer.eos_token_id] if token is not None))
