"""What separates turns: marks of families of models and labels of plain text, as patterns for careless texts."""

from __future__ import annotations

import re

from cai.texts.lookalikes import UNSEEN, careless

HIDDEN = f"{UNSEEN}*+"  # what a reader does not see, between the characters of a mark
DRESSING = rf"_*#\-`~•·{UNSEEN}"  # what labels and tags are dressed in, by Markdown too
# The names in <s>, </s>, <end_of_turn>, <seed:bos>, [INST] …; a # stands for digits.
NAMES = (
    # the borders of texts, and what fills them
    "s", "bos", "eos", "pad", "unk", "cls", "sep", "mask", "gmask", "sop", "eop", "eod", "eom", "eot", "endoftext",
    "end_of_text", "begin_of_text", "end_of_utterance", "end_of_sentence", "end_of_message", "sp", "extra_id_#",
    "special_#", "unused#", "reserved_#", "seed:bos", "seed:eos", "longcat_s",
    # roles and turns
    "user", "assistant", "system", "human", "bot", "ai", "gpt", "role", "turn", "start_of_turn", "end_of_turn",
    "startofturn", "endofturn", "im_start", "im_end", "im_sep", "inst", "sys", "system_prompt", "instruction",
    "round #", "_user", "_bot", "_system", "longcat_user", "longcat_assistant",
    # thoughts and tools
    "think", "thinking", "thought", "seed:think", "tool_call", "tool_calls", "tool_response", "tool_results",
    "available_tools",
)  # fmt: skip
# At the start of a line: Vicuna, OpenChat, Baichuan and others; Alpaca and others after "###"; and of few-shot prompts.
SPEAKERS = (
    "User:", "Assistant:", "System:", "Human:", "Bot:", "AI:", "GPT4 User:", "GPT4 Correct User:",
    "GPT4 Correct Assistant:",
)  # fmt: skip
HEADED = ("Instruction:", "Response:", "Input:")
SHOTS = (
    "Question:", "Answer:", "Q:", "A:", "Instruction:", "Instruct:", "Response:", "Input:", "Output:", "Prompt:",
    "Reply:", "Example:", "Critique:", "Critique Request:", "Revision:", "Revision Request:", "Problem:", "Solution:",
)  # fmt: skip


def loose(label: str) -> str:
    """A pattern for a label or tag, whatever dresses it and stands between its characters, of which some may lack."""
    shown = [char for char in careless(label).rstrip(">") if not (char.isspace() or char in "_-*#`~")]
    return rf"[\s{DRESSING}]*+".join("[l|!]" if char == "l" else re.escape(char) for char in shown)


def named(name: str) -> str:
    """A pattern for the name of a mark."""
    return HIDDEN.join(rf"[\dlo{UNSEEN}]+" if char == "#" else re.escape(char) for char in careless(name))


_NAMED = "|".join(map(named, NAMES))
MARKS = (
    rf"<{HIDDEN}\|"  # <|im_start|>, <｜User｜>, and <|turn> of Gemma 4
    rf"|\[{HIDDEN}\|"  # [|user|]
    rf"|<(?=[\w{UNSEEN}]{{1,40}}+\|)"  # <turn|>
    rf"|[<\[](?={HIDDEN}/?{HIDDEN}(?:{_NAMED}){HIDDEN}[>\]])"
    rf"|◁(?={HIDDEN}/?{HIDDEN}\w)"
)
