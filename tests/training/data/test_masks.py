"""What is learnt, for the chat templates of seven families and all methods, against masks written by hand.

The templates are minimal and in our own words; what they write is what these families read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
import tiny
from trainings import said

from cai.training.data.dataset import load_rows
from cai.training.data.tokens import Rows
from cai.training.setup.config import load_config
from cai.training.trainers.dpo import Pairs
from cai.training.trainers.kto import Graded
from cai.training.trainers.reward import Scored
from cai.training.trainers.sft import Replies


class Family(NamedTuple):
    template: str
    special: tuple[str, ...]  # its control tokens; the end of turn first
    ends: tuple[str, ...]  # what its models stop at
    before: str  # of the conversation below, what its models read when they answer
    reply: str  # what they then have to write, {} being the text
    after: str  # what the template adds


def _loop(turn: str, asks: str, first: str = "") -> str:
    prompt = f"{{% if add_generation_prompt %}}{asks}{{% endif %}}"
    return f"{first}{{% for m in messages %}}{turn}{{% endfor %}}{prompt}"


FAMILIES = {
    "chatml": Family(
        _loop("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}", "<|im_start|>assistant{{ '\n' }}"),
        ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
        ("<|im_end|>", "<|endoftext|>"),
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "{}<|im_end|>",
        "\n",
    ),
    "llama3": Family(
        _loop(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}",
            "<|begin_of_text|>",
        ),
        ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
        ("<|eot_id|>", "<|end_of_text|>"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\nHo.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{}<|eot_id|>",
        "",
    ),
    "gemma": Family(
        _loop(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>"
            "{{ '\n' }}",
            "<start_of_turn>model{{ '\n' }}",
            "<bos>",
        ),
        ("<end_of_turn>", "<start_of_turn>", "<bos>", "<eos>"),
        ("<eos>", "<end_of_turn>"),
        "<bos><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHo.<end_of_turn>\n<start_of_turn>user\n"
        "Why?<end_of_turn>\n<start_of_turn>model\n",
        "{}<end_of_turn>",
        "\n",
    ),
    "mistral": Family(
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        ("</s>", "<s>", "[INST]", "[/INST]"),
        ("</s>",),
        "<s>[INST] Hi? [/INST] Ho.</s>[INST] Why? [/INST]",
        " {}</s>",
        "",
    ),
    "phi": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% else %}<|endoftext|>{% endif %}",
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        ("<|endoftext|>", "<|assistant|>", "<|end|>"),
        "<|user|>\nHi?<|end|>\n<|assistant|>\nHo.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
        "{}<|end|>",
        "\n<|endoftext|>",
    ),
    "zephyr": Family(  # its roles are plain text
        _loop("<|{{ m.role }}|>\n{{ m.content }}</s>{{ '\n' }}", "<|assistant|>{{ '\n' }}"),
        ("</s>", "<s>"),
        ("</s>",),
        "<|user|>\nHi?</s>\n<|assistant|>\nHo.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
        "{}</s>",
        "\n",
    ),
    "deepseek": Family(
        "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        ("<｜end▁of▁sentence｜>",),
        "<｜begin▁of▁sentence｜><｜User｜>Hi?<｜Assistant｜>Ho.<｜end▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>",
        "{}<｜end▁of▁sentence｜>",
        "",
    ),
}
PROMPT = said("user", "Hi?") + said("assistant", "Ho.") + said("user", "Why?")
GOOD = "Past the mill.\n\nThen left."
BAD = "No."
ROWS: dict[str, tuple[type[Rows], dict[str, Any]]] = {
    "sft": (Replies, {"completion": said("assistant", GOOD)}),
    "dpo": (Pairs, {"chosen": said("assistant", GOOD), "rejected": said("assistant", BAD)}),
    "kto": (Graded, {"completion": said("assistant", GOOD), "label": True}),
    "reward": (Scored, {"chosen": said("assistant", GOOD), "rejected": said("assistant", BAD)}),
}


def words_of(family: Family) -> Any:
    words = tiny.tokenizer(family.template)
    words.add_special_tokens({"additional_special_tokens": list(family.special), "eos_token": family.special[0]})
    return words


def batch_of(method: str, words: Any, family: Family, out: Path) -> dict[str, Any]:
    """A batch as TRL's own collator makes it of our rows."""
    from trl.trainer import dpo_trainer, kto_trainer, reward_trainer

    kind, columns = ROWS[method]
    others = [columns | {"prompt": said("user", f"{n}?")} for n in range(2)]
    if method == "kto":
        others[0]["label"] = False
    data = load_rows([{"prompt": PROMPT, **columns}, *others], method, split=1)
    rows = kind(data, load_config(None, {}), words, words.convert_tokens_to_ids(list(family.ends)), out)
    rows.cut(1000)
    [first, *_] = rows.dataset(rows.train).to_list()
    if method == "sft":
        return {"input_ids": [first["input_ids"]], "labels": [first["labels"]]}
    collators = {
        "dpo": dpo_trainer.DataCollatorForPreference,
        "kto": kto_trainer.DataCollatorForUnpairedPreference,
        "reward": reward_trainer.DataCollatorForPreference,
    }
    kl = {"KL_completion_ids": first["completion_ids"]} if method == "kto" else {}
    batch = collators[method](pad_token_id=words.eos_token_id)([first | kl])
    return {name: value.tolist() for name, value in batch.items()}


