"""Finds a base model by its name: on the hub, in a folder or in a GGUF file, or under an adapter.

Weights come from safetensors or GGUF only, and no code that comes with them runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.disk.hashes import fingerprint
from cai.disk.reading import read_if_there, read_object
from cai.errors import CaiError, UnknownModel, UsageError
from cai.records import Values
from cai.sources.files import path_of
from cai.texts.wording import reason_of
from cai.weights.embedded import weights_of
from cai.weights.named import DEFAULT, NAMED
from cai.weights.unpacked import UNPACKED, is_sound, unpacked
from cai.weights.vendors import quiet

TRAINABLE = ("hf", "local")  # providers whose models are weights to start from
# What a folder's files say about the model; its README, plots, metrics and training state do not.
COMMIT = re.compile("[0-9a-f]{40}")
MARKED = (
    "*.safetensors", "*config.json", "tokenizer*", "*.jinja", "*.model", "merges.txt", "vocab*", "added_tokens.json",
    "special_tokens_map.json", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """A model that can be trained.

    place: a folder, or a name on the hub; mark: equal for equal weights. adapter: a folder, whose LoRA adapter goes on
    the weights of `place`. commit: of a name on the hub, once it is known, or the revision that its spec names; None:
    whatever the name means when asked.
    """

    spec: str
    place: str
    mark: str
    adapter: Path | None = None
    commit: str | None = None

    @property
    def task(self) -> Any:
        """What its adapter is for, in peft's words; None without an adapter."""
        if self.adapter is None:
            return None
        return read_object(self.adapter / "adapter_config.json").get("task_type")

    def facts(self) -> Values:
        """What `training.json` keeps as `model`: how the same weights are found again, on another machine too."""
        if self.adapter is None:
            return {"spec": self.spec, "place": self.place, "mark": self.mark}
        facts = base_of(self.adapter).facts()
        if self.commit is not None:
            facts["mark"] = f"{self.place}@{self.commit}"
        return facts | {"adapter": {"spec": self.spec, "mark": self.mark}}


def find_base(spec: str) -> Base:
    """The model that `local`, a folder, a `.gguf` file or a name on the hub means, `hf:` before it or not.

    The hub is asked once for the commit that a name means now. Raises UsageError for what cannot be trained here,
    UnknownModel for a name that the hub does not know, CaiError if a GGUF file cannot be unpacked or the base of an
    adapter cannot be found.
    """
    provider, colon, _ = spec.partition(":")
    if colon and provider.isidentifier() and provider not in TRAINABLE and not path_of(spec).exists():
        raise UsageError(f"{spec} cannot be trained here; name local, a folder, a .gguf file, or a model on the hub")
    file = gguf_of(spec)
    if file is not None:
        if not file.is_file():
            raise UsageError(f"{spec}: no such file")
        folder = unpacked(file)
        return Base(spec, str(folder), mark_of(folder))
    path = path_of(spec)
    if "/" in spec and not path.exists() and path.parent.is_dir():
        raise UsageError(f"{spec}: no such folder; a model of that name on the hub is written hf:{spec}")
    return at_commit(base_at(spec, _name(spec)))


def at_commit(base: Base) -> Base:
    """The same model; of a name on the hub at the commit that it means now, for which the hub is asked once.

    Raises UnknownModel if the hub does not give it.
    """
    if COMMIT.fullmatch(base.commit or "") or Path(base.place).exists():
        return base
    from huggingface_hub import hf_hub_download

    try:
        with quiet():
            commit = Path(hf_hub_download(base.place, "config.json", revision=base.commit)).parent.name
    except Exception as error:  # of a dozen types: no network, no such name, no right to read it
        reason = hub_reason(error, base.place) or reason_of(error)
        raise UnknownModel(
            f"{base.spec} is not a folder, and no model of that name can be read from the hub: {reason}"
        ) from error
    named = base.place if base.commit is None else f"{base.place}@{base.commit}"
    return dataclasses.replace(base, commit=commit, mark=base.mark.replace(named, f"{base.place}@{commit}", 1))


def hub_reason(error: BaseException | None, name: str) -> str | None:
    """What to do if the hub does not give a model because of who asks, or what was asked for; None of other errors."""
    kinds = set()
    while error is not None:  # transformers wraps what the hub's own package raises
        kinds.add(type(error).__name__)
        error = error.__cause__ or error.__context__
    from huggingface_hub import get_token

    has_token = get_token() is not None
    if "GatedRepoError" in kinds:
        whose = "the account of your token may not read it" if has_token else "no token says who asks"
        return (
            f"{name} is gated, and {whose}: accept its terms at https://huggingface.co/{name}, and set HF_TOKEN to a "
            "token of that account"
        )
    if "RepositoryNotFoundError" in kinds:
        whose = "your token may read" if has_token else "may be read without HF_TOKEN"
        return f"the hub has no model {name} that {whose}: check the name"
    if "RevisionNotFoundError" in kinds:
        return f"{name} has no such revision: write a branch, a tag or a commit behind the @"
    return None


