"""The loss is on the last reply and its end of turn, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import tiny

from cai.errors import UsageError
from cai.training.data.rows import TrainingRow
from cai.training.data.tokens import Encoded, Masker

WORDS = tiny.tokenizer()
TURNS = ("Hi?", "Earlier reply.", "And now?")


def masker(words: Any = WORDS) -> Masker:
    return Masker(words, [words.eos_token_id])


def conversation(*texts: str, system: str | None = None) -> Any:
    roles = ("user", "assistant") * len(texts)
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return tuple(([{"role": "system", "content": system}] if system else []) + said)


def row(name: str, prompt: Any, *replies: str) -> TrainingRow:
    return TrainingRow(name, prompt, replies[0], "k", rejected=replies[1] if len(replies) > 1 else None)


def one(prompt: Any, reply: str, words: Any = WORDS) -> Encoded:
    [found] = masker(words).encode([row("row", prompt, reply)])
    assert isinstance(found, Encoded), found
    return found


@pytest.mark.parametrize("texts", [("Hi?",), TURNS, (*TURNS, "Middle.", "Last?")])
def test_the_loss_is_on_the_last_reply_and_its_end_of_turn(texts: tuple[str, ...]) -> None:
    found = one(conversation(*texts), "The reply.")
    assert WORDS.decode([token for token in found.labels if token != -100]) == "The reply.<|im_end|>"
    assert found.labels[-1] == WORDS.eos_token_id
    before = WORDS.decode(found.ids[: len(found.prompt)])
    assert before.endswith("<|im_start|>assistant\n")
    assert all(text in before for text in texts)


def test_without_its_reply_a_row_is_what_the_model_reads_when_it_answers() -> None:
    found = one(conversation(*TURNS, system="Be kind."), "The reply.")
    asked = WORDS.apply_chat_template(list(conversation(*TURNS, system="Be kind.")), add_generation_prompt=True)
    assert found.ids[: len(found.prompt)] == list(asked["input_ids"])


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|"), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=200)
@given(st.lists(TEXT, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2), TEXT)
def test_whatever_is_said_the_loss_is_on_the_reply(texts: list[str], reply: str) -> None:
    found = one(conversation(*texts), reply)
    assert WORDS.decode(found.ids[len(found.prompt) :]) == reply + "<|im_end|>"
    asked = WORDS.apply_chat_template(list(conversation(*texts)), add_generation_prompt=True)
    assert found.ids[: len(found.prompt)] == list(asked["input_ids"])


def test_a_reply_that_begins_with_a_line_break_does_not_melt_into_the_prompt() -> None:
    whole = WORDS.apply_chat_template([*conversation("Hi?"), {"role": "assistant", "content": "\n\n\nYes."}])[
        "input_ids"
    ]
    found = one(conversation("Hi?"), "\n\n\nYes.")
    assert list(whole)[: len(found.prompt)] != found.ids[: len(found.prompt)], (
        "the tokenizer must merge here, or this shows nothing"
    )
    assert WORDS.decode(found.ids[len(found.prompt) :]) == "\n\n\nYes.<|im_end|>"


def test_a_tokenizer_that_puts_a_space_before_every_text_gives_no_stray_space() -> None:
    words = tiny.tokenizer("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
                           "{% if add_generation_prompt %}[assistant]{% endif %}", metaspace=True)  # fmt: skip
    found = one(conversation("Hi there"), "The reply.", words)
    assert words.decode(found.ids[len(found.prompt) :]).strip() == "The reply.<|im_end|>"
    plain = one("The quiet", " river", words)
    assert words.decode(plain.ids) == "The quiet river<|im_end|>"


@pytest.mark.parametrize("reply", ["Yes.", "\n\n\nYes."])
def test_a_begin_token_comes_once_before_plain_text_and_from_the_template_alone_before_a_chat(reply: str) -> None:
    words = tiny.framed("<|endoftext|> $A")
    assert words.decode(one("The quiet", reply, words).ids) == f"<|endoftext|>The quiet{reply}<|im_end|>"
    assert "<|endoftext|>" not in words.decode(one(conversation("Hi?"), reply, words).ids)


def test_a_tokenizer_that_ends_every_text_ends_no_prompt() -> None:
    words = tiny.framed("$A <|im_end|>")
    found = one("The quiet", " river", words)
    assert words.decode(found.ids) == "The quiet river<|im_end|>"
    assert words.decode(found.ids[len(found.prompt) :]) == " river<|im_end|>"


def test_a_reply_that_no_tokens_of_its_own_can_write_is_unusable() -> None:
    words = tiny.tokenizer(metaspace=True)  # it would put a space before the reply, where there is none
    [found] = masker(words).encode([row("row", "The quie", "t river")])
    assert isinstance(found, str) and "cannot be told apart" in found


def test_plain_text_is_continued_without_a_template_and_ends() -> None:
    found = one("The quiet", " river")
    assert WORDS.decode(found.ids) == "The quiet river<|im_end|>"
    assert WORDS.decode(found.ids[len(found.prompt) :]) == " river<|im_end|>"


def test_plain_and_chat_rows_stay_in_order() -> None:
    rows = [row(str(n), "plain " if n % 3 else conversation("Hi?"), f"reply {n}") for n in range(1100)]
    found = list(masker().encode(rows))
    assert [each.row for each in found if isinstance(each, Encoded)] == rows
    assert all(f"{each.row.reply}<" in WORDS.decode(each.ids) for each in found if isinstance(each, Encoded))


def test_a_template_that_changes_the_prompt_once_the_reply_is_there_is_an_error() -> None:
    words = tiny.tokenizer(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    with pytest.raises(UsageError, match=r"renders a conversation differently.*chat_template"):
        one(conversation("Hi?"), "Yes.", words)


@pytest.mark.parametrize("ends", ["", "{% if m['role'] == 'user' %}<|im_end|>{% endif %}"])
def test_a_template_that_does_not_end_the_reply_is_an_error(ends: str) -> None:
    words = tiny.tokenizer(f"{{% for m in messages %}}[{{{{ m['role'] }}}}]{{{{ m['content'] }}}}{ends}{{% endfor %}}"
                           "{% if add_generation_prompt %}[assistant]{% endif %}")  # fmt: skip
    with pytest.raises(UsageError, match="would not learn to stop"):
        one(conversation("Hi?"), "Yes.", words)


def test_a_row_that_the_template_refuses_or_rewrites_is_unusable_and_the_others_go_on() -> None:
    words = tiny.tokenizer(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ m['content'] | replace('secret', '') }}<|im_end|>{% endfor %}"
    )
    rows = [
        row("a", conversation("Hi?", system="Be kind."), "Yes."),
        row("b", conversation("Hi?"), "A secret."),
        row("c", conversation("Hi?"), "Yes."),
    ]
    refused, rewritten, sound = masker(words).encode(rows)
    assert isinstance(refused, str) and "no system here" in refused
    assert isinstance(rewritten, str) and "as it is" in rewritten
    assert isinstance(sound, Encoded)


def test_a_cut_keeps_the_start_and_the_loss_is_on_the_first_reply() -> None:
    encoded = Encoded(row("a", "x", "y", "z"), [1, 2], ([3, 4], [5, 6, 7]))
    assert (encoded.ids, encoded.labels, encoded.longest) == ([1, 2, 3, 4], [-100, -100, 3, 4], 5)
    assert encoded.cut(3).replies == ([3], [5])
    assert encoded.cut(9) == encoded


def test_both_replies_of_a_pair_follow_one_prompt_and_each_text_is_tokenised_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []

    class Counting:
        def __init__(self, words: Any) -> None:
            self._words = words

        def __getattr__(self, name: str) -> Any:
            return getattr(self._words, name)

        def __call__(self, batch: list[str], **options: Any) -> Any:
            texts.extend(batch)
            return self._words(batch, **options)

    [pair] = Masker(Counting(WORDS), [WORDS.eos_token_id]).encode([row("row", conversation("Hi?"), "Yes.", "No.")])
    assert isinstance(pair, Encoded) and len(texts) == 3
    assert [WORDS.decode(reply) for reply in pair.replies] == ["Yes.<|im_end|>", "No.<|im_end|>"]


def test_a_reward_model_reads_what_a_template_puts_after_the_end_of_turn() -> None:
    rows = [row("row", conversation("Hi?"), "Yes."), row("plain", "The quiet", " river")]
    kept, plain = Masker(WORDS, [WORDS.eos_token_id], whole=True).encode(rows)
    assert isinstance(kept, Encoded) and WORDS.decode(kept.replies[0]) == "Yes.<|im_end|>\n"
    assert isinstance(plain, Encoded) and WORDS.decode(plain.replies[0]) == " river<|im_end|>"


@pytest.mark.parametrize(
    ("reply", "learnt"),
    [
        (" river<|im_end|>", " river<|im_end|>"),
        (" river<|im_end|>\n", " river<|im_end|>"),
        (" a<|im_end|>\nuser b", " a<|im_end|>\nuser b<|im_end|>"),
        (" a<|im_end|>\nb<|im_end|> \n", " a<|im_end|>\nb<|im_end|>"),
    ],
)
def test_plain_text_with_end_tokens_of_its_own_is_learnt_to_its_end(reply: str, learnt: str) -> None:
    found = one("The quiet", reply)
    assert WORDS.decode(found.ids[len(found.prompt) :]) == learnt


@pytest.mark.slow
@pytest.mark.parametrize("texts", [("Why is tea brown?",), ("Hi", "Hello! How can I help?", "Why is tea brown?")])
def test_the_embedded_models_own_template_keeps_the_prompt(texts: tuple[str, ...]) -> None:
    from transformers import AutoTokenizer

    from cai.weights.embedded import default_weights

    path = default_weights()
    words = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = one(conversation(*texts), "Tannins.", words)
    assert words.decode(found.ids[len(found.prompt) :]) == "Tannins.<|im_end|>"
    assert words.decode(found.ids[: len(found.prompt)]).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert found.labels.count(-100) == len(found.prompt)