def masked(batch: dict[str, Any], place: int) -> tuple[list[int], list[int]]:
    """The tokens of a text in a batch before the loss, and those that it is on."""
    ids = batch["input_ids"][place]
    if "labels" in batch:
        mask = [label != -100 for label in batch["labels"][place]]
    else:
        mask = [bool(learnt) for learnt in batch["completion_mask"][place]]
    start, end = mask.index(True), mask.index(True) + sum(mask)
    assert all(mask[start:end]), "in one piece"
    return ids[:start], ids[start:end]


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learnt_is_the_reply_and_where_a_model_stops(tmp_path: Path, name: str, method: str) -> None:
    family = FAMILIES[name]
    words = words_of(family)
    batch = batch_of(method, words, family, tmp_path)
    replies = (GOOD, BAD) if method == "dpo" else (GOOD,)
    assert len(batch["input_ids"]) == len(replies)
    for place, reply in enumerate(replies):
        before, target = masked(batch, place)
        assert words.decode(before) == family.before
        assert words.decode(target) == family.reply.format(reply)
        assert words.convert_ids_to_tokens(target[-1]) in family.ends


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reward_model_reads_the_whole_text_as_it_does_when_it_judges(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    words = words_of(family)
    batch = batch_of("reward", words, family, tmp_path)
    for place, reply in enumerate((GOOD, BAD)):
        ids = [
            token for token, real in zip(batch["input_ids"][place], batch["attention_mask"][place], strict=True) if real
        ]
        assert words.decode(ids) == family.before + family.reply.format(reply) + family.after
        asked = words.apply_chat_template(PROMPT + said("assistant", reply), return_dict=False)
        assert ids == list(asked)


SAYS = {  # what each assistant turn of a conversation weighs, and the one that is learnt; None: the record is dropped
    (None, 1): 1,
    (0, None): 1,
    (1, 0): 0,
    (0, 1, 0): 1,
    (1, 1, 0, 0): 1,
    (0, 0, 1): 2,
    (0, 0): None,
    (0,): None,
}


@pytest.mark.parametrize("columns", ["messages", "completion"])
@pytest.mark.parametrize("weights", SAYS)
def test_no_token_of_a_turn_with_weight_0_is_learnt(
    tmp_path: Path, weights: tuple[int | None, ...], columns: str
) -> None:
    turns: list[dict[str, Any]] = []
    for place, weight in enumerate(weights):
        reply: dict[str, Any] = {"role": "assistant", "content": f"Reply {place}."}
        if weight is not None:
            reply["weight"] = weight
        turns += [{"role": "user", "content": f"Question {place}?"}, reply]
    record: dict[str, Any] = {"messages": turns}
    if columns == "completion":
        record = {"prompt": turns[:-1], "completion": turns[-1:]}
    others = [{"prompt": said("user", f"{n}?"), "completion": said("assistant", "Other.")} for n in range(2)]
    words = tiny.tokenizer(tiny.PLAIN)
    data = load_rows([record, *others], "sft", split=1)
    rows = Replies(data, load_config(None, {}), words, [words.eos_token_id], tmp_path)
    rows.cut(1000)
    learnt = []
    for row in rows.dataset(rows.train).to_list():
        learnt.append(words.decode([token for token in row["labels"] if token != -100]))
    expected = SAYS[weights]
    if columns == "completion" and weights[-1] == 0:  # it names the one reply that there is to learn
        expected = None
    mine = [] if expected is None else [f"Reply {expected}.<|im_end|>"]
    assert learnt == [*mine, "Other.<|im_end|>", "Other.<|im_end|>"]
    assert len(data.dropped) == (expected is None)