def base_at(spec: str, name: str) -> Base:
    """The model of a folder, an adapter's too, or of a name on the hub; errors call it `spec`.

    Raises UsageError for a path that holds no model, CaiError if the base of an adapter cannot be found.
    """
    path = path_of(name)
    if not path.exists():
        if _is_path(name):
            raise UsageError(f"{spec}: no such folder")
        place, _, revision = name.partition("@")
        return Base(spec, place, name, commit=revision or None)
    whole = (path / "config.json").exists()
    if not whole and not (path / "adapter_config.json").exists():
        raise UsageError(f"{spec}: no config.json or adapter_config.json there; name a model's or an adapter's folder")
    # peft takes a pickle if its own file is not there, whatever other safetensors are.
    if not any(path.glob("*.safetensors" if whole else "adapter_model.safetensors")):
        raise UsageError(f"{spec}: the folder has no .safetensors weights (pickled ones can run code and are refused)")
    if whole:
        return Base(spec, str(path.resolve()), mark_of(path))
    below = base_of(path)
    mark = f"{below.mark}+{mark_of(path)}"
    return dataclasses.replace(below, spec=spec, mark=mark, adapter=path.resolve())


def check_kind(base: Base, *, rewards: bool, architectures: Iterable[str] = ()) -> None:
    """UsageError for a language model if a reward model is wanted, and the reverse, as far as its files show it.

    architectures: what the config of a model on the hub says, which has no file here.
    """
    names = [*architectures] or read_if_there(Path(base.place) / "config.json").get("architectures") or []
    if base.adapter is not None:
        names = [str(base.task)]
        if rewards and base.task != "SEQ_CLS":
            raise UsageError(
                f"{base.spec} is not a reward model: its adapter is for {base.task}, not for SEQ_CLS; hf: takes it"
            )
    for name in names:
        if rewards and name.endswith(("ForCausalLM", "LMHeadModel")):
            raise UsageError(f"{base.spec} is not a reward model but a language model ({name}): ask it with hf:")
        if not rewards and (name == "SEQ_CLS" or name.endswith("ForSequenceClassification")):
            raise UsageError(f"{base.spec} is a reward model ({name}): it gives a reply a number, and writes nothing")


def gguf_of(spec: str) -> Path | None:
    """The GGUF file that a spec of `find_base` means; None if it means something else.

    That of a named model is downloaded; another need not exist.
    """
    path = path_of(_name(spec))
    if spec == "local":
        return weights_of(DEFAULT)
    if spec.startswith("local:") and _name(spec) in NAMED and not path.exists():
        return weights_of(_name(spec))
    return path if path.suffix == ".gguf" else None


def _name(spec: str) -> str:
    provider, _, name = spec.partition(":")
    return name if provider in TRAINABLE and name else spec


def base_of(adapter: Path) -> Base:
    """The model that an adapter's folder was trained on: where its config says, else by the name in training.json.

    Raises CaiError if it is in neither place, or if other weights are there than training.json names.
    """
    place = read_object(adapter / "adapter_config.json").get("base_model_name_or_path")
    place = place if isinstance(place, str) else ""
    model = _trained_on(adapter)
    base = _base_from(adapter, place, model)
    # Unpacked by another release of transformers, one GGUF file gives the same weights and another config.json.
    name = Path(base.place).name
    unpacked_again = UNPACKED in name and name == Path(model.get("place", "")).name
    if model and model["mark"] != base.mark and not unpacked_again:
        raise CaiError(
            f"{adapter} was trained on other weights than {base.place} holds ({model['mark']}, not {base.mark}): put "
            "these back, or train anew"
        )
    return base


def _trained_on(adapter: Path) -> dict[str, str]:
    """What training.json says of the base; empty if there is no such file, or the training wrote none of it."""
    record = adapter / "training.json"
    facts = read_if_there(record)
    if "model" not in facts:
        return {}
    model = facts["model"]
    names = ("spec", "place", "mark")
    if not isinstance(model, dict) or not all(isinstance(model.get(name), str) for name in names):
        raise CaiError(f"{record} is damaged: its model lacks {', '.join(names)}; put the file back as it was")
    return {name: model[name] for name in names}


def _base_from(adapter: Path, place: str, model: dict[str, str]) -> Base:
    """The base at the place that adapter_config.json names ("": none), or else by the spec that training.json has."""
    reason = f"there is no folder {place}" if place else "adapter_config.json names none"
    folder = Path(place)
    if place and folder.is_dir():
        if UNPACKED not in folder.name or is_sound(folder):
            return Base(model.get("spec", place), place, mark_of(folder))
        reason = f"{place} has changed since it was unpacked"
    try:
        name, _, commit = model.get("mark", "").rpartition("@")
        if name and name == model["place"]:
            return Base(model["spec"], name, model["mark"], commit=commit)
        if model:
            return find_base(model["spec"])
        if place and not _is_path(place):
            return Base(place, place, place)
    except UsageError as error:
        if not place or path_of(_name(model["spec"])).resolve() != Path(place).resolve():
            reason += f", and {error}"
    raise CaiError(
        f"{adapter} is a LoRA adapter, but its base model cannot be found: {reason}; put it back, or write its folder "
        "into adapter_config.json (base_model_name_or_path)"
    )


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def mark_of(folder: Path) -> str:
    """12 hex digits, equal for equal weights, config and tokenizer."""
    return fingerprint(folder, *MARKED)
