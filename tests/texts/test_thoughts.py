from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.texts.hygiene import LEARNED, faults_of
from cai.texts.thoughts import FAMILIES, holds_thoughts, split_thoughts

MARKS = {  # what models of each family write before and after their thoughts
    "deepseek": ("<think>\n", "\n</think>\n\n"),
    "qwen": ("<think>", "</think>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "gemini": ("<thought>", "</thought>"),
    "marco": ("<Thought>\n", "\n</Thought>\n"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "longcat": ("<longcat_think>\n", "\n</longcat_think>\n"),
    "hunyuan 3": ("<think:opensource>", "</think:opensource>"),
    "claude": ("<thinking>\n", "\n</thinking>\n\n"),
    "scratchpad": ("<scratchpad>", "</scratchpad>"),
    "kimi": ("◁think▷", "◁/think▷"),
    "harmony": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "harmony, an end left out": ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    "harmony without marks": ("analysis", "assistantfinal"),
    "command": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "openthinker": ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "gemma 4": ("<|channel>thought\n", "\n<channel|>"),
    "medgemma": ("<unused94>thought\n", "<unused95>"),
    "solar": ("<|think|>", "<|end|><|begin|>assistant<|content|>"),
    "granite": ("Here is my thought process:\n", "\n\nHere is my response:\n"),
    "apriel 1.5": ("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
    "llama-o1": ("<start_thought>", "<end_thought>"),
    "s1": ("think\n", "\nanswer\n"),
    "a phrase of the name": ("<thinking_process>", "</thinking_process>"),
    "escaped": ("&lt;think&gt;", "&lt;/think&gt;"),
    "full width": ("＜think＞", "＜/think＞"),
    "bars of full width": ("<｜think｜>", "<｜/think｜>"),
    "bold": ("**<think>**\n", "\n**</think>**\n"),
    "bold granite": ("**Here is my thought process:**\n", "\n**Here is my response:**\n"),
    "after a mark of byte order": ("\ufeff<think>", "</think>"),
    "a page": ("<details>\n<summary>Thought for 3 seconds</summary>\n", "\n</details>\n"),
    "open webui": ('<details type="reasoning" done="true" duration="3">\n', "\n</details>\n"),
    "ollama": ("Thinking...\n", "\n...done thinking.\n\n"),
}
FRAMED = {  # what follows thoughts, and what ends it
    "apriel": ("<thinking>Plan.</thinking>\n[BEGIN FINAL RESPONSE]\n", "\n[END FINAL RESPONSE]\n<|end|>"),
    "glm vision": ("<think>Plan.</think><answer><|begin_of_box|>", "<|end_of_box|></answer>"),
    "hunyuan": ("<think>\nPlan.\n</think>\n<answer>\n", "\n</answer>"),
    "ernie": ("Plan.\n</think>\n\n<response>\n", "\n</response>\n"),
    "reflection": ("<thinking>Plan.</thinking>\n<output>\n", "\n</output>"),
    "command": ("<|START_THINKING|>Plan.<|END_THINKING|><|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "openthinker": ("<|begin_of_thought|>Plan.<|end_of_thought|><|begin_of_solution|>", "<|end_of_solution|>"),
    "harmony": (
        "<|channel|>analysis<|message|>Plan.<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
}
# Their marks are ordinary words, if nothing closes them.
WORDS = ("granite", "ollama", "harmony without marks", "apriel 1.5", "s1", "bold", "bold granite")
# A closing mark alone can say so much.
ALONE = {
    name: closes
    for name, (opens, closes) in MARKS.items()
    if re.match(r"\s*(</(?!details)|\[/|◁/|<\|inner|<channel|<unused)", closes)
}
MENTIONED = [
    "{} is how a template of DeepSeek ends the block of thoughts, so never write it.",
    "In its templates the block is closed by the tag `{}`, after which the answer begins.",
    "The block is closed by {}, after which the answer begins.",
    "It is closed by the tag {} and nothing else. Then comes the answer.",
    'It is closed by "{}".\n\nThe answer follows.',
    "It is closed by “{}”\n\nThe answer follows.",
    "It is closed by **{}**\n\nThe answer follows.",
    "It is closed by ({}).\n\nThe answer follows.",
    "It looks like this:\n\n```\nplan\n{}\nanswer\n```\n\nThat is all.",
    "It looks like this:\n\n~~~text\nplan{}answer\n~~~",
    "It looks like this:\n\n    {}\n\nThat is all.",
    "What is {}? It closes the thoughts.",
    "It is closed by <code>{}</code>\n\nThe answer follows.",
    "標籤是「{}」\n\n之後是答案。",
]  # fmt: skip
few = settings(max_examples=settings.default.max_examples // 4)  # for each parameter of a test
words = st.lists(
    st.sampled_from(["The", "quiet", "river", "runs", "past", "an", "old", "mill", "and", "12", "boats", "."]),
    min_size=1,
).map(" ".join)
replies = words.map(lambda text: f"So {text}.")


def test_every_family_that_is_known_is_written_by_a_model_here() -> None:
    texts = [f"{opens}Plan.{closes}Yes." for opens, closes in MARKS.values()]
    assert all(any(family.opening.match(text) for text in texts) for family in FAMILIES.values())


@pytest.mark.parametrize("name", MARKS)
@few
@given(thoughts=replies, reply=replies, space=st.sampled_from(["", " ", "\n", "\n\n"]))
def test_thoughts_in_front_are_split_off_whoever_writes_them(name: str, thoughts: str, reply: str, space: str) -> None:
    opens, closes = MARKS[name]
    assert split_thoughts(f"{opens}{thoughts}{closes}{space}{reply}") == (reply, thoughts)
    assert holds_thoughts(f"{opens}{thoughts}{closes}{reply}") and not holds_thoughts(reply)


@given(st.lists(st.sampled_from([name for name in MARKS if "<|" not in MARKS[name][1]]), min_size=2, max_size=5))
def test_several_blocks_are_all_thoughts(names: list[str]) -> None:
    plans = [f"Plan {number}." for number, _ in enumerate(names)]
    names = ["qwen" if name in ("harmony without marks", "s1", "apriel 1.5") else name for name in names]
    for space in ("", "\n", "\n\n "):
        blocks = [MARKS[name][0] + plan + MARKS[name][1] for name, plan in zip(names, plans, strict=True)]
        assert split_thoughts(space.join([*blocks, "Yes."])) == ("Yes.", "\n\n".join(plans))


@pytest.mark.parametrize("name", FRAMED)
def test_what_frames_the_reply_is_no_part_of_it(name: str) -> None:
    opens, closes = FRAMED[name]
    assert split_thoughts(f"{opens}So be it.{closes}") == ("So be it.", "Plan.")
    assert split_thoughts(f"{opens}So be it.") == ("So be it.", "Plan.")


@pytest.mark.parametrize("name", ALONE)
@few
@given(thoughts=replies, reply=replies)
def test_a_block_may_lack_the_opening_mark_that_its_template_writes(name: str, thoughts: str, reply: str) -> None:
    opens, closes = MARKS[name]
    for end in (closes, f"\n{closes.strip()}\n", f" {closes.strip()}\n\n", f"{closes.strip()} "):
        assert split_thoughts(f"{thoughts}{end}{reply}") == (reply, thoughts)
    assert split_thoughts(f"A plan{closes.strip()}{reply}") == (reply, "A plan")
    assert split_thoughts(f"{closes.strip()}\n{reply}") == (reply, "")
    for before in (f"<|assistant|>\n{opens}", f"<|assistant|>{opens.strip()}"):
        assert split_thoughts(f"{thoughts}{closes}{reply}", before) == (reply, thoughts)
        assert split_thoughts(thoughts, before) == ("", thoughts)


@pytest.mark.parametrize("name", MARKS)
def test_thoughts_that_never_close_leave_no_reply(name: str) -> None:
    opens, _ = MARKS[name]
    reply, thoughts = split_thoughts(f"{opens}Let me see. First")
    if name in WORDS:  # ordinary words, if nothing closes them
        assert (reply, thoughts) == (f"{opens}Let me see. First", None)
    else:
        assert (reply, thoughts) == ("", "Let me see. First")


@pytest.mark.parametrize("sentence", MENTIONED)
@pytest.mark.parametrize("name", ALONE)
def test_a_reply_that_mentions_a_mark_is_whole(sentence: str, name: str) -> None:
    reply = sentence.format(ALONE[name].strip())
    assert split_thoughts(reply)[0] == reply
    if not sentence.startswith("{}"):
        assert split_thoughts(reply) == (reply, None) and not holds_thoughts(reply)
        for opens, closes in MARKS.values():  # it is whole after thoughts, too, of whatever family
            assert split_thoughts(f"{opens}Plan.{closes}{reply}") == (reply, "Plan.")


@pytest.mark.parametrize(
    "sentence",
    [
        "Close the block with this tag:\n{}\n\nThen answer.", "The closing tag is:\n\n{}\n\nThe answer follows it.",
        "Q: What closes it?\nA: {}\n\nQ: And then?\nA: The answer.", "<b> → opens\n{} → closes",
        "{}: closes the block.",
        "End = {}\n\n{} = end",
        "| end |\n|---|\n| {} |\n|{}|", "s.split('{}')[1]", "re.sub(r'{}.*', '', text)",
        "ブロックは{}で終わります。", "块以{}结尾。之后是答案。", "บล็อกจบด้วย{}แล้วตอบ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ALONE)
def test_a_reply_that_shows_a_mark_does_not_lose_what_precedes_it(sentence: str, name: str) -> None:
    reply = sentence.replace("{}", ALONE[name].strip())
    assert split_thoughts(reply) == (reply, None)


@pytest.mark.parametrize("sentence", MENTIONED)
@few
@given(name=st.sampled_from(sorted(ALONE)), reply=replies)
def test_thoughts_that_mention_a_mark_end_at_the_one_that_is_meant(sentence: str, name: str, reply: str) -> None:
    opens, closes = MARKS[name]
    thoughts = f"Say: {sentence.format(closes.strip())}"
    assert split_thoughts(f"{opens}{thoughts}{closes}{reply}") == (reply, thoughts.strip())


@pytest.mark.parametrize(
    "reply",
    [
        "Sure.\n\n<think>\nBut should I?\n</think>\n\nYes.",
        "Sure.[THINK]But should I?[/THINK]Yes.",
        "Sure.\n<seed:think>But should I?",
        "The plan </think> The answer is four.",
        "<think>a</think>b</think>",
        "Sure.<|channel|>analysis<|message|>Hm",
        "It holds <think>x</think> as it is.",
        "◁think▷But should I?",
        "analysisWe need a plan.assistantfinalYes.",
    ],
)
def test_what_is_left_of_thoughts_is_a_fault_of_a_text_that_is_learned(reply: str) -> None:
    assert "thoughts" in LEARNED and "thoughts" in list(faults_of(reply))


@pytest.mark.parametrize(
    "reply",
    [
        "Here is my thought process: first I count, then I add.", "Analysis: it is late.", "analysis is a noun.",
        "Thinking... it over, I would go.", "[Thinking] Let me see.", "I think</p> not.", "a < b and [x] > c",
        "<details><summary>More</summary>It rains.</details>", "<p>One</p>\n<p>Two</p>", "Paris.<|end|>\n", "", " \n",
        "Rethink: </unthinkable>", "Use `<think>` first.\n\nThen answer.", "My thoughts:\n\n1. It rains.",
    ],
)  # fmt: skip
def test_other_replies_are_left_alone(reply: str) -> None:
    assert split_thoughts(reply) == (reply, None) and not holds_thoughts(reply)


def test_thoughts_within_thoughts_go_with_them() -> None:
    assert split_thoughts("<think>a<think>b</think>c</think>Yes.") == ("Yes.", "a<think>b</think>c")
    assert split_thoughts("<think>They ask about <think> tags.</think>Yes.") == ("Yes.", "They ask about <think> tags.")
    assert split_thoughts("<think>a</think></think>Yes.") == ("Yes.", "a")
    code = "<think>\n```python\nx = 1\n</think>\nRun it:\n```python\nx = 2\n```"
    assert split_thoughts(code) == ("Run it:\n```python\nx = 2\n```", "```python\nx = 1")


def test_thoughts_that_came_beside_the_text_come_first() -> None:
    assert split_thoughts("<think>two</think>Yes.", thoughts="one") == ("Yes.", "one\n\ntwo")
    assert split_thoughts("Yes.", thoughts="one") == ("Yes.", "one")
    assert split_thoughts("\n</think>\n\nYes.", thoughts="one") == ("Yes.", "one")
    assert split_thoughts("hm\n</think>\nYes.", thoughts="") == ("Yes.", "hm")
    ends = "It is the last line:\n</think>\nThat is all."
    assert split_thoughts(ends, thoughts="one") == (ends, "one")


def test_a_prompt_that_opens_no_thoughts_is_followed_by_a_reply() -> None:
    assert split_thoughts("It is the last line:\n</think>\nYes.", "assistant\n")[1] is None
    assert split_thoughts("Yes.", "assistant\n<think>\n\n</think>\n\n") == ("Yes.", None)


@given(st.text() | st.lists(st.sampled_from([*'ab \n`"', "<think>", "</think>", "[THINK]", "<|end|>"])).map("".join))
def test_nothing_is_lost_or_invented(text: str) -> None:
    reply, thoughts = split_thoughts(text)
    assert reply in text and all(part in text for part in (thoughts or "").split("\n\n"))
    assert thoughts is not None or reply == text


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<think>a <think>b</think>", "`", "```\n", "<", "[THINK]", "analysis", " ", "a </think> b"],
)
def test_a_quarter_of_a_megabyte_of_marks_is_no_trap(piece: str) -> None:
    text = piece * (2**18 // len(piece))
    assert isinstance(holds_thoughts(text), bool)
