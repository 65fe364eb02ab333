"""The tokens of a chat template that a base model does not know, and the adapter, which then trains the embeddings.

LoRA leaves embeddings as they are: with those of a new token at random, a model never learns to read or write it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cai.texts.wording import listed
from cai.training.setup.keys import TrainConfig
from cai.weights.bases import Base
from cai.weights.chat_templates import USER
from cai.weights.loading import embeddings_of

REPLY = "Qreplyz"  # a word that no template has of its own, as USER
# Share of the length of the median embedding that a trained one has, and by which it differs from the mean of all and
# from each other: transformers puts new embeddings at the mean, other tools at zero, or all at one place.
LEAST = 0.05


def end_of_turn(tokenizer: Any) -> str | None:
    """The token of the tokenizer that a chat template writes after a reply; None: it writes no such token there."""
    text = _rendered(tokenizer)
    if text is None:
        return None
    rest = text.rpartition(REPLY)[2].lstrip()
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return max(filter(rest.startswith, tokens), key=len, default=None)


def _rendered(tokenizer: Any) -> str | None:
    conversation = [{"role": "user", "content": USER}, {"role": "assistant", "content": REPLY}]
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False))
    except Exception:  # of the template's own making; rows that it refuses are dropped with the reason
        return None


def unknown_tokens(model: Any, tokenizer: Any) -> list[str]:
    """The tokens that a chat template writes and whose embeddings were never trained, as far as these show it."""
    text = _rendered(tokenizer) or ""
    tokens = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.content in text}
    weights = model.get_input_embeddings().weight.detach().float()
    least = LEAST * weights.norm(dim=1).median()
    mean = weights.mean(dim=0)
    unknown = []
    for id, content in tokens.items():
        places = [mean, 0, *(weights[other] for other in tokens if other != id)]
        if any((weights[id] - place).norm() < least for place in places):
            unknown.append(content)
    return unknown


def new_adapter(
    config: TrainConfig, base: Base, model: Any, tokenizer: Any, tell: Callable[[str], None], *, scores: bool
) -> Any:
    """The config of a LoRA adapter on a base model; None if all weights train, or an adapter that is there.

    scores: of a reward model, whose head peft trains whole.
    """
    from peft import LoraConfig

    if config.full or base.adapter is not None:
        return None
    lora = config.lora
    trains = lora.embeddings
    if trains is None:
        unknown = unknown_tokens(model, tokenizer) if tokenizer.chat_template else []
        trains = bool(unknown) or config.chat_template is not None
        if trains:
            why = f"the model does not know {listed(unknown)}" if unknown else "the model has no chat template"
            tell(f"note: {why}: its embeddings train, too, whole (lora.embeddings false leaves them)")
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        target_modules=list(lora.targets) if isinstance(lora.targets, tuple) else lora.targets,
        modules_to_save=embeddings_of(model) if trains else None,
        ensure_weight_tying=trains,
        revision=base.commit,
    )
